import type { TypedDocument } from './documents.js';
import type { StorefrontError } from './errors.js';
import { StoreDocument, type ConfigByInput, type StoreQuery } from './generated.js';
import { HttpClient, type HttpOptions, type RequestOptions } from './http.js';
import { LiveClient, type LiveOptions } from './live.js';
import { memoryStorage, type StorefrontStorage } from './storage.js';
import { Writes, type OnConflict, type PendingWrite } from './writes.js';

export interface StorefrontOptions extends HttpOptions {
  /** Where lists and unsent writes are kept: `indexedDbStorage()` for those that survive a reload. In memory by default. */
  storage?: StorefrontStorage;
  /**
   * Separates what is kept for different viewers of one page: the id of the signed-in user. What one viewer has written is never
   * sent with the token of another.
   */
  viewer?: string;
  live?: LiveOptions;
  /** Decides conflicts of writes that were restored after a reload, which have lost the function that they were made with. */
  onConflict?: OnConflict;
  /** Called for each write that the server refuses, also long after it was made. */
  onWriteRefused?: (error: StorefrontError, write: PendingWrite) => void;
}

/** Access to the API: see `createStorefront`. */
export interface Storefront {
  readonly url: string;
  /** The data of a query or mutation. Throws a StorefrontError. */
  request<TResult, TVariables>(document: TypedDocument<TResult, TVariables>, variables?: TVariables, options?: RequestOptions): Promise<TResult>;
  request(document: string, variables?: Record<string, unknown>, options?: RequestOptions): Promise<unknown>;
  /** A store by its slug or id; null if there is none that the viewer may see. */
  findStore(by: ConfigByInput, options?: RequestOptions): Promise<StoreQuery['config']>;
  readonly live: LiveClient;
  readonly writes: Writes;
  readonly storage: StorefrontStorage;
  /** Whether a storage was given: then lists are kept in it, too. */
  readonly isPersistent: boolean;
  /** Begins all keys of the storage. */
  readonly namespace: string;
  /** Forgets all that is kept for this viewer, unsent writes included: for signing out. Closes the storefront. */
  forget(): Promise<void>;
  /** Closes the socket and the collections, and stops sending. What was not sent stays in the storage. */
  close(): void;
  /** Aborted by `close()`. */
  readonly signal: AbortSignal;
}

/** Opens the API at a URL. `url` is that of `/graphql`. */
export function createStorefront(options: StorefrontOptions): Storefront {
  const http = new HttpClient(options);
  const live = new LiveClient(http, options.url, options.fetch, options.live ?? {});
  const storage = options.storage ?? memoryStorage();
  const namespace = `${options.url} ${options.viewer ?? ''} `;
  const { onConflict, onWriteRefused: onRefused } = options;
  const writes = new Writes({ http, storage, namespace, onConflict, onRefused });
  const stop = new AbortController();
  const close = (): void => {
    stop.abort();
    writes.close();
    live.close();
  };
  return {
    url: options.url,
    request: <TResult, TVariables>(document: TypedDocument<TResult, TVariables> | string, variables?: TVariables, requestOptions?: RequestOptions) =>
      http.request(document, variables, requestOptions),
    findStore: async (by, requestOptions) => (await http.request(StoreDocument, { by }, requestOptions)).config,
    signal: stop.signal,
    isPersistent: options.storage !== undefined,
    live, writes, storage, namespace, close,
    async forget() {
      close();
      await storage.clear(namespace);
    },
  };
}
