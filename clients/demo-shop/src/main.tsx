import { StrictMode, useCallback, useEffect, useState, type ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import { ConflictError, WriteRefusedError, createStorefront, indexedDbStorage, type PendingWrite, type Storefront, type StorefrontError } from '@storefront/client';
import { StorefrontProvider } from '@storefront/client/react';
import { App } from './app';
import { Failure } from './parts';
import { serverUrl, settings } from './router';
import { keepToken, readToken, readUserId } from './staff';
import type { Store } from './store';
import './styles.css';

const STORE_KEY = `storefront-shop-store ${settings.slug}`;

/** The store as it was at the last visit, for the time without a network. */
function readKeptStore(): Store | undefined {
  const text = localStorage.getItem(STORE_KEY);
  return text === null ? undefined : (JSON.parse(text) as Store);
}

interface Opened {
  readonly storefront: Storefront;
  readonly token: string | undefined;
}

function Root(): ReactNode {
  const [token, setToken] = useState(readToken);
  const [opened, setOpened] = useState<Opened>();
  const [store, setStore] = useState<Store | null>();
  const [failure, setFailure] = useState<Error>();
  const [attempt, setAttempt] = useState(0);
  const [message, setMessage] = useState('');
  const [conflicts, setConflicts] = useState<readonly ConflictError[]>([]);

  const refuse = useCallback((error: StorefrontError, { rows }: PendingWrite): void => {
    if (error instanceof ConflictError) setConflicts((all) => [...all, error]);
    else setMessage(`${rows[0]?.base?.title ?? 'The change'} was not saved: ${error.message}`);
  }, []);

  useEffect(() => {
    const storefront = createStorefront({
      url: new URL('graphql', serverUrl).href,
      getToken: () => token,
      viewer: token && readUserId(token),
      storage: indexedDbStorage(),
      onWriteRefused: refuse,
    });
    setOpened({ storefront, token });
    return () => {
      // Leaving staff mode leaves nothing of the owner in the browser, but for edits that a token which has expired keeps waiting.
      if (token && readToken() !== token && storefront.writes.state.pending.length === 0) void storefront.forget();
      else storefront.close();
    };
  }, [token, refuse]);

  useEffect(() => {
    if (!opened) return;
    let isClosed = false;
    setFailure(undefined);
    opened.storefront
      .findStore({ slug: settings.slug }, { signal: opened.storefront.signal })
      .then((found) => {
        if (isClosed) return;
        if (found) localStorage.setItem(STORE_KEY, JSON.stringify(found));
        setStore(found);
      })
      .catch((error: unknown) => {
        if (isClosed) return;
        const kept = readKeptStore();
        if (kept && !navigator.onLine) setStore(kept);
        else setFailure(error instanceof Error ? error : new Error(String(error)));
      });
    return () => {
      isClosed = true;
    };
  }, [opened, attempt]);

  const changeToken = (next: string | undefined): void => {
    keepToken(next);
    setConflicts([]);
    setToken(next);
  };

  if (failure) {
    return (
      <main>
        <h1>The shop cannot be read</h1>
        <Failure error={failure} onRetry={() => setAttempt(attempt + 1)} />
        {token && (
          <button type="button" onClick={() => changeToken(undefined)}>
            Leave staff mode
          </button>
        )}
      </main>
    );
  }
  if (store === null) {
    return (
      <main>
        <h1>There is no shop here</h1>
        <p>No published store has the address “{settings.slug}”.</p>
      </main>
    );
  }
  if (!opened || opened.token !== token || !store) return <p role="status">Opening the shop…</p>;
  return (
    <StorefrontProvider
      key={token ?? ''}
      storefront={opened.storefront}
      configId={store.id}
      // What the server refuses is reported by onWriteRefused, also for writes of an earlier visit.
      onError={(error) => !(error instanceof WriteRefusedError) && setMessage(error.message)}
    >
      <App
        store={store}
        isStaff={token !== undefined}
        onToken={changeToken}
        message={message}
        onMessageClose={() => setMessage('')}
        conflicts={conflicts}
        onConflictClose={(closed) => setConflicts((all) => all.filter((one) => one !== closed))}
      />
    </StorefrontProvider>
  );
}

const root = document.getElementById('root');
if (root) {
  createRoot(root).render(
    <StrictMode>
      <Root />
    </StrictMode>,
  );
}
