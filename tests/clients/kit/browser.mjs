// A page that keeps a store's products in IndexedDB. The test calls `window.kit`.
import { createStorefront, indexedDbStorage, openCollection } from '@storefront/client';

const { url, token, configId } = window.given;
const storefront = createStorefront({ url, getToken: () => token, storage: indexedDbStorage('kit'), credentials: 'omit' });
const collection = openCollection(storefront, { configId });
let isDoubled = false;
let shownAfterMs = null;
collection.subscribe(() => {
  const titles = collection.rows.map(({ title }) => title);
  isDoubled ||= new Set(titles).size < titles.length;
  if (titles.length && shownAfterMs === null) shownAfterMs = performance.now();
  document.title = titles.join();
});
window.kit = {
  create: (title) => void collection.create({ title, price: '1.00' }),
  state: () =>
    JSON.stringify({
      titles: collection.rows.map(({ title }) => title), pending: storefront.writes.state.pending.length, state: collection.status.state, isDoubled, shownAfterMs,
    }),
};
