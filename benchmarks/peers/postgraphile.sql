-- What a user of PostGraphile adds to the tables: functions for what is no plain read, and names.
CREATE FUNCTION find_products(config_id text, search text, min_price numeric, max_price numeric) RETURNS SETOF products
LANGUAGE sql STABLE AS $$
  SELECT * FROM products AS product
  WHERE product.config_id = find_products.config_id AND product.status = 'active'
    AND to_tsvector('english', product.title || ' ' || coalesce(product.description, '')) @@ websearch_to_tsquery('english', search)
    AND EXISTS (
      SELECT FROM product_variants WHERE product_id = product.id AND is_available AND price BETWEEN min_price AND max_price
    )
$$;
COMMENT ON FUNCTION find_products IS '@behavior +order +orderBy';

CREATE FUNCTION products_related(product products, "limit" integer) RETURNS SETOF products LANGUAGE sql STABLE ROWS 4 AS $$
  SELECT * FROM products AS other
  WHERE other.config_id = product.config_id AND other.category = product.category AND other.id <> product.id
    AND other.status = 'active'
  ORDER BY other.created_at DESC LIMIT "limit"
$$;

CREATE FUNCTION report(config_id text, since timestamptz, until timestamptz) RETURNS jsonb LANGUAGE sql STABLE AS $$
  WITH seen AS MATERIALIZED (
    SELECT event, properties ->> 'productId' AS product FROM analytics_events AS happened
    WHERE happened.config_id = report.config_id AND happened."timestamp" >= since AND happened."timestamp" < until
      AND event IN ('page_view', 'product_click', 'add_to_cart')
  ), times AS (
    SELECT count(*) FILTER (WHERE event = 'page_view') AS views, count(*) FILTER (WHERE event = 'product_click') AS clicks,
           count(*) FILTER (WHERE event = 'add_to_cart') AS carts
    FROM seen
  ), top AS (
    SELECT product, count(*) AS clicks FROM seen WHERE event = 'product_click' GROUP BY product ORDER BY 2 DESC, 1 LIMIT 10
  )
  SELECT jsonb_build_object(
    'pageViews', views, 'productClicks', clicks, 'addToCarts', carts,
    'conversionRate', CASE WHEN clicks > 0 THEN carts / clicks::double precision * 100 ELSE 0 END,
    'topProducts', (SELECT coalesce(jsonb_agg(jsonb_build_object('productId', product, 'clicks', top.clicks)
                                              ORDER BY top.clicks DESC, product), '[]') FROM top)
  ) FROM times
$$;

CREATE FUNCTION make_product(
  config_id text, title text, description text, price numeric, category text, images jsonb, variants jsonb
) RETURNS products LANGUAGE plpgsql VOLATILE AS $$
DECLARE made products;
BEGIN
  IF make_product.title = '' OR length(make_product.description) < 10 OR NOT make_product.price > 0 THEN
    RAISE EXCEPTION 'The product is not complete.';
  END IF;
  INSERT INTO products (id, config_id, title, description, price, category, images)
  VALUES (gen_random_uuid()::text, make_product.config_id, make_product.title, make_product.description, make_product.price,
          make_product.category, make_product.images)
  RETURNING * INTO made;
  INSERT INTO product_variants (id, product_id, name, price, inventory, attributes)
  SELECT gen_random_uuid()::text, made.id, given.name, given.price, given.inventory, given.attributes
  FROM jsonb_to_recordset(variants) AS given(name text, price numeric, inventory integer, attributes jsonb);
  RETURN made;
END
$$;

COMMENT ON CONSTRAINT variants_of_product ON product_variants IS E'@foreignFieldName variants\n@foreignSimpleFieldName variantsList';
COMMENT ON CONSTRAINT reviews_of_product ON reviews IS E'@foreignFieldName reviews\n@foreignSimpleFieldName reviewsList';
COMMENT ON CONSTRAINT user_of_review ON reviews IS '@fieldName user';
