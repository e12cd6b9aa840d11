// openai-node: asks, or follows the stream `ident`; returns what it was told, all chunks together.
import OpenAI from "openai";

const messages = [{ role: "user", content: "说点什么" }];

function add(heard, { choices, usage }) {
  heard.chunks += 1;
  heard.usage = usage ?? heard.usage;
  for (const { delta, message, finish_reason } of choices) {
    const said = delta ?? message;
    heard.text += said.content ?? "";
    heard.reasoning += said.reasoning_content ?? "";
    heard.finish = finish_reason ?? heard.finish;
    for (const [number, call] of (said.tool_calls ?? []).entries()) {
      const words = (heard.calls[call.index ?? number] ??= ["", "", ""]);
      [call.id, call.function.name, call.function.arguments].forEach((part, at) => (words[at] += part ?? ""));
    }
  }
}

export async function hear({ url, ident, query, headers, maxRetries = 0, ...asked }) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "sk-a-real-client", maxRetries, timeout: 10_000 });
  const heard = { text: "", reasoning: "", calls: {}, finish: null, usage: null, chunks: 0, error: null };
  try {
    const answer = ident
      ? await client.get(`/streams/${ident}`, { stream: true, query, headers })
      : await client.chat.completions.create({ model: "qwen-plus", messages, ...asked }, { headers });
    if (asked.stream || ident) for await (const chunk of answer) add(heard, chunk);
    else add(heard, answer);
  } catch (error) {
    const { constructor, status = null, code = null, message } = error;
    heard.error = { name: constructor.name, status, code, message };
  }
  return heard;
}
