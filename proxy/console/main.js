// Begins the console: signs in, follows the feed, and shows the view that the address names.
//
// The modules of this folder, in the order in which to read them; each imports only from those below it:
//
//   theme       sets the colours before anything is drawn
//   main        the sign-in, and which view is shown, within the frame of index.html
//   streams     the view with the list of streams
//   stream      the view of one stream
//   try         the view that sends a request
//   apis        how each API is asked: the only module that is no file; the server makes it of its table of APIs
//   system      the view of upstreams, workers and memory
//   dialogs     questions that wait for an answer
//   drawings    time lines, gaps and rates as SVG
//   feed        the overview, each second
//   reading     the text or the events of one stream
//   follow      follows an event stream over every cut; it is also a package of its own (package.json, follow.d.ts)
//   requests    requests to the admin port, and its refusals
//   element     makes elements without HTML
//   format      numbers
//   words       the states of a stream
import { make, say } from "./element.js";
import { Feed } from "./feed.js";
import { bytes, count, counted } from "./format.js";
import { signIn, signOut } from "./requests.js";
import { StreamPanel } from "./stream.js";
import { StreamList } from "./streams.js";
import { SystemView } from "./system.js";
import { TryView } from "./try.js";

const at = (id) => document.getElementById(id);
const [main, notice, link, totals] = ["main", "notice", "link", "totals"].map(at);
const feed = new Feed();
const list = new StreamList(feed, () => panel?.ident);
let panel = null; // of the stream that is open beside the list
let view = null; // another view, in place of both

feed.addEventListener("overview", showOverview);
feed.addEventListener("state", showState);
addEventListener("hashchange", go);
at("skip").addEventListener("click", () => main.focus());
at("leave").addEventListener("click", leave);
at("theme").addEventListener("click", changeTheme);
showTheme();
go();

// Views

/** Show what the fragment names. A token in it is for the sign-in, and leaves the address at once. */
async function go() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", "#/streams");
    await enter(token).catch((error) => showSignIn(error.message));
    return;
  }
  if (feed.state === "signed-out") return showSignIn();
  show();
}

function show() {
  const [, name = "streams", ident] = location.hash.split("/");
  panel?.close();
  view?.close();
  [panel, view] = [null, null];
  for (const one of document.querySelectorAll("nav a")) {
    const isHere = one.hash === `#/${name}`;
    isHere ? one.setAttribute("aria-current", "page") : one.removeAttribute("aria-current");
  }
  if (name === "try") view = new TryView(feed);
  else if (name === "system") view = new SystemView(feed);
  else if (ident) panel = new StreamPanel(feed, decoded(ident));
  main.classList.toggle("both", Boolean(panel));
  main.replaceChildren(...(view ? [view.element] : [list.element, ...(panel ? [panel.element] : [])]));
  if (panel) panel.element.focus({ preventScroll: true });
  document.title = `${{ try: "Try it", system: "System" }[name] ?? (ident ? "Stream" : "Streams")} · streamtee`;
  if (!feed.hasBegun) feed.start();
  showOverview();
}

function decoded(ident) {
  try {
    return decodeURIComponent(ident);
  } catch {
    return ident; // typed by hand, and no stream's
  }
}

function showOverview() {
  list.update();
  panel?.update();
  view?.update();
  const { overview } = feed;
  if (!overview) return;
  const { running, followers, held_bytes, draining } = overview;
  say(totals, `${count(running)} running · ${counted(followers, "follower")} · ${bytes(held_bytes)}`);
  showNotice(draining ? "This proxy is shutting down: streams that run may finish, new requests are refused." : "");
}

function showState() {
  const words = { connecting: "connecting…", live: "live", lost: "not connected", "signed-out": "signed out" };
  say(link, words[feed.state]);
  link.dataset.state = feed.state;
  at("leave").hidden = feed.state === "signed-out";
  document.body.classList.toggle("stale", feed.state === "lost");
  if (feed.state === "lost") showNotice("The proxy does not answer. What is shown may be old; trying again…");
  if (feed.state === "signed-out") showSignIn();
}

function showNotice(text) {
  say(notice, text);
  notice.hidden = !text;
}

// Sign-in

function showSignIn(problem = "") {
  panel?.close();
  view?.close();
  [panel, view] = [null, null];
  showNotice("");
  say(totals, "");
  const input = make("input", {
    id: "token",
    type: "password",
    required: true,
    autocomplete: "current-password",
    spellcheck: "false",
  });
  const told = make("p", { class: "bad", role: "alert", text: problem });
  const form = make(
    "form",
    {
      class: "sign-in",
      onsubmit: async (event) => {
        event.preventDefault();
        await enter(input.value.trim()).catch((error) => say(told, error.message));
      },
    },
    make("h1", { text: "Sign in" }),
    make("p", { text: "The console shows what other people’s streams say, so it needs the admin token." }),
    // For password managers, which keep a token by a name.
    make("input", { autocomplete: "username", value: "operator", readonly: true, hidden: true }),
    make("p", { class: "field" }, make("label", { for: "token", text: "Admin token" }), input),
    told,
    make("button", { class: "primary", text: "Sign in" }),
    make(
      "p",
      { class: "remark" },
      "It is ",
      make("code", { text: "admin_token" }),
      " of the configuration. Without one, ",
      make("code", { text: "streamtee serve" }),
      " makes one at each start and prints a link that holds it, to its terminal.",
    ),
  );
  main.classList.remove("both");
  main.replaceChildren(form);
  input.focus();
}

async function enter(token) {
  await signIn(token);
  feed.start();
  show();
}

async function leave() {
  await signOut().catch(() => {});
  location.reload();
}

// Theme

function changeTheme() {
  const next = { "": "dark", dark: "light", light: "" }[document.documentElement.dataset.theme ?? ""];
  try {
    next ? localStorage.setItem("theme", next) : localStorage.removeItem("theme");
  } catch {
    // storage is switched off: it holds for this page alone
  }
  next ? (document.documentElement.dataset.theme = next) : delete document.documentElement.dataset.theme;
  showTheme();
}

function showTheme() {
  const [sign, name] = { dark: ["☾", "dark"], light: ["☀", "light"] }[document.documentElement.dataset.theme] ?? [
    "◐",
    "as the system’s",
  ];
  say(at("theme"), sign);
  at("theme").setAttribute("aria-label", `Theme: ${name}`);
  at("theme").title = `Theme: ${name}`;
}
