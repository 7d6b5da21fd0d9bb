import { NetworkError, NotFoundError, StorefrontError, toError } from './errors.js';
import { PositionDocument, ProductRowsDocument, type FeedChangeType, type ProductFilterInput, type ProductRowsQuery, type ProductRowsQueryVariables } from './generated.js';
import type { RequestOptions } from './http.js';
import type { FeedEvent, LiveStatus } from './live.js';
import { matchesFilter, type Pending, type ProductPatch, type ProductRow, type ProductValues } from './products.js';
import type { Storefront } from './storefront.js';
import { wait } from './waiting.js';
import { applyPending, type Confirmation, type DeleteOptions, type UpdateOptions, type WriteHandle } from './writes.js';

export interface CollectionOptions {
  configId: string;
  filter?: ProductFilterInput | null;
  /** Kinds of changes to follow; those of products, variants and reviews by default. */
  types?: FeedChangeType[];
  /** Order of the rows; the newest first by default. */
  compare?: (a: ProductRow, b: ProductRow) => number;
  /** Called when the server refuses to be followed, or the storage fails. */
  onError?: (error: Error) => void;
}

// How often a store that is not open to shoppers is asked for.
const CLOSED_STORE_MS = 30_000;

/** A row as it is kept: with the mutation that has made it. */
interface Entry {
  product: ProductRow;
  clientMutationId?: string;
}

/** What has changed in the confirmed rows: for copies of them. `isReset`: everything. */
export interface CollectionChange {
  isReset: boolean;
  written: readonly ProductRow[];
  removedIds: readonly string[];
}

/** Opens all products of a store or of a filter, and follows them live. Close it when it is no longer needed. */
export function openCollection(storefront: Storefront, options: CollectionOptions): ProductCollection {
  return new ProductCollection(storefront, options);
}

const newestFirst = (a: ProductRow, b: ProductRow): number =>
  a.createdAt === b.createdAt ? (a.id < b.id ? 1 : -1) : a.createdAt < b.createdAt ? 1 : -1;

/**
 * All products of a store, or those that match a filter: read once, kept in the storage, followed by the feed, and written
 * optimistically. For stores whose products a client can hold; pages of a longer list are what `Products` queries are for.
 */
export class ProductCollection {
  readonly configId: string;
  readonly #options: CollectionOptions;
  readonly #storefront: Storefront;
  readonly #entries = new Map<string, Entry>();
  readonly #deletedIds = new Set<string>();
  readonly #listeners = new Set<() => void>();
  readonly #changeListeners = new Set<(change: CollectionChange) => void>();
  readonly #stop = new AbortController();
  readonly #removers: Array<() => void>;
  readonly #prefix: string;
  #position: string | null = null;
  #sorted: ProductRow[] | undefined;
  #rows: ReadonlyArray<ProductRow & Pending> | undefined;
  #status: LiveStatus;
  #isLeader = false;
  #saved: Promise<void> = Promise.resolve();

  /** Fulfilled when there are rows: of the storage, or of the server. Rejected when the server refuses. */
  readonly ready: Promise<void>;
  /** Fulfilled when the collection was closed, rejected when the server refuses to be followed. */
  readonly done: Promise<void>;

  constructor(storefront: Storefront, options: CollectionOptions) {
    this.configId = options.configId;
    this.#options = options;
    this.#storefront = storefront;
    this.#status = { state: 'connecting', transport: storefront.live.transport };
    this.#prefix = `${storefront.namespace}collection:${options.configId}:${JSON.stringify([options.filter ?? null, options.types ?? null])}:`;
    this.#removers = [
      storefront.writes.subscribe(() => this.#show()),
      storefront.writes.onConfirmed((confirmation) => this.#confirm(confirmation)),
      storefront.writes.addBase((id) => this.#findRow(id)),
    ];
    storefront.signal.addEventListener('abort', this.close);
    let setReady: () => void = () => undefined;
    let refuse: (error: unknown) => void = () => undefined;
    this.ready = new Promise<void>((resolve, reject) => {
      setReady = resolve;
      refuse = reject;
    });
    this.ready.catch(() => undefined);
    this.done = this.#run(setReady);
    this.done.catch((thrown: unknown) => {
      refuse(thrown);
      options.onError?.(toError(thrown));
    });
  }

  /** The rows as the user should see them: with the writes that have not been answered. The same array until something changes. */
  get rows(): ReadonlyArray<ProductRow & Pending> {
    return (this.#rows ??= this.#computeRows());
  }

  /** The rows as the server has confirmed them. */
  get confirmedRows(): readonly ProductRow[] {
    return (this.#sorted ??= [...this.#entries.values()].map(({ product }) => product).sort(this.#options.compare ?? newestFirst));
  }

  /** Position in the store's log that the confirmed rows have; null before they were read. */
  get position(): string | null {
    return this.#position;
  }

  get status(): LiveStatus {
    return this.#status;
  }

  /** Calls the listener after each change of rows, position or status. Returns what removes it. */
  subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  /** Calls the listener after each change of the confirmed rows. Returns what removes it. */
  onChange(listener: (change: CollectionChange) => void): () => void {
    this.#changeListeners.add(listener);
    return () => this.#changeListeners.delete(listener);
  }

  create(values: ProductValues): WriteHandle {
    return this.#storefront.writes.create(this.configId, values);
  }

  update(id: string, patch: ProductPatch, options?: UpdateOptions): WriteHandle {
    return this.#storefront.writes.update(this.configId, id, patch, options);
  }

  delete(id: string, options?: DeleteOptions): WriteHandle {
    return this.#storefront.writes.delete(this.configId, id, options);
  }

  /** Stops following. Writes that wait are sent all the same. */
  close = (): void => {
    this.#stop.abort();
    this.#storefront.signal.removeEventListener('abort', this.close);
    for (const remove of this.#removers) remove();
    this.#listeners.clear();
    this.#changeListeners.clear();
  };

  // ------------------------------------------------------------------------------------------------- following

  async #run(setReady: () => void): Promise<void> {
    const { live } = this.#storefront;
    const { configId, filter, types } = this.#options;
    await this.#restore();
    void this.#becomeLeader();
    if (this.#position !== null) setReady();
    const onStatus = (status: LiveStatus): void => {
      this.#status = status;
      this.#notify();
    };
    if (this.#position === null) await this.#load(undefined, onStatus);
    setReady();
    while (!this.#stop.signal.aborted) {
      try {
        return await live.followFeed({
          configId, filter, types, onStatus,
          signal: this.#stop.signal,
          getPosition: () => this.#position,
          onEvent: (event) => this.#take(event),
        });
      } catch (thrown) {
        // A shopper's store was closed while there was no connection: the feed sends a reset after this position when it is open again.
        if (!(thrown instanceof NotFoundError) || this.#position === '0') throw thrown;
        const removedIds = [...this.#entries.keys()];
        this.#entries.clear();
        this.#save([], removedIds);
        this.#showConfirmed({ isReset: true, written: [], removedIds: [] });
        await wait(CLOSED_STORE_MS, this.#stop.signal);
      }
    }
  }

  /** Reads the whole list. The position comes first: what changes while the list is read is sent again, and nothing is missed. */
  async #load(reset: FeedEvent | undefined, onStatus: (status: LiveStatus) => void = () => undefined): Promise<void> {
    const { live } = this.#storefront;
    const { configId } = this.#options;
    const options = { signal: this.#stop.signal, retries: 1_000_000 };
    onStatus({ state: 'connecting', transport: live.transport });
    const { config } = await this.#storefront.request(PositionDocument, { configId }, options);
    // Null: the store is closed, and the feed sends a reset when it opens.
    const products = config ? await this.#readPages(options) : [];
    const madeBy = new Map([...this.#entries].map(([id, entry]) => [id, entry.clientMutationId]));
    this.#entries.clear();
    for (const product of products) {
      if (!this.#deletedIds.has(product.id)) this.#entries.set(product.id, { product, clientMutationId: madeBy.get(product.id) });
    }
    this.#position = config?.position ?? reset?.position ?? '0';
    this.#saveAll();
    this.#showConfirmed({ isReset: true, written: products, removedIds: [] });
  }

  async #readPages(options: RequestOptions): Promise<ProductRow[]> {
    const { configId, filter } = this.#options;
    const products: ProductRow[] = [];
    try {
      for (let after: string | null = ''; after !== null; ) {
        const variables: ProductRowsQueryVariables = { configId, filter, first: 100, after: after || null };
        const page: ProductRowsQuery['products'] = (await this.#storefront.request(ProductRowsDocument, variables, options)).products;
        if (!page) throw new NetworkError('The list could not be read.', { code: 'NETWORK' });
        products.push(...page.nodes);
        after = page.pageInfo.hasNextPage ? page.pageInfo.endCursor : null;
      }
      return products;
    } catch (thrown) {
      // It was closed since its position was read: a reset is on its way.
      if (thrown instanceof NotFoundError) return [];
      throw thrown;
    }
  }

  /** Applies an event of the feed, once. */
  async #take(event: FeedEvent): Promise<void> {
    if (event.__typename === 'FeedReset') return this.#load(event);
    if (this.#position !== null && BigInt(event.position) <= BigInt(this.#position)) return;
    this.#position = event.position;
    const written: ProductRow[] = [];
    const removedIds: string[] = [];
    switch (event.__typename) {
      case 'ProductCreated':
      case 'ProductUpdated': {
        const { product, clientMutationId } = event;
        // It was deleted here, and the event is from before.
        if (this.#deletedIds.has(product.id)) break;
        const known = this.#entries.get(product.id);
        if (known && known.product.version > product.version) break;
        const madeBy = event.__typename === 'ProductCreated' ? (clientMutationId ?? undefined) : known?.clientMutationId;
        this.#entries.set(product.id, { product, clientMutationId: madeBy });
        written.push(product);
        break;
      }
      case 'ProductDeleted':
        if (this.#entries.delete(event.productId)) removedIds.push(event.productId);
    }
    this.#save(written, removedIds);
    this.#showConfirmed({ isReset: false, written, removedIds });
  }

  /** Applies the answer to a write, unless the feed has sent it, and perhaps of what came after. */
  #confirm({ write, result }: Confirmation): void {
    if (write.configId !== this.configId) return;
    const { products, deletedIds, position } = result;
    for (const id of deletedIds) this.#deletedIds.add(id);
    const removedIds = deletedIds.filter((id) => this.#entries.delete(id));
    const written: ProductRow[] = [];
    const isNews = position !== null && (this.#position === null || BigInt(position) > BigInt(this.#position));
    for (const product of isNews ? products : []) {
      const known = this.#entries.get(product.id);
      // Whether it is of the filtered list is known from the feed, where the client cannot tell.
      const isShown = known ? known.product.version <= product.version : write.kind === 'create' && matchesFilter(product, this.#options.filter);
      if (!isShown || this.#deletedIds.has(product.id)) continue;
      this.#entries.set(product.id, { product, clientMutationId: write.kind === 'create' ? write.id : known?.clientMutationId });
      written.push(product);
    }
    if (!written.length && !removedIds.length) return;
    this.#save(written, removedIds);
    this.#showConfirmed({ isReset: false, written, removedIds }, false);
  }

  // ------------------------------------------------------------------------------------------------- showing

  #computeRows(): ReadonlyArray<ProductRow & Pending> {
    const { pending } = this.#storefront.writes.state;
    const { filter, compare } = this.#options;
    const shows = (row: ProductRow): boolean => matchesFilter(row, filter) === true;
    const rows = applyPending<ProductRow>(this.confirmedRows, pending, this.configId, shows, (draft) => draft);
    return compare && pending.length ? [...rows].sort(compare) : rows;
  }

  #findRow(id: string): ProductRow | undefined {
    return this.rows.find((row) => row.id === id);
  }

  #showConfirmed(change: CollectionChange, isNotified = true): void {
    this.#sorted = undefined;
    // New rows that pending writes have made take the places of these.
    if (this.#storefront.writes.state.pending.length) {
      const shown = change.isReset ? [...this.#entries.values()] : change.written.map(({ id }) => this.#entries.get(id));
      this.#storefront.writes.acknowledge(shown.filter((entry) => entry !== undefined));
    }
    this.#rows = undefined;
    for (const listener of [...this.#changeListeners]) listener(change);
    // An answer is shown together with the end of its write, which notifies.
    if (isNotified) this.#notify();
  }

  #show(): void {
    this.#rows = undefined;
    this.#notify();
  }

  #notify(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  // ------------------------------------------------------------------------------------------------- keeping

  async #restore(): Promise<void> {
    try {
      for (const [key, value] of await this.#storefront.storage.load(this.#prefix)) {
        const name = key.slice(this.#prefix.length);
        if (name === 'position') this.#position = value as string;
        else this.#entries.set(name.slice('row:'.length), value as Entry);
      }
      if (this.#position === null) this.#entries.clear();
    } catch (thrown) {
      this.#options.onError?.(toError(thrown));
    }
    await this.#storefront.writes.ready;
    if (this.#entries.size) this.#showConfirmed({ isReset: true, written: this.confirmedRows, removedIds: [] });
  }

  /** Of several pages with the same list one keeps it: rows and position of different pages would not fit together. */
  async #becomeLeader(): Promise<void> {
    const lead = async (): Promise<void> => {
      if (this.#stop.signal.aborted) return;
      this.#isLeader = true;
      if (this.#position !== null) this.#saveAll();
      await new Promise<void>((resolve) => this.#stop.signal.addEventListener('abort', () => resolve()));
      await this.#saved;
    };
    if (typeof navigator === 'undefined' || !navigator.locks) return lead();
    // Rejected if the collection is closed while it waits.
    await navigator.locks.request(this.#prefix, { signal: this.#stop.signal }, lead).catch(() => undefined);
  }

  #saveAll(): void {
    const rows = [...this.#entries].map(([id, entry]): [string, unknown] => [`${this.#prefix}row:${id}`, entry]);
    const position = this.#position;
    const { storage } = this.#storefront;
    this.#write(async () => {
      const kept = new Set(rows.map(([key]) => key));
      const old = (await storage.load(`${this.#prefix}row:`)).filter(([key]) => !kept.has(key)).map(([key]): [string, undefined] => [key, undefined]);
      await storage.write([...old, ...rows, [`${this.#prefix}position`, position]]);
    });
  }

  #save(written: readonly ProductRow[], removedIds: readonly string[]): void {
    const position = this.#position;
    const rows = written.map(({ id }): [string, unknown] => [`${this.#prefix}row:${id}`, this.#entries.get(id)]);
    const removed = removedIds.map((id): [string, undefined] => [`${this.#prefix}row:${id}`, undefined]);
    if (position === null) return;
    this.#write(() => this.#storefront.storage.write([...removed, ...rows, [`${this.#prefix}position`, position]]));
  }

  #write(run: () => Promise<void>): void {
    if (!this.#isLeader) return;
    this.#saved = this.#saved.then(run).catch((thrown: unknown) => {
      this.#isLeader = false; // what is kept no longer fits together with what is shown
      this.#options.onError?.(new StorefrontError('The list could not be stored.', { code: 'STORAGE', cause: thrown }));
    });
  }
}
