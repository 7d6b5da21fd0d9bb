import type { ReactNode } from 'react';
import { useCategories, usePrefetchProducts, useProducts } from '@storefront/client/react';
import { Grid } from './card';
import { formatCount } from './format';
import { Failure, Heading } from './parts';
import { Link, buildListUrl } from './router';
import type { Store } from './store';

const FEATURED = 8;

export function Home({ store }: { store: Store }): ReactNode {
  const categories = useCategories();
  const popular = useProducts({ sort: { key: 'POPULARITY' }, first: FEATURED });
  const { prefetchProductsByCategory } = usePrefetchProducts();
  return (
    <>
      <section className="hero">
        <Heading title={store.storeName} storeName={store.storeName} isFocused={false} />
        {store.description && <p>{store.description}</p>}
        <Link className="button" to="/products">
          See everything
        </Link>
      </section>
      <section aria-labelledby="categories">
        <h2 id="categories">Categories</h2>
        {categories.error && <Failure error={categories.error} onRetry={() => void categories.refetch()} />}
        <ul className="categories">
          {categories.data?.map((category) => (
            <li key={category.id}>
              <Link
                to={buildListUrl({ category: category.path })}
                onMouseEnter={() => void prefetchProductsByCategory(category.path)}
                onFocus={() => void prefetchProductsByCategory(category.path)}
              >
                {category.image && <img src={category.image} alt="" loading="lazy" />}
                <span className="category-name">{category.name}</span>
                <span className="note">{formatCount(category.productCount, 'product')}</span>
              </Link>
            </li>
          ))}
        </ul>
      </section>
      <section aria-labelledby="popular">
        <h2 id="popular">Popular now</h2>
        {popular.error && <Failure error={popular.error} onRetry={() => void popular.refetch()} />}
        <Grid products={popular.products.slice(0, FEATURED)} label="Popular products" isBusy={popular.isPending} />
      </section>
    </>
  );
}
