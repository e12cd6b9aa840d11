// The list of streams: a row each, which is changed in place, so that focus and selection stay where they are.
import { spark } from "./drawings.js";
import { arrange, make, mark, say } from "./element.js";
import { count, duration, rate } from "./format.js";
import { stateOf } from "./words.js";

const COLUMNS = [
  { name: "State", by: ({ row }) => stateOf(row).word },
  { name: "Model", by: ({ row }) => row.model ?? "" },
  { name: "Age", by: ({ row }) => -row.age_s, number: true },
  { name: "First token", by: ({ row }) => -(row.ttft_s ?? row.age_s), number: true },
  { name: "Events/s", by: ({ newest }) => -newest, number: true },
  { name: "Followers", by: ({ row }) => -row.follower_count, number: true },
  { name: "Lag", by: ({ row }) => -row.lag_events, number: true },
];
const KINDS = { all: "All", running: "Running", ended: "Ended" };

/** The list, and what it shows of a feed. `chosen()` returns the id of the stream that is open beside it. */
export class StreamList {
  #feed;
  #rows = new Map();
  #sort = null; // the index of a column; null: what began last comes first
  #kind = "all";
  #words = "";
  #body = make("tbody", { role: "rowgroup" });
  #told = make("p", { class: "empty", role: "status" });
  #tableElement;
  #first = make(
    "p",
    { class: "empty", hidden: true },
    "No streams yet. What clients send through the proxy is shown here as it comes. ",
    make("a", { href: "#/try", text: "Try one yourself" }),
  );
  #heads;
  #kinds;

  constructor(feed, chosen) {
    this.#feed = feed;
    this.chosen = chosen;
    this.element = make(
      "section",
      { class: "list", "aria-label": "Streams" },
      this.#bar(),
      (this.#tableElement = this.#table()),
      this.#first,
      this.#told,
    );
  }

  /** Show the newest overview. */
  update() {
    const { overview } = this.#feed;
    if (!overview) return say(this.#told, "Waiting for the first overview…");
    const shown = overview.streams.filter((row) => this.#isWanted(row)).map((row) => this.#row(row));
    this.#forget(overview.streams);
    this.#order(shown);
    for (const [kind, button] of this.#kinds) {
      const many = { all: overview.running + overview.kept, running: overview.running, ended: overview.kept }[kind];
      say(button.lastChild, ` ${count(many)}`);
    }
    say(this.#told, this.#remark(overview, shown.length));
    this.#told.hidden = !this.#told.textContent;
    this.#first.hidden = overview.running + overview.kept > 0;
    this.#tableElement.hidden = !this.#first.hidden;
  }

  #isWanted({ state, ended_s, model, id, key, caller, route, upstream, reason }) {
    if (this.#kind === "running" && ended_s !== null) return false;
    if (this.#kind === "ended" && ended_s === null) return false;
    const about = [state, model, id, key, caller, route, upstream, reason].join(" ").toLowerCase();
    return this.#words.split(/\s+/).every((word) => about.includes(word));
  }

  #remark(overview, shown) {
    const all = overview.running + overview.kept;
    if (!all) return "";
    if (!shown) return "No stream matches.";
    const listed = overview.streams.length;
    return listed < all ? `${count(listed)} of ${count(all)} streams are listed: those that began first and last.` : "";
  }

  #row(row) {
    let known = this.#rows.get(row.id);
    if (!known) this.#rows.set(row.id, (known = new Row(row)));
    known.update(row, this.#feed.ratesOf(row.id));
    mark(known.element, "chosen", row.id === this.chosen());
    if (row.id === this.chosen()) known.link.setAttribute("aria-current", "true");
    else known.link.removeAttribute("aria-current");
    return known;
  }

  #forget(streams) {
    const there = new Set(streams.map(({ id }) => id));
    for (const id of this.#rows.keys()) if (!there.has(id)) this.#rows.delete(id);
  }

  #order(shown) {
    const by =
      this.#sort === null
        ? ({ row }) => (row.ended_s === null ? row.age_s : 1e9 + row.ended_s)
        : COLUMNS[this.#sort].by;
    const keyed = shown.map((one, index) => ({ one, key: by(one), index }));
    keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.index - b.index));
    const wanted = keyed.map(({ one }) => one.element);
    const held = this.#body.contains(document.activeElement) || this.#body.matches(":hover");
    const settled = held && this.#sort !== null && wanted.length === this.#body.children.length;
    if (!settled || wanted.some((element) => element.parentNode !== this.#body)) arrange(this.#body, wanted);
  }

  #bar() {
    const words = make("input", {
      type: "search",
      placeholder: "Model, id, key, caller, ending…",
      "aria-label": "Filter streams",
      oninput: ({ target }) => ((this.#words = target.value.trim().toLowerCase()), this.update()),
    });
    this.#kinds = Object.entries(KINDS).map(([kind, text]) => [
      kind,
      make(
        "button",
        { type: "button", "aria-pressed": String(kind === this.#kind), onclick: () => this.#choose(kind) },
        text,
        make("span", { class: "dim" }),
      ),
    ]);
    const kinds = make(
      "div",
      { class: "switch", role: "group", "aria-label": "Which streams" },
      this.#kinds.map(([, button]) => button),
    );
    return make("div", { class: "bar-of-list" }, kinds, words);
  }

  #choose(chosen) {
    this.#kind = chosen;
    for (const [kind, button] of this.#kinds) button.setAttribute("aria-pressed", String(kind === chosen));
    this.update();
  }

  #table() {
    this.#heads = COLUMNS.map(({ name, number }, index) => {
      const button = make("button", { type: "button", text: name, onclick: () => this.#sortBy(index) });
      return make("th", { role: "columnheader", scope: "col", class: number ? "number" : "" }, button);
    });
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, this.#heads));
    return make("table", { role: "table", class: "streams", "aria-label": "Streams" }, head, this.#body);
  }

  #sortBy(index) {
    this.#sort = this.#sort === index ? null : index;
    this.#heads.forEach((head, at) =>
      at === this.#sort ? head.setAttribute("aria-sort", "ascending") : head.removeAttribute("aria-sort"),
    );
    arrange(this.#body, []);
    this.update();
  }
}

class Row {
  constructor({ id }) {
    this.sign = make("span", { class: "sign", "aria-hidden": "true" });
    this.word = make("span", { class: "word" });
    this.link = make("a", { href: `#/streams/${encodeURIComponent(id)}` });
    this.about = make("span", { class: "about" });
    this.cells = Object.fromEntries(["age", "token", "followers", "lag"].map((name) => [name, make("span")]));
    this.rate = make("span");
    this.drawn = make("span", { class: "drawn" });
    const cell = (name, kind, ...children) => make("td", { role: "cell", class: kind, "data-name": name }, children);
    this.element = make(
      "tr",
      { role: "row", onclick: (event) => event.target.closest("a") ?? (location.hash = this.link.hash) },
      cell("State", "state", this.sign, this.word),
      cell("Model", "model", this.link, this.about),
      cell("Age", "number", this.cells.age),
      cell("First token", "number", this.cells.token),
      cell("Events/s", "number rate", this.drawn, this.rate),
      cell("Followers", "number", this.cells.followers),
      cell("Lag", "number", this.cells.lag),
    );
  }

  update(row, rates) {
    this.row = row;
    this.newest = rates.at(-1) ?? 0;
    const { sign, word, tone } = stateOf(row);
    say(this.sign, sign);
    say(this.word, word);
    if (this.element.dataset.tone !== tone) this.element.dataset.tone = tone;
    say(this.link, row.model ?? "no model");
    say(
      this.about,
      [row.caller, row.key ?? row.id.slice(3, 9), row.route, row.upstream].filter((one) => one && one !== "default").join(" · "),
    );
    say(this.cells.age, duration(row.age_s));
    say(this.cells.token, duration(row.ttft_s));
    say(this.rate, rate(row.ended_s === null ? this.newest : row.events / Math.max(row.age_s, 0.001)));
    mark(this.rate, "dim", row.ended_s !== null);
    if (row.ended_s === null) this.drawn.replaceChildren(spark(rates));
    else if (this.drawn.firstChild) this.drawn.replaceChildren();
    say(this.cells.followers, count(row.follower_count));
    say(this.cells.lag, row.lag_events ? count(row.lag_events) : "–");
    mark(this.element, "lags", row.lag_events > 100);
  }
}
