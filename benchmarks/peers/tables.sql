-- The tables of the original data layer: keys are text, prices numeric, lists jsonb, and its own indexes.
CREATE TABLE users (
  id text PRIMARY KEY, email text NOT NULL UNIQUE, name text, image text,
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE configs (
  id text PRIMARY KEY, user_id text NOT NULL REFERENCES users ON DELETE CASCADE, store_name text NOT NULL,
  slug text NOT NULL UNIQUE, description text, theme jsonb, layout jsonb, integrations jsonb, is_published boolean DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON configs (user_id);
CREATE INDEX ON configs (is_published);
CREATE TABLE products (
  id text PRIMARY KEY, config_id text NOT NULL REFERENCES configs ON DELETE CASCADE, title text NOT NULL, description text,
  price numeric(10, 2) NOT NULL, compare_at_price numeric(10, 2), images jsonb DEFAULT '[]', category text, tags jsonb DEFAULT '[]',
  inventory integer DEFAULT 0, track_inventory boolean DEFAULT true, seo_title text, seo_description text,
  status text DEFAULT 'active', created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON products (config_id);
CREATE INDEX ON products (status);
CREATE INDEX ON products (category);
CREATE INDEX ON products (created_at DESC);
CREATE INDEX ON products USING gin (to_tsvector('english', title || ' ' || coalesce(description, '')));
CREATE TABLE product_variants (
  id text PRIMARY KEY, product_id text NOT NULL CONSTRAINT variants_of_product REFERENCES products ON DELETE CASCADE,
  name text NOT NULL, price numeric(10, 2) NOT NULL, compare_at_price numeric(10, 2), attributes jsonb DEFAULT '{}',
  inventory integer DEFAULT 0, sku text, is_available boolean DEFAULT true, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON product_variants (product_id);
CREATE INDEX ON product_variants (sku);
CREATE TABLE reviews (
  id text PRIMARY KEY, product_id text NOT NULL CONSTRAINT reviews_of_product REFERENCES products ON DELETE CASCADE,
  user_id text NOT NULL CONSTRAINT user_of_review REFERENCES users ON DELETE CASCADE,
  rating integer NOT NULL CHECK (rating BETWEEN 1 AND 5), title text, body text, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE analytics_events (
  id text PRIMARY KEY, config_id text NOT NULL REFERENCES configs ON DELETE CASCADE, event text NOT NULL, properties jsonb DEFAULT '{}',
  session_id text, user_id text, user_agent text, ip_address text, referrer text, utm_source text, utm_medium text,
  utm_campaign text, "timestamp" timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON analytics_events (config_id);
CREATE INDEX ON analytics_events (event);
CREATE INDEX ON analytics_events ("timestamp" DESC);
CREATE INDEX ON analytics_events (session_id);

-- What the works ask for and the original has no index of: nobody should lose for want of one.
CREATE INDEX ON products (config_id, status, created_at DESC);
CREATE INDEX ON products (config_id, category, created_at DESC) WHERE status = 'active';
CREATE INDEX ON product_variants (product_id, created_at);
CREATE INDEX ON reviews (product_id, created_at DESC);
CREATE INDEX ON analytics_events (config_id, "timestamp");
