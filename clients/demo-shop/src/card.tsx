import type { ReactNode } from 'react';
import { usePrefetchProducts, type PendingCard } from '@storefront/client/react';
import { formatPrice } from './format';
import { Picture, Stars } from './parts';
import { Link } from './router';
import { EditButton } from './staff';

export function Card({ product, isFirst }: { product: PendingCard; isFirst?: boolean }): ReactNode {
  const { getHoverProps } = usePrefetchProducts();
  const { min, max } = product.priceRange;
  return (
    <li className="card" aria-busy={product.pending !== undefined}>
      <Link className="card-link" to={`/products/${product.handle}`} {...getHoverProps({ handle: product.handle })}>
        <Picture image={product.featuredImage} title={product.title} isFirst={isFirst} />
        <span className="card-title">{product.title}</span>
      </Link>
      <span className="card-facts">
        <span className="price">
          {min !== max && <span className="from">from </span>}
          {formatPrice(min, product.currency)}
          {product.compareAtPrice && Number(product.compareAtPrice) > Number(min) && (
            <>
              {' '}
              <s>
                <span className="hidden">instead of </span>
                {formatPrice(product.compareAtPrice, product.currency)}
              </s>
            </>
          )}
        </span>
        <Stars average={product.reviewSummary.average} count={product.reviewSummary.count} />
      </span>
      {!product.inStock && <span className="badge">Sold out</span>}
      {product.pending && <span className="note">Saving…</span>}
      <EditButton product={product} />
    </li>
  );
}

export function Grid({ products, label, isBusy = false }: { products: readonly PendingCard[]; label: string; isBusy?: boolean }): ReactNode {
  return (
    <ul className="grid" aria-label={label} aria-busy={isBusy}>
      {products.map((product, index) => (
        <Card key={product.id} product={product} isFirst={index < 4} />
      ))}
    </ul>
  );
}
