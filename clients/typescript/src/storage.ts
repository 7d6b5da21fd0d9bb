/** Where lists, positions and unsent writes are kept. Values are plain JSON. */
export interface StorefrontStorage {
  /** All entries whose key has the prefix, in the order of their keys. */
  load(prefix: string): Promise<Array<[key: string, value: unknown]>>;
  /** Writes all entries or none; undefined removes. */
  write(entries: ReadonlyArray<readonly [key: string, value: unknown]>): Promise<void>;
  /** Removes all entries whose key has the prefix. */
  clear(prefix: string): Promise<void>;
}

/** Keeps everything until the page closes. The default. */
export function memoryStorage(): StorefrontStorage {
  const values = new Map<string, unknown>();
  const listKeys = (prefix: string): string[] => [...values.keys()].filter((key) => key.startsWith(prefix)).sort();
  return {
    load: async (prefix) => listKeys(prefix).map((key) => [key, structuredClone(values.get(key))]),
    async write(entries) {
      for (const [key, value] of entries) {
        if (value === undefined) values.delete(key);
        else values.set(key, structuredClone(value));
      }
    },
    async clear(prefix) {
      for (const key of listKeys(prefix)) values.delete(key);
    },
  };
}

const ENTRIES = 'entries';

/** Keeps everything in IndexedDB, so that it survives a reload. All pages of an origin share a database of one name. */
export function indexedDbStorage(name = 'storefront'): StorefrontStorage {
  let opened: Promise<IDBDatabase> | undefined;

  function open(): Promise<IDBDatabase> {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(ENTRIES);
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const database = request.result;
        // The browser closes it to save memory, or for a newer version: it is opened again when it is needed.
        database.onclose = () => (opened = undefined);
        database.onversionchange = () => {
          database.close();
          opened = undefined;
        };
        resolve(database);
      };
    });
  }

  async function run<T>(mode: IDBTransactionMode, start: (entries: IDBObjectStore) => () => T): Promise<T> {
    opened ??= open().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    const database = await opened;
    return new Promise<T>((resolve, reject) => {
      const transaction = database.transaction(ENTRIES, mode);
      const getResult = start(transaction.objectStore(ENTRIES));
      transaction.oncomplete = () => resolve(getResult());
      transaction.onabort = () => reject(transaction.error);
    });
  }

  const range = (prefix: string): IDBKeyRange => IDBKeyRange.bound(prefix, `${prefix}\uffff`);
  return {
    load: (prefix) =>
      run('readonly', (entries) => {
        const keys = entries.getAllKeys(range(prefix));
        const values = entries.getAll(range(prefix)) as IDBRequest<unknown[]>;
        return () => keys.result.map((key, index) => [String(key), values.result[index]]);
      }),
    write: (batch) =>
      run('readwrite', (entries) => {
        for (const [key, value] of batch) {
          if (value === undefined) entries.delete(key);
          else entries.put(value, key);
        }
        return () => undefined;
      }),
    clear: (prefix) =>
      run('readwrite', (entries) => {
        entries.delete(range(prefix));
        return () => undefined;
      }),
  };
}
