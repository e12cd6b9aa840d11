// fetch as Node has it (undici): POSTs to each URL, and tells what came of its body and how that ended.
const [connection, body, ...asked] = process.argv.slice(2);
for (const url of asked) {
  let text = "";
  let error = null;
  try {
    const headers = { connection, "content-type": "application/json", authorization: "Bearer sk-a-real-client" };
    const answer = await fetch(url, { method: "POST", body, headers });
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) text += piece;
  } catch (failure) {
    error = (failure.cause ?? failure).name;
  }
  console.log(JSON.stringify([text, error]));
}
