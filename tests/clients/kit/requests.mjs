// Requests of the kit: prints, for each way of sending them, what went over the network and what came back.
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const { dist, url, token, configId } = JSON.parse(process.argv[2]);
const kit = await import(pathToFileURL(`${dist}/index.js`));
const print = (name, value) => process.stdout.write(`${JSON.stringify({ name, ...value })}\n`);

let sent = [];
/** The network, with failures in front: each is an answer of a proxy, or null for none at all. */
const openNetwork = (failures = []) => async (address, init) => {
  const body = init?.body ? JSON.parse(init.body) : null;
  const parameters = new URL(address).searchParams;
  sent.push({
    method: init?.method ?? 'GET', authorization: init?.headers.authorization, requestId: init?.headers['x-request-id'], at: performance.now(),
    size: Array.isArray(body) ? body.length : 1,
    hasText: Boolean(body?.query ?? parameters.get('query')), hasHash: Boolean(body?.extensions ?? parameters.get('extensions')), hasId: Boolean(body?.documentId ?? parameters.get('documentId')),
  });
  if (!failures.length) return fetch(address, init);
  const failure = failures.shift();
  if (!failure) throw new TypeError('fetch failed');
  return new Response(failure.body ?? 'Bad gateway', { status: failure.status, headers: failure.headers });
};
const open = (options = {}, failures) => kit.createStorefront({ url, fetch: openNetwork(failures), ...options });
const describe = (error) => ({ className: error.constructor.name, code: error.code, isRetryable: error.isRetryable, field: error.field, hasRequestId: Boolean(error.requestId) });
async function attempt(name, run) {
  sent = [];
  const result = await run().then((data) => ({ data }), (error) => ({ error: describe(error) }));
  const gaps = sent.slice(1).map(({ at }, index) => Math.round(at - sent[index].at));
  print(name, { ...result, gaps, sent: sent.map(({ at, requestId, ...one }) => one), ids: new Set(sent.map(({ requestId }) => requestId)).size });
}
const read = (storefront, first = 1) => storefront.request(kit.ProductRowsDocument, { configId, first }).then(({ products }) => products.nodes.length);
const busy = (code, headers = {}) => ({ status: 503, headers: { 'content-type': 'application/json', ...headers }, body: JSON.stringify({ errors: [{ message: 'Busy', extensions: { code } }] }) });
const failures = () => [null, busy('SERVICE_UNAVAILABLE'), { status: 502, headers: { 'content-type': 'text/html' } }];

if (process.argv[3] === 'trusted') {
  const storefront = open({ documents: 'trusted', getToken: () => token });
  await attempt('trusted', () => read(storefront));
  await attempt('trustedWrite', () => storefront.writes.create(configId, { title: 'Trusted', price: '1.00' }).done.then(({ products }) => products.length));
  await attempt('trustedUnknown', () => storefront.request('query Unknown { me { id } }'));
  const stop = new AbortController();
  const event = new Promise((resolve) => {
    let position = '0';
    void storefront.live.followFeed({ configId, getPosition: () => position, onEvent: (one) => (position = one.position, resolve(one.__typename)), signal: stop.signal });
  });
  print('trustedFeed', { event: await event });
  stop.abort();
  storefront.close();
  process.exit(0);
}

await attempt('anonymous', () => read(open()));
await attempt('signedIn', () => read(open({ getToken: async () => token })));
const persisted = open({ documents: 'persisted' });
await attempt('persistedFirst', () => read(persisted));
await attempt('persistedAgain', () => read(persisted));
const batching = open({ maxBatch: 10 });
await attempt('batch', () => Promise.all([1, 2, 1, 1000].map((first) => read(batching, first).catch(describe))));
await attempt('retried', () => read(open({}, failures())));
await attempt('retryAfter', () => read(open({}, [busy('RATE_LIMITED', { 'retry-after': '1' })])));
await attempt('givenUp', () => read(open({ retries: 1 }, failures())));
const create = (input) => (storefront) => storefront.request(kit.CreateProductDocument, { input: { configId, title: 'Once', price: '1.00', ...input } }).then(({ createProduct }) => createProduct.product.title);
await attempt('mutationWithoutKey', () => create({})(open({ getToken: () => token }, failures())));
await attempt('mutationWithKey', () => create({ idempotencyKey: 'requests' })(open({ getToken: () => token }, failures())));
await attempt('timeout', () => open({ timeoutMs: 50, retries: 0, fetch: (_, { signal }) => new Promise((resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))) }).request(kit.PositionDocument, { configId }));
await attempt('aborted', async () => {
  const stop = new AbortController();
  setTimeout(() => stop.abort(new RangeError('left')), 20);
  await open({}, [null, null, null, null]).request(kit.PositionDocument, { configId }, { signal: stop.signal });
});
await attempt('badInput', () => read(open(), 1000));
await attempt('badDocument', () => open().request('query { nothing }'));
await attempt('badToken', () => read(open({ getToken: () => 'nonsense' })));
const tokens = [];
await attempt('newToken', () => read(open({ getToken: ({ isRefused }) => (tokens.push(isRefused), isRefused ? token : 'expired') })));
await attempt('forbidden', () => open().request('query($c: ID!) { analytics(configId: $c, range: { from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z" }) { pageViews } }', { c: configId }));
// What GraphQL Code Generator and gql make of a document.
await attempt('documentNode', () => open().request({ kind: 'Document', definitions: [], loc: { source: { body: '{ __typename }' } } }));
await attempt('withoutText', () => open().request({ kind: 'Document', definitions: [] }));
print('tokens', { tokens, delays: [0, 1, 2, 30].map((failed) => kit.computeDelay(failed)), date: kit.parseRetryAfter(new Date(Date.now() + 60_000).toUTCString()) });
print('manifest', { documents: Object.keys(JSON.parse(readFileSync(`${dist}/documents.json`))).length });
process.exit(0);
