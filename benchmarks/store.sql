-- One store that holds a copy of every demo product, so that a list of 20,000 is walked through and searched.
-- Moments are cut to the hour and popularity is drawn from few numbers: ties are what pages by key have to survive.
INSERT INTO configs (id, user_id, store_name, slug, currency, is_published)
SELECT '01900000-0000-7000-8000-000000000001', min(id::text)::uuid, 'Benchmark', 'benchmark', 'EUR', true FROM users;

CREATE FUNCTION pg_temp.copied(uuid) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN
  (left($1::text, 24) || left(md5($1::text), 12))::uuid;

CREATE TEMP TABLE source AS SELECT * FROM products;

INSERT INTO products (id, config_id, title, handle, description, price, compare_at_price, max_price, images, category, tags,
                      inventory, total_inventory, variants_total, variants_available, variants_in_stock, track_inventory,
                      seo_title, seo_description, status, created_at, updated_at, popularity, search_vector)
SELECT pg_temp.copied(id), '01900000-0000-7000-8000-000000000001', title, handle || '-' || row_number() OVER (ORDER BY id),
       description, price, compare_at_price, max_price, images, category, tags, inventory, total_inventory, variants_total,
       variants_available, variants_in_stock, track_inventory, seo_title, seo_description, status, date_trunc('hour', created_at), date_trunc('day', created_at), 0, search_vector
FROM source ORDER BY id;

INSERT INTO product_variants (id, config_id, product_id, name, price, compare_at_price, attributes, inventory, inventory_policy,
                              sku, barcode, weight, cost, is_available, position, created_at)
SELECT pg_temp.copied(v.id), '01900000-0000-7000-8000-000000000001', pg_temp.copied(v.product_id), v.name, v.price,
       v.compare_at_price, v.attributes, v.inventory, v.inventory_policy, v.sku || '-C', v.barcode, v.weight, v.cost,
       v.is_available, v.position, v.created_at
FROM product_variants AS v JOIN source ON source.id = v.product_id;

INSERT INTO reviews (id, config_id, product_id, user_id, rating, title, body, created_at, updated_at)
SELECT pg_temp.copied(r.id), '01900000-0000-7000-8000-000000000001', pg_temp.copied(r.product_id), r.user_id, r.rating, r.title,
       r.body, r.created_at, r.updated_at
FROM reviews AS r JOIN source ON source.id = r.product_id;

INSERT INTO store_positions (config_id, position) VALUES ('01900000-0000-7000-8000-000000000001', 1);
