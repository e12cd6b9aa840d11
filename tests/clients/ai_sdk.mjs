// The Vercel AI SDK with its provider for OpenAI-compatible APIs: asks, and returns what it was told.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";

export async function hear({ url, headers, tools = {}, thinking, maxRetries = 0 }) {
  const baseURL = `${url}/v1`;
  const qwen = createOpenAICompatible({ name: "qwen", baseURL, apiKey: "sk-a-real-client", includeUsage: true });
  const heard = { text: "", reasoning: "", calls: [], finish: null, usage: null, error: null };
  const { fullStream } = streamText({
    model: qwen.chatModel("qwen-plus"),
    prompt: "说点什么",
    headers,
    maxRetries,
    tools: Object.fromEntries(
      Object.entries(tools).map(([name, schema]) => [name, tool({ inputSchema: jsonSchema(schema) })]),
    ),
    providerOptions: { qwen: thinking ? { enable_thinking: true } : {} },
    onError() {}, // told by the stream, too
  });
  const fail = (error) => (heard.error = { name: error.name ?? null, message: error.message ?? String(error) });
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
