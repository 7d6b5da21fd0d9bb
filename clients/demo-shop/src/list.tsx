import { useEffect, useMemo, useRef, useState, type ReactNode } from 'react';
import type { ProductFilterInput, ProductSortKey, SortOrder } from '@storefront/client';
import { useDebounced, useFacets, useProducts } from '@storefront/client/react';
import { Grid } from './card';
import { formatCount, formatPrice, getLastName } from './format';
import { Failure, Heading } from './parts';
import { buildListUrl, openPage, usePlace } from './router';
import type { Store } from './store';

const MOST_CHOICES = 8;
const MOST_ATTRIBUTES = 4;
const SEARCH_DELAY_MS = 200;

interface Sort {
  readonly label: string;
  readonly key: ProductSortKey;
  readonly order?: SortOrder;
}

const SORTS: Record<string, Sort> = {
  newest: { label: 'Newest', key: 'CREATED_AT' },
  popular: { label: 'Most popular', key: 'POPULARITY' },
  rating: { label: 'Best rated', key: 'RATING' },
  cheap: { label: 'Price, low to high', key: 'PRICE', order: 'ASC' },
  dear: { label: 'Price, high to low', key: 'PRICE', order: 'DESC' },
  name: { label: 'Name', key: 'NAME' },
};

/** The filter that the parameters of a list stand for. */
function parseFilter(params: URLSearchParams): ProductFilterInput {
  const attributes = new Map<string, string[]>();
  for (const [key, value] of params) {
    if (!key.startsWith('attribute.')) continue;
    const name = key.slice('attribute.'.length);
    attributes.set(name, [...(attributes.get(name) ?? []), value]);
  }
  const listOf = (key: string): string[] | undefined => (params.has(key) ? params.getAll(key) : undefined);
  return {
    categories: listOf('category'),
    vendors: listOf('vendor'),
    attributes: attributes.size ? [...attributes].map(([name, values]) => ({ name, values })) : undefined,
    minPrice: params.get('min') ?? undefined,
    maxPrice: params.get('max') ?? undefined,
    minRating: params.has('rating') ? Number(params.get('rating')) : undefined,
    inStock: params.has('stock') ? params.get('stock') === 'yes' : undefined,
  };
}

function openWith(params: URLSearchParams): void {
  openPage(`/products${params.size ? `?${params}` : ''}`, { replace: true, keepScroll: true });
}

export function List({ store }: { store: Store }): ReactNode {
  const { params } = usePlace();
  const typed = params.get('q')?.trim() ?? '';
  const search = useDebounced(typed, SEARCH_DELAY_MS) || undefined;
  const filter = useMemo(() => parseFilter(params), [params]);
  const chosen = SORTS[params.get('sort') ?? ''];
  const sort = chosen ? { key: chosen.key, order: chosen.order } : undefined;
  const list = useProducts({ filter, search, sort, first: 24 });
  const category = params.getAll('category');
  const [only] = category;
  const title = typed ? `Search: ${typed}` : category.length === 1 && only ? getLastName(only) : 'All products';
  const isBusy = list.isPending || list.isPlaceholderData;

  return (
    <>
      <div className="list-head">
        <Heading title={title} storeName={store.storeName} />
        <label>
          Sort by{' '}
          <select
            value={params.get('sort') ?? ''}
            onChange={({ target }) => {
              const next = new URLSearchParams(params);
              if (target.value) next.set('sort', target.value);
              else next.delete('sort');
              openWith(next);
            }}
          >
            <option value="">{search ? 'Relevance' : 'Default'}</option>
            {Object.entries(SORTS).map(([name, { label }]) => (
              <option key={name} value={name}>
                {label}
              </option>
            ))}
          </select>
        </label>
      </div>
      <p className="count" role="status">
        {isBusy ? 'Reading…' : formatCount(list.totalCount ?? 0, 'product')}
        {list.correctedSearch && ` for “${list.correctedSearch}”`}
      </p>
      {list.didYouMean && (
        <p>
          Did you mean{' '}
          <button type="button" className="text-button" onClick={() => openPage(buildListUrl({ q: list.didYouMean ?? '' }))}>
            {list.didYouMean}
          </button>
          ?
        </p>
      )}
      <div className="list">
        <Facets filter={filter} search={search} params={params} currency={store.currency} />
        <section aria-label="Products" className="list-products">
          {list.error && <Failure error={list.error} onRetry={() => void list.refetch()} />}
          {!isBusy && !list.error && list.products.length === 0 && <p>Nothing matches. Take away a filter or search for something else.</p>}
          <Grid products={list.products} label="Products" isBusy={isBusy} />
          {list.hasNextPage && <More isReading={list.isFetchingNextPage} hasFailed={list.isFetchNextPageError} onMore={() => void list.fetchNextPage()} />}
        </section>
      </div>
    </>
  );
}

/** Reads the next page when it comes near the window. It is a button for keyboards, and for a page that could not be read. */
function More({ isReading, hasFailed, onMore }: { isReading: boolean; hasFailed: boolean; onMore: () => void }): ReactNode {
  const button = useRef<HTMLButtonElement>(null);
  const read = useRef(onMore);
  useEffect(() => {
    read.current = onMore;
  });
  useEffect(() => {
    if (!button.current || isReading || hasFailed) return;
    const observer = new IntersectionObserver(([entry]) => entry?.isIntersecting && read.current(), { rootMargin: '600px' });
    observer.observe(button.current);
    return () => observer.disconnect();
  }, [isReading, hasFailed]);
  return (
    <button ref={button} type="button" className="more" onClick={onMore} disabled={isReading}>
      {isReading ? 'Reading…' : hasFailed ? 'Try again' : 'More products'}
    </button>
  );
}

interface Choice {
  readonly label: string;
  readonly count: number;
  readonly isSelected: boolean;
  /** Parameters that the choice sets, all of them. */
  readonly sets: ReadonlyArray<readonly [key: string, value: string]>;
}

interface Group {
  readonly name: string;
  readonly choices: readonly Choice[];
  /** Whether another choice replaces the chosen one. */
  readonly isSingle: boolean;
  /** Whether the group is unfolded at first. */
  readonly isOpen: boolean;
}

function Facets({ filter, search, params, currency }: { filter: ProductFilterInput; search?: string; params: URLSearchParams; currency: string }): ReactNode {
  const [isOpen, setIsOpen] = useState(false);
  const { data, isPlaceholderData } = useFacets({ filter, search });
  const [last, setLast] = useState(data);
  // The choices of before stay while others are counted, so that nothing jumps below the pointer.
  if (data && data !== last) setLast(data);
  const facets = (data ?? last)?.facets;
  const groups = useMemo<Group[]>(() => {
    if (!facets) return [];
    const price = (amount: string): string => formatPrice(amount, currency);
    return [
      {
        name: 'Category', isSingle: false, isOpen: true,
        choices: facets.categories.map(({ value, ...rest }) => ({ ...rest, label: value, sets: [['category', value]] })),
      },
      {
        name: 'Availability', isSingle: true, isOpen: true,
        choices: facets.availability.map(({ inStock, ...rest }) => ({ ...rest, label: inStock ? 'In stock' : 'Sold out', sets: [['stock', inStock ? 'yes' : 'no']] })),
      },
      {
        name: 'Price', isSingle: true, isOpen: true,
        choices: facets.priceBuckets.map(({ min, max, ...rest }) => ({
          ...rest,
          label: min && max ? `${price(min)} to ${price(max)}` : min ? `From ${price(min)}` : max ? `Up to ${price(max)}` : 'Any',
          sets: [...(min ? [['min', min] as const] : []), ...(max ? [['max', max] as const] : [])],
        })),
      },
      {
        name: 'Rating', isSingle: true, isOpen: false,
        choices: facets.ratings.map(({ minRating, ...rest }) => ({ ...rest, label: `${minRating} stars and more`, sets: [['rating', String(minRating)]] })),
      },
      {
        name: 'Brand', isSingle: false, isOpen: false,
        choices: facets.vendors.map(({ value, ...rest }) => ({ ...rest, label: value, sets: [['vendor', value]] })),
      },
      ...facets.attributes.slice(0, MOST_ATTRIBUTES).map(({ name, values }) => ({
        name, isSingle: false, isOpen: false,
        choices: values.map(({ value, ...rest }): Choice => ({ ...rest, label: value, sets: [[`attribute.${name}`, value]] })),
      })),
    ];
  }, [facets, currency]);

  const toggle = (group: Group, choice: Choice): void => {
    const next = new URLSearchParams(params);
    if (group.isSingle) for (const { sets } of group.choices) for (const [key] of sets) next.delete(key);
    for (const [key, value] of choice.sets) {
      if (choice.isSelected) next.delete(key, value);
      else next.append(key, value);
    }
    openWith(next);
  };
  const chosenCount = [...params.keys()].filter((key) => key !== 'q' && key !== 'sort').length;

  return (
    <aside className="facets" aria-label="Filters" aria-busy={isPlaceholderData}>
      <button type="button" className="facets-toggle" aria-expanded={isOpen} aria-controls="facets" onClick={() => setIsOpen(!isOpen)}>
        Filters {chosenCount > 0 && `(${chosenCount})`}
      </button>
      <div id="facets" className={isOpen ? 'facets-groups is-open' : 'facets-groups'}>
        {chosenCount > 0 && (
          <button
            type="button"
            className="text-button"
            onClick={() => openWith(new URLSearchParams([...params].filter(([key]) => key === 'q' || key === 'sort')))}
          >
            Take all filters away
          </button>
        )}
        {groups
          .filter(({ choices }) => choices.length > 0)
          .map((group) => (
            <FacetGroup key={group.name} group={group} onToggle={(choice) => toggle(group, choice)} />
          ))}
      </div>
    </aside>
  );
}

function FacetGroup({ group, onToggle }: { group: Group; onToggle: (choice: Choice) => void }): ReactNode {
  const [showsAll, setShowsAll] = useState(false);
  const shown = showsAll ? group.choices : group.choices.filter(({ isSelected }, index) => index < MOST_CHOICES || isSelected);
  return (
    <details open={group.isOpen || group.choices.some(({ isSelected }) => isSelected) || undefined}>
      <summary>{group.name}</summary>
      <fieldset>
        <legend className="hidden">{group.name}</legend>
        {shown.map((choice) => (
          <label key={choice.label} className="choice">
            <input type="checkbox" checked={choice.isSelected} disabled={choice.count === 0 && !choice.isSelected} onChange={() => onToggle(choice)} />
            <span>{choice.label}</span>
            <span className="note">{choice.count}</span>
          </label>
        ))}
        {shown.length < group.choices.length && (
          <button type="button" className="text-button" onClick={() => setShowsAll(true)}>
            {group.choices.length - shown.length} more
          </button>
        )}
      </fieldset>
    </details>
  );
}
