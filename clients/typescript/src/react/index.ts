export { productKeys, type ListVariables, type ProductPage, type ProductPages } from './cache.js';
export {
  useCategories, useDebounced, useFacets, useLiveProducts, useOnline, useOptimisticProducts, useOutbox, usePrefetchProducts, useProduct, useProducts, useProductSearch,
  useRealTimeProducts, useStorefrontQuery, useSuggestions,
  type OptimisticOptions, type PendingCard, type ProductSearchOptions, type ProductsOptions, type StoreOption,
} from './hooks.js';
export { useOfflineSync, type OfflineSync } from './offline.js';
export { restoreQueries, saveQueries } from './persistence.js';
export { StorefrontProvider, createQueryClient, shouldRetry, useStorefront, type StorefrontContextValue, type StorefrontProviderProps } from './provider.js';
