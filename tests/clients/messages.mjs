// @anthropic-ai/sdk: asks for a message; returns its events as they came, and what the client's own helper adds them up to.
import Anthropic from "@anthropic-ai/sdk";

const messages = [{ role: "user", content: "说点什么" }];

export async function hear({ url, headers, how = "events", ...asked }) {
  const client = new Anthropic({ baseURL: url, apiKey: "sk-a-real-client", maxRetries: 0, timeout: 10_000 });
  const heard = { events: [], message: null, error: null };
  const body = { model: "qwen3-max", max_tokens: 1024, messages, ...asked };
  try {
    if (how === "helper") {
      const stream = client.messages.stream(body, { headers });
      for await (const event of stream) heard.events.push(event.type);
      heard.message = await stream.finalMessage();
    } else if (how === "whole") {
      heard.message = await client.messages.create(body, { headers });
    } else {
      for await (const event of await client.messages.create({ ...body, stream: true }, { headers }))
        heard.events.push(event);
    }
  } catch (error) {
    const { constructor, status = null, error: said = null, message } = error;
    heard.error = { name: constructor.name, status, said, message };
  }
  return heard;
}
