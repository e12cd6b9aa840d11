// openai-node: asks for a response; returns its events as they came, and what the client's own helper adds them up to.
import OpenAI from "openai";

export async function hear({ url, ident, query, headers, how = "create", ...asked }) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "sk-a-real-client", maxRetries: 0, timeout: 10_000 });
  const heard = { events: [], final: null, error: null };
  const body = { model: "qwen-plus", input: "说点什么", ...asked };
  try {
    if (how === "helper") {
      const { stream: _, ...rest } = body;
      const stream = client.responses.stream(rest, { headers });
      for await (const event of stream) heard.events.push(structuredClone(event));
      heard.final = await stream.finalResponse();
    } else if (ident) {
      for await (const event of await client.get(`/streams/${ident}`, { stream: true, query })) heard.events.push(event);
    } else {
      const answer = await client.responses.create(body, { headers });
      if (!body.stream) heard.events.push(answer);
      else for await (const event of answer) heard.events.push(event);
    }
  } catch (error) {
    const { constructor, status = null, code = null, message } = error;
    heard.error = { name: constructor.name, status, code, message };
  }
  return heard;
}
