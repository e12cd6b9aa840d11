// One stream: its numbers, its time line, its text or events as they come, and its followers.
import { confirmed, copyButton, share } from "./dialogs.js";
import { gapBars, timeLine } from "./drawings.js";
import { make, mark, say } from "./element.js";
import { follow } from "./follow.js";
import { bytes, count, counted, duration, rate } from "./format.js";
import { textOf } from "./reading.js";
import { ask, pathOf } from "./requests.js";
import { stateOf } from "./words.js";

const KEPT_CHARACTERS = 400_000; // of what is shown: a page need not hold a whole novel
const KEPT_TICKS = 20_000;

/** The panel of one stream; `close` it when it is left. */
export class StreamPanel {
  #feed;
  #stop = new AbortController();
  #reading = null; // aborts what is being read
  #info = null;
  #began = 0; // when its request came, by this page's clock, in milliseconds
  #joined = 0; // the same, in seconds since its request, of this page's first event
  #ticks = [];
  #parts = {};
  #isLoading = false;
  #isReading = false; // and its end has not come

  constructor(feed, ident) {
    this.#feed = feed;
    this.ident = ident;
    this.element = make("section", { class: "panel", "aria-labelledby": "stream-title", tabindex: "-1" });
    this.element.append(make("p", { class: "empty", text: "Loading the stream…" }));
    this.#load();
  }

  /** Stop reading. */
  close() {
    this.#stop.abort();
    this.#reading?.abort();
  }

  /** Follow the overview: ask for the numbers again, as long as they can change. */
  update() {
    if (this.#info && !this.#isLoading && (this.#info.state === "open" || this.#info.follower_count)) this.#load();
  }

  async #load() {
    this.#isLoading = true;
    try {
      const info = await ask("GET", `${pathOf(this.ident)}/info`);
      if (this.#stop.signal.aborted) return;
      const isFirst = !this.#info;
      this.#info = info;
      if (info.state === "open" || isFirst) this.#began = performance.now() - info.age_s * 1000;
      if (isFirst) this.#build();
      this.#show();
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#fail(error);
    }
    this.#isLoading = false;
  }

  #fail(error) {
    if (error.status === 404 && this.#info)
      return say(this.#parts.remark, "This stream is no longer kept: it was forgotten after its end.");
    if (this.#info) return; // the feed tells that nobody answers
    const text = error.status === 404 ? "There is no such stream: it has been forgotten, or never was." : error.message;
    this.element.replaceChildren(
      back(),
      make("h1", { id: "stream-title", text: "No stream" }),
      make("p", { class: "empty", text }),
    );
  }

  #build() {
    const parts = this.#parts;
    parts.title = make("h1", { id: "stream-title" });
    parts.state = make("p", { class: "state-of-stream", role: "status" });
    parts.cancel = make("button", { type: "button", class: "danger", text: "Cancel…", onclick: () => this.#cancel() });
    parts.share = make("button", {
      type: "button",
      text: "Share…",
      onclick: () => share(this.ident, this.#feed.overview?.data_url ?? location.origin),
    });
    parts.facts = make("dl", { class: "facts" });
    parts.remark = make("p", { class: "remark" });
    parts.line = make("div", { class: "line" });
    parts.gaps = make("div");
    parts.followers = make("div");
    this.element.replaceChildren(
      back(),
      make(
        "header",
        { class: "head" },
        parts.title,
        parts.state,
        make("div", { class: "row" }, parts.share, parts.cancel),
      ),
      make(
        "p",
        { class: "ident" },
        make("code", { text: this.ident }),
        copyButton(() => this.ident, "Copy id"),
      ),
      parts.remark,
      parts.facts,
      make("h2", { text: "Time line" }),
      parts.line,
      make("p", { class: "legend" }, ...legend()),
      ...this.#buildReading(),
      make(
        "div",
        { class: "two" },
        make("div", {}, make("h2", { text: "Followers" }), parts.followers),
        make("div", {}, make("h2", { text: "Gaps between tokens" }), parts.gaps),
      ),
    );
    this.#read("Text");
  }

  #buildReading() {
    const parts = this.#parts;
    parts.text = make("pre", { class: "reading", tabindex: "0", "aria-label": "Text of the answer" });
    parts.reading = make("p", { class: "remark", role: "status" });
    parts.tabs = ["Text", "Events"].map((name) =>
      make("button", {
        type: "button",
        "aria-pressed": String(name === "Text"),
        text: name,
        onclick: () => this.#read(name),
      }),
    );
    const tabs = make("div", { class: "switch", role: "group", "aria-label": "What to read" }, parts.tabs);
    const head = make("div", { class: "row head-of-reading" }, make("h2", { text: "As it comes" }), tabs);
    return [head, parts.text, parts.reading];
  }

  #show() {
    const [info, parts] = [this.#info, this.#parts];
    const { sign, word, tone } = stateOf(info);
    say(parts.title, info.model ?? info.route);
    say(parts.state, `${sign} ${word}`);
    parts.state.dataset.tone = tone;
    parts.cancel.disabled = info.state !== "open";
    parts.share.disabled = false;
    say(parts.remark, info.state === "failed" ? (info.ending?.message ?? "") : "");
    if (this.#isReading) say(parts.reading, parts.text.textContent ? "Reading…" : notYet(info));
    this.#facts(info);
    const width = Math.max(parts.line.clientWidth, 280);
    parts.line.replaceChildren(timeLine(info, this.#ticks, this.#joined, width));
    parts.gaps.replaceChildren(gapBars(info.gap_bounds_s, info.gap_counts));
    parts.followers.replaceChildren(followers(info));
  }

  #facts(info) {
    const usage = info.usage ?? {};
    const facts = {
      [info.state === "open" ? "Age" : "Took"]: duration(info.age_s),
      "First token": duration(info.first_token_s),
      "Answer text": duration(info.first_content_s),
      Events: count(info.events),
      "Events/s":
        info.state === "open"
          ? rate(this.#feed.rateOf(this.ident))
          : rate(info.events / Math.max(info.age_s - (info.first_byte_s ?? 0), 0.001)),
      Size: bytes(info.bytes),
      Tokens: usage.completion ? `${count(usage.prompt)} in, ${count(usage.completion)} out` : "–",
      Finish: info.finish_reason ?? "–",
      Route: info.route,
      Upstream: info.upstream ?? "none yet",
      Key: info.key ?? "–",
      ...(info.caller && { Caller: info.caller }),
    };
    const { facts: list } = this.#parts;
    if (list.children.length !== Object.keys(facts).length)
      list.replaceChildren(
        ...Object.keys(facts).map((name) => make("div", {}, make("dt", { text: name }), make("dd"))),
      );
    Object.entries(facts).forEach(([name, value], index) => {
      say(list.children[index].firstChild, name);
      say(list.children[index].lastChild, value);
    });
  }

  async #cancel() {
    const sure = await confirmed({
      title: "Cancel this stream?",
      text: `The upstream is told to stop, and ${counted(this.#info.follower_count, "follower")} will get an error instead of the rest. This can’t be undone.`,
      action: "Cancel the stream",
    });
    if (!sure) return;
    try {
      await ask("POST", `${pathOf(this.ident)}/cancel`, {});
      await this.#load();
    } catch (error) {
      say(this.#parts.remark, error.message);
    }
  }

  // Reading

  async #read(what) {
    const parts = this.#parts;
    for (const tab of parts.tabs) tab.setAttribute("aria-pressed", String(tab.textContent === what));
    this.#reading?.abort();
    const reading = (this.#reading = new AbortController());
    parts.text.replaceChildren();
    parts.text.setAttribute("aria-label", what === "Text" ? "Text of the answer" : "Events of the stream");
    mark(parts.text, "events", what === "Events");
    this.#ticks = [];
    this.#joined = this.#now();
    this.#isReading = true;
    say(parts.reading, "Reading…");
    let last;
    try {
      for await (const piece of this.#pieces(what, reading.signal)) {
        this.#tick();
        append(parts.text, piece);
      }
      last = parts.text.textContent ? "The end." : "It ended without a text.";
    } catch (error) {
      last = brokenOff(this.#info, error);
    }
    if (reading.signal.aborted) return;
    this.#isReading = false;
    say(parts.reading, last);
  }

  #pieces(what, signal) {
    if (what === "Text") return textOf(pathOf(this.ident), { signal, ended: () => this.#info.state !== "open" });
    return eventsOf(`${pathOf(this.ident)}?mode=events`, signal);
  }

  #now() {
    return (performance.now() - this.#began) / 1000;
  }

  /** Note when an event came; those of the past come all at once, and are none. */
  #tick() {
    const now = this.#now();
    if (this.#info.state !== "open") return;
    if (now - this.#joined < 0.3 && this.#joined > 1) return;
    this.#ticks.push(now);
    if (this.#ticks.length > KEPT_TICKS) this.#ticks.shift();
  }
}

async function* eventsOf(url, signal) {
  for await (const { id, event, data } of follow(url, { signal }))
    yield `${id}  ${event === "message" ? "" : `${event} `}${data}\n`;
}

/** Say why there is no text yet. */
function notYet({ first_token_s, first_content_s }) {
  if (first_token_s === null) return "No token yet.";
  return first_content_s === null ? "It is reasoning: the answer has not begun. Its events tell more." : "Reading…";
}

function brokenOff(info, error) {
  if (info.answer) return `The upstream answered with status ${info.answer.status}, and no stream: ${error.message}`;
  if (error.status === 400 || error.response?.status === 400) return `It can’t be read in this form: ${error.message}`;
  if (error.status === 410 || error.response?.status === 410) return "Its beginning is no longer held.";
  if (info.state === "open") return `Reading stopped: ${error.message}`;
  return `It ended here: ${info.reason?.replaceAll("_", " ") ?? "unfinished"}.`;
}

function append(element, piece) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  element.append(piece);
  if (element.childNodes.length > 200) {
    const whole = element.textContent.slice(-KEPT_CHARACTERS);
    element.replaceChildren(whole);
  }
  if (atEnd) element.scrollTop = element.scrollHeight;
}

function followers({ followers: shown, follower_count, holds }) {
  const held = holds.length
    ? make("p", { class: "remark", text: `It is also kept open for: ${holds.join(", ")}.` })
    : null;
  if (!follower_count)
    return make("div", {}, make("p", { class: "empty small", text: "Nobody follows it now." }), held);
  const rows = shown.map(({ mode, seq, lag_events, lag_bytes }) =>
    make(
      "tr",
      {},
      make("td", { text: mode }),
      make("td", { class: "number", text: count(seq) }),
      make("td", {
        class: `number${lag_events > 100 ? " bad" : ""}`,
        text: lag_events ? `${count(lag_events)} (${bytes(lag_bytes)})` : "–",
      }),
    ),
  );
  const head = ["Mode", "Events sent", "Lag"].map((text, index) =>
    make("th", { scope: "col", class: index ? "number" : "", text }),
  );
  const table = make(
    "table",
    { class: "plain", "aria-label": "Followers" },
    make("thead", {}, make("tr", {}, head)),
    make("tbody", {}, rows),
  );
  const more = follower_count - shown.length;
  return make(
    "div",
    {},
    table,
    more > 0 ? make("p", { class: "remark", text: `and ${count(more)} that lag less` }) : null,
    held,
  );
}

const back = () =>
  make(
    "a",
    { class: "back", href: "#/streams" },
    make("span", { class: "if-narrow", text: "← All streams" }),
    make("span", { class: "if-wide", text: "Close ✕" }),
  );

const legend = () =>
  [
    ["wait", "waiting"],
    ["think", "reasoning"],
    ["answer", "answer"],
    ["gap", "long gap"],
    ["joined", "this page came"],
  ].flatMap(([kind, text]) => [
    make("span", { class: `swatch ${kind}`, "aria-hidden": "true" }),
    make("span", { text }),
  ]);
