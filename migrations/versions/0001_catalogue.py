"""Users, stores, products, variants, reviews, events, and the log of changes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261122_catalogue"
down_revision = None
branch_labels = None
depends_on = None

# Folded text for search: lower case, no accents. Not the extension `unaccent`, which not every server has.
FOLD = r"""
CREATE FUNCTION storefront_fold(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN
  replace(replace(replace(replace(
    translate(lower(regexp_replace(normalize($1, NFKD), '[\u0300-\u036f]', '', 'g')), 'øłđðıς', 'olddiσ'),
  'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'), 'þ', 'th')
"""

# For a store outside its statistics the planner assumes the average size. Among thousands of small stores it would then sort a
# big one for every page; with a low number of distinct stores it reads the index in sort order instead.
BIG_STORES = "ALTER TABLE products ALTER COLUMN config_id SET (n_distinct = 30)"

# Price range, availability and counts are denormalized into products, so that lists, filters and facets never read variants.
# The lock comes first: a concurrent writer of the same product then counts what the first one committed.
COUNT_VARIANTS = """
CREATE FUNCTION storefront_count_variants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM products WHERE id IN (SELECT product_id FROM touched) ORDER BY id FOR NO KEY UPDATE;
  UPDATE products AS p
  SET variants_total = s.total, variants_available = s.available, variants_in_stock = s.in_stock,
      variants_min_price = s.min_price, variants_max_price = s.max_price
  FROM (
    SELECT t.product_id, count(v.id) AS total,
           count(*) FILTER (WHERE v.is_available) AS available,
           count(*) FILTER (WHERE v.is_available AND coalesce(v.inventory, 1) > 0) AS in_stock,
           min(v.price) FILTER (WHERE v.is_available) AS min_price,
           max(v.price) FILTER (WHERE v.is_available) AS max_price
    FROM (SELECT DISTINCT product_id FROM touched) AS t LEFT JOIN product_variants AS v USING (product_id)
    GROUP BY t.product_id
  ) AS s
  WHERE p.id = s.product_id
    AND (p.variants_total, p.variants_available, p.variants_in_stock, p.variants_min_price, p.variants_max_price)
        IS DISTINCT FROM (s.total, s.available, s.in_stock, s.min_price, s.max_price);
  RETURN NULL;
END $$;
CREATE TRIGGER count_added AFTER INSERT ON product_variants
  REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_variants();
CREATE TRIGGER count_changed AFTER UPDATE ON product_variants
  REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_variants();
CREATE TRIGGER count_removed AFTER DELETE ON product_variants
  REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_variants();
"""

_COUNT_STARS = """
    UPDATE products AS p SET rating_counts = ARRAY[
      p.rating_counts[1] {sign} s.one, p.rating_counts[2] {sign} s.two, p.rating_counts[3] {sign} s.three,
      p.rating_counts[4] {sign} s.four, p.rating_counts[5] {sign} s.five]
    FROM (
      SELECT product_id, count(*) FILTER (WHERE rating = 1) AS one, count(*) FILTER (WHERE rating = 2) AS two,
             count(*) FILTER (WHERE rating = 3) AS three, count(*) FILTER (WHERE rating = 4) AS four,
             count(*) FILTER (WHERE rating = 5) AS five
      FROM {table} GROUP BY product_id
    ) AS s
    WHERE p.id = s.product_id;
"""

# Incremental counts: a review costs the same for a product with ten thousand reviews.
COUNT_REVIEWS = f"""
CREATE FUNCTION storefront_count_reviews() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN {_COUNT_STARS.format(sign="-", table="removed")} END IF;
  IF TG_OP <> 'DELETE' THEN {_COUNT_STARS.format(sign="+", table="added")} END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER count_added AFTER INSERT ON reviews
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_reviews();
CREATE TRIGGER count_changed AFTER UPDATE ON reviews
  REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_reviews();
CREATE TRIGGER count_removed AFTER DELETE ON reviews
  REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION storefront_count_reviews();
"""


def upgrade() -> None:
    op.execute(FOLD)
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="users_pkey"),
        sa.UniqueConstraint("email", name="users_email_key"),
        sa.UniqueConstraint("subject", name="users_subject_key"),
    )
    op.create_table(
        "configs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("store_name", sa.String(), nullable=False),
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("currency", sa.String(), server_default=sa.text("'USD'"), nullable=False),
        sa.Column("theme", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("layout", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("integrations", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("is_published", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("(layout ->> 'gridColumns') IN ('2', '3', '4')", name=op.f("configs_grid_columns_check")),
        sa.CheckConstraint("currency ~ '^[A-Z]{3}$'", name=op.f("configs_currency_check")),
        sa.CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name=op.f("configs_slug_check")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="configs_user_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="configs_pkey"),
        sa.UniqueConstraint("slug", name="configs_slug_key"),
    )
    op.create_index("configs_is_published_idx", "configs", ["is_published"])
    op.create_index("configs_newest_idx", "configs", ["created_at", "id"])
    op.create_index("configs_user_id_idx", "configs", ["user_id"])
    op.create_table(
        "analytics_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("properties", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("user_id", sa.String(), nullable=True),
        sa.Column("user_agent", sa.String(), nullable=True),
        sa.Column("ip_address", sa.String(), nullable=True),
        sa.Column("referrer", sa.String(), nullable=True),
        sa.Column("utm_source", sa.String(), nullable=True),
        sa.Column("utm_medium", sa.String(), nullable=True),
        sa.Column("utm_campaign", sa.String(), nullable=True),
        sa.Column("timestamp", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="analytics_events_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="analytics_events_pkey"),
    )
    op.create_index("analytics_events_config_id_idx", "analytics_events", ["config_id"])
    op.create_index("analytics_events_event_idx", "analytics_events", ["event"])
    op.create_index(
        "analytics_events_newest_idx",
        "analytics_events",
        ["config_id", sa.literal_column('"timestamp" DESC'), sa.literal_column("id DESC")],
    )
    op.create_index("analytics_events_session_id_idx", "analytics_events", ["session_id"])
    op.create_index("analytics_events_timestamp_idx", "analytics_events", [sa.literal_column('"timestamp" DESC')])
    op.create_table(
        "changes",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("entity_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("was_visible", sa.Boolean(), nullable=False),
        sa.Column("is_visible", sa.Boolean(), nullable=False),
        sa.Column("changed_fields", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("actor_id", sa.Uuid(), nullable=True),
        sa.Column("client_mutation_id", sa.String(), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="changes_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "position", name="changes_pkey"),
    )
    op.create_index("changes_entity_idx", "changes", ["config_id", "entity_id", "version"])
    op.create_table(
        "products",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("price", sa.Numeric(precision=10, scale=2), nullable=False),
        sa.Column("compare_at_price", sa.Numeric(precision=10, scale=2), nullable=True),
        sa.Column("images", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("category", sa.String(), nullable=True),
        sa.Column("tags", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("inventory", sa.Integer(), server_default=sa.text("0"), nullable=True),
        sa.Column("track_inventory", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("seo_title", sa.String(), nullable=True),
        sa.Column("seo_description", sa.String(), nullable=True),
        sa.Column("status", sa.String(), server_default=sa.text("'active'"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("popularity", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("variants_total", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("variants_available", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("variants_in_stock", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("variants_min_price", sa.Numeric(precision=10, scale=2), nullable=True),
        sa.Column("variants_max_price", sa.Numeric(precision=10, scale=2), nullable=True),
        sa.Column("rating_counts", sa.ARRAY(sa.Integer()), server_default=sa.text("'{0,0,0,0,0}'"), nullable=False),
        sa.Column(
            "rating",
            sa.Double(),
            sa.Computed(
                "(rating_counts[1] + 2 * rating_counts[2] + 3 * rating_counts[3] + 4 * rating_counts[4] + 5 * rating_counts[5])::double precision / greatest(1, rating_counts[1] + rating_counts[2] + rating_counts[3] + rating_counts[4] + rating_counts[5])",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.Column(
            "in_stock",
            sa.Boolean(),
            sa.Computed(
                "NOT track_inventory OR CASE WHEN variants_available > 0 THEN variants_in_stock > 0 ELSE coalesce(inventory, 0) > 0 END",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.Column("sort_title", sa.Text(collation="C"), sa.Computed("storefront_fold(title)", persisted=True), nullable=False),
        sa.Column(
            "search_vector",
            postgresql.TSVECTOR(),
            sa.Computed(
                "\nsetweight(to_tsvector('english', storefront_fold(title)), 'A')\n|| setweight(to_tsvector('english', storefront_fold('a a a ' || coalesce(category, '') || ' a a a ' || replace(tags::text, '\", \"', ' a a a '))), 'B')\n|| setweight(to_tsvector('english', storefront_fold('a a a ' || coalesce(description, ''))), 'D')\n|| strip(to_tsvector('simple', storefront_fold(title || ' ' || coalesce(category, '') || ' ' || tags::text)))\n",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.CheckConstraint("jsonb_typeof(images) = 'array'", name=op.f("products_images_check")),
        sa.CheckConstraint("jsonb_typeof(tags) = 'array'", name=op.f("products_tags_check")),
        sa.CheckConstraint("status IN ('active', 'inactive', 'archived')", name=op.f("products_status_check")),
        sa.CheckConstraint("NOT track_inventory OR inventory >= 0", name=op.f("products_inventory_check")),
        sa.CheckConstraint("compare_at_price >= price", name=op.f("products_compare_at_price_check")),
        sa.CheckConstraint("price >= 0", name=op.f("products_price_check")),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="products_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="products_pkey"),
    )
    op.create_index("products_by_created_at_idx", "products", ["config_id", "created_at", "id"])
    op.create_index("products_by_popularity_idx", "products", ["config_id", "popularity", "id"])
    op.create_index("products_by_price_idx", "products", ["config_id", "price", "id"])
    op.create_index("products_by_rating_idx", "products", ["config_id", "rating", "id"])
    op.create_index("products_by_sort_title_idx", "products", ["config_id", "sort_title", "id"])
    op.create_index("products_by_updated_at_idx", "products", ["config_id", "updated_at", "id"])
    op.create_index("products_config_id_idx", "products", ["config_id"])
    op.create_index("products_category_idx", "products", ["category"])
    op.create_index("products_config_id_handle_key", "products", ["config_id", "handle"], unique=True)
    op.create_index("products_created_at_idx", "products", [sa.literal_column("created_at DESC")])
    op.create_index("products_search_idx", "products", ["search_vector"], postgresql_using="gin")
    op.create_index(
        "products_shelf_idx",
        "products",
        ["config_id", "category", "popularity", "id"],
        postgresql_where=sa.text("status = 'active'"),
    )
    op.create_index("products_status_idx", "products", ["status"])
    op.create_index("products_tags_idx", "products", ["tags"], postgresql_using="gin")
    op.create_table(
        "store_positions",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="store_positions_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", name="store_positions_pkey"),
    )
    op.create_table(
        "product_variants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("price", sa.Numeric(precision=10, scale=2), nullable=False),
        sa.Column("compare_at_price", sa.Numeric(precision=10, scale=2), nullable=True),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("inventory", sa.Integer(), server_default=sa.text("0"), nullable=True),
        sa.Column("sku", sa.String(), nullable=True),
        sa.Column("is_available", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("jsonb_typeof(attributes) = 'object'", name=op.f("product_variants_attributes_check")),
        sa.CheckConstraint("compare_at_price >= price", name=op.f("product_variants_compare_at_price_check")),
        sa.CheckConstraint("inventory >= 0", name=op.f("product_variants_inventory_check")),
        sa.CheckConstraint("price >= 0", name=op.f("product_variants_price_check")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="product_variants_product_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="product_variants_pkey"),
    )
    op.create_index("product_variants_product_id_idx", "product_variants", ["product_id"])
    op.create_index("product_variants_sku_idx", "product_variants", ["sku"])
    op.create_table(
        "reviews",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("rating", sa.SmallInteger(), nullable=False),
        sa.Column("title", sa.String(), nullable=True),
        sa.Column("body", sa.String(), nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name=op.f("reviews_rating_check")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="reviews_product_id_fkey", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="reviews_user_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="reviews_pkey"),
    )
    op.create_index(
        "reviews_newest_idx", "reviews", ["product_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")]
    )
    op.create_index("reviews_product_id_user_id_key", "reviews", ["product_id", "user_id"], unique=True)
    op.create_index("reviews_user_id_idx", "reviews", ["user_id"])
    op.execute(BIG_STORES)
    op.execute(COUNT_VARIANTS)
    op.execute(COUNT_REVIEWS)


def downgrade() -> None:
    for table in (
        "reviews",
        "product_variants",
        "store_positions",
        "products",
        "changes",
        "analytics_events",
        "configs",
        "users",
    ):
        op.drop_table(table)
    for function in ("storefront_count_reviews()", "storefront_count_variants()", "storefront_fold(text)"):
        op.execute(f"DROP FUNCTION {function}")
