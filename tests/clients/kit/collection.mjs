// One page with a collection: prints each state as a line of JSON, and does what the lines of its input say.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const { dist, token, ...options } = JSON.parse(process.argv[2]);
const { ConflictError, createStorefront, memoryStorage, openCollection } = await import(pathToFileURL(`${dist}/index.js`));

const print = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const storage = memoryStorage();
let storefront, collection;

function start() {
  const getToken = token ? () => token : undefined;
  storefront = createStorefront({ url: options.url, getToken, storage, live: options.live, timeoutMs: 3_000, onWriteRefused: (error) => print({ refused: error.code }) });
  collection = openCollection(storefront, { configId: options.configId, filter: options.filter });
  collection.done.catch((error) => print({ failed: error.code, message: error.message }));
  collection.subscribe(() => show());
}

let last = '';
function show() {
  const { rows, position, status } = collection;
  const titles = rows.map(({ title }) => title);
  const state = {
    position, state: status.state, transport: status.transport, pending: storefront.writes.state.pending.length,
    isDoubled: new Set(titles).size < titles.length || new Set(rows.map(({ id }) => id)).size < rows.length,
    rows: options.isBrief ? undefined : rows.map(({ id, title, price, version, pending }) => ({ id, title, price, version, pending })),
  };
  const line = JSON.stringify(state);
  if (line !== last) print(state);
  last = line;
}

const report = (name, handle) => {
  print({ sent: name, id: handle.id });
  handle.done.then(
    ({ products, deletedIds, position, refusals }) => print({ done: name, ids: products.map(({ id }) => id), deletedIds, position, refusals: [...refusals.keys()] }),
    (error) => print({ done: name, error: error.code, isConflict: error instanceof ConflictError, changedFields: error.changedFields, theirs: error.theirs?.title }),
  );
};
const policies = { join: (base, mine, theirs) => ({ title: `${theirs.title} & ${mine.title}` }), giveUp: () => null };

/** Writes at random, as fast as a person who does not wait for answers. Titles are never used twice. */
async function writeAtRandom({ name, count, seed, pauseMs }) {
  let state = seed;
  const random = (below) => ((state = (state * 48_271) % 2_147_483_647) % below);
  const pick = () => collection.rows[random(collection.rows.length)];
  const sent = [];
  for (let number = 0; number < count; number += 1) {
    const kind = collection.rows.length < 4 ? 0 : random(10);
    const price = `${number + 1}.00`;
    if (kind < 4) sent.push(collection.create({ title: `${name} ${number}`, price }));
    else if (kind < 7) sent.push(collection.update(pick().id, { price }));
    else if (kind < 9) sent.push(collection.delete(pick().id));
    else sent.push(storefront.writes.updateMany(options.configId, [{ id: pick().id, patch: { price } }]));
    await new Promise((resolve) => setTimeout(resolve, random(2 * pauseMs)));
  }
  const results = await Promise.allSettled(sent.map(({ done }) => done));
  const writes = results.map(({ value, reason }, index) => ({ id: sent[index].id, position: value?.position ?? null, error: reason?.code ?? null }));
  print({ finished: name, writes });
}

createInterface({ input: process.stdin }).on('line', async (line) => {
  const { name, create, update, remove, createMany, updateMany, removeMany, reload, dump, stop, close, random } = JSON.parse(line);
  const { writes } = storefront;
  const { configId } = options;
  const find = (title) => collection.rows.find((row) => row.title === title)?.id ?? title;
  if (random) void writeAtRandom(random);
  if (create) report(name, collection.create(create));
  if (update) report(name, collection.update(find(update.title), update.patch, { onConflict: policies[update.onConflict] ?? update.onConflict, base: update.base }));
  if (remove) report(name, collection.delete(find(remove)));
  if (createMany) report(name, writes.createMany(configId, createMany));
  if (updateMany) report(name, writes.updateMany(configId, updateMany.map(({ title, patch }) => ({ id: find(title), patch }))));
  if (removeMany) report(name, writes.deleteMany(configId, removeMany.map(find)));
  if (dump) print({ dump: collection.rows, position: collection.position, pending: writes.state.pending.length });
  if (close) storefront.close();
  if (reload) (storefront.close(), start());
  if (stop) {
    storefront.close();
    await collection.done;
    process.stdin.destroy();
  }
});
start();
