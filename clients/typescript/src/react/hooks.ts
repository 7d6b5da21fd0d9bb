import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient, type QueryClient } from '@tanstack/react-query';
import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from 'react';
import {
  CategoriesDocument, FacetsDocument, PositionDocument, ProductDetailsDocument, ProductsDocument, SuggestionsDocument, applyPending, getText, matchesFilter, patchProduct,
  type CategoriesQuery, type FacetsQuery, type FeedEvent, type LiveList, type LiveListOptions, type LiveStatus, type OnConflict, type OutboxState, type Pending, type PendingWrite,
  type ProductByInput, type ProductCardFragment, type ProductDetailsFragment, type ProductPatch, type ProductRow, type ProductValues, type Storefront,
  type SuggestionsQuery, type TypedDocument, type WriteResult,
} from '../index.js';
import { applyEventToQueries, invalidateLists, productKeys, type ListVariables, type ProductPage, type ProductPages } from './cache.js';
import { useStorefront } from './provider.js';

const MINUTE_MS = 60_000;
const LIST_STALE_MS = 5 * MINUTE_MS;
const LIST_GC_MS = 30 * MINUTE_MS;
const CATEGORY_STALE_MS = 10 * MINUTE_MS;
const LONGEST_BURST_MS = 500;
const MOST_RECENT_EVENTS = 200;

export interface StoreOption {
  /** Another store than that of the provider. */
  configId?: string;
}

export interface ProductsOptions extends ListVariables, StoreOption {
  enabled?: boolean;
}

export type PendingCard = ProductCardFragment & Pending;

function useConfigId(options: StoreOption | undefined): string {
  const { configId } = useStorefront();
  return options?.configId ?? configId;
}

/** Queries are tried again by TanStack Query, which counts the failures, and not by the storefront as well. */
function readList(storefront: Storefront, configId: string, variables: ListVariables, after: string | null, signal?: AbortSignal): Promise<ProductPage> {
  return storefront.request(ProductsDocument, { configId, ...variables, after }, { signal, retries: 0 }).then(({ products }) => products as ProductPage);
}

function getListOptions(storefront: Storefront, configId: string, variables: ListVariables) {
  return {
    queryKey: productKeys.list(configId, variables),
    queryFn: ({ pageParam, signal }: { pageParam: string | null; signal: AbortSignal }) => readList(storefront, configId, variables, pageParam, signal),
    initialPageParam: null as string | null,
    getNextPageParam: ({ pageInfo }: ProductPage) => (pageInfo.hasNextPage ? pageInfo.endCursor : undefined),
    staleTime: LIST_STALE_MS,
    gcTime: LIST_GC_MS,
  };
}

function getDetailsOptions(storefront: Storefront, configId: string, by: string | { handle: string }) {
  const input: ProductByInput = typeof by === 'string' ? { id: by } : { handle: { configId, handle: by.handle } };
  return {
    queryKey: productKeys.detail(configId, by),
    queryFn: async ({ signal }: { signal: AbortSignal }): Promise<ProductDetailsFragment | null> =>
      (await storefront.request(ProductDetailsDocument, { by: input }, { signal, retries: 0 })).product,
    staleTime: LIST_STALE_MS,
    gcTime: LIST_GC_MS,
  };
}

function getVariables({ filter, search, sort, first }: ProductsOptions): ListVariables {
  // Undefined members would make another key.
  return JSON.parse(JSON.stringify({ filter, search, sort, first })) as ListVariables;
}

/**
 * A list of products, page by page: `fetchNextPage()` while `hasNextPage`. `products` are the rows of all pages as the user should see
 * them, with the writes that have not been answered. While other filters are read the list before stays.
 */
export function useProducts(options: ProductsOptions = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const variables = getVariables(options);
  const query = useInfiniteQuery<ProductPage, Error, ProductPages, ReturnType<typeof productKeys.list>, string | null>({
    ...getListOptions(storefront, configId, variables),
    placeholderData: keepPreviousData,
    enabled: options.enabled ?? true,
  });
  const { pending } = useOutbox();
  const { data } = query;
  const key = JSON.stringify(variables);
  const products = useMemo<readonly PendingCard[]>(() => {
    if (!data) return [];
    const { filter, search } = JSON.parse(key) as ListVariables;
    // A page that was read later may begin with the last rows of the one before.
    const rows = new Map(data.pages.flatMap(({ nodes }) => nodes).map((node) => [node.id, node]));
    const shows = search ? null : (row: ProductRow): boolean => matchesFilter(row, filter) === true;
    return applyPending<ProductCardFragment>([...rows.values()], pending, configId, shows, (draft) => draft);
  }, [data, pending, configId, key]);
  useEffect(() => storefront.writes.addBase((id) => products.find((product) => product.id === id)), [storefront, products]);
  const [first] = data?.pages ?? [];
  return { ...query, products, totalCount: first?.totalCount, correctedSearch: first?.correctedSearch ?? null, didYouMean: first?.didYouMean ?? null };
}

/** A product with its options, variants, reviews and related products, by its id or handle. `product` has pending changes applied; null if there is none. */
export function useProduct(by: string | { handle: string } | null | undefined, options: StoreOption = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const query = useQuery({ ...getDetailsOptions(storefront, configId, by ?? ''), enabled: Boolean(by) });
  const { pending } = useOutbox();
  const { data } = query;
  const product = useMemo<(ProductDetailsFragment & Pending) | null | undefined>(() => {
    if (!data) return data;
    let row: (ProductDetailsFragment & Pending) | null = data;
    for (const write of pending) {
      for (const change of write.rows) {
        if (!row || change.id !== row.id) continue;
        row = write.kind === 'delete' ? null : { ...patchProduct(row, change.values as ProductPatch), pending: 'update' };
      }
    }
    return row;
  }, [data, pending]);
  useEffect(() => storefront.writes.addBase((id) => (product?.id === id ? product : undefined)), [storefront, product]);
  return { ...query, product };
}

export interface ProductSearchOptions extends Omit<ProductsOptions, 'search'> {
  /** Milliseconds without a key before the search is sent. 200 by default. */
  debounceMs?: number;
}

/** The value, once it has not changed for a while. */
export function useDebounced<T>(value: T, ms: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

/** The products that match a search, as it is typed: page by page as `useProducts`, with `correctedSearch` and `didYouMean`. */
export function useProductSearch(search: string, { debounceMs = 200, ...options }: ProductSearchOptions = {}) {
  const settled = useDebounced(search.trim(), debounceMs);
  const list = useProducts({ ...options, search: settled, enabled: settled !== '' && options.enabled !== false });
  return { ...list, products: settled ? list.products : [], search: settled, isTyping: settled !== search.trim() };
}

/** What to show below a search field while a user types: suggestions, products and categories. */
export function useSuggestions(search: string, { debounceMs = 150, first = 6, ...options }: StoreOption & { debounceMs?: number; first?: number } = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const settled = useDebounced(search.trim(), debounceMs);
  return useQuery<NonNullable<SuggestionsQuery['config']>['predictiveSearch'] | null>({
    queryKey: productKeys.suggestions(configId, settled),
    queryFn: async ({ signal }) =>
      (await storefront.request(SuggestionsDocument, { configId, search: settled, first }, { signal, retries: 0 })).config?.predictiveSearch ?? null,
    enabled: settled !== '',
    placeholderData: keepPreviousData,
  });
}

/** How many products each further choice of a filter would leave, and how many there are: of the list with this filter and search. */
export function useFacets(options: Omit<ProductsOptions, 'sort' | 'first'> = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const { filter, search } = getVariables(options);
  return useQuery<FacetsQuery['products']>({
    queryKey: productKeys.facets(configId, { filter, search }),
    queryFn: async ({ signal }) => (await storefront.request(FacetsDocument, { configId, filter, search }, { signal, retries: 0 })).products,
    placeholderData: keepPreviousData,
    enabled: options.enabled ?? true,
  });
}

/** The categories of the store, those at the top with their children. */
export function useCategories(options: StoreOption = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  return useQuery<NonNullable<CategoriesQuery['config']>['categories']>({
    queryKey: productKeys.categories(configId),
    queryFn: async ({ signal }) => (await storefront.request(CategoriesDocument, { configId }, { signal, retries: 0 })).config?.categories ?? [],
    staleTime: CATEGORY_STALE_MS,
  });
}

/** Any query of your own, with the retries and errors of the kit. */
export function useStorefrontQuery<TResult, TVariables extends object>(document: TypedDocument<TResult, TVariables>, variables: TVariables, options: { enabled?: boolean; staleTime?: number } = {}) {
  const { storefront, configId } = useStorefront();
  return useQuery<TResult>({
    queryKey: ['storefront', configId, 'query', getText(document), variables],
    queryFn: ({ signal }) => storefront.request(document, variables, { signal, retries: 0 }),
    ...options,
  });
}

// ------------------------------------------------------------------------------------------------------ writes

/** The writes that wait, whether there is a network, and why nothing is sent. */
export function useOutbox(): OutboxState {
  const { writes } = useStorefront().storefront;
  return useSyncExternalStore(writes.subscribe, () => writes.state, () => writes.state);
}

export interface OptimisticOptions extends StoreOption {
  /** What to do if another user has changed the same product: `merge` by default. */
  onConflict?: OnConflict;
}

/**
 * Writes that are shown at once. Each returns a promise of the answer; `…Async` of TanStack Query reject, the others report to
 * `onError` of the provider. A write that is refused takes back itself and nothing else.
 */
export function useOptimisticProducts(options: OptimisticOptions = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const { writes } = storefront;
  const { onConflict } = options;
  const outbox = useOutbox();
  const add = useMutation<WriteResult, Error, ProductValues>({ mutationFn: (values) => writes.create(configId, values).done });
  const update = useMutation<WriteResult, Error, { id: string; patch: ProductPatch; base?: ProductRow }>({
    mutationFn: ({ id, patch, base }) => writes.update(configId, id, patch, { base, onConflict }).done,
  });
  const remove = useMutation<WriteResult, Error, string>({ mutationFn: (id) => writes.delete(configId, id).done });
  const addMany = useMutation<WriteResult, Error, readonly ProductValues[]>({ mutationFn: (rows) => writes.createMany(configId, rows).done });
  const updateMany = useMutation<WriteResult, Error, ReadonlyArray<{ id: string; patch: ProductPatch }>>({
    mutationFn: (rows) => writes.updateMany(configId, rows, onConflict === 'fail' ? 'fail' : 'merge').done,
  });
  const removeMany = useMutation<WriteResult, Error, readonly string[]>({ mutationFn: (ids) => writes.deleteMany(configId, ids).done });
  const pending = useMemo<readonly PendingWrite[]>(() => outbox.pending.filter((write) => write.configId === configId), [outbox.pending, configId]);
  return {
    addProduct: add.mutate, addProductAsync: add.mutateAsync, isAdding: add.isPending,
    updateProduct: update.mutate, updateProductAsync: update.mutateAsync, isUpdating: update.isPending,
    deleteProduct: remove.mutate, deleteProductAsync: remove.mutateAsync, isDeleting: remove.isPending,
    addProducts: addMany.mutate, addProductsAsync: addMany.mutateAsync,
    updateProducts: updateMany.mutate, updateProductsAsync: updateMany.mutateAsync,
    deleteProducts: removeMany.mutate, deleteProductsAsync: removeMany.mutateAsync,
    /** Writes of this store that have not been answered. */
    pending,
    error: add.error ?? update.error ?? remove.error ?? addMany.error ?? updateMany.error ?? removeMany.error,
  };
}

// ------------------------------------------------------------------------------------------------------ prefetching

/** Reads ahead what will probably be opened next. */
export function usePrefetchProducts(options: StoreOption = {}) {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const client = useQueryClient();
  const prefetchProductsByCategory = useCallback(
    (category: string, variables: ListVariables = {}) => {
      const wanted = getVariables({ ...variables, filter: { ...variables.filter, categories: [category] } });
      return client.prefetchInfiniteQuery({ ...getListOptions(storefront, configId, wanted), staleTime: CATEGORY_STALE_MS });
    },
    [client, storefront, configId],
  );
  const prefetchProductDetails = useCallback(
    (by: string | { handle: string }) => client.prefetchQuery(getDetailsOptions(storefront, configId, by)),
    [client, storefront, configId],
  );
  /** For a link to a product: `<a {...getHoverProps(id)}>`. */
  const getHoverProps = useCallback(
    (by: string | { handle: string }) => {
      const prefetch = (): void => void prefetchProductDetails(by);
      return { onMouseEnter: prefetch, onFocus: prefetch, onTouchStart: prefetch };
    },
    [prefetchProductDetails],
  );
  return { prefetchProductsByCategory, prefetchProductDetails, getHoverProps };
}

// ------------------------------------------------------------------------------------------------------ live

/** Keeps all lists and products of the store up to date while the component is mounted. Returns the state of the connection. */
export function useRealTimeProducts(options: StoreOption & { enabled?: boolean } = {}): LiveStatus {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const client = useQueryClient();
  const isEnabled = options.enabled ?? true;
  const [status, setStatus] = useState<LiveStatus>({ state: 'connecting', transport: storefront.live.transport });
  useEffect(() => {
    if (!isEnabled) return;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let position = findOldestPosition(client, configId);
    let recent: FeedEvent[] = [];
    const apply = (event: FeedEvent): void => {
      // A burst of changes reads the lists again once.
      if (applyEventToQueries(client, configId, event)) timer ??= setTimeout(() => ((timer = undefined), invalidateLists(client, configId)), LONGEST_BURST_MS);
    };
    // A page that was on its way while events came may be older than these.
    const removeListener = client.getQueryCache().subscribe((change) => {
      if (change.type !== 'updated' || change.action.type !== 'success' || change.action.manual) return;
      const [, keyConfig, kind] = change.query.queryKey;
      if (keyConfig !== configId || kind !== 'products') return;
      const oldest = findOldestPage(change.query.state.data as ProductPages | undefined);
      for (const event of recent) if (oldest !== null && BigInt(event.position) > oldest) apply(event);
    });
    const follow = async (): Promise<void> => {
      position ??= (await storefront.request(PositionDocument, { configId }, { signal: stop.signal, retries: 1_000_000 })).config?.position ?? '0';
      await storefront.live.followFeed({
        configId,
        signal: stop.signal,
        onStatus: setStatus,
        getPosition: () => position,
        onEvent: (event) => {
          position = event.position;
          if (event.__typename === 'ProductCreated') storefront.writes.acknowledge([event]);
          if (event.__typename !== 'FeedHeartbeat') recent = [...recent.slice(-MOST_RECENT_EVENTS), event];
          apply(event);
        },
      });
    };
    follow().catch(() => undefined); // the status has the error
    return () => {
      stop.abort();
      clearTimeout(timer);
      removeListener();
    };
  }, [storefront, client, configId, isEnabled]);
  return status;
}

function findOldestPage(pages: ProductPages | undefined): bigint | null {
  const positions = (pages?.pages ?? []).map(({ position }) => BigInt(position));
  return positions.length ? positions.reduce((a, b) => (a < b ? a : b)) : null;
}

/** The oldest position that a list of the cache has: what happened since is sent. Null if there is none. */
function findOldestPosition(client: QueryClient, configId: string): string | null {
  const lists = client.getQueriesData<ProductPages>({ queryKey: productKeys.lists(configId) });
  const positions = lists.map(([, pages]) => findOldestPage(pages)).filter((position) => position !== null);
  return positions.length ? positions.reduce((a, b) => (a < b ? a : b)).toString() : null;
}

/** The first products of a sorted, filtered or searched list, kept by the server: no reload, no sort order to know. */
export function useLiveProducts(options: ListVariables & StoreOption & { enabled?: boolean } = {}): LiveList & { status: LiveStatus } {
  const { storefront } = useStorefront();
  const configId = useConfigId(options);
  const [list, setList] = useState<LiveList>({ products: [], totalCount: 0, position: '0' });
  const [status, setStatus] = useState<LiveStatus>({ state: 'connecting', transport: storefront.live.transport });
  const key = JSON.stringify(getVariables(options));
  const isEnabled = options.enabled ?? true;
  useEffect(() => {
    if (!isEnabled) return;
    const stop = new AbortController();
    const variables = JSON.parse(key) as Omit<LiveListOptions, 'configId' | 'onChange' | 'signal'>;
    storefront.live.followList({ ...variables, configId, onChange: setList, onStatus: setStatus, signal: stop.signal }).catch(() => undefined);
    return () => stop.abort();
  }, [storefront, configId, key, isEnabled]);
  return useMemo(() => ({ ...list, status }), [list, status]);
}

// ------------------------------------------------------------------------------------------------------ offline

/** Whether the browser believes that it has a network. */
export function useOnline(): boolean {
  return useOutbox().isOnline;
}
