// Runs one example: prints each state as a line of JSON, and does what the lines of its input say. Of its tokens each is used
// once, and the last one from then on.
import { createInterface } from 'node:readline';

const [address, options] = process.argv.slice(2);
const { tokens, ...given } = JSON.parse(options);
const { run } = await import(address);

const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const onState = ({ products, position }, event) => print({ products, position, event });
const stop = new AbortController();
const { catalogue, done } = run({ ...given, token: async () => (tokens.length > 1 ? tokens.shift() : tokens[0]), onState, signal: stop.signal });

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { create } = JSON.parse(line);
  if (create) print({ created: await catalogue.create(create) });
  else stop.abort();
});

await done.catch((error) => {
  const [first] = [error.errors ?? error.graphQLErrors ?? error].flat();
  print({ failed: first.extensions?.code ?? first.code ?? first.message });
});
process.stdin.destroy();
