import { useMemo, useSyncExternalStore, type ComponentProps, type MouseEvent, type ReactNode } from 'react';

interface Settings {
  /** The slug of the store. */
  readonly slug: string;
  /** The root of the server relative to this page. */
  readonly root: string;
}

export const settings = JSON.parse(document.getElementById('settings')?.textContent ?? '{}') as Settings;
/** The root of the server: pages work behind a reverse proxy that adds a path prefix. */
export const serverUrl = new URL(settings.root, location.href);
const base = `${serverUrl.pathname}shop/${settings.slug}`;

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  addEventListener('popstate', listener);
  return () => {
    listeners.delete(listener);
    removeEventListener('popstate', listener);
  };
}

/** Opens a page of the shop, such as `/products?q=lamp`. */
export function openPage(to: string, options: { replace?: boolean; keepScroll?: boolean } = {}): void {
  history[options.replace ? 'replaceState' : 'pushState'](null, '', base + to);
  for (const listener of listeners) listener();
  if (!options.keepScroll) scrollTo(0, 0);
}

/** The path below the shop, and the parameters. */
export function usePlace(): { path: string; params: URLSearchParams } {
  const address = useSyncExternalStore(subscribe, () => location.pathname + location.search);
  return useMemo(() => {
    const url = new URL(address, location.origin);
    return { path: url.pathname.slice(base.length) || '/', params: url.searchParams };
  }, [address]);
}

export function Link({ to, children, onClick, ...props }: { to: string; children: ReactNode } & Omit<ComponentProps<'a'>, 'href'>): ReactNode {
  const follow = (event: MouseEvent<HTMLAnchorElement>): void => {
    onClick?.(event);
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    openPage(to);
  };
  return (
    <a {...props} href={base + to} onClick={follow}>
      {children}
    </a>
  );
}

/** The URL of a list: parameters without a value are left out. */
export function buildListUrl(params: Record<string, string | undefined>): string {
  const query = new URLSearchParams(Object.entries(params).filter((entry): entry is [string, string] => Boolean(entry[1])));
  return query.size ? `/products?${query}` : '/products';
}
