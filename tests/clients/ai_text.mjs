// The AI SDK's transport for chats in plain text, what useChat asks with: sends a message, returns the one it built.
import { readUIMessageStream, TextStreamChatTransport } from "ai";

const said = { id: "1", role: "user", parts: [{ type: "text", text: "说点什么" }] };
const joined = (parts) => parts.map(({ text }) => text ?? "").join("");

export async function hear({ url, headers }) {
  const transport = new TextStreamChatTransport({
    api: `${url}/v1/chat/completions`,
    headers: { Authorization: "Bearer sk-a-real-client", "Stream-Mode": "text", ...headers },
    prepareSendMessagesRequest: ({ messages }) => ({
      body: {
        model: "qwen-plus",
        stream: true,
        messages: messages.map(({ role, parts }) => ({ role, content: joined(parts) })),
      },
    }),
  });
  const heard = { text: "", error: null };
  try {
    const asked = { trigger: "submit-message", chatId: "chat-42", messages: [said], abortSignal: undefined };
    const stream = await transport.sendMessages(asked);
    for await (const { parts } of readUIMessageStream({ stream, terminateOnError: true })) heard.text = joined(parts);
  } catch ({ name, message }) {
    heard.error = { name, message };
  }
  return heard;
}
