import type { StoreQuery } from '@storefront/client';

export type Store = NonNullable<StoreQuery['config']>;
