// The Vercel AI SDK with any of its providers: asks a model, and returns what it was told, part by part.
import { jsonSchema, streamText, tool } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false; // it prints them where the answers to questions go

export async function heardOf(model, { headers, tools = {}, maxRetries = 0, providerOptions }) {
  const heard = { text: "", reasoning: "", calls: [], finish: null, usage: null, error: null };
  const { fullStream } = streamText({
    model,
    prompt: "说点什么",
    headers,
    maxRetries,
    tools: Object.fromEntries(
      Object.entries(tools).map(([name, schema]) => [name, tool({ inputSchema: jsonSchema(schema) })]),
    ),
    providerOptions,
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
