import type { InfiniteData, Query, QueryClient } from '@tanstack/react-query';
import {
  draftProduct, matchesFilter, mergeProduct,
  type Confirmation, type FeedEvent, type ProductCardFragment, type ProductDetailsFragment, type ProductFilterInput, type ProductRow, type ProductSortInput, type ProductsQuery,
} from '../index.js';

/** A page of products. */
export type ProductPage = NonNullable<ProductsQuery['products']>;
export type ProductPages = InfiniteData<ProductPage, string | null>;

export interface ListVariables {
  filter?: ProductFilterInput | null;
  search?: string | null;
  sort?: ProductSortInput | null;
  first?: number;
}

/** Keys of all queries of the kit: `invalidateQueries({ queryKey: productKeys.lists(configId) })`. */
export const productKeys = {
  all: ['storefront'] as const,
  lists: (configId: string) => ['storefront', configId, 'products'] as const,
  list: (configId: string, variables: ListVariables) => ['storefront', configId, 'products', variables] as const,
  details: (configId: string) => ['storefront', configId, 'product'] as const,
  detail: (configId: string, by: string | { handle: string }) => ['storefront', configId, 'product', by] as const,
  facets: (configId: string, variables: ListVariables) => ['storefront', configId, 'facets', variables] as const,
  suggestions: (configId: string, search: string) => ['storefront', configId, 'suggestions', search] as const,
  categories: (configId: string) => ['storefront', configId, 'categories'] as const,
};

export function getVariables(query: Query): ListVariables {
  return (query.queryKey[3] ?? {}) as ListVariables;
}

/** A row of a list of cards from what a write or an event has of it. */
export function toCard(row: ProductRow): ProductCardFragment {
  const { priceRange, reviewSummary, featuredImage } = draftProduct(row.id, { title: row.title, price: row.price }, row.createdAt);
  return { priceRange, reviewSummary, featuredImage, ...row };
}

function mapRows(pages: ProductPages, change: (nodes: ProductCardFragment[], page: number) => ProductCardFragment[], difference: number): ProductPages {
  let hasChanged = difference !== 0;
  const next = pages.pages.map((page, index) => {
    const nodes = change(page.nodes, index);
    const isSame = nodes.length === page.nodes.length && nodes.every((node, place) => node === page.nodes[place]);
    if (isSame && !difference) return page;
    hasChanged = true;
    return { ...page, nodes: isSame ? page.nodes : nodes, totalCount: Math.max(0, page.totalCount + difference) };
  });
  return hasChanged ? { ...pages, pages: next } : pages;
}

function hasRow(pages: ProductPages, id: string): boolean {
  return pages.pages.some(({ nodes }) => nodes.some((node) => node.id === id));
}

/** Writes the newer state of a product into all lists and pages that show it. */
export function updateInQueries(client: QueryClient, configId: string, product: ProductRow): void {
  client.setQueriesData<ProductPages>({ queryKey: productKeys.lists(configId) }, (pages) =>
    pages && mapRows(pages, (nodes) => nodes.map((node) => (node.id === product.id ? mergeProduct(node, product) : node)), 0),
  );
  client.setQueriesData<ProductDetailsFragment | null>({ queryKey: productKeys.details(configId) }, (details) =>
    details?.id === product.id ? mergeProduct(details, product) : details,
  );
}

/** Puts a new product at the head of the lists that it certainly belongs to. */
export function insertInQueries(client: QueryClient, configId: string, product: ProductRow): void {
  for (const query of client.getQueryCache().findAll({ queryKey: productKeys.lists(configId) })) {
    const { filter, search } = getVariables(query);
    const pages = query.state.data as ProductPages | undefined;
    if (!pages || search || matchesFilter(product, filter) !== true || hasRow(pages, product.id)) continue;
    // setData keeps the time of the last fetch, so that a stale list remains stale.
    client.setQueryData<ProductPages>(query.queryKey, mapRows(pages, (nodes, page) => (page === 0 ? [toCard(product), ...nodes] : nodes), 1), { updatedAt: query.state.dataUpdatedAt });
  }
}

/** Takes a product out of all lists and pages. */
export function removeFromQueries(client: QueryClient, configId: string, id: string): void {
  client.setQueriesData<ProductPages>({ queryKey: productKeys.lists(configId) }, (pages) =>
    pages && hasRow(pages, id) ? mapRows(pages, (nodes) => nodes.filter((node) => node.id !== id), -1) : pages,
  );
  client.setQueriesData<ProductDetailsFragment | null>({ queryKey: productKeys.details(configId) }, (details) => (details?.id === id ? null : details));
}

/** Lists may be sorted differently now, or have other members: what is shown is read again, the rest when it is shown. */
export function invalidateLists(client: QueryClient, configId: string): void {
  void client.invalidateQueries({ queryKey: productKeys.lists(configId) });
  void client.invalidateQueries({ queryKey: ['storefront', configId, 'facets'] });
}

/** Applies the answer to a write. */
export function confirmInQueries(client: QueryClient, { write, result }: Confirmation): void {
  const { configId, kind } = write;
  // What is on its way was perhaps read before the write.
  void client.cancelQueries({ queryKey: productKeys.lists(configId) });
  for (const product of result.products) {
    if (kind === 'create') insertInQueries(client, configId, product);
    else updateInQueries(client, configId, product);
  }
  for (const id of result.deletedIds) removeFromQueries(client, configId, id);
  invalidateLists(client, configId);
}

/** Applies an event of the feed. Returns whether lists have to be read again to be right. */
export function applyEventToQueries(client: QueryClient, configId: string, event: FeedEvent): boolean {
  switch (event.__typename) {
    case 'ProductCreated':
      insertInQueries(client, configId, event.product);
      return true;
    case 'ProductUpdated':
      updateInQueries(client, configId, event.product);
      return client.getQueryCache().findAll({ queryKey: productKeys.lists(configId) }).some((query) => {
        const { sort, filter, search } = getVariables(query);
        return Boolean(search || filter || (sort && sort.key !== 'CREATED_AT'));
      });
    case 'ProductDeleted':
      removeFromQueries(client, configId, event.productId);
      return false;
    case 'FeedReset':
      void client.invalidateQueries({ queryKey: ['storefront', configId] });
      return false;
    default:
      return false;
  }
}
