import { useEffect, useState, type ReactNode } from 'react';
import type { ConflictError } from '@storefront/client';
import { useOfflineSync, useRealTimeProducts } from '@storefront/client/react';
import { formatTime } from './format';
import { Home } from './home';
import { List } from './list';
import { Heading } from './parts';
import { ProductPage } from './product';
import { Link, buildListUrl, openPage, usePlace } from './router';
import { Conflict, StaffContext, TokenButton } from './staff';
import type { Store } from './store';

// Shorter interruptions are nothing to tell.
const RECONNECTING_MS = 3_000;

export interface AppProps {
  store: Store;
  isStaff: boolean;
  onToken: (token: string | undefined) => void;
  message: string;
  onMessageClose: () => void;
  conflicts: readonly ConflictError[];
  onConflictClose: (conflict: ConflictError) => void;
}

export function App({ store, isStaff, onToken, message, onMessageClose, conflicts, onConflictClose }: AppProps): ReactNode {
  const { path, params } = usePlace();
  const { state } = useRealTimeProducts();
  return (
    <StaffContext value={isStaff}>
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <header className="top">
        <Link className="logo" to="/">
          {store.storeName}
        </Link>
        <Search text={path === '/products' ? (params.get('q') ?? '') : ''} isOnList={path === '/products'} params={params} />
        <nav aria-label="Shop">
          <Link to="/products" aria-current={path === '/products' ? 'page' : undefined}>
            Products
          </Link>
          <TokenButton isStaff={isStaff} onToken={onToken} />
        </nav>
      </header>
      <Banner state={state} isStaff={isStaff} />
      <main id="main">
        <Page path={path} store={store} />
      </main>
      <footer>
        <p>
          {store.storeName}. <span className={`live live-${state}`}>{state === 'live' ? 'Prices and stock are live' : 'Not live at the moment'}</span>
        </p>
      </footer>
      <div className="messages">
        {conflicts.map((conflict, index) => (
          <Conflict key={`${conflict.theirs?.id} ${index}`} conflict={conflict} onClose={() => onConflictClose(conflict)} />
        ))}
        <div role="alert">
          {message && (
            <p className="toast">
              {message}{' '}
              <button type="button" className="text-button" onClick={onMessageClose}>
                Close
              </button>
            </p>
          )}
        </div>
      </div>
    </StaffContext>
  );
}

function Page({ path, store }: { path: string; store: Store }): ReactNode {
  if (path === '/') return <Home store={store} />;
  if (path === '/products') return <List store={store} />;
  const handle = /^\/products\/([^/]+)$/.exec(path)?.[1];
  if (handle) return <ProductPage key={handle} store={store} handle={decodeURIComponent(handle)} />;
  return (
    <>
      <Heading title="This page is not here" storeName={store.storeName} />
      <p>
        <Link to="/">To the start of the shop</Link>
      </p>
    </>
  );
}

/** Opens the list with what is typed. The list waits until nothing was typed for a moment. */
function Search({ text, isOnList, params }: { text: string; isOnList: boolean; params: URLSearchParams }): ReactNode {
  const search = (typed: string): void => {
    const filters = isOnList ? Object.fromEntries([...params].filter(([key]) => key === 'category')) : {};
    openPage(buildListUrl({ ...filters, q: typed || undefined }), { replace: isOnList });
  };
  return (
    <form role="search" onSubmit={(event) => event.preventDefault()}>
      <label className="hidden" htmlFor="search">
        Search products
      </label>
      <input id="search" type="search" placeholder="Search products" autoComplete="off" value={text} onChange={({ target }) => search(target.value)} />
    </form>
  );
}

function Banner({ state, isStaff }: { state: string; isStaff: boolean }): ReactNode {
  const { isOnline, restoredAt, pendingCount, error } = useOfflineSync();
  const [isLong, setIsLong] = useState(false);
  const isLost = state !== 'live';
  useEffect(() => {
    if (!isLost) return setIsLong(false);
    const timer = setTimeout(() => setIsLong(true), RECONNECTING_MS);
    return () => clearTimeout(timer);
  }, [isLost]);
  const waiting = pendingCount === 0 ? '' : ` ${pendingCount} ${pendingCount === 1 ? 'change is' : 'changes are'} waiting to be sent.`;
  let text = '';
  if (!isOnline) text = `You are offline. ${restoredAt ? `You see the shop as of ${formatTime(restoredAt)}.` : 'You see what was read before.'}${waiting}`;
  else if (error?.code === 'UNAUTHENTICATED') text = `The token is not valid any more.${waiting} Leave staff mode and paste another one.`;
  else if (isLong) text = `The connection is lost and being restored.${waiting}`;
  else if (isStaff) text = `Staff mode: titles and prices can be edited.${waiting}`;
  return (
    <div role="status" className={text ? `banner ${isOnline && !isLong ? 'banner-staff' : ''}` : ''}>
      {text}
    </div>
  );
}
