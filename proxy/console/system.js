// What stands behind the streams: upstreams, worker processes, memory.
import { bar } from "./drawings.js";
import { make } from "./element.js";
import { bytes, count, duration } from "./format.js";

const BREAKERS = {
  closed: { text: "● ready", tone: "live" },
  half_open: { text: "◔ being tried again", tone: "warn" },
  open: { text: "✕ not in use", tone: "bad" },
};

/** The view of upstreams and workers. */
export class SystemView {
  #feed;

  constructor(feed) {
    this.#feed = feed;
    this.element = make(
      "section",
      { class: "system" },
      make("p", { class: "empty", text: "Waiting for the first overview…" }),
    );
    this.update();
  }

  close() {}

  /** Show the newest overview. */
  update() {
    const { overview } = this.#feed;
    if (!overview) return;
    this.element.replaceChildren(
      make("h1", { text: "Upstreams" }),
      table(
        "Upstreams",
        ["Name", "State", "Requests", "Connections", "Running", "Waiting", "Weight"],
        overview.upstreams.map(upstreamRow),
      ),
      make("h2", { text: "Workers" }),
      table("Workers", ["Worker", "State", "Up", "Streams", "Followers", "Memory"], overview.workers.map(workerRow)),
      make("h2", { text: "Memory of streams" }),
      ...memory(overview),
    );
  }
}

function upstreamRow({ name, breaker, opens_in_s, requests, active, idle, running, waiting, weight }) {
  const { text, tone } = BREAKERS[breaker] ?? { text: "no breaker: it has no spares", tone: "dim" };
  const state = breaker === "open" ? `${text} for ${duration(opens_in_s)}` : text;
  return [
    name,
    { text: state, tone },
    count(requests),
    `${count(active)} busy, ${count(idle)} idle`,
    queued(running),
    queued(waiting),
    count(weight),
  ];
}

const queued = (number) => (number === null || number === undefined ? "no queue" : count(number));

function workerRow({ name, pid, state, uptime_s, streams, followers, held_bytes }) {
  const tone = { ready: "live", draining: "warn" }[state] ?? "bad";
  const sign = { ready: "●", draining: "◔" }[state] ?? "✕";
  return [
    `${name} (pid ${pid})`,
    { text: `${sign} ${state}`, tone },
    duration(uptime_s),
    count(streams),
    count(followers),
    bytes(held_bytes),
  ];
}

function memory({ held_bytes, max_held_bytes }) {
  const share = held_bytes / max_held_bytes;
  return [
    make(
      "p",
      { class: "meter" },
      bar(share, share > 0.9 ? "bad" : share > 0.7 ? "warn" : ""),
      `${bytes(held_bytes)} of ${bytes(max_held_bytes)} (limits.total_log_bytes)`,
    ),
  ];
}

function table(label, heads, rows) {
  const cells = (row) =>
    row.map((cell, index) => {
      const { text, tone } = typeof cell === "object" ? cell : { text: cell, tone: "" };
      return make("td", {
        role: "cell",
        "data-name": heads[index],
        class: index > 1 ? "number" : "",
        "data-tone": tone || null,
        text,
      });
    });
  return make(
    "table",
    { role: "table", class: "plain wide", "aria-label": label },
    make(
      "thead",
      { role: "rowgroup" },
      make(
        "tr",
        { role: "row" },
        heads.map((text, index) =>
          make("th", { role: "columnheader", scope: "col", class: index > 1 ? "number" : "", text }),
        ),
      ),
    ),
    make(
      "tbody",
      { role: "rowgroup" },
      rows.map((row) => make("tr", { role: "row" }, cells(row))),
    ),
  );
}
