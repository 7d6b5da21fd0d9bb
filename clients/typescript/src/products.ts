import type {
  CreateProductInput, ProductCardFragment, ProductFilterInput, ProductRowFragment, UpdateProductInput,
} from './generated.js';

/** A product of a list. */
export type ProductRow = ProductRowFragment;
/** The values of a new product. */
export type ProductValues = Omit<CreateProductInput, 'configId' | 'clientMutationId' | 'idempotencyKey'>;
/** The values of a product that change. */
export type ProductPatch = Omit<UpdateProductInput, 'id' | 'expectedVersion' | 'onConflict' | 'clientMutationId' | 'idempotencyKey'>;

/** What a row is waiting for. */
export interface Pending {
  /** Set while a write of this row has not been confirmed. A row that is created has the id of the write meanwhile. */
  readonly pending?: 'create' | 'update';
}

/** The product that a create will make, as far as the client knows. */
export function draftProduct(id: string, values: ProductValues, createdAt: string): ProductCardFragment {
  const [variant] = values.variants ?? [];
  const price = values.price ?? variant?.price ?? '0';
  const inventory = values.variants?.length ? values.variants.reduce((sum, { inventory: units }) => sum + (units ?? 0), 0) : (values.inventory ?? null);
  return {
    id, price, inventory, createdAt,
    title: values.title,
    handle: values.handle ?? id,
    description: values.description ?? null,
    vendor: values.vendor ?? null,
    productType: values.productType ?? null,
    compareAtPrice: values.compareAtPrice ?? null,
    currency: '',
    images: [...(values.images ?? [])],
    category: values.category ?? null,
    tags: [...(values.tags ?? [])],
    trackInventory: values.trackInventory ?? true,
    inStock: values.trackInventory === false || inventory === null || inventory > 0,
    seoTitle: values.seoTitle ?? null,
    seoDescription: values.seoDescription ?? null,
    giftCard: values.giftCard ?? false,
    status: values.status ?? 'ACTIVE',
    publishedAt: null,
    popularity: 0,
    version: 0,
    updatedAt: createdAt,
    priceRange: { min: price, max: price },
    reviewSummary: { average: null, count: 0 },
    featuredImage: null,
  };
}

/** A row with the values of an update. Values that rows do not have, such as `options`, are left out. */
export function patchProduct<T extends ProductRow>(row: T, patch: ProductPatch): T {
  const patched: Record<string, unknown> = { ...row };
  for (const [name, value] of Object.entries(patch)) if (name in row && value !== undefined) patched[name] = value;
  if (patch.price && 'priceRange' in row) patched.priceRange = { min: patch.price, max: patch.price };
  if ('inventory' in patch || 'trackInventory' in patch) {
    patched.inStock = patched.trackInventory === false || patched.inventory === null || Number(patched.inventory) > 0;
  }
  return patched as T;
}

/** A row of a list with what is known of a newer state. Fields that only one of them has stay. */
export function mergeProduct<T extends ProductRow>(row: T, newer: ProductRow): T {
  if (newer.version < row.version) return row;
  const merged: T = { ...row, ...newer };
  if ('priceRange' in row && newer.price !== row.price && !('priceRange' in newer)) Object.assign(merged, { priceRange: { min: newer.price, max: newer.price } });
  return merged;
}

/** Whether a product matches a filter; undefined if the client cannot tell. */
export function matchesFilter(product: ProductRow, filter: ProductFilterInput | null | undefined): boolean | undefined {
  if (!filter) return true;
  const { ids, categories, vendors, productTypes, tags, minPrice, maxPrice, inStock, statuses, attributes, minRating, updatedSince } = filter;
  const isOneOf = (values: readonly string[] | null | undefined, value: string | null): boolean =>
    !values?.length || values.some((one) => one.toLowerCase() === value?.toLowerCase());
  const normalize = (path: string): string => path.split('>').map((name) => name.trim().toLowerCase()).join('>');
  const path = normalize(product.category ?? '');
  const isMatch =
    isOneOf(ids, product.id) &&
    isOneOf(vendors, product.vendor) &&
    isOneOf(productTypes, product.productType) &&
    isOneOf(statuses, product.status) &&
    (!tags?.length || product.tags.some((tag) => isOneOf(tags, tag))) &&
    (!categories?.length || categories.some((one) => path === normalize(one) || path.startsWith(`${normalize(one)}>`))) &&
    (minPrice == null || Number(product.price) >= Number(minPrice)) &&
    (maxPrice == null || Number(product.price) <= Number(maxPrice)) &&
    (inStock == null || product.inStock === inStock);
  if (!isMatch) return false;
  return attributes?.length || minRating != null || updatedSince != null ? undefined : true;
}
