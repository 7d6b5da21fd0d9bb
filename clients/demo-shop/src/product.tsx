import { useQueryClient } from '@tanstack/react-query';
import { useEffect, useMemo, useState, type ReactNode } from 'react';
import type { ProductDetailsFragment } from '@storefront/client';
import { productKeys, useProduct, useStorefront } from '@storefront/client/react';
import { Grid } from './card';
import { formatDate, formatPrice } from './format';
import { Failure, Heading, Picture, Stars } from './parts';
import { Link, buildListUrl } from './router';
import { EditButton } from './staff';
import type { Store } from './store';

type Variant = ProductDetailsFragment['variants']['nodes'][number];
const FEW = 5;

/** Reads the product again when its variants change: events of the feed have the product itself, not these. */
function useLiveVariants(id: string | undefined, handle: string): void {
  const { storefront, configId } = useStorefront();
  const client = useQueryClient();
  useEffect(() => {
    if (!id) return;
    const stop = new AbortController();
    let position: string | null = null;
    storefront.live
      .followFeed({
        configId,
        filter: { ids: [id] },
        signal: stop.signal,
        getPosition: () => position,
        onEvent: (event) => {
          position = event.position;
          if (event.__typename === 'ProductUpdated' || event.__typename === 'FeedReset') {
            void client.invalidateQueries({ queryKey: productKeys.detail(configId, { handle }) });
          }
        },
      })
      .catch(() => undefined); // the banner shows that the connection is lost
    return () => stop.abort();
  }, [storefront, configId, client, id, handle]);
}

export function ProductPage({ store, handle }: { store: Store; handle: string }): ReactNode {
  const { product, error, isPending, refetch } = useProduct({ handle });
  useLiveVariants(product?.id, handle);
  if (error && !product) return <Failure error={error} onRetry={() => void refetch()} />;
  if (isPending) return <p role="status">Reading…</p>;
  if (!product) {
    return (
      <>
        <Heading title="This product is not here" storeName={store.storeName} />
        <p>
          It may be sold out for good. <Link to="/products">See all products</Link>
        </p>
      </>
    );
  }
  return <Details key={product.id} product={product} store={store} />;
}

function Details({ product, store }: { product: NonNullable<ReturnType<typeof useProduct>['product']>; store: Store }): ReactNode {
  const variants = product.variants.nodes;
  const [chosen, setChosen] = useState<Record<string, string>>(() => chooseFirst(variants));
  const variant = useMemo(() => findVariant(variants, chosen), [variants, chosen]);
  const [shown, setShown] = useState(0);
  const picture = product.gallery[shown] ?? product.featuredImage;
  const price = variant?.price ?? product.price;
  const before = variant ? variant.compareAtPrice : product.compareAtPrice;

  return (
    <>
      <nav className="breadcrumbs" aria-label="Breadcrumbs">
        <Link to="/">{store.storeName}</Link>
        {product.breadcrumbs.map(({ name, path }) => (
          <Link key={path} to={buildListUrl({ category: path })}>
            {name}
          </Link>
        ))}
      </nav>
      <article className="product">
        <div className="gallery">
          <Picture image={picture} title={product.title} isFirst />
          {product.gallery.length > 1 && (
            <ul className="thumbnails" aria-label="Pictures">
              {product.gallery.map((image, index) => (
                <li key={image.id}>
                  <button type="button" aria-label={`Picture ${index + 1}`} aria-pressed={index === shown} onClick={() => setShown(index)}>
                    <img src={image.url} alt="" loading="lazy" />
                  </button>
                </li>
              ))}
            </ul>
          )}
        </div>
        <div className="product-facts">
          {product.vendor && (
            <Link className="note" to={buildListUrl({ vendor: product.vendor })}>
              {product.vendor}
            </Link>
          )}
          <Heading title={product.title} storeName={store.storeName} />
          <p className="product-price">
            <span className="price">{formatPrice(price, product.currency)}</span>
            {before && Number(before) > Number(price) && (
              <s>
                <span className="hidden">instead of </span>
                {formatPrice(before, product.currency)}
              </s>
            )}
            {product.reviewSummary.count > 0 && (
              <a href="#reviews">
                <Stars average={product.reviewSummary.average} count={product.reviewSummary.count} />
              </a>
            )}
          </p>
          {product.options.map((option) => (
            <fieldset key={option.id} className="option">
              <legend>
                {option.name}
                {chosen[option.name] && `: ${chosen[option.name]}`}
              </legend>
              {option.values
                .filter(({ value }) => variants.some((one) => hasValue(one, option.name, value)))
                .map(({ id, value, swatch }) => {
                  const isOut = !findVariant(variants, chooseValue(variants, chosen, option.name, value))?.inStock;
                  return (
                    <label key={id} className={isOut ? 'value value-out' : 'value'}>
                      <input
                        type="radio"
                        name={option.id}
                        value={value}
                        checked={chosen[option.name] === value}
                        onChange={() => setChosen(chooseValue(variants, chosen, option.name, value))}
                      />
                      {swatch?.color && <span className="swatch" style={{ background: swatch.color }} aria-hidden="true" />}
                      {value}
                      {isOut && <span className="hidden"> (sold out)</span>}
                    </label>
                  );
                })}
            </fieldset>
          ))}
          <Stock inStock={variant?.inStock ?? product.inStock} inventory={variant ? variant.inventory : product.inventory} isTracked={product.trackInventory} />
          {variant?.sku && <p className="note">Article {variant.sku}</p>}
          {product.pending && <p className="note">Saving…</p>}
          <EditButton product={product} />
          {product.description && <p className="description">{product.description}</p>}
          {product.tags.length > 0 && (
            <ul className="tags" aria-label="Tags">
              {product.tags.map((tag) => (
                <li key={tag}>{tag}</li>
              ))}
            </ul>
          )}
        </div>
      </article>
      <Reviews product={product} />
      {product.related.length > 0 && (
        <section aria-labelledby="related">
          <h2 id="related">You may also like</h2>
          <Grid products={product.related} label="Related products" />
        </section>
      )}
    </>
  );
}

function hasValue(variant: Variant, name: string, value: string): boolean {
  return variant.attributes.some((attribute) => attribute.name === name && attribute.value === value);
}

function listValues(variant: Variant): Record<string, string> {
  return Object.fromEntries(variant.attributes.map(({ name, value }) => [name, value]));
}

function chooseFirst(variants: readonly Variant[]): Record<string, string> {
  const first = variants.find(({ inStock }) => inStock) ?? variants[0];
  return first ? listValues(first) : {};
}

function findVariant(variants: readonly Variant[], chosen: Record<string, string>): Variant | undefined {
  return variants.find((variant) => variant.attributes.every(({ name, value }) => chosen[name] === value));
}

/** The choice with another value. Where no variant has this combination, the other options follow the nearest one that has the value. */
function chooseValue(variants: readonly Variant[], chosen: Record<string, string>, name: string, value: string): Record<string, string> {
  const wanted = { ...chosen, [name]: value };
  if (findVariant(variants, wanted)) return wanted;
  const possible = variants.filter((variant) => hasValue(variant, name, value));
  const nearest = possible.find(({ inStock }) => inStock) ?? possible[0];
  return nearest ? listValues(nearest) : wanted;
}

function Stock({ inStock, inventory, isTracked }: { inStock: boolean; inventory: number | null; isTracked: boolean }): ReactNode {
  const isCounted = isTracked && inventory !== null && inventory > 0;
  const text = !inStock ? 'Sold out' : !isCounted ? 'In stock' : inventory <= FEW ? `Only ${inventory} left` : `${inventory} in stock`;
  return (
    <p className={!inStock ? 'stock stock-out' : isCounted && inventory <= FEW ? 'stock stock-low' : 'stock'} role="status">
      {/* The key makes it another element, whose animation starts, when the text changes. */}
      <span key={text} className="stock-text">
        {text}
      </span>
    </p>
  );
}

function Reviews({ product }: { product: ProductDetailsFragment }): ReactNode {
  const { nodes, totalCount } = product.reviews;
  const most = Math.max(1, ...product.reviewDistribution.distribution.map(({ count }) => count));
  return (
    <section id="reviews" aria-labelledby="reviews-heading">
      <h2 id="reviews-heading">Reviews</h2>
      {totalCount === 0 ? (
        <p>Nobody has reviewed this product yet.</p>
      ) : (
        <div className="reviews">
          <div>
            <p className="review-average">
              {product.reviewSummary.average?.toFixed(1)} <Stars average={product.reviewSummary.average} />
            </p>
            <ul className="distribution" aria-label="Numbers of reviews by stars">
              {[...product.reviewDistribution.distribution]
                .sort((a, b) => b.rating - a.rating)
                .map(({ rating, count }) => (
                  <li key={rating}>
                    <span>
                      {rating} <span aria-hidden="true">★</span>
                      <span className="hidden">stars</span>
                    </span>
                    <span className="bar" aria-hidden="true">
                      <span style={{ width: `${(100 * count) / most}%` }} />
                    </span>
                    <span>{count}</span>
                  </li>
                ))}
            </ul>
          </div>
          <ul className="review-list">
            {nodes.map((review) => (
              <li key={review.id}>
                <h3>
                  <Stars average={review.rating} /> {review.title}
                </h3>
                {review.body && <p>{review.body}</p>}
                <p className="note">
                  {review.user?.name ?? 'A customer'}, {formatDate(review.createdAt)}
                </p>
                {review.reply && (
                  <p className="reply">
                    <strong>The shop:</strong> {review.reply}
                  </p>
                )}
              </li>
            ))}
            {totalCount > nodes.length && <li className="note">The latest {nodes.length} of {totalCount} reviews.</li>}
          </ul>
        </div>
      )}
    </section>
  );
}
