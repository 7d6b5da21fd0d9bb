import {
  ConflictError, OutcomeUnknownError, ServerError, StorefrontError, UnauthenticatedError, WriteRefusedError, toError,
} from './errors.js';
import {
  BulkCreateProductsDocument, BulkDeleteProductsDocument, BulkUpdateProductsDocument, CreateProductDocument, DeleteProductDocument, UpdateProductDocument,
  type RowResultFragment, type WriteErrorFragment,
} from './generated.js';
import type { HttpClient } from './http.js';
import { draftProduct, patchProduct, type Pending, type ProductPatch, type ProductRow, type ProductValues } from './products.js';
import type { StorefrontStorage } from './storage.js';
import { computeDelay, isOffline, listenToNetwork, runAlone, wait } from './waiting.js';

/** Decides a conflict: returns the values to write over `theirs`, or null to give up. */
export type ResolveConflict = (base: ProductRow, mine: ProductPatch, theirs: ProductRow) => ProductPatch | null | Promise<ProductPatch | null>;

/**
 * What to do if another user has changed the product since it was read. `merge`, the default: write if the fields are others than
 * theirs. `fail`: refuse with a ConflictError. Or a function that decides.
 */
export type OnConflict = 'fail' | 'merge' | ResolveConflict;

export interface UpdateOptions {
  /** The product as the user saw it; by default what the lists of this page show. */
  base?: ProductRow;
  onConflict?: OnConflict;
}

export interface DeleteOptions {
  /** Delete only this version. Without it a product is deleted whatever others have changed. */
  expectedVersion?: number;
}

/** What a write has done. */
export interface WriteResult {
  /** The products as they are now: of a bulk write those of the rows that were written. */
  readonly products: readonly ProductRow[];
  readonly deletedIds: readonly string[];
  /** Position of the change in the store's log; null if nothing changed. */
  readonly position: string | null;
  /** Of a bulk write: what was refused, by the index of its row. */
  readonly refusals: ReadonlyMap<number, WriteRefusedError>;
}

/** A write that was accepted for sending. */
export interface WriteHandle {
  /** The `clientMutationId`, which is also the `idempotencyKey`. */
  readonly id: string;
  /** Ids of the rows that are shown: those of new rows change when the server has answered. */
  readonly rowIds: readonly string[];
  /** Fulfilled when the server has done it, however late; rejected when it refuses. */
  readonly done: Promise<WriteResult>;
}

export interface PendingRow {
  /** Id of the product, or the temporary one of a new row. */
  readonly id: string;
  readonly values?: ProductValues | ProductPatch;
  readonly base?: ProductRow;
  readonly expectedVersion?: number;
  /** Id of the product that a new row has become. */
  readonly productId?: string;
}

/** A write that has not been answered. It is plain data: the storage keeps it. */
export interface PendingWrite {
  readonly id: string;
  /** Orders writes of all pages. */
  readonly key: string;
  readonly configId: string;
  readonly kind: 'create' | 'update' | 'delete';
  readonly isBulk: boolean;
  readonly rows: readonly PendingRow[];
  readonly onConflict: 'fail' | 'merge' | 'resolve';
  /** How often a conflict was resolved: each of these is another request with another key. */
  readonly round: number;
  readonly createdAt: string;
  readonly sentAt?: number;
}

export interface OutboxState {
  /** Writes without an answer, in the order in which they are sent. */
  readonly pending: readonly PendingWrite[];
  readonly isOnline: boolean;
  /** Why nothing is sent at the moment. */
  readonly error: StorefrontError | null;
}

export interface Confirmation {
  readonly write: PendingWrite;
  readonly result: WriteResult;
}

export interface WritesOptions {
  http: HttpClient;
  storage: StorefrontStorage;
  /** Begins all keys and locks. */
  namespace: string;
  /** For writes that ask for a function of an earlier page. */
  onConflict?: OnConflict;
  onRefused?: (error: StorefrontError, write: PendingWrite) => void;
}

interface Settle {
  resolve: (result: WriteResult) => void;
  reject: (error: Error) => void;
  onConflict?: ResolveConflict;
}

// The server keeps idempotency keys for 24 hours.
const LONGEST_UNKNOWN_MS = 23 * 3_600_000;
const MOST_SERVER_ERRORS = 8;

/** Optimistic writes. They are kept until the server answers, and sent in order, each once. */
export class Writes {
  readonly #options: WritesOptions;
  readonly #own = new Map<string, Settle>();
  readonly #listeners = new Set<() => void>();
  readonly #confirmed = new Set<(confirmation: Confirmation) => void>();
  readonly #bases = new Set<(id: string) => ProductRow | undefined>();
  /** Products by the temporary ids that they had: what holds such an id still means the product. */
  readonly #productIds = new Map<string, string>();
  readonly #stop = new AbortController();
  readonly #removeNetworkListener: () => void;
  #state: OutboxState = { pending: [], isOnline: !isOffline(), error: null };
  #saved: Promise<void> = Promise.resolve();
  #isSending = false;
  #isAskedAgain = false;
  #wake: (() => void) | undefined;
  #count = 0;

  /** Fulfilled when the writes of earlier pages were read from the storage. */
  readonly ready: Promise<void>;

  constructor(options: WritesOptions) {
    this.#options = options;
    this.#removeNetworkListener = listenToNetwork(() => {
      this.#change({ isOnline: !isOffline() });
      if (!isOffline()) this.flush();
    });
    this.ready = this.#load().then(() => this.flush());
  }

  get state(): OutboxState {
    return this.#state;
  }

  /** Calls the listener after each change of `state`. Returns what removes it. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Calls the listener when the server has done a write, just before it leaves `state.pending`. Returns what removes it. */
  onConfirmed(listener: (confirmation: Confirmation) => void): () => void {
    this.#confirmed.add(listener);
    return () => this.#confirmed.delete(listener);
  }

  /** Has `find` look up the products that are shown: updates begin with their versions. Returns what removes it. */
  addBase(find: (id: string) => ProductRow | undefined): () => void {
    this.#bases.add(find);
    return () => this.#bases.delete(find);
  }

  /** Creates a product. */
  create(configId: string, values: ProductValues): WriteHandle {
    return this.#add(configId, 'create', false, [{ id: '', values }]);
  }

  /** Changes a product. */
  update(configId: string, id: string, patch: ProductPatch, options: UpdateOptions = {}): WriteHandle {
    return this.#add(configId, 'update', false, [{ id, values: patch, base: options.base ?? this.#findBase(id) }], options.onConflict);
  }

  /** Deletes a product. */
  delete(configId: string, id: string, { expectedVersion }: DeleteOptions = {}): WriteHandle {
    return this.#add(configId, 'delete', false, [{ id, expectedVersion }]);
  }

  /** Creates up to 250 products. Rows that are refused leave the others alone. */
  createMany(configId: string, rows: readonly ProductValues[]): WriteHandle {
    return this.#add(configId, 'create', true, rows.map((values) => ({ id: '', values })));
  }

  /** Changes up to 250 products, each once. Rows that are refused leave the others alone. */
  updateMany(configId: string, rows: ReadonlyArray<{ id: string; patch: ProductPatch }>, onConflict: 'fail' | 'merge' = 'merge'): WriteHandle {
    return this.#add(configId, 'update', true, rows.map(({ id, patch }) => ({ id, values: patch, base: this.#findBase(id) })), onConflict);
  }

  /** Deletes up to 250 products, each once. */
  deleteMany(configId: string, ids: readonly string[]): WriteHandle {
    return this.#add(configId, 'delete', true, ids.map((id) => ({ id })));
  }

  /** Sends what is waiting, now. */
  flush(): void {
    this.#wake?.();
    void this.#drain();
  }

  /** Fulfilled when nothing is waiting. */
  async whenEmpty(): Promise<void> {
    await this.ready;
    while (this.#state.pending.length && !this.#stop.signal.aborted) {
      await new Promise<void>((resolve) => {
        const remove = this.subscribe(() => (remove(), resolve()));
      });
    }
  }

  /** Takes back a write that has not been sent. Returns whether it could. */
  async cancel(id: string): Promise<boolean> {
    const write = this.#state.pending.find((one) => one.id === id);
    if (!write || write.sentAt !== undefined) return false;
    await this.#refuse(write, new StorefrontError('The write was cancelled.', { code: 'CANCELLED' }), false);
    return true;
  }

  /** Notes which products of the feed pending writes have made, so that no list has a product and its draft. */
  acknowledge(events: Iterable<{ clientMutationId?: string | null; product: ProductRow }>): void {
    let { pending } = this.#state;
    for (const { clientMutationId, product } of events) {
      const write = pending.find(({ id, kind }) => id === clientMutationId && kind === 'create');
      if (!write || write.rows.some(({ productId }) => productId === product.id)) continue;
      const open = write.rows.filter(({ productId }) => productId === undefined);
      const row = open.find(({ values }) => (values as ProductValues).title === product.title) ?? open[0];
      const rows = write.rows.map((one) => (one === row ? { ...one, productId: product.id } : one));
      pending = pending.map((one) => (one === write ? { ...write, rows } : one));
    }
    if (pending !== this.#state.pending) this.#change({ pending });
  }

  /** Stops sending. What is waiting stays in the storage. */
  close(): void {
    this.#stop.abort();
    this.#removeNetworkListener();
    this.#listeners.clear();
  }

  #findBase(id: string): ProductRow | undefined {
    for (const find of this.#bases) {
      const base = find(id);
      if (base) return base;
    }
    return undefined;
  }

  #add(configId: string, kind: PendingWrite['kind'], isBulk: boolean, rows: PendingRow[], onConflict: OnConflict = 'merge'): WriteHandle {
    const id = crypto.randomUUID();
    this.#count += 1;
    const write: PendingWrite = {
      id, configId, kind, isBulk, round: 0,
      key: `${String(Date.now()).padStart(15, '0')}-${String(this.#count).padStart(6, '0')}-${id}`,
      createdAt: new Date().toISOString(),
      onConflict: typeof onConflict === 'function' ? 'resolve' : onConflict,
      rows: rows.map((row, index) => ({ ...row, id: row.id ? (this.#productIds.get(row.id) ?? row.id) : isBulk ? `${id}:${index}` : id })),
    };
    const done = new Promise<WriteResult>((resolve, reject) => {
      this.#own.set(id, { resolve, reject, onConflict: typeof onConflict === 'function' ? onConflict : undefined });
    });
    done.catch(() => undefined); // callers that await it see the rejection; none has to
    this.#change({ pending: [...this.#state.pending, write] });
    void this.#save([[write.key, write]]).then(() => this.#drain());
    return { id, rowIds: write.rows.map((row) => row.id), done };
  }

  // ------------------------------------------------------------------------------------------------- sending

  async #drain(): Promise<void> {
    this.#isAskedAgain = true;
    if (this.#isSending) return;
    this.#isSending = true;
    let failures = 0;
    while (!this.#stop.signal.aborted && (this.#isAskedAgain || this.#state.pending.length)) {
      this.#isAskedAgain = false;
      if (isOffline()) break; // the network's return calls flush()
      let failure: StorefrontError | undefined;
      try {
        // Of several pages one sends; each reads what the others have left.
        await runAlone(`${this.#options.namespace}outbox`, async () => {
          await this.#load();
          for (let write = this.#state.pending[0]; write && !this.#stop.signal.aborted; write = this.#state.pending[0]) {
            await this.#send(write, failures);
            failures = 0;
            if (this.#state.error) this.#change({ error: null });
          }
        });
      } catch (thrown) {
        failure = toError(thrown) as StorefrontError;
      }
      if (!failure) continue;
      this.#change({ error: failure });
      if (isOffline()) break;
      await wait(computeDelay(failures, failure.retryAfterMs), this.#stop.signal, (wake) => (this.#wake = wake));
      failures += 1;
    }
    this.#isSending = false;
  }

  async #send(pending: PendingWrite, failures: number): Promise<void> {
    if (pending.sentAt !== undefined && Date.now() - pending.sentAt > LONGEST_UNKNOWN_MS) {
      return this.#refuse(pending, new OutcomeUnknownError('The write was sent a day ago, and its answer was lost.', { code: 'OUTCOME_UNKNOWN' }));
    }
    let write = pending;
    if (write.sentAt === undefined) {
      write = { ...pending, sentAt: Date.now() };
      this.#replace(write);
      await this.#save([[write.key, write]]);
    }
    try {
      await this.#exchange(write);
    } catch (thrown) {
      const error = toError(thrown) as StorefrontError;
      if (error instanceof WriteRefusedError) return this.#refuse(write, error);
      // Signed out or expired: nothing is lost, and it is tried again with the next token.
      const isSignedOut = error instanceof UnauthenticatedError && (await this.#options.http.authorize()).authorization !== undefined;
      const isHopeless = error instanceof ServerError && error.code === 'INTERNAL_SERVER_ERROR' && failures >= MOST_SERVER_ERRORS;
      if (isHopeless || !(error.isRetryable || isSignedOut)) return this.#refuse(write, error);
      throw error;
    }
  }

  async #exchange(write: PendingWrite): Promise<void> {
    const { http } = this.#options;
    const key = write.round ? `${write.id}:${write.round}` : write.id;
    const common = { clientMutationId: write.id, idempotencyKey: key };
    const options = { retries: 0, signal: this.#stop.signal };
    const onConflict = write.onConflict === 'merge' ? ('MERGE_DISJOINT' as const) : ('REJECT' as const);
    const rows = write.rows.map(({ id, values, base, expectedVersion }) => {
      if (write.kind === 'create') return { ...(values as ProductValues) };
      if (write.kind === 'delete') return { id, expectedVersion };
      return { ...(values as ProductPatch), id, expectedVersion: base?.version || undefined, onConflict };
    });
    const [row] = rows;

    if (write.isBulk) {
      const bulk = { ...common, errorPolicy: 'VALID_ROWS' as const };
      const payload =
        write.kind === 'create'
          ? (await http.request(BulkCreateProductsDocument, { input: { ...bulk, configId: write.configId, rows: rows as ProductValues[] } }, options)).bulkCreateProducts
          : write.kind === 'update'
            ? (await http.request(BulkUpdateProductsDocument, { input: { ...bulk, rows: rows as Array<ProductPatch & { id: string }> } }, options)).bulkUpdateProducts
            : (await http.request(BulkDeleteProductsDocument, { input: { ...bulk, rows: rows as Array<{ id: string }> } }, options)).bulkDeleteProducts;
      if (!payload) throw new StorefrontError('The answer has no payload.');
      if (!payload.results.length && payload.userErrors.length) throw new WriteRefusedError(payload.userErrors);
      return this.#confirmBulk(write, payload.results, payload.position);
    }
    if (write.kind === 'delete') {
      const { deleteProduct: payload } = await http.request(DeleteProductDocument, { input: { ...common, ...(row as { id: string }) } }, options);
      if (!payload) throw new StorefrontError('The answer has no payload.');
      // Another user has deleted it: that is what was wanted.
      const isGone = payload.userErrors.length > 0 && payload.userErrors.every(({ code }) => code === 'NOT_FOUND');
      if (payload.userErrors.length && !isGone) throw this.#createRefusal(write, 0, payload.userErrors);
      return this.#confirm(write, { products: [], deletedIds: [write.rows[0]?.id ?? ''], position: payload.position, refusals: new Map() });
    }
    const payload =
      write.kind === 'create'
        ? (await http.request(CreateProductDocument, { input: { ...common, configId: write.configId, ...(row as ProductValues) } }, options)).createProduct
        : (await http.request(UpdateProductDocument, { input: { ...common, ...(row as ProductPatch & { id: string }) } }, options)).updateProduct;
    if (!payload) throw new StorefrontError('The answer has no payload.');
    if (payload.userErrors.length) {
      const refusal = this.#createRefusal(write, 0, payload.userErrors);
      if (refusal instanceof ConflictError && (await this.#resolve(write, refusal))) return;
      throw refusal;
    }
    const products = payload.product ? [payload.product] : [];
    return this.#confirm(write, { products, deletedIds: [], position: payload.position, refusals: new Map() }, [payload.product?.id]);
  }

  #createRefusal(write: PendingWrite, index: number, userErrors: readonly WriteErrorFragment[]): WriteRefusedError {
    const stale = userErrors.find((error) => error.__typename === 'StaleVersionError');
    if (!stale) return new WriteRefusedError(userErrors);
    const row = write.rows[index];
    const theirs = stale.current && 'id' in stale.current ? (stale.current as ProductRow) : null;
    return new ConflictError(userErrors, row?.base, row?.values ?? {}, theirs, stale.changedFields);
  }

  /** Asks for the values to write over another user's. The write is then sent again, as another request. */
  async #resolve(write: PendingWrite, { base, theirs, mine }: ConflictError): Promise<boolean> {
    const fallback = this.#options.onConflict;
    const resolve = this.#own.get(write.id)?.onConflict ?? (typeof fallback === 'function' ? fallback : undefined);
    if (write.onConflict !== 'resolve' || !resolve || !theirs || !base) return false;
    const values = await resolve(base, mine as ProductPatch, theirs);
    if (!values) return false;
    const next: PendingWrite = {
      ...write,
      round: write.round + 1,
      sentAt: undefined,
      rows: write.rows.map((row) => ({ ...row, values, base: theirs })),
    };
    this.#replace(next);
    await this.#save([[next.key, next]]);
    return true; // it is still the first one
  }

  async #confirmBulk(write: PendingWrite, results: readonly RowResultFragment[], position: string | null): Promise<void> {
    const refusals = new Map<number, WriteRefusedError>();
    const products: ProductRow[] = [];
    const deletedIds: string[] = [];
    const ids: Array<string | undefined> = [];
    for (const { index, product, deletedId, userErrors } of results) {
      const isGone = write.kind === 'delete' && userErrors.length > 0 && userErrors.every(({ code }) => code === 'NOT_FOUND');
      if (isGone) deletedIds.push(write.rows[index]?.id ?? '');
      else if (userErrors.length) refusals.set(index, this.#createRefusal(write, index, userErrors));
      if (product) products.push(product);
      if (deletedId) deletedIds.push(deletedId);
      ids[index] = product?.id;
    }
    const [first] = refusals.values();
    if (first && refusals.size === write.rows.length) throw first;
    await this.#confirm(write, { products, deletedIds, position, refusals }, ids);
    for (const refusal of refusals.values()) this.#options.onRefused?.(refusal, write);
  }

  async #confirm(write: PendingWrite, result: WriteResult, ids: ReadonlyArray<string | undefined> = []): Promise<void> {
    const newIds = new Map(write.rows.map((row, index) => [row.id, ids[index] ?? row.id]));
    for (const [id, productId] of newIds) if (id !== productId) this.#productIds.set(id, productId);
    const products = new Map(result.products.map((product) => [product.id, product]));
    // What waits behind it and concerns the same products gets their ids, and goes on from their new state.
    const waiting = this.#state.pending.filter(({ id }) => id !== write.id).map((other) => {
      if (!other.rows.some(({ id }) => newIds.has(id))) return other;
      const rows = other.rows.map((row) => {
        const id = newIds.get(row.id) ?? row.id;
        const base = products.get(id) ?? row.base;
        return { ...row, id, base: row.base || other.kind === 'update' ? base : undefined };
      });
      return { ...other, rows };
    });
    const confirmed = { ...write, rows: write.rows.map((row, index) => ({ ...row, productId: ids[index] ?? row.productId })) };
    // The lists have the new state before the pending one goes: no row is missing, or there twice, in between.
    this.#state = { ...this.#state, pending: this.#state.pending.map((one) => (one.id === write.id ? confirmed : one)) };
    for (const listener of this.#confirmed) listener({ write: confirmed, result });
    this.#change({ pending: waiting });
    this.#own.get(write.id)?.resolve(result);
    this.#own.delete(write.id);
    const changed = waiting.filter((other) => other.rows.some(({ id }) => [...newIds.values()].includes(id)));
    await this.#save([[write.key, undefined], ...changed.map((other): [string, unknown] => [other.key, other])]);
  }

  /** Takes back a write, and those that change a product which it was to create. */
  async #refuse(write: PendingWrite, error: StorefrontError, isReported = true): Promise<void> {
    const ids = new Set(write.kind === 'create' ? write.rows.map(({ id }) => id) : []);
    const lost = this.#state.pending.filter((other) => other.id === write.id || other.rows.some(({ id }) => ids.has(id)));
    this.#change({ pending: this.#state.pending.filter((other) => !lost.includes(other)) });
    for (const { id } of lost) {
      this.#own.get(id)?.reject(error);
      this.#own.delete(id);
    }
    if (isReported) this.#options.onRefused?.(error, write);
    await this.#save(lost.map(({ key }) => [key, undefined]));
  }

  // ------------------------------------------------------------------------------------------------- state

  #replace(write: PendingWrite): void {
    this.#change({ pending: this.#state.pending.map((one) => (one.id === write.id ? write : one)) });
  }

  #change(change: Partial<OutboxState>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of [...this.#listeners]) listener();
  }

  get #prefix(): string {
    return `${this.#options.namespace}outbox:`;
  }

  /** What the storage has, with what this page has not stored, or does not have the answer of. */
  async #load(): Promise<void> {
    await this.#saved;
    let stored: PendingWrite[];
    try {
      stored = (await this.#options.storage.load(this.#prefix)).map(([, value]) => value as PendingWrite);
    } catch {
      return; // without a storage this page sends its own
    }
    const known = new Map(this.#state.pending.map((write) => [write.id, write]));
    const writes = new Map(this.#state.pending.filter(({ id }) => this.#own.has(id)).map((write) => [write.id, write]));
    for (const write of stored) writes.set(write.id, write);
    const pending = [...writes.values()]
      .map((write) => {
        const rows = known.get(write.id)?.rows;
        return rows ? { ...write, rows: write.rows.map((row, index) => ({ ...row, productId: rows[index]?.productId })) } : write;
      })
      .sort((a, b) => (a.key < b.key ? -1 : 1));
    if (pending.length || this.#state.pending.length) this.#change({ pending });
  }

  /** Stored in the order of the calls. A storage that fails, such as a full one, does not keep a write from being sent. */
  #save(entries: ReadonlyArray<readonly [key: string, value: unknown]>): Promise<void> {
    const prefixed = entries.map(([key, value]) => [`${this.#prefix}${key}`, value] as const);
    this.#saved = this.#saved.then(() => this.#options.storage.write(prefixed)).catch(() => undefined);
    return this.#saved;
  }
}

/**
 * The rows of a list as the user should see them: with the writes that have not been answered. Updates and deletes apply in order;
 * new rows come first, if `shows` lets them.
 */
export function applyPending<T extends ProductRow>(
  rows: readonly T[],
  pending: readonly PendingWrite[],
  configId: string,
  shows: ((row: ProductRow) => boolean) | null,
  complete: (draft: ReturnType<typeof draftProduct>) => T,
): ReadonlyArray<T & Pending> {
  const own = pending.filter((write) => write.configId === configId);
  if (!own.length) return rows;
  const visible = new Map<string, T & Pending>(rows.map((row) => [row.id, row]));
  const created: string[] = [];
  const productIds = new Map<string, string>();
  for (const { kind, rows: changes, createdAt } of own) {
    for (const { id, values, productId } of changes) {
      if (kind === 'create') {
        if (productId !== undefined && visible.has(productId)) productIds.set(id, productId);
        if (!shows || productIds.has(id)) continue;
        const draft = draftProduct(id, values as ProductValues, createdAt);
        if (!shows(draft)) continue;
        visible.set(id, { ...complete(draft), pending: 'create' });
        created.unshift(id);
        continue;
      }
      const shownId = productIds.get(id) ?? id;
      const row = visible.get(shownId);
      if (kind === 'delete') visible.delete(shownId);
      else if (row) visible.set(shownId, { ...patchProduct<T & Pending>(row, values as ProductPatch), pending: row.pending ?? 'update' });
    }
  }
  const isNew = new Set(created);
  const list = [...visible.entries()];
  return [...created.map((id) => visible.get(id)), ...list.filter(([id]) => !isNew.has(id)).map(([, row]) => row)].filter((row) => row !== undefined);
}
