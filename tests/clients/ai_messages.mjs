// The Vercel AI SDK with its provider for Anthropic, which asks for messages: asks, and returns what it was told.
import { createAnthropic } from "@ai-sdk/anthropic";
import { jsonSchema, streamText, tool } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false; // it prints them where the answers to questions go

export async function hear({ url, headers, tools = {}, thinking, maxRetries = 0 }) {
  const anthropic = createAnthropic({ baseURL: `${url}/apps/anthropic/v1`, apiKey: "sk-a-real-client" });
  const heard = { text: "", reasoning: "", calls: [], finish: null, usage: null, error: null };
  const { fullStream } = streamText({
    model: anthropic("qwen3-max"),
    prompt: "说点什么",
    headers,
    maxRetries,
    tools: Object.fromEntries(
      Object.entries(tools).map(([name, schema]) => [name, tool({ inputSchema: jsonSchema(schema) })]),
    ),
    providerOptions: { anthropic: thinking ? { thinking: { type: "enabled", budgetTokens: 1024 } } : {} },
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
