// What the states of a stream are called, and how each is marked: by a sign and a word, and by colour only besides.

const SILENT_S = 10; // seconds without an event after which a running stream is shown as silent

/** Return the sign, word and tone of a stream's state. */
export function stateOf({ state, reason, ttft_s, silent_s, events }) {
  if (state === "complete") return { sign: "✓", word: "complete", tone: "done" };
  if (state === "cancelled") return { sign: "■", word: (reason ?? "cancelled").replaceAll("_", " "), tone: "dim" };
  if (state !== "open") return { sign: "✕", word: (reason ?? state).replaceAll("_", " "), tone: "bad" };
  if (silent_s >= SILENT_S) return { sign: "◍", word: `silent ${Math.round(silent_s)} s`, tone: "warn" };
  if (ttft_s === null && !events) return { sign: "○", word: "waiting", tone: "warn" };
  if (ttft_s === null) return { sign: "◔", word: "no token yet", tone: "warn" };
  return { sign: "●", word: "streaming", tone: "live" };
}
