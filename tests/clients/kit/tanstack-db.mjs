// A collection of TanStack DB that follows a store: prints what a user would have seen as lines of JSON.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { dist, url, token, configId } = JSON.parse(process.argv[2]);
const { createCollection } = createRequire(`${dist}/index.js`)('@tanstack/db');
const { createStorefront } = await import(pathToFileURL(`${dist}/index.js`));
const { createRow, productCollectionOptions } = await import(pathToFileURL(`${dist}/tanstack-db.js`));

const print = (name, value) => process.stdout.write(`${JSON.stringify({ name, ...value })}\n`);
const open = () => createStorefront({ url, getToken: () => token });
const [mine, theirs] = [open(), open()];
const products = createCollection(productCollectionOptions(mine, { configId }));
const list = () => products.toArray.map(({ title, price }) => `${title} ${price}`).sort();
const isDoubled = () => new Set(products.toArray.map(({ title }) => title)).size < products.size;
let doubled = false;
let missing = 0;
let isInserted = false;
products.subscribeChanges(() => {
  doubled ||= isDoubled();
  if (isInserted && !products.toArray.some(({ title }) => title === 'Mine')) missing += 1;
});
const until = async (isTrue, what) => {
  for (const end = Date.now() + 10_000; !isTrue(); ) {
    if (Date.now() > end) throw new Error(`${what}: ${list()}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};

await products.preload();
print('loaded', { rows: list() });

const row = createRow({ title: 'Mine', price: '5.00' });
const inserted = products.insert(row);
isInserted = true;
const atOnce = list();
await inserted.isPersisted.promise;
print('inserted', { atOnce, after: list(), isReplaced: !products.has(row.id) });

const refused = products.insert(createRow({ title: '', price: '5.00' }));
const [first] = products.toArray.filter(({ title }) => title === 'Mine');
const updated = products.update(first.id, (draft) => void (draft.price = '6.00'));
const code = await refused.isPersisted.promise.then(() => null, (error) => error.code);
await updated.isPersisted.promise;
print('refused', { code, rows: list() });

await theirs.writes.create(configId, { title: 'Theirs', price: '7.00' }).done;
await until(() => list().includes('Theirs 7.00'), 'theirs');
isInserted = false;
await products.delete(first.id).isPersisted.promise;
await until(() => products.size === 2, 'deleted');
print('followed', { rows: list(), doubled, missing });
for (const storefront of [mine, theirs]) storefront.close();
process.exit(0);
