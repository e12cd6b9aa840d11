// The Vercel AI SDK with its provider for OpenAI-compatible APIs.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { heardOf } from "./ai_parts.mjs";

export function hear({ url, thinking, ...asked }) {
  const baseURL = `${url}/v1`;
  const qwen = createOpenAICompatible({ name: "qwen", baseURL, apiKey: "sk-a-real-client", includeUsage: true });
  const options = thinking ? { enable_thinking: true } : {};
  return heardOf(qwen.chatModel("qwen-plus"), { ...asked, providerOptions: { qwen: options } });
}
