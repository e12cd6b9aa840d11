// The Vercel AI SDK with its provider for OpenAI, in a conversation of several turns: returns what each turn was told,
// and the kinds of what its request contained.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";

export async function hear({ url, headers, turns }) {
  const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "sk-a-real-client" }).responses("qwen-plus");
  const messages = [];
  const heard = [];
  for (let turn = 0; turn < turns; turn++) {
    messages.push({ role: "user", content: "说点什么" });
    try {
      const told = await generateText({ model, messages, headers, maxRetries: 0 });
      messages.push(...told.response.messages);
      heard.push({ text: told.text, asked: told.request.body.input.map((item) => item.type ?? item.role), error: null });
    } catch (error) {
      heard.push({ text: "", asked: [], error: error.message });
    }
  }
  return heard;
}
