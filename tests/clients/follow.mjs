// follow.js, as a page has it: follows each URL to its end, and tells the last state of the answer.
import { completion } from "../../proxy/console/follow.js";

export async function hear({ url, key }) {
  let answer = null;
  let error = null;
  try {
    const headers = { authorization: `Bearer ${key}` };
    for await (answer of completion(url, { headers, retryMs: 10 }));
  } catch (failure) {
    error = failure.code ?? failure.message;
  }
  return { answer, error };
}
