import { IsRestoringProvider, MutationCache, QueryClient, QueryClientProvider } from '@tanstack/react-query';
import { createContext, useContext, useEffect, useMemo, useState, type ReactNode } from 'react';
import { StorefrontError, type Storefront } from '../index.js';
import { computeDelay } from '../waiting.js';
import { confirmInQueries } from './cache.js';
import { keepQueries, restoreQueries } from './persistence.js';

const MINUTE_MS = 60_000;

export interface StorefrontProviderProps {
  storefront: Storefront;
  /** The store that the hooks read, by default. */
  configId: string;
  /** Called for each mutation and each write that fails: to show a toast. */
  onError?: (error: Error) => void;
  /** Instead of one with the defaults of `createQueryClient`. */
  queryClient?: QueryClient;
  children?: ReactNode;
}

export interface StorefrontContextValue {
  readonly storefront: Storefront;
  readonly configId: string;
  /** When the queries that were read from the storage were saved; null if there were none, undefined while they are read. */
  readonly restoredAt: number | null | undefined;
}

const StorefrontContext = createContext<StorefrontContextValue | null>(null);

/** Whether a query is asked again: not what was refused, and three times otherwise. */
export function shouldRetry(failureCount: number, error: Error): boolean {
  return failureCount < 3 && (!(error instanceof StorefrontError) || error.isRetryable);
}

/** A QueryClient with the defaults of the kit: fresh for a minute, three retries but none of what was refused, errors to `onError`. */
export function createQueryClient(onError?: (error: Error) => void): QueryClient {
  return new QueryClient({
    mutationCache: new MutationCache({ onError: (error) => onError?.(error) }),
    defaultOptions: {
      queries: {
        staleTime: MINUTE_MS,
        retry: shouldRetry,
        retryDelay: (failureCount, error) => computeDelay(failureCount, error instanceof StorefrontError ? error.retryAfterMs : 0),
      },
      // The outbox sends writes again; a query that is paused without a network would hide them.
      mutations: { retry: false, networkMode: 'always' },
    },
  });
}

/**
 * Gives the hooks below it a storefront, a store and TanStack Query. With a `storage` of the storefront the queries are kept: a reload
 * without a network shows the last lists. Queries wait until these were read, which takes milliseconds.
 */
export function StorefrontProvider({ storefront, configId, onError, queryClient, children }: StorefrontProviderProps): ReactNode {
  const [ownClient] = useState(() => queryClient ?? createQueryClient(onError));
  const client = queryClient ?? ownClient;
  useEffect(() => storefront.writes.onConfirmed((confirmation) => confirmInQueries(client, confirmation)), [storefront, client]);
  const [restoredAt, setRestoredAt] = useState<number | null | undefined>(storefront.isPersistent ? undefined : null);
  useEffect(() => {
    if (!storefront.isPersistent) return;
    let isClosed = false;
    let stop = (): void => undefined;
    void restoreQueries(storefront, client)
      .catch(() => null)
      .then((at) => {
        if (isClosed) return;
        setRestoredAt(at);
        stop = keepQueries(storefront, client);
      });
    return () => {
      isClosed = true;
      stop();
    };
  }, [storefront, client]);
  const value = useMemo(() => ({ storefront, configId, restoredAt }), [storefront, configId, restoredAt]);
  return (
    <QueryClientProvider client={client}>
      <IsRestoringProvider value={restoredAt === undefined}>
        <StorefrontContext.Provider value={value}>{children}</StorefrontContext.Provider>
      </IsRestoringProvider>
    </QueryClientProvider>
  );
}

/** The storefront and the store of the nearest StorefrontProvider. */
export function useStorefront(): StorefrontContextValue {
  const value = useContext(StorefrontContext);
  if (!value) throw new Error('The hooks of @storefront/client need a StorefrontProvider above them.');
  return value;
}
