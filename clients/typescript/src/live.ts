import type { Client } from 'graphql-ws';
import { getText, type TypedDocument } from './documents.js';
import { BadRequestError, NetworkError, StorefrontError, UnauthenticatedError, createError, createStatusError, toError, type GraphQLErrorBody } from './errors.js';
import {
  ChangesDocument, FeedDocument, LiveListDocument, PositionDocument, ProductsDocument,
  type FeedChangeType, type FeedEventFragment, type LiveListSubscription, type ProductCardFragment, type ProductFilterInput, type ProductSortInput,
} from './generated.js';
import type { HttpClient } from './http.js';
import { computeDelay, isOffline, listenToNetwork, parseRetryAfter, wait } from './waiting.js';

export type Transport = 'websocket' | 'sse' | 'polling';
export type FeedEvent = FeedEventFragment;
export type LiveListEvent = NonNullable<LiveListSubscription['productList']>;

export interface LiveOptions {
  /** Which transports are tried, in this order. All three by default. */
  transports?: readonly Transport[];
  /** The class of sockets, where there is no global WebSocket, as in Node 20. */
  webSocket?: unknown;
  /** Milliseconds between two polls. 5,000 by default. */
  pollIntervalMs?: number;
}

export interface LiveStatus {
  state: 'connecting' | 'live' | 'reconnecting' | 'closed';
  transport: Transport;
  /** Why the connection was lost, or refused. */
  error?: StorefrontError;
}

export interface FeedOptions {
  configId: string;
  filter?: ProductFilterInput | null;
  types?: FeedChangeType[];
  /** The position after which events are wanted, asked for at each connection: that of the last event that was applied. */
  getPosition: () => string | null;
  /** Called for one event after the other; the next one waits for its promise. */
  onEvent: (event: FeedEvent) => void | Promise<void>;
  onStatus?: (status: LiveStatus) => void;
  signal: AbortSignal;
}

export interface LiveListOptions {
  configId: string;
  filter?: ProductFilterInput | null;
  search?: string | null;
  sort?: ProductSortInput | null;
  /** How many products, 1 to 100; 20 by default. */
  first?: number;
  onChange: (list: LiveList, event: LiveListEvent) => void;
  onStatus?: (status: LiveStatus) => void;
  signal: AbortSignal;
}

export interface LiveList {
  products: readonly ProductCardFragment[];
  totalCount: number;
  position: string;
}

const PING_INTERVAL_MS = 10_000;
const LONGEST_PONG_MS = 5_000;
// The server's streams have a heartbeat every 12 seconds.
const LONGEST_SILENCE_MS = 30_000;
const FAILURES_UNTIL_FALLBACK = 2;
// A transport that has worked once is tried again sooner.
const RETURN_AFTER_MS = 30_000;

/** Subscriptions: over one socket, or else over server-sent events, or else by polling. */
export class LiveClient {
  readonly #http: HttpClient;
  readonly #url: string;
  readonly #fetch: typeof fetch;
  readonly #options: LiveOptions;
  readonly #transports: readonly Transport[];
  #socket: Promise<Client> | undefined;
  #isConnected = false;
  #chosen = 0;
  #failures = 0;
  #isTokenRefused = false;

  constructor(http: HttpClient, url: string, fetchFunction: typeof fetch | undefined, options: LiveOptions) {
    this.#http = http;
    this.#url = url;
    this.#fetch = fetchFunction ?? fetch;
    this.#options = options;
    const hasSockets = Boolean(options.webSocket ?? globalThis.WebSocket);
    const wanted = options.transports ?? ['websocket', 'sse', 'polling'];
    this.#transports = wanted.filter((one) => one !== 'websocket' || hasSockets);
    if (!this.#transports.length) throw new TypeError('live.transports names no transport that works here: sockets need a WebSocket.');
  }

  /** The transport that the next connection uses. */
  get transport(): Transport {
    return this.#transports[this.#chosen] as Transport;
  }

  /** One subscription, over the socket or over server-sent events. Resolves when the server completes it, rejects when it is lost or refused. */
  async subscribe<TResult, TVariables>(
    document: TypedDocument<TResult, TVariables> | string,
    variables: TVariables,
    onData: (data: TResult) => void | Promise<void>,
    signal: AbortSignal,
    onOpen?: () => void,
  ): Promise<void> {
    // Events wait for each other, and the subscription ends when the last one was applied.
    let last = Promise.resolve();
    let failure: unknown;
    const stop = new AbortController();
    const abort = (): void => stop.abort();
    signal.addEventListener('abort', abort);
    const take = (data: unknown): void => {
      last = last.then(async () => {
        if (failure !== undefined || stop.signal.aborted) return;
        try {
          await onData(data as TResult);
        } catch (thrown) {
          failure = thrown;
          stop.abort();
        }
      });
    };
    try {
      const query = getText(document);
      if (this.transport === 'sse') await this.#readStream(query, variables, take, stop.signal, onOpen);
      else await this.#readSocket(query, variables, take, stop.signal, onOpen);
    } finally {
      signal.removeEventListener('abort', abort);
      await last;
    }
    if (failure !== undefined) throw failure;
  }

  /** Follows a store's feed until the signal aborts, however often the connection is lost. Rejects when the server refuses. */
  async followFeed({ configId, filter, types, getPosition, onEvent, onStatus, signal }: FeedOptions): Promise<void> {
    await this.#keepOpen(onStatus, signal, async (onOpen, ownSignal) => {
      if (this.transport !== 'polling') {
        const variables = { configId, filter, types, after: getPosition() };
        return this.subscribe(FeedDocument, variables, ({ productFeed }) => onEvent(productFeed), ownSignal, onOpen);
      }
      return this.#poll(ownSignal, onOpen, async () => {
        const after = getPosition() ?? '0';
        const { productChanges } = await this.#http.request(ChangesDocument, { configId, after, first: 100 }, { signal: ownSignal, retries: 0 });
        if (!productChanges) throw new NetworkError('The changes could not be read.', { code: 'NETWORK' });
        const { changes, position, hasMore } = productChanges;
        if (filter && changes.length) {
          // A poll has no filter: what entered and left the list is read from the list.
          await onEvent({ __typename: 'FeedReset', position, reason: 'TOO_FAR_BEHIND' });
          return false;
        }
        for (const event of changes) await onEvent(event);
        if (BigInt(position) > BigInt(getPosition() ?? '0')) await onEvent({ __typename: 'FeedHeartbeat', position });
        return hasMore;
      });
    });
  }

  /** Keeps the first products of a sorted, filtered or searched list until the signal aborts. Rejects when the server refuses. */
  async followList({ onChange, onStatus, signal, ...variables }: LiveListOptions): Promise<void> {
    let list: LiveList = { products: [], totalCount: 0, position: '0' };
    const take = (event: LiveListEvent): void => {
      list = { products: applyListEvent(list.products, event), totalCount: event.totalCount, position: event.position };
      onChange(list, event);
    };
    await this.#keepOpen(onStatus, signal, async (onOpen, ownSignal) => {
      if (this.transport !== 'polling') {
        const data = { ...variables, first: variables.first ?? 20 };
        return this.subscribe(LiveListDocument, data, ({ productList }) => take(productList), ownSignal, onOpen);
      }
      let seen: string | undefined;
      return this.#poll(ownSignal, onOpen, async () => {
        const options = { signal: ownSignal, retries: 0 };
        const { config } = await this.#http.request(PositionDocument, { configId: variables.configId }, options);
        if (seen !== undefined && config?.position === seen) return false;
        const { products } = await this.#http.request(ProductsDocument, { ...variables, first: variables.first ?? 20 }, options);
        seen = config?.position;
        const { nodes = [], totalCount = 0 } = products ?? {};
        take({ __typename: 'ProductListSnapshot', products: nodes, totalCount, position: seen ?? '0' });
        return false;
      });
    });
  }

  /** Closes the socket. Subscriptions that are open connect anew. */
  close(): void {
    void this.#socket?.then((socket) => socket.dispose()).catch(() => undefined);
    this.#socket = undefined;
  }

  async #keepOpen(
    onStatus: ((status: LiveStatus) => void) | undefined,
    signal: AbortSignal,
    open: (onOpen: () => void, signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    onStatus?.({ state: 'connecting', transport: this.transport });
    for (let failures = 0; !signal.aborted; ) {
      const transport = this.transport;
      const attempt = new AbortController();
      const abort = (): void => attempt.abort();
      signal.addEventListener('abort', abort);
      let timer: ReturnType<typeof setTimeout> | undefined;
      let hasOpened = false;
      let error: StorefrontError | undefined;
      try {
        await open(() => {
          if (hasOpened) return;
          hasOpened = true;
          this.#failures = 0;
          this.#isTokenRefused = false;
          // On a fallback: back to the preferred transport after a while.
          if (this.#chosen > 0) timer = setTimeout(() => ((this.#chosen = 0), attempt.abort()), RETURN_AFTER_MS);
          onStatus?.({ state: 'live', transport });
        }, attempt.signal);
      } catch (thrown) {
        error = toError(thrown) as StorefrontError;
        if (signal.aborted) break;
        if (error instanceof UnauthenticatedError && !this.#isTokenRefused) this.#isTokenRefused = true;
        else if (!error.isRetryable && !attempt.signal.aborted) {
          onStatus?.({ state: 'closed', transport, error });
          throw error;
        }
      } finally {
        clearTimeout(timer);
        signal.removeEventListener('abort', abort);
      }
      if (signal.aborted) break;
      onStatus?.({ state: 'reconnecting', transport, error });
      if (attempt.signal.aborted && !error) continue;
      if (!hasOpened) this.#chooseTransport(transport);
      // A lost connection is made again at once; a server that cannot serve what it has accepted is asked less and less often.
      if (hasOpened && (!error || error instanceof NetworkError)) failures = 0;
      await waitForNetwork(computeDelay(failures, error?.retryAfterMs), signal);
      failures += 1;
    }
    onStatus?.({ state: 'closed', transport: this.transport });
  }

  /** After some attempts that did not open a connection the next transport has its turn; after the last one, the first. */
  #chooseTransport(failed: Transport): void {
    if (isOffline() || failed !== this.transport) return;
    this.#failures += 1;
    if (this.#failures < FAILURES_UNTIL_FALLBACK) return;
    this.#failures = 0;
    this.#chosen = (this.#chosen + 1) % this.#transports.length;
  }

  async #openSocket(): Promise<Client> {
    // Loaded when the first subscription opens: a page without one does without it.
    const { createClient } = await import('graphql-ws/client');
    let silence: ReturnType<typeof setTimeout> | undefined;
    const socket: Client = createClient({
      url: new URL(this.#url, globalThis.location?.href).href.replace(/^http/, 'ws'),
      webSocketImpl: this.#options.webSocket,
      connectionParams: () => this.#http.authorize(this.#isTokenRefused),
      retryAttempts: 0, // its own retries would ask from the old position again
      connectionAckWaitTimeout: 10_000,
      keepAlive: PING_INTERVAL_MS,
      lazyCloseTimeout: 1_000,
      on: {
        // A network that is gone says nothing: a ping without an answer counts as a lost connection.
        ping: (isReceived) => !isReceived && (silence = setTimeout(() => socket.terminate(), LONGEST_PONG_MS)),
        pong: (isReceived) => isReceived && clearTimeout(silence),
        connected: () => (this.#isConnected = true),
        closed: () => {
          this.#isConnected = false;
          clearTimeout(silence);
        },
      },
    });
    return socket;
  }

  async #readSocket(query: string, variables: unknown, take: (data: unknown) => void, signal: AbortSignal, onOpen?: () => void): Promise<void> {
    if (signal.aborted) return;
    this.#socket ??= this.#openSocket();
    const socket = await this.#socket.catch((thrown: unknown) => {
      this.#socket = undefined;
      throw new NetworkError('The code of the socket could not be loaded.', { code: 'NETWORK', cause: thrown });
    });
    const removeListener = socket.on('connected', () => onOpen?.());
    try {
      await new Promise<void>((resolve, reject) => {
        const unsubscribe = socket.subscribe(
          { query, variables: variables as Record<string, unknown> },
          {
            next: ({ data, errors }) => (errors ? reject(createError(errors as readonly GraphQLErrorBody[])) : take(data)),
            error: (thrown) => reject(toSubscriptionError(thrown)),
            complete: resolve,
          },
        );
        signal.addEventListener('abort', () => (unsubscribe(), resolve()), { once: true });
        if (this.#isConnected) onOpen?.();
      });
    } finally {
      removeListener();
    }
  }

  async #readStream(query: string, variables: unknown, take: (data: unknown) => void, signal: AbortSignal, onOpen?: () => void): Promise<void> {
    const stop = new AbortController();
    const abort = (): void => stop.abort();
    signal.addEventListener('abort', abort);
    let silence = setTimeout(abort, LONGEST_SILENCE_MS);
    try {
      const headers = { accept: 'text/event-stream', 'content-type': 'application/json', ...(await this.#http.authorize(this.#isTokenRefused)) };
      const response = await this.#fetch(this.#url, { method: 'POST', headers, body: JSON.stringify({ query, variables }), signal: stop.signal });
      if (!response.ok || !response.body) {
        const retryAfterMs = parseRetryAfter(response.headers.get('retry-after'));
        const answer: unknown = await response.json().catch(() => null);
        const errors = (answer as { errors?: GraphQLErrorBody[] } | null)?.errors;
        throw errors ? createError(errors, { retryAfterMs }) : createStatusError(response.status, { retryAfterMs });
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      for (let buffered = ''; ; ) {
        const { done, value } = await reader.read();
        if (done) throw new NetworkError('The stream has ended early.', { code: 'NETWORK' });
        onOpen?.();
        clearTimeout(silence);
        silence = setTimeout(abort, LONGEST_SILENCE_MS);
        const blocks = (buffered + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
        buffered = blocks.pop() ?? '';
        for (const block of blocks) {
          const lines = block.split(/\r?\n/);
          const kind = lines.find((line) => line.startsWith('event:'))?.slice(6).trim();
          if (kind === 'complete') return;
          if (kind !== 'next') continue;
          const json = lines.filter((line) => line.startsWith('data:')).map((line) => line.slice(5)).join('\n');
          const { data, errors } = JSON.parse(json) as { data?: unknown; errors?: GraphQLErrorBody[] };
          if (errors) throw createError(errors);
          take(data);
        }
      }
    } catch (thrown) {
      if (signal.aborted) return;
      throw thrown instanceof StorefrontError ? thrown : new NetworkError('The stream was lost.', { code: 'NETWORK', cause: thrown });
    } finally {
      clearTimeout(silence);
      signal.removeEventListener('abort', abort);
      stop.abort();
    }
  }

  async #poll(signal: AbortSignal, onOpen: () => void, read: () => Promise<boolean>): Promise<void> {
    while (!signal.aborted) {
      const hasMore = await read();
      onOpen();
      if (!hasMore) await waitForNetwork(this.#options.pollIntervalMs ?? 5_000, signal);
    }
  }
}

/** The products of a live list after an event. */
export function applyListEvent(products: readonly ProductCardFragment[], event: LiveListEvent): readonly ProductCardFragment[] {
  const rows = [...products];
  switch (event.__typename) {
    case 'ProductListSnapshot':
      return event.products;
    case 'ProductListEnter':
      rows.splice(event.index, 0, event.product);
      return rows;
    case 'ProductListLeave':
      rows.splice(event.index, 1);
      return rows;
    case 'ProductListMove':
      rows.splice(event.fromIndex, 1);
      rows.splice(event.toIndex, 0, event.product);
      return rows;
    case 'ProductListUpdate':
      rows.splice(event.index, 1, event.product);
      return rows;
    default:
      return products; // only the total or the position has changed, or it is newer than this client
  }
}

/** Waits, but no longer than until the network is there again. */
async function waitForNetwork(ms: number, signal: AbortSignal): Promise<void> {
  let removeListener = (): void => undefined;
  await wait(ms, signal, (wake) => (removeListener = listenToNetwork(() => !isOffline() && wake())));
  removeListener();
}

/** Close codes are in live.md: what the client has done wrong is not done again. */
function toSubscriptionError(thrown: unknown): StorefrontError {
  if (Array.isArray(thrown)) return createError(thrown as GraphQLErrorBody[]);
  const { code, reason } = (thrown ?? {}) as { code?: number; reason?: string };
  const details = { code: 'NETWORK', cause: thrown };
  if (code === 4401) return new UnauthenticatedError(reason || 'The token is not valid.', { ...details, code: 'UNAUTHENTICATED' });
  if (code === 4400 || code === 4406 || code === 4409 || code === 4429) return new BadRequestError(reason || `The socket was closed with ${code}.`, { ...details, code: 'BAD_REQUEST' });
  return new NetworkError(reason || 'The connection was lost.', details);
}
