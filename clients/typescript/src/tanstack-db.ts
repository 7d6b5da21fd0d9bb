import type { CollectionConfig, DeleteMutationFnParams, InsertMutationFnParams, SyncConfig, UpdateMutationFnParams } from '@tanstack/db';
import {
  draftProduct, openCollection,
  type CollectionChange, type CollectionOptions, type LiveStatus, type OnConflict, type ProductPatch, type ProductRow, type ProductValues, type Storefront,
} from './index.js';

export interface ProductCollectionOptions extends CollectionOptions {
  /** Id of the collection; by default made of the store and the filter. */
  id?: string;
  /** What to do if another user has changed the same product: `merge` by default. */
  onConflict?: OnConflict;
  onStatus?: (status: LiveStatus) => void;
}

/** What can be written of a row; all else follows from it. */
const WRITABLE = [
  'title', 'handle', 'description', 'vendor', 'productType', 'price', 'compareAtPrice', 'images', 'category', 'tags', 'inventory', 'trackInventory',
  'seoTitle', 'seoDescription', 'giftCard', 'status',
] as const satisfies ReadonlyArray<keyof ProductRow & keyof ProductValues>;

function pickWritable(values: Partial<ProductRow>): Partial<ProductValues> {
  return Object.fromEntries(WRITABLE.filter((name) => values[name] !== undefined).map((name) => [name, values[name]]));
}

/** A row for `collection.insert`, under an id that is replaced when the server has created it. */
export function createRow(values: ProductValues): ProductRow {
  return draftProduct(crypto.randomUUID(), values, new Date().toISOString());
}

/**
 * Options for `createCollection` of TanStack DB: all products of a store or of a filter, read once, kept in the storage of the
 * storefront, and followed by the feed. Inserts, updates and deletes go through its outbox.
 */
export function productCollectionOptions(storefront: Storefront, options: ProductCollectionOptions): CollectionConfig<ProductRow, string> & { id: string } {
  const { id, onConflict, onStatus, ...given } = options;
  const { configId, filter } = options;
  const { writes } = storefront;

  const sync: SyncConfig<ProductRow, string> = {
    rowUpdateMode: 'full',
    sync: ({ begin, write, commit, markReady, markError, truncate }) => {
      const keys = new Set<string>();
      const source = openCollection(storefront, given);
      const apply = ({ isReset, written, removedIds }: CollectionChange): void => {
        begin();
        if (isReset) {
          truncate();
          keys.clear();
        }
        for (const value of written) {
          write({ type: keys.has(value.id) ? 'update' : 'insert', value });
          keys.add(value.id);
        }
        for (const key of removedIds) if (keys.delete(key)) write({ type: 'delete', key });
        commit();
      };
      source.onChange(apply);
      if (onStatus) source.subscribe(() => onStatus(source.status));
      source.ready.then(markReady, markError);
      return source.close;
    },
  };

  return {
    id: id ?? `storefront ${configId} ${JSON.stringify(filter ?? null)}`,
    getKey: ({ id: key }) => key,
    sync,
    async onInsert({ transaction }: InsertMutationFnParams<ProductRow, string>) {
      const rows = transaction.mutations.map(({ modified }) => {
        const values = pickWritable(modified);
        // The server makes the handle from the title.
        if (values.handle === modified.id) delete values.handle;
        return values as ProductValues;
      });
      await Promise.all(rows.map((values) => writes.create(configId, values).done));
    },
    async onUpdate({ transaction }: UpdateMutationFnParams<ProductRow, string>) {
      await Promise.all(
        transaction.mutations.map(({ original, changes }) =>
          writes.update(configId, original.id, pickWritable(changes) as ProductPatch, { base: original, onConflict }).done,
        ),
      );
    },
    async onDelete({ transaction }: DeleteMutationFnParams<ProductRow, string>) {
      await Promise.all(transaction.mutations.map(({ original }) => writes.delete(configId, original.id).done));
    },
  };
}
