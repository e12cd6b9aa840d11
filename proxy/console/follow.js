/** Yield {id, event, data} of a stream, over every cut without gap or repeat, until its end: 204 or [DONE].
 * Options are fetch's and those below. Throws a refusal (with its `response`), or what the last of `attempts` met. */
export async function* follow(url, { lastEventId = "", retryMs = 500, silenceMs = 45e3, attempts = 8, ...init } = {}) {
  const [cursor, headers] = [{ id: lastEventId, retryMs }, new Headers(init.headers)];
  for (let failures = 0, told = false; ; ) {
    try {
      if (cursor.id) headers.set("Last-Event-ID", cursor.id);
      const response = await fetch(url, { cache: "no-store", ...init, headers });
      if (response.status === 204) return;
      if (response.status !== 200 || !response.headers.get("Content-Type")?.startsWith("text/event-stream"))
        throw Object.assign(new Error(`HTTP ${response.status}: ${await response.text()}`), { response });
      for await (const event of parse(response.body.getReader(), cursor, silenceMs)) {
        [failures, told] = [0, true]; // told without an id, it could only be told again
        yield event;
        if (event.data === "[DONE]") return;
      }
      throw new Error("the connection was closed before the stream's end");
    } catch (error) {
      const final = /^4(?!08|29)/.test(error.response?.status); // others may pass: a cut head has been seen as 200
      if (init.signal?.aborted || final || (told && !cursor.id) || ++failures >= attempts) throw error;
    }
    const pause = AbortSignal.timeout(Math.min(cursor.retryMs * 2 ** (failures - 1), 10e3) * (0.5 + Math.random() / 2));
    await new Promise((wake) => [pause, init.signal].forEach((one) => one?.addEventListener("abort", wake)));
  }
}
async function* parse(reader, cursor, silenceMs) {
  let [decoder, rest, half, block] = [new TextDecoder(), "", false, { data: "" }];
  try {
    for (;;) {
      const silent = setTimeout(() => reader.cancel(), silenceMs); // heartbeats come more often than that
      const { done, value } = await reader.read().finally(() => clearTimeout(silent));
      if (done) return; // an event without its blank line is none
      const text = decoder.decode(value, { stream: true });
      const lines = (rest + (half ? text.replace(/^\n/, "") : text)).split(/\r\n|\n|\r/);
      [rest, half] = [lines.pop(), text.endsWith("\r")]; // the other half of that CRLF may come with the next read
      for (const line of lines) {
        const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (line) block[name] = name === "data" ? `${block.data}${value}\n` : value;
        if (line) continue;
        const { id = cursor.id, event, data, retry } = block;
        [block, cursor.id, cursor.retryMs] = [{ data: "" }, id, Number(/^\d+$/.exec(retry) ?? cursor.retryMs)];
        if (data) yield { id, event: event || "message", data: data.slice(0, -1) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops listening closes the connection
  }
}
/** Yield {content, reasoning_content} of a chat completion so far, after each chunk. Throws the error it ends with. */
export async function* completion(url, options) {
  const answer = { content: "", reasoning_content: "" };
  for await (const { data } of follow(url, options)) {
    const { error, choices } = data === "[DONE]" ? {} : JSON.parse(data);
    if (error) throw Object.assign(new Error(error.message), error);
    const delta = choices?.find(({ index }) => index === 0)?.delta; // the chunk with the usage has no choices
    for (const name in answer) answer[name] += delta?.[name] ?? "";
    yield { ...answer };
  }
}
