// Receives webhooks with Node alone: prints messages with a valid signature, rejects others.
import { createServer } from "node:http";
// [guide]
import { createHmac, timingSafeEqual } from "node:crypto";

const TOLERANCE = 300; // seconds

/** The message, once it is known to be the shop's; throws otherwise. `body` is the text as it came. */
export function verified(body, headers, secret) {
  const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map((name) => headers[`webhook-${name}`] ?? "");
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= TOLERANCE)) throw new Error("too old, or from the future");
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest();
  const isOurs = signatures.split(" ").some((one) => {
    const [version, signature] = one.split(",");
    const given = Buffer.from(signature ?? "", "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
  if (!isOurs) throw new Error("not signed by the shop");
  return JSON.parse(body);
}
// [/guide]

const server = createServer(async (request, response) => {
  const chunks = await Array.fromAsync(request);
  try {
    console.log(JSON.stringify(verified(Buffer.concat(chunks).toString(), request.headers, process.env.WEBHOOK_SECRET)));
    response.writeHead(204).end();
  } catch (error) {
    response.writeHead(400).end(error.message);
  }
});
server.listen(Number(process.env.PORT), "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
