// Reading streams: the text of one over every cut, and the events of a response as they come.
import { refused } from "./requests.js";

/**
 * Yield the pieces of a stream's text as they come (mode text), over every cut without gap or repeat, by the offset in
 * bytes. `ended()` tells whether the stream has ended, whose failure is a connection that breaks off.
 */
export async function* textOf(url, { signal, ended, attempts = 8 }) {
  let [offset, shown, failures] = [0, 0, 0];
  for (;;) {
    try {
      const response = await fetch(`${url}?mode=text&offset=${offset}`, { cache: "no-store", signal });
      if (response.status === 204) return;
      if (!response.ok) throw await refused(response);
      for await (const piece of piecesOf(response)) {
        failures = 0;
        offset += new TextEncoder().encode(piece).length; // a character that was cut in two is not in it yet
        shown += piece.length;
        yield piece;
      }
      return;
    } catch (error) {
      if (signal.aborted || error.status) throw error;
      if (++failures >= (ended() ? 2 : attempts)) {
        if (ended()) yield (await whole(url, signal)).slice(shown);
        throw error;
      }
      await pause(Math.min(4000, 250 * 2 ** failures), signal);
    }
  }
}

/**
 * Return all text of a stream that has ended, "" where it can't be had: as chunks of chat, because browsers drop what
 * they have of a response when its connection breaks off, and mode text of a stream that failed ends so.
 */
async function whole(url, signal) {
  const response = await fetch(`${url}?mode=chat`, { cache: "no-store", signal });
  let text = "";
  if (response.ok) for await (const block of blocksOf(response)) text += contentOf(dataOf(block));
  return text;
}

/** Return the text that a chunk of chat adds to the first choice. */
function contentOf(data) {
  const choices = data?.startsWith("{") ? JSON.parse(data).choices : [];
  return (choices ?? []).map(({ index, delta }) => (index ? "" : (delta?.content ?? ""))).join("");
}

/** Yield the blocks of an event stream, each as its text without the blank line. */
export async function* blocksOf(response) {
  let rest = "";
  for await (const piece of piecesOf(response)) {
    const blocks = (rest + piece).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    yield* blocks;
  }
}

async function* piecesOf(response) {
  const [reader, decoder] = [response.body.getReader(), new TextDecoder("utf-8", { ignoreBOM: true })];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops reading closes the connection
  }
}

/** Return the data of a block, null if it has none. */
export function dataOf(block) {
  const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data"));
  return lines.length ? lines.map((line) => line.replace(/^data:? ?/, "")).join("\n") : null;
}

/** Wait, until it is aborted at most. */
export function pause(ms, signal) {
  return new Promise((wake) => {
    const timer = setTimeout(wake, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), wake()), { once: true });
  });
}
