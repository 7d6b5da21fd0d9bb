import { useQueryClient } from '@tanstack/react-query';
import { useEffect } from 'react';
import type { StorefrontError } from '../index.js';
import { useOutbox } from './hooks.js';
import { useStorefront } from './provider.js';

export interface OfflineSync {
  isOnline: boolean;
  /** Whether the queries of the last visit were read; wait for it before showing that a list is empty. */
  isRestored: boolean;
  /** When they were saved, in milliseconds since 1970; null if there were none. */
  restoredAt: number | null;
  /** How many writes wait. */
  pendingCount: number;
  /** Why nothing is sent. */
  error: StorefrontError | null;
  /** Sends what waits, now. */
  flush: () => void;
}

/**
 * The state of the network and the outbox, for a banner. What failed for want of a network is read again when it is back. The queries
 * themselves are kept by the StorefrontProvider, in the `storage` of the storefront.
 */
export function useOfflineSync(): OfflineSync {
  const { storefront, restoredAt } = useStorefront();
  const client = useQueryClient();
  const { pending, isOnline, error } = useOutbox();
  useEffect(() => {
    if (isOnline) void client.refetchQueries({ predicate: ({ state }) => state.status === 'error' });
  }, [client, isOnline]);

  return { isOnline, isRestored: restoredAt !== undefined, restoredAt: restoredAt ?? null, pendingCount: pending.length, error, flush: () => storefront.writes.flush() };
}
