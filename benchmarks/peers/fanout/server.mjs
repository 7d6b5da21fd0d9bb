// The live feed of a store as a Node server has it: graphql-ws and ws, over the same Postgres, the same log and the same wake-ups.
// Events are judged for shoppers, and their products read, once for all. SHARE=1: results, too; else each listener has its own
// execution, which is what graphql-ws does unless told otherwise. Frames are written per listener, as graphql-ws has it.
import { createServer } from 'node:http';
import { buildSchema, subscribe } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';
import pg from 'pg';
import { WebSocketServer } from 'ws';

const schema = buildSchema(`
  type Query { ready: Boolean }
  type Subscription { productFeed(configId: ID!): ProductFeedEvent! }
  interface ProductFeedEvent { position: String! }
  type Product { id: ID! title: String! price: String! version: Int! }
  type ProductCreated implements ProductFeedEvent { position: String! clientMutationId: String product: Product! }
  type ProductUpdated implements ProductFeedEvent { position: String! clientMutationId: String changedFields: [String!]! product: Product! }
  type ProductDeleted implements ProductFeedEvent { position: String! clientMutationId: String productId: ID! }
  type FeedReset implements ProductFeedEvent { position: String! reason: String! }
`);
schema.getSubscriptionType().getFields().productFeed.subscribe = (_, { configId }) => listen(configId);

// ------------------------------------------------------------------------------------------------ one reader per store

const database = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 5 });
const stores = new Map();

const CHANGES = `SELECT position, kind, product_id, was_visible, is_visible, changed_fields, client_mutation_id FROM changes
  WHERE config_id = $1 AND position > $2 ORDER BY position LIMIT 500`;
const PRODUCTS = `SELECT p.id, title, price::text, p.version FROM products p JOIN configs c ON c.id = p.config_id
  WHERE p.id = ANY($1) AND status = 'active' AND is_published`;
const HEAD = 'SELECT position FROM store_positions WHERE config_id = $1';

async function listen(configId) {
  const listener = new Listener();
  if (!stores.has(configId)) stores.set(configId, opened(configId));
  const store = await stores.get(configId);
  store.listeners.add(listener);
  listener.onEnd = () => store.listeners.delete(listener);
  return listener;
}

async function opened(configId) {
  const { rows } = await database.query(HEAD, [configId]);
  return { configId, head: rows[0]?.position ?? 0, listeners: new Set(), reading: null, again: false };
}

async function stirred(configId) {
  const store = await stores.get(configId);
  if (!store) return;
  if (store.reading) {
    store.again = true;
    return;
  }
  do {
    store.again = false;
    await (store.reading = read(store));
    store.reading = null;
  } while (store.again);
}

async function read(store) {
  const { rows } = await database.query({ name: 'changes', text: CHANGES, values: [store.configId, store.head] });
  if (!rows.length) return;
  const alive = rows.filter((row) => row.is_visible).map((row) => row.product_id);
  const found = alive.length ? (await database.query({ name: 'products', text: PRODUCTS, values: [alive] })).rows : [];
  const products = new Map(found.map((product) => [product.id, product]));
  for (const row of rows) {
    const event = seen(row, products.get(row.product_id));
    if (event) for (const listener of store.listeners) listener.push({ productFeed: event });
  }
  store.head = rows.at(-1).position;
}

function seen({ position, product_id, was_visible, is_visible, changed_fields, client_mutation_id }, product) {
  if (!product_id || (!was_visible && !is_visible)) return null;
  const event = { position: String(position), clientMutationId: client_mutation_id };
  if (!is_visible || !product) return { __typename: 'ProductDeleted', ...event, productId: product_id };
  if (!was_visible) return { __typename: 'ProductCreated', ...event, product };
  return { __typename: 'ProductUpdated', ...event, changedFields: changed_fields, product };
}

/** What one listener has yet to be told, as an async iterator. */
class Listener {
  #events = [];
  #waiting = null;

  push(value) {
    if (!this.#waiting) return this.#events.push(value);
    const resolve = this.#waiting;
    this.#waiting = null;
    resolve({ value, done: false });
  }
  next() {
    if (this.#events.length) return Promise.resolve({ value: this.#events.shift(), done: false });
    return new Promise((resolve) => (this.#waiting = resolve));
  }
  return() {
    this.onEnd?.();
    this.#waiting?.({ value: undefined, done: true });
    return Promise.resolve({ value: undefined, done: true });
  }
  [Symbol.asyncIterator]() {
    return this;
  }
}

// ---------------------------------------------------------------------------------- one execution for all who ask the same

const shared = new Map();

async function shareResults(args) {
  const { key } = args.contextValue;
  if (!shared.has(key)) shared.set(key, executed(args));
  const listener = new Listener();
  const all = await shared.get(key);
  all.add(listener);
  listener.onEnd = () => all.delete(listener);
  return listener;
}

async function executed(args) {
  const all = new Set();
  const results = await subscribe(args);
  (async () => {
    for await (const result of results) for (const listener of all) listener.push(result);
  })();
  return all;
}

// ------------------------------------------------------------------------------------------------------------- serving

const wakeUps = new pg.Client({ connectionString: process.env.DATABASE_URL });
await wakeUps.connect();
wakeUps.on('notification', ({ payload }) => stirred(payload));
await wakeUps.query('LISTEN storefront');

const server = createServer((_, response) => response.end('{}'));
const sockets = new WebSocketServer({ server, path: '/graphql', perMessageDeflate: false });
const context = (_, __, payload) => ({ key: JSON.stringify([payload.query, payload.variables]) });
useServer({ schema, context, ...(process.env.SHARE && { subscribe: shareResults }) }, sockets);
server.listen(Number(process.env.PORT), '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
