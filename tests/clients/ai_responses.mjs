// The Vercel AI SDK with its provider for OpenAI, which asks for responses: asks, and returns what it was told.
import { createOpenAI } from "@ai-sdk/openai";
import { jsonSchema, streamText, tool } from "ai";

export async function hear({ url, headers, tools = {}, maxRetries = 0 }) {
  const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "sk-a-real-client" });
  const heard = { text: "", reasoning: "", calls: [], finish: null, usage: null, error: null };
  const { fullStream } = streamText({
    model: openai.responses("qwen-plus"),
    prompt: "说点什么",
    headers,
    maxRetries,
    tools: Object.fromEntries(
      Object.entries(tools).map(([name, schema]) => [name, tool({ inputSchema: jsonSchema(schema) })]),
    ),
    onError() {}, // told by the stream, too
  });
  const fail = (error) => (heard.error = { name: error.name ?? null, message: error.message ?? JSON.stringify(error) });
  try {
    for await (const part of fullStream) {
      if (part.type === "text-delta") heard.text += part.text;
      if (part.type === "reasoning-delta") heard.reasoning += part.text;
      if (part.type === "tool-call") heard.calls.push([part.toolCallId, part.toolName, part.input]);
      if (part.type === "error") fail(part.error);
      if (part.type === "finish") [heard.finish, heard.usage] = [part.finishReason, part.totalUsage];
    }
  } catch (error) {
    fail(error);
  }
  return heard;
}
