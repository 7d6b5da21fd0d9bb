// The hooks in Node, rendered without a DOM: prints what a user would have seen as lines of JSON.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { dist, url, token, configId } = JSON.parse(process.argv[2]);
const load = (name) => import(pathToFileURL(createRequire(`${dist}/index.js`).resolve(name)));
const { createElement: h, useState } = (await load('react')).default;
const { act, create } = (await load('react-test-renderer')).default;
const core = await import(pathToFileURL(`${dist}/index.js`));
const kit = await import(pathToFileURL(`${dist}/react/index.js`));
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const print = (name, value) => process.stdout.write(`${JSON.stringify({ name, ...value })}\n`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

let requests = 0;
let isCut = false;
const counted = async (...given) => {
  if (isCut) throw new TypeError('no network');
  requests += 1;
  return fetch(...given);
};
const open = (options = {}) => core.createStorefront({ url, getToken: () => token, fetch: counted, live: { transports: ['websocket'] }, ...options });

/** Renders a component that calls `use`, and returns what it returned last. */
async function render(storefront, use, { onError, queryClient } = {}) {
  const seen = [];
  const Probe = () => (seen.push(use()), null);
  let root;
  const tree = () => h(kit.StorefrontProvider, { storefront, configId, onError, queryClient }, h(Probe));
  await act(async () => (root = create(tree())));
  return {
    seen,
    get now() {
      return seen.at(-1);
    },
    async until(isTrue, what) {
      for (const end = Date.now() + 10_000; !isTrue(seen.at(-1)); ) {
        if (Date.now() > end) throw new Error(`${what}: ${JSON.stringify(seen.at(-1))?.slice(0, 2000)}`);
        await act(() => sleep(5));
      }
      return seen.at(-1);
    },
    close: () => act(async () => root.unmount()),
  };
}
const titles = ({ products }) => products.map(({ title }) => title);
const isTwice = (values) => new Set(values).size < values.length;

const parts = {
  async pages() {
    const storefront = open();
    const list = await render(storefront, () => kit.useProducts({ first: 2, sort: { key: 'NAME' } }));
    await list.until(({ isSuccess }) => isSuccess, 'first page');
    const first = titles(list.now);
    while (list.now.hasNextPage) {
      await act(() => list.now.fetchNextPage());
      await list.until(({ isFetching }) => !isFetching, 'next page');
    }
    print('pages', { first, all: titles(list.now), totalCount: list.now.totalCount });
    await list.close();
    storefront.close();
  },

  async optimistic() {
    const storefront = open();
    const toasts = [];
    const page = await render(storefront, () => ({ list: kit.useProducts(), edit: kit.useOptimisticProducts() }), { onError: (error) => toasts.push(error.code) });
    await page.until(({ list }) => list.isSuccess, 'list');
    const before = titles(page.now.list);
    const target = page.now.list.products.find(({ title }) => title === before[0]);
    await act(async () => {
      page.now.edit.addProduct({ title: 'Hopeful', price: '9.00' });
      page.now.edit.addProduct({ title: '', price: '9.00' }); // refused
      page.now.edit.updateProduct({ id: target.id, patch: { price: '77.00' } });
    });
    const shown = page.now.list.products.map(({ title, price, pending }) => [title, price, pending]);
    await page.until(({ edit, list }) => !edit.pending.length && !list.isFetching, 'answers');
    const after = page.now.list.products.map(({ title, price, version }) => [title, price, version]);
    const doubled = page.seen.some(({ list }) => isTwice(list.products.map(({ id }) => id)) || isTwice(titles(list)));
    const missing = page.seen.filter(({ list }, index) => index >= page.seen.findIndex(({ list: one }) => titles(one).includes('Hopeful')) && !titles(list).includes('Hopeful')).length;
    await act(async () => page.now.edit.deleteProduct(page.now.list.products.find(({ title }) => title === 'Hopeful').id));
    const isGone = !titles(page.now.list).includes('Hopeful');
    await page.until(({ edit, list }) => !edit.pending.length && !list.isFetching, 'deleted');
    print('optimistic', { before, shown, after, doubled, missing, toasts, isGone, last: titles(page.now.list) });
    await page.close();
    storefront.close();
  },

  async prefetch() {
    const storefront = open();
    const queryClient = kit.createQueryClient();
    const list = await render(storefront, () => ({ ...kit.useProducts(), ahead: kit.usePrefetchProducts() }), { queryClient });
    await list.until(({ isSuccess }) => isSuccess, 'list');
    const { id } = list.now.products[0];
    requests = 0;
    await act(async () => list.now.ahead.getHoverProps(id).onMouseEnter());
    await act(() => sleep(0));
    for (const end = Date.now() + 5_000; queryClient.isFetching() && Date.now() < end; ) await act(() => sleep(5));
    const hovered = requests;
    const page = await render(storefront, () => kit.useProduct(id), { queryClient });
    print('prefetch', { hovered, opened: requests - hovered, isShownAtOnce: page.seen[0].product?.id === id, variants: page.now.product.variants.nodes.length });
    await act(() => list.now.ahead.prefetchProductsByCategory('Lamps'));
    requests = 0;
    const lamps = await render(storefront, () => kit.useProducts({ filter: { categories: ['Lamps'] } }), { queryClient });
    print('prefetchCategory', { requests, titles: titles(lamps.now) });
    for (const one of [list, page, lamps]) await one.close();
    storefront.close();
  },

  async live() {
    const [mine, theirs] = [open(), open()];
    const page = await render(mine, () => ({ list: kit.useProducts(), status: kit.useRealTimeProducts(), sorted: kit.useLiveProducts({ sort: { key: 'NAME' }, first: 2 }) }));
    await page.until(({ list, status, sorted }) => list.isSuccess && status.state === 'live' && sorted.products.length === 2, 'live');
    const { products: [created] } = await theirs.writes.create(configId, { title: 'AAA live', price: '3.00' }).done;
    await page.until(({ list, sorted }) => titles(list)[0] === 'AAA live' && titles(sorted)[0] === 'AAA live', 'created');
    await theirs.writes.update(configId, created.id, { price: '4.00' }).done;
    await page.until(({ list, sorted }) => list.products[0].price === '4.00' && sorted.products[0].price === '4.00', 'updated');
    await theirs.writes.delete(configId, created.id).done;
    await page.until(({ list, sorted }) => !titles(list).includes('AAA live') && titles(sorted)[0] !== 'AAA live', 'deleted');
    print('live', { doubled: page.seen.some(({ list }) => isTwice(titles(list))) });
    await page.close();
    [mine, theirs].forEach((one) => one.close());
  },

  async reads() {
    const storefront = open();
    let setText;
    const page = await render(storefront, () => {
      const [text, set] = useState('');
      setText = set;
      return { facets: kit.useFacets(), categories: kit.useCategories(), search: kit.useProductSearch(text), suggestions: kit.useSuggestions(text) };
    });
    requests = 0;
    for (const text of ['l', 'la', 'lam', 'lamp']) await act(async () => setText(text));
    await page.until(({ facets, categories, search, suggestions }) => facets.data && categories.data && search.isSuccess && suggestions.data, 'reads');
    const { facets, categories, search, suggestions } = page.now;
    print('reads', {
      facets: facets.data.facets.categories.map(({ value, count }) => [value, count]), categories: categories.data.map(({ name }) => name),
      found: titles(search), suggested: suggestions.data.products.map(({ title }) => title), requests,
    });
    await page.close();
    storefront.close();
  },

  async refusals() {
    const storefront = open();
    requests = 0;
    const page = await render(storefront, () => kit.useProducts({ first: 1000 }));
    await page.until(({ isError }) => isError, 'refused');
    print('refusals', { code: page.now.error.code, className: page.now.error.name, field: page.now.error.field, requests });
    await page.close();
    storefront.close();
  },

  async offline() {
    const storage = core.memoryStorage();
    const first = open({ storage });
    const before = await render(first, () => ({ list: kit.useProducts(), sync: kit.useOfflineSync() }));
    await before.until(({ list, sync }) => list.isSuccess && sync.isRestored, 'list');
    await before.close(); // the page is left, and what it has read is saved
    first.close();
    await sleep(20);
    isCut = true;
    const second = open({ storage });
    const start = performance.now();
    const after = await render(second, () => ({ list: kit.useProducts(), sync: kit.useOfflineSync(), edit: kit.useOptimisticProducts() }));
    await after.until(({ list }) => list.products.length > 0, 'restored');
    const ms = performance.now() - start;
    const shown = titles(after.now.list);
    await act(async () => ['Offline 1', 'Offline 2', 'Offline 3'].forEach((title) => after.now.edit.addProduct({ title, price: '1.00' })));
    const withPending = titles(after.now.list);
    await act(() => sleep(20));
    await after.close();
    second.close();
    // And once more: unsent writes are still there, and are sent when the network is.
    const third = open({ storage });
    const last = await render(third, () => ({ list: kit.useProducts(), sync: kit.useOfflineSync() }));
    await last.until(({ list, sync }) => list.products.length > 3 && sync.pendingCount === 3, 'restored with writes');
    isCut = false;
    last.now.sync.flush();
    await last.until(({ list, sync }) => sync.pendingCount === 0 && !list.isFetching, 'sent');
    print('offline', { shown, withPending, sent: titles(last.now.list), doubled: last.seen.some(({ list }) => isTwice(titles(list))), ms: Math.round(ms) });
    await last.close();
    third.close();
  },
};
for (const [name, run] of Object.entries(parts)) {
  await run().catch((error) => print(name, { failed: String(error.stack) }));
}
process.exit(0);
