// The Vercel AI SDK with its provider for Anthropic, which asks for messages.
import { createAnthropic } from "@ai-sdk/anthropic";
import { heardOf } from "./ai_parts.mjs";

export function hear({ url, thinking, ...asked }) {
  const anthropic = createAnthropic({ baseURL: `${url}/apps/anthropic/v1`, apiKey: "sk-a-real-client" });
  const options = thinking ? { thinking: { type: "enabled", budgetTokens: 1024 } } : {};
  return heardOf(anthropic("qwen3-max"), { ...asked, providerOptions: { anthropic: options } });
}
