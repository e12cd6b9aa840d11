// Runs the clients beside it: each line read is {client, asked}, each line written is what that client heard.
import { createInterface } from "node:readline";

for await (const line of createInterface({ input: process.stdin })) {
  const { client, asked } = JSON.parse(line);
  const { hear } = await import(`./${client}.mjs`);
  console.log(JSON.stringify(await Promise.all(asked.map(hear))));
}
