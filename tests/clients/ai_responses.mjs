// The Vercel AI SDK with its provider for OpenAI, which asks for responses.
import { createOpenAI } from "@ai-sdk/openai";
import { heardOf } from "./ai_parts.mjs";

export function hear({ url, ...asked }) {
  const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "sk-a-real-client" });
  return heardOf(openai.responses("qwen-plus"), asked);
}
