// Questions that wait for an answer, in dialogs of the browser: it keeps the focus within them, and Escape is "no".
import { make } from "./element.js";
import { ask, pathOf } from "./requests.js";

/** Ask whether to do something; return whether it was confirmed. */
export function confirmed({ title, text, action }) {
  const no = make("button", { type: "button", text: "Keep it running", onclick: () => box.close() });
  const yes = make("button", { type: "button", class: "danger", text: action, onclick: () => box.close("yes") });
  const box = dialog(title, make("p", { text }), make("div", { class: "row end" }, no, yes));
  return new Promise((answer) => box.addEventListener("close", () => answer(box.returnValue === "yes")));
}

/** Offer to share a stream: by a URL that opens it, for a time, to whoever has it. */
export function share(ident, dataUrl) {
  const expiry = make("select", { id: "share-expiry" });
  for (const [seconds, text] of [
    [900, "15 minutes"],
    [3600, "an hour"],
    [86400, "a day"],
  ])
    expiry.append(make("option", { value: seconds, text, selected: seconds === 3600 }));
  const cancels = make("input", { type: "checkbox", id: "share-cancel" });
  const result = make("div", { role: "status" });
  const create = make("button", { type: "button", class: "primary", text: "Make a URL", onclick: () => issue() });
  const box = dialog(
    "Share this stream",
    make("p", {
      text: "Whoever has the URL can follow this one stream, from its start, until the URL expires. It can’t be taken back.",
    }),
    make("p", { class: "field" }, make("label", { for: "share-expiry", text: "Valid for" }), expiry),
    make(
      "p",
      { class: "check" },
      cancels,
      make("label", { for: "share-cancel", text: "It may also cancel the stream" }),
    ),
    result,
    make(
      "div",
      { class: "row end" },
      make("button", { type: "button", text: "Close", onclick: () => box.close() }),
      create,
    ),
  );

  async function issue() {
    create.disabled = true;
    const rights = ["read", "info", ...(cancels.checked ? ["cancel"] : [])];
    try {
      const { url } = await ask("POST", `${pathOf(ident)}/share`, { rights, expires_in: Number(expiry.value) });
      const shown = make("input", {
        id: "share-url",
        readonly: true,
        value: reachable(url, dataUrl),
        spellcheck: "false",
      });
      result.replaceChildren(
        make("p", { class: "field" }, make("label", { for: "share-url", text: "URL" }), shown),
        copyButton(() => shown.value, "Copy the URL"),
      );
      shown.select();
    } catch (error) {
      result.replaceChildren(make("p", { class: "bad", text: error.message }));
    }
    create.disabled = false;
  }
}

/** A button that copies what `text()` returns. */
export function copyButton(text, what = "Copy") {
  return make("button", {
    type: "button",
    class: "small",
    text: what,
    onclick: async ({ currentTarget: button }) => {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = "Copied";
      } catch {
        button.textContent = "Press Ctrl+C"; // without https the clipboard is closed to scripts
      }
      setTimeout(() => (button.textContent = what), 1500);
    },
  });
}

/** Return a URL of the data port as it is reached from here: one that listens on all addresses has this host's. */
function reachable(path, dataUrl) {
  const url = new URL(path, dataUrl);
  if (["0.0.0.0", "[::]"].includes(url.hostname)) url.hostname = location.hostname;
  return url.href;
}

function dialog(title, ...children) {
  const heading = make("h2", { id: "dialog-title", text: title });
  const box = make("dialog", { "aria-labelledby": "dialog-title" }, heading, ...children);
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
}
