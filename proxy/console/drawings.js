// The time line of a stream, the gaps between its tokens, and small rates: drawn as SVG, and said in words.
import { draw, make } from "./element.js";
import { count, duration } from "./format.js";

const HEIGHT = 74;
const [TOP, BOTTOM] = [24, 50]; // of the band

/** Draw rates as a line; the words are beside it. */
export function spark(rates, width = 64, height = 18) {
  const most = 1.4 * Math.max(...rates, 1); // with room above: a steady rate is a line in the middle
  const step = width / Math.max(rates.length - 1, 1);
  const points = rates.map(
    (rate, index) => `${(index * step).toFixed(1)},${(height - 1 - (rate / most) * (height - 3)).toFixed(1)}`,
  );
  return draw(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    draw("polyline", { points: points.join(" ") }),
  );
}

/**
 * Draw a stream's time line: from its request to now, or its end. `ticks`: the times, in seconds since the request, of
 * the events that came while this page was there; `joined_s`: when it came.
 */
export function timeLine(stream, ticks, joined_s, width) {
  const total = Math.max(stream.age_s, 0.05);
  const x = (seconds) => Math.min(seconds / total, 1) * (width - 2) + 1;
  const [token, content] = [stream.first_token_s, stream.first_content_s];
  const gaps = longGaps(stream);
  const parts = [
    band("wait", x(0), x(token ?? total)),
    token !== null && band("think", x(token), x(content ?? total)),
    content !== null && band("answer", x(content), x(total)),
    ...gaps.flatMap(([from, to]) => gap(x(from), x(to), duration(to - from))),
    ...tickMarks(ticks, x),
    joined_s > 0.02 * total &&
      joined_s < total &&
      draw("line", { class: "joined", x1: x(joined_s), x2: x(joined_s), y1: TOP, y2: BOTTOM }),
    ...axis(total, x, width),
    token !== null && flag(x(token), width, `first token ${duration(token)}`),
  ];
  const svg = draw(
    "svg",
    {
      class: "timeline",
      viewBox: `0 0 ${width} ${HEIGHT}`,
      width: "100%",
      height: HEIGHT,
      role: "img",
      "aria-label": inWords(stream, gaps),
    },
    parts.filter(Boolean),
  );
  return svg;
}

/** Return [from, to] of the longest gaps: over a second, and four times the mean; the one that lasts is one, too. */
function longGaps({ state, age_s, silent_s, first_token_s, last_token_s, long_gaps_s, gap_counts }) {
  if (first_token_s === null) return [];
  const gaps = state === "open" ? [...long_gaps_s, [age_s - silent_s, age_s]] : long_gaps_s;
  const mean =
    (last_token_s - first_token_s) /
    Math.max(
      gap_counts.reduce((sum, many) => sum + many, 0),
      1,
    );
  return gaps
    .filter(([from, to]) => to - from > Math.max(1, 4 * mean))
    .sort((a, b) => b[1] - b[0] - (a[1] - a[0]))
    .slice(0, 5);
}

function inWords(stream, gaps) {
  const told = [
    stream.first_token_s === null ? "no token yet" : `first token after ${duration(stream.first_token_s)}`,
    stream.first_content_s === null ? "no answer text yet" : `answer text after ${duration(stream.first_content_s)}`,
    stream.state === "open" ? `running for ${duration(stream.age_s)}` : `ended after ${duration(stream.age_s)}`,
    gaps.length ? `longest gap ${duration(gaps[0][1] - gaps[0][0])}` : "no long gap",
  ];
  return `Time line: ${told.join(", ")}.`;
}

const band = (kind, from, to) =>
  draw("rect", { class: `band ${kind}`, x: from, y: TOP, width: Math.max(to - from, 0.5), height: BOTTOM - TOP });

const gap = (from, to, text) => [
  band("gap", from, to),
  to - from > 40 && draw("text", { class: "gap", x: (from + to) / 2, y: BOTTOM - 9, "text-anchor": "middle" }, text),
];

function tickMarks(ticks, x) {
  const columns = new Set(ticks.map((at) => Math.round(x(at)))); // one line a pixel, however many events
  return [...columns].map((at) => draw("line", { class: "tick", x1: at, x2: at, y1: TOP + 7, y2: BOTTOM - 7 }));
}

function flag(at, width, text) {
  const flips = at > width - 130;
  return draw(
    "g",
    { class: "flag" },
    draw("line", { x1: at, x2: at, y1: 6, y2: BOTTOM }),
    draw("text", { x: at + (flips ? -5 : 5), y: 14, "text-anchor": flips ? "end" : "start" }, text),
  );
}

function axis(total, x, width) {
  const steps = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find((one) => (one / total) * width >= 64) ?? 7200;
  const marks = [];
  for (let at = 0; at <= total; at += step) {
    marks.push(draw("line", { class: "axis", x1: x(at), x2: x(at), y1: BOTTOM, y2: BOTTOM + 5 }));
    const anchor = at === 0 ? "start" : x(at) > width - 24 ? "end" : "middle";
    marks.push(
      draw("text", { class: "axis", x: x(at), y: HEIGHT - 7, "text-anchor": anchor }, at === 0 ? "0" : duration(at)),
    );
  }
  return marks;
}

/** Return a table of the gaps between tokens as bars: how many of each length. */
export function gapBars(bounds, counts) {
  const rows = counts
    .map((many, index) => ({
      many,
      text: index < bounds.length ? `≤ ${duration(bounds[index])}` : `> ${duration(bounds.at(-1))}`,
    }))
    .filter(({ many }) => many);
  if (!rows.length)
    return make("p", { class: "empty small", text: "No gaps yet: they are counted from the second token on." });
  const most = Math.max(...rows.map(({ many }) => many));
  return make(
    "ul",
    { class: "bars", "aria-label": "Gaps between tokens, by length" },
    rows.map(({ many, text }) =>
      make(
        "li",
        {},
        make("span", { class: "name", text }),
        bar(many / most),
        make("span", { class: "number", text: count(many) }),
      ),
    ),
  );
}

/** Draw a bar of a share, 0 to 1. */
export const bar = (share, tone = "") =>
  draw(
    "svg",
    { class: `bar ${tone}`, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("rect", { class: "back", x: 0, y: 0, width: 100, height: 8 }),
    draw("rect", { class: "full", x: 0, y: 0, width: Math.max(share * 100, share ? 0.6 : 0), height: 8 }),
  );
