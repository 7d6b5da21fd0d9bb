import { getOperationKind, getText, type TypedDocument } from './documents.js';
import { NetworkError, UnauthenticatedError, createError, createStatusError, toError, type GraphQLErrorBody, type StorefrontError } from './errors.js';
import { computeDelay, parseRetryAfter, wait } from './waiting.js';

export type Token = string | null | undefined;

/** Returns a bearer token, or nothing for a shopper without one. `isRefused`: the server has just refused the last one. */
export type GetToken = (options: { isRefused: boolean }) => Token | Promise<Token>;

export interface HttpOptions {
  /** The URL of `/graphql`. */
  url: string;
  getToken?: GetToken;
  fetch?: typeof fetch;
  /**
   * How queries are sent. `text`: by POST. `persisted`: by GET with the hash of their text, which caches on the way can keep; the
   * text follows once if the server does not know the hash. `trusted`: by GET with the id of a document that the server was started
   * with, of `@storefront/client/documents.json` or of your own manifest.
   */
  documents?: 'text' | 'persisted' | 'trusted';
  /** How many queries of the same moment share one POST, at most 10; 1, the default, sends each alone. */
  maxBatch?: number;
  /** How often a query, or a mutation with an `idempotencyKey`, is sent again after a failure that may pass. 3 by default. */
  retries?: number;
  /** Milliseconds until an attempt counts as lost. 30,000 by default. */
  timeoutMs?: number;
  /** What fetch does with cookies. `same-origin` by default. */
  credentials?: RequestCredentials;
}

export interface RequestOptions {
  signal?: AbortSignal;
  /** Instead of that of the storefront. */
  retries?: number;
  /** The id in the server's log; a new UUID by default. */
  requestId?: string;
}

interface Payload {
  query?: string;
  documentId?: string;
  variables?: unknown;
  extensions?: unknown;
}

interface Answer {
  data?: unknown;
  errors?: readonly GraphQLErrorBody[];
}

interface Outgoing {
  payload: Payload;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

// Proxies and servers limit URLs; the tightest that are in use allow a little more.
const LONGEST_URL = 7_500;

/** Queries and mutations over HTTP. */
export class HttpClient {
  readonly #options: HttpOptions;
  readonly #hashes = new Map<string, Promise<string>>();
  #batch: Outgoing[] = [];
  #isPersisting = true;

  constructor(options: HttpOptions) {
    this.#options = options;
  }

  /** The headers that sign a request in. */
  async authorize(isRefused = false): Promise<{ authorization?: string }> {
    const token = await this.#options.getToken?.({ isRefused });
    return token ? { authorization: `Bearer ${token}` } : {};
  }

  /** The data of an operation. Throws a StorefrontError, also if only a part of the answer failed: `error.data` has the rest. */
  async request<TResult, TVariables>(
    document: TypedDocument<TResult, TVariables> | string,
    variables?: TVariables,
    options: RequestOptions = {},
  ): Promise<TResult> {
    const text = getText(document);
    const requestId = options.requestId ?? crypto.randomUUID();
    const isSafe = getOperationKind(text) === 'query' || hasIdempotencyKey(variables);
    const retries = isSafe ? (options.retries ?? this.#options.retries ?? 3) : 0;
    let isRefused = false;
    for (let failures = 0; ; failures += 1) {
      options.signal?.throwIfAborted();
      try {
        const { data, errors } = await this.#send(text, variables, requestId, isRefused, options.signal);
        if (errors?.length) throw createError(errors, { data, requestId });
        return data as TResult;
      } catch (thrown) {
        const error = toError(thrown) as StorefrontError;
        options.signal?.throwIfAborted();
        // A token may have expired on the way: it is asked for anew, once.
        if (error instanceof UnauthenticatedError && this.#options.getToken && !isRefused) isRefused = true;
        else if (!error.isRetryable || failures >= retries) throw error;
        else await wait(computeDelay(failures, error.retryAfterMs), options.signal);
      }
    }
  }

  async #send(text: string, variables: unknown, requestId: string, isRefused: boolean, signal?: AbortSignal): Promise<Answer> {
    const mode = this.#isPersisting ? (this.#options.documents ?? 'text') : 'text';
    const isQuery = getOperationKind(text) === 'query';
    if (mode === 'trusted') {
      const documentId = `sha256:${await this.#hash(text)}`;
      return this.#exchange({ documentId, variables }, { requestId, isRefused, isGet: isQuery, signal });
    }
    if (mode === 'persisted' && isQuery) {
      const extensions = { persistedQuery: { version: 1, sha256Hash: await this.#hash(text) } };
      const answer = await this.#exchange({ variables, extensions }, { requestId, isRefused, isGet: true, signal });
      const code = answer.errors?.[0]?.extensions?.code;
      if (code === 'PERSISTED_QUERY_NOT_SUPPORTED') this.#isPersisting = false;
      else if (code !== 'PERSISTED_QUERY_NOT_FOUND') return answer;
      return this.#exchange({ query: text, variables, extensions: this.#isPersisting ? extensions : undefined }, { requestId, isRefused, signal });
    }
    if (isQuery && (this.#options.maxBatch ?? 1) > 1 && !isRefused) return this.#enqueue({ query: text, variables });
    return this.#exchange({ query: text, variables }, { requestId, isRefused, signal });
  }

  /** The queries of one moment go out together. One that is aborted meanwhile is still answered, and its answer ignored. */
  #enqueue(payload: Payload): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#batch.push({ payload, resolve, reject }) === 1) setTimeout(() => this.#flush());
      else if (this.#batch.length >= Math.min(10, this.#options.maxBatch ?? 1)) this.#flush();
    });
  }

  #flush(): void {
    const batch = this.#batch;
    this.#batch = [];
    if (!batch.length) return;
    const first = batch[0] as Outgoing;
    const body = batch.length === 1 ? first.payload : batch.map(({ payload }) => payload);
    this.#exchange<Answer | Answer[]>(body, { requestId: crypto.randomUUID(), isRefused: false }).then(
      (answer) => {
        const answers = Array.isArray(answer) ? answer : batch.map(() => answer); // a refused batch has one answer for all
        batch.forEach(({ resolve }, index) => resolve(answers[index] ?? {}));
      },
      (error: unknown) => batch.forEach(({ reject }) => reject(error)),
    );
  }

  async #exchange<T extends Answer | Answer[] = Answer>(
    body: Payload | Payload[],
    { requestId, isRefused, isGet, signal }: { requestId: string; isRefused: boolean; isGet?: boolean; signal?: AbortSignal },
  ): Promise<T> {
    const { url, credentials = 'same-origin', timeoutMs = 30_000 } = this.#options;
    const authorization = await this.authorize(isRefused);
    const headers: Record<string, string> = { accept: 'application/graphql-response+json', 'x-request-id': requestId, ...authorization };
    const address = isGet && !Array.isArray(body) ? buildUrl(url, body) : '';
    const isShort = address !== '' && address.length <= LONGEST_URL;
    const init: RequestInit = isShort
      ? { headers, credentials }
      : { method: 'POST', headers: { ...headers, 'content-type': 'application/json' }, body: JSON.stringify(body), credentials };

    const stop = new AbortController();
    const abort = (): void => stop.abort(signal?.reason);
    signal?.addEventListener('abort', abort);
    const timer = setTimeout(() => stop.abort(new NetworkError('No answer in time.', { code: 'NETWORK', requestId })), timeoutMs);
    try {
      const response = await (this.#options.fetch ?? fetch)(isShort ? address : url, { ...init, signal: stop.signal });
      const details = { requestId: response.headers.get('x-request-id') ?? requestId, retryAfterMs: parseRetryAfter(response.headers.get('retry-after')) };
      const answer: unknown = /\bjson\b/.test(response.headers.get('content-type') ?? '') ? await response.json() : await response.text();
      if (typeof answer !== 'object' || answer === null) throw createStatusError(response.status, details);
      const { data, errors } = answer as Answer;
      // What the headers say is part of the error; an answer with data is judged by who asked.
      if (errors && data === undefined && !errors[0]?.extensions?.code?.startsWith('PERSISTED_QUERY_NOT_')) throw createError(errors, details);
      if (errors && details.retryAfterMs !== undefined) throw createError(errors, { ...details, data });
      return answer as T;
    } catch (thrown) {
      if (stop.signal.reason instanceof NetworkError) throw stop.signal.reason;
      if (signal?.aborted || (thrown instanceof Error && 'isRetryable' in thrown)) throw thrown;
      throw new NetworkError('The server cannot be reached.', { code: 'NETWORK', requestId, cause: thrown });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', abort);
    }
  }

  #hash(text: string): Promise<string> {
    let hash = this.#hashes.get(text);
    if (!hash) {
      hash = computeHash(text);
      this.#hashes.set(text, hash);
    }
    return hash;
  }
}

async function computeHash(text: string): Promise<string> {
  // Browsers have it on https and localhost only.
  if (!globalThis.crypto?.subtle) throw new TypeError("Persisted and trusted documents need https. Use documents: 'text'.");
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function buildUrl(url: string, payload: Payload): string {
  const parameters = new URLSearchParams();
  if (payload.documentId) parameters.set('documentId', payload.documentId);
  if (payload.variables !== undefined) parameters.set('variables', JSON.stringify(payload.variables));
  if (payload.extensions !== undefined) parameters.set('extensions', JSON.stringify(payload.extensions));
  return `${url}${url.includes('?') ? '&' : '?'}${parameters}`;
}

function hasIdempotencyKey(variables: unknown): boolean {
  const { input } = (variables ?? {}) as { input?: { idempotencyKey?: string | null } };
  return Boolean(input?.idempotencyKey);
}
