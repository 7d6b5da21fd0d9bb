const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 30_000;

/** Milliseconds to wait after a number of failures: twice as long each time, at most half a minute, never all clients at once. */
export function computeDelay(failures: number, retryAfterMs = 0): number {
  const backoff = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** failures) * (0.5 + Math.random() / 2);
  return retryAfterMs > 0 ? retryAfterMs + Math.random() * FIRST_DELAY_MS : backoff;
}

/** The milliseconds of a `Retry-After` header: seconds, or a date. */
export function parseRetryAfter(value: string | null): number | undefined {
  if (!value) return undefined;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

/** Whether the browser knows that there is no network. */
export function isOffline(): boolean {
  return typeof navigator !== 'undefined' && navigator.onLine === false;
}

/** Calls the listener when the network is there again, or has gone. Returns what removes it. */
export function listenToNetwork(listener: () => void): () => void {
  if (typeof addEventListener !== 'function') return () => undefined;
  addEventListener('online', listener);
  addEventListener('offline', listener);
  return () => {
    removeEventListener('online', listener);
    removeEventListener('offline', listener);
  };
}

/** Waits, less long if the signal aborts or `wake` is called by what `register` registers. */
export function wait(ms: number, signal?: AbortSignal, register?: (wake: () => void) => void): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal?.addEventListener('abort', finish);
    register?.(finish);
  });
}

/** Runs alone among all pages of this origin, or, where there are no Web Locks, among the callers of this page. */
export async function runAlone<T>(name: string, run: () => Promise<T>): Promise<T> {
  if (typeof navigator !== 'undefined' && navigator.locks) return navigator.locks.request(name, run);
  const before = queues.get(name) ?? Promise.resolve();
  const result = before.then(run);
  const settled = result.then(() => undefined, () => undefined);
  queues.set(name, settled);
  void settled.then(() => queues.get(name) === settled && queues.delete(name));
  return result;
}

const queues = new Map<string, Promise<void>>();
