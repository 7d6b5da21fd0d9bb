import { dehydrate, hydrate, type DehydratedState, type QueryClient } from '@tanstack/react-query';
import type { Storefront } from '../index.js';

// Rarely enough to cost nothing, often enough that a reload finds what was shown.
const SAVE_INTERVAL_MS = 1_000;
const LONGEST_KEPT_MS = 7 * 24 * 3_600_000;

interface Kept {
  savedAt: number;
  state: DehydratedState;
}

/** Reads the queries of the last visit from the storage. Those that are newer in the cache stay. Returns when they were saved, or null. */
export async function restoreQueries(storefront: Storefront, client: QueryClient, maxAgeMs = LONGEST_KEPT_MS): Promise<number | null> {
  const [entry] = await storefront.storage.load(`${storefront.namespace}queries`);
  const kept = entry?.[1] as Kept | undefined;
  if (!kept || Date.now() - kept.savedAt > maxAgeMs) return null;
  hydrate(client, kept.state);
  return kept.savedAt;
}

/** Writes the queries of the kit that have data to the storage. */
export async function saveQueries(storefront: Storefront, client: QueryClient): Promise<void> {
  const state = dehydrate(client, {
    shouldDehydrateMutation: () => false,
    shouldDehydrateQuery: (query) => query.queryKey[0] === 'storefront' && query.state.data !== undefined,
  });
  // What was read before the network went is worth as much as ever.
  for (const query of state.queries) query.state = { ...query.state, status: 'success', error: null, fetchFailureCount: 0, fetchFailureReason: null, fetchStatus: 'idle' };
  const kept: Kept = { savedAt: Date.now(), state: JSON.parse(JSON.stringify(state)) as DehydratedState };
  await storefront.storage.write([[`${storefront.namespace}queries`, kept]]);
}

/** Saves the queries while they change, and when the page is left. Returns what ends it. */
export function keepQueries(storefront: Storefront, client: QueryClient): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const save = (): void => {
    if (timer === undefined) return;
    clearTimeout(timer);
    timer = undefined;
    void saveQueries(storefront, client).catch(() => undefined); // a full storage costs the reload, and nothing else
  };
  const removeListener = client.getQueryCache().subscribe((change) => {
    if (change.type === 'removed' || (change.type === 'updated' && change.action.type === 'success')) timer ??= setTimeout(save, SAVE_INTERVAL_MS);
  });
  globalThis.addEventListener?.('pagehide', save);
  return () => {
    save();
    removeListener();
    globalThis.removeEventListener?.('pagehide', save);
  };
}
