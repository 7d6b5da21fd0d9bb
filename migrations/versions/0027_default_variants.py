"""One truth for prices and stock: every product has a variant, and shows the summary of its variants. Commands keep the summary.

A product without variants gets one. Variants of one product that have the same attributes are kept apart, and reported. Variants
know their store.
"""

import json
import logging
from itertools import count

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0027_default_variants"
down_revision = "0026_reviews_of_stores"
branch_labels = None
depends_on = None

logger = logging.getLogger("alembic.runtime.migration")

FOLDED_ATTRIBUTES = "(lower(attributes::text)::jsonb)"
DEFAULT_VARIANTS = """
INSERT INTO product_variants
  (id, config_id, product_id, name, price, compare_at_price, inventory, position, created_at, updated_at)
SELECT gen_random_uuid(), config_id, id, 'Default', price, compare_at_price,
  -- Without a number a product that is tracked was out of stock, but a variant never is.
  CASE WHEN track_inventory THEN coalesce(inventory, 0) ELSE inventory END, 0, created_at, created_at
FROM products WHERE NOT EXISTS (SELECT FROM product_variants WHERE product_id = products.id)
"""
EQUAL_VARIANTS = f"""
SELECT v.id, v.product_id, v.name, v.attributes, products.handle,
  row_number() OVER (PARTITION BY v.product_id, v.key ORDER BY v.position, v.id) AS number
FROM (
  SELECT *, {FOLDED_ATTRIBUTES}::text AS key, count(*) OVER (PARTITION BY product_id, {FOLDED_ATTRIBUTES}) AS equal
  FROM product_variants
) AS v JOIN products ON products.id = v.product_id
WHERE v.equal > 1 ORDER BY v.product_id, v.position, v.id
"""
# Fails where another variant of the product has these attributes.
SEPARATE_VARIANT = """
UPDATE product_variants AS v SET attributes = CAST(:attributes AS jsonb)
WHERE id = :id AND NOT EXISTS (
  SELECT FROM product_variants AS other WHERE other.product_id = v.product_id AND other.id <> v.id
    AND (lower(other.attributes::text)::jsonb) = (lower(:attributes)::jsonb)
) RETURNING id
"""
SUMMARIES = """
UPDATE products SET price = s.price, compare_at_price = s.compare_at_price, max_price = s.max_price, inventory = s.inventory,
  total_inventory = s.total_inventory, variants_total = s.total, variants_available = s.available,
  variants_in_stock = s.in_stock
FROM (
  SELECT product_id,
    (array_agg(price ORDER BY NOT is_available, price, position, id))[1] AS price,
    (array_agg(compare_at_price ORDER BY NOT is_available, price, position, id))[1] AS compare_at_price,
    coalesce(max(price) FILTER (WHERE is_available), max(price)) AS max_price,
    CASE WHEN bool_and(inventory IS NOT NULL) THEN
      greatest(-2147483647, least(2147483647, sum(inventory)))::integer END AS inventory,
    greatest(-2147483647, least(2147483647, coalesce(sum(inventory), 0)))::integer AS total_inventory,
    count(*) AS total,
    count(*) FILTER (WHERE is_available) AS available,
    count(*) FILTER (WHERE is_available AND (coalesce(inventory, 1) > 0 OR inventory_policy = 'continue')) AS in_stock
  FROM product_variants GROUP BY product_id
) AS s WHERE products.id = s.product_id
"""
# Of products, for which no statement asks without the store.
FORMER_INDEXES = {
    "products_created_at_idx": "created_at DESC",
    "products_category_idx": "category",
    "products_status_idx": "status",
}
IN_STOCK = "variants_available > 0 AND (NOT track_inventory OR variants_in_stock > 0)"
FORMER_IN_STOCK = (
    "NOT track_inventory OR CASE WHEN variants_available > 0 THEN variants_in_stock > 0 ELSE coalesce(inventory, 0) > 0 END"
)
FORMER_TRIGGERS = """
CREATE FUNCTION storefront_append_variant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT coalesce(max(position) + 1, 0) INTO NEW.position FROM product_variants WHERE product_id = NEW.product_id;
  RETURN NEW;
END $$;
CREATE TRIGGER append_variant BEFORE INSERT ON product_variants
  FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION storefront_append_variant();
CREATE FUNCTION storefront_count_variants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM products WHERE id IN (SELECT product_id FROM touched) ORDER BY id FOR NO KEY UPDATE;
  UPDATE products AS p
  SET variants_total = s.total, variants_available = s.available, variants_in_stock = s.in_stock,
      variants_min_price = s.min_price, variants_max_price = s.max_price
  FROM (
    SELECT t.product_id, count(v.id) AS total,
           count(*) FILTER (WHERE v.is_available) AS available,
           count(*) FILTER (WHERE v.is_available AND (coalesce(v.inventory, 1) > 0 OR v.inventory_policy = 'continue'))
             AS in_stock,
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
# What `upgrade` has added, unless it has been given more since: the product has its price and stock.
REMOVE_DEFAULT_VARIANTS = """
DELETE FROM product_variants USING products
WHERE products.id = product_id AND variants_total = 1 AND attributes = '{}' AND product_variants.name = 'Default'
  AND sku IS NULL AND barcode IS NULL AND weight IS NULL AND cost IS NULL AND product_variants.image IS NULL
  AND is_available AND inventory_policy = 'deny' AND taxable AND requires_shipping
"""
FORMER_SUMMARIES = """
UPDATE products SET variants_total = coalesce(s.total, 0), variants_available = coalesce(s.available, 0),
  variants_in_stock = coalesce(s.in_stock, 0), variants_min_price = s.min_price, variants_max_price = s.max_price,
  inventory = CASE WHEN products.track_inventory AND products.inventory < 0 THEN 0 ELSE products.inventory END
FROM products AS p LEFT JOIN (
  SELECT product_id, count(*) AS total, count(*) FILTER (WHERE is_available) AS available,
    count(*) FILTER (WHERE is_available AND (coalesce(inventory, 1) > 0 OR inventory_policy = 'continue')) AS in_stock,
    min(price) FILTER (WHERE is_available) AS min_price, max(price) FILTER (WHERE is_available) AS max_price
  FROM product_variants GROUP BY product_id
) AS s ON s.product_id = p.id
WHERE p.id = products.id
"""


def upgrade() -> None:
    for trigger in ("append_variant", "count_added", "count_changed", "count_removed"):
        op.execute(f"DROP TRIGGER {trigger} ON product_variants")
    op.execute("DROP FUNCTION storefront_append_variant()")
    op.execute("DROP FUNCTION storefront_count_variants()")
    op.alter_column("product_variants", "position", server_default=sa.text("0"))
    _add_store()
    for index in FORMER_INDEXES:
        op.drop_index(index, "products")
    op.drop_index("product_variants_sku_idx", "product_variants")
    op.create_index("product_variants_by_sku_idx", "product_variants", ["config_id", "sku"])
    op.execute(DEFAULT_VARIANTS)
    _separate_equal_variants()
    for name, column_type, expression in (
        ("folded_attributes", postgresql.JSONB(), FOLDED_ATTRIBUTES),
        ("attributes_key", sa.BigInteger(), f"hashtextextended({FOLDED_ATTRIBUTES}::text, 0)"),
    ):
        op.add_column("product_variants", sa.Column(name, column_type, sa.Computed(expression, persisted=True), nullable=False))
    op.create_unique_constraint(
        "product_variants_attributes_key",
        "product_variants",
        ["product_id", "attributes_key"],
        deferrable=True,
        initially="IMMEDIATE",
    )
    op.drop_constraint("products_inventory_check", "products")
    for column in ("in_stock", "variants_min_price", "variants_max_price"):
        op.drop_column("products", column)
    op.alter_column("products", "inventory", server_default=None)
    op.add_column("products", sa.Column("max_price", sa.Numeric(10, 2), nullable=True))
    op.add_column("products", sa.Column("total_inventory", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute(SUMMARIES)
    op.alter_column("products", "max_price", nullable=False)
    op.add_column("products", sa.Column("in_stock", sa.Boolean(), sa.Computed(IN_STOCK, persisted=True), nullable=False))


def _add_store() -> None:
    op.add_column("product_variants", sa.Column("config_id", sa.Uuid(), nullable=True))
    op.execute(
        "UPDATE product_variants SET config_id = products.config_id FROM products WHERE products.id = product_variants.product_id"
    )
    op.alter_column("product_variants", "config_id", nullable=False)
    op.drop_constraint("product_variants_product_id_fkey", "product_variants")
    op.create_foreign_key(
        "product_variants_product_fkey",
        "product_variants",
        "products",
        ["config_id", "product_id"],
        ["config_id", "id"],
        ondelete="CASCADE",
    )


def _separate_equal_variants() -> None:
    """Give variants of one product that have the same attributes different ones, and log which."""
    connection = op.get_bind()
    for row in connection.execute(sa.text(EQUAL_VARIANTS)).fetchall():
        # The first of them keeps its attributes, if it has some. Without attributes they are told apart by their names.
        if row.number == 1 and row.attributes:
            continue
        # Of names that differ in case only, the last one counts.
        attributes = {name.lower(): (name, value) for name, value in row.attributes.items()}
        name, value = next(iter(attributes.values()), ("Title", row.name))
        for number in count(2 if row.attributes else 1):
            numbered = value[:255] if number == 1 else f"{value[:230]} ({number})"
            separated = dict(attributes.values()) | {name: numbered}
            parameters = {"attributes": json.dumps(separated, ensure_ascii=False), "id": row.id}
            if connection.execute(sa.text(SEPARATE_VARIANT), parameters).fetchall():
                break
        logger.warning(
            "Product %s has variants with equal attributes: the variant %r (%s) now has %s %r.",
            *(row.handle, row.name, row.id, name, numbered),
        )


def downgrade() -> None:
    op.drop_column("products", "in_stock")
    for column in ("variants_min_price", "variants_max_price"):
        op.add_column("products", sa.Column(column, sa.Numeric(10, 2), nullable=True))
    op.execute(REMOVE_DEFAULT_VARIANTS)
    op.execute(FORMER_SUMMARIES)
    op.drop_column("products", "total_inventory")
    op.drop_column("products", "max_price")
    op.alter_column("products", "inventory", server_default=sa.text("0"))
    op.create_check_constraint(op.f("products_inventory_check"), "products", "NOT track_inventory OR inventory >= 0")
    op.add_column("products", sa.Column("in_stock", sa.Boolean(), sa.Computed(FORMER_IN_STOCK, persisted=True), nullable=False))
    op.drop_constraint("product_variants_attributes_key", "product_variants")
    op.drop_column("product_variants", "attributes_key")
    op.drop_column("product_variants", "folded_attributes")
    op.drop_index("product_variants_by_sku_idx", "product_variants")
    op.create_index("product_variants_sku_idx", "product_variants", ["sku"])
    for index, column in FORMER_INDEXES.items():
        op.create_index(index, "products", [sa.text(column)])
    op.drop_constraint("product_variants_product_fkey", "product_variants")
    op.create_foreign_key(
        "product_variants_product_id_fkey", "product_variants", "products", ["product_id"], ["id"], ondelete="CASCADE"
    )
    op.drop_column("product_variants", "config_id")
    op.alter_column("product_variants", "position", server_default=None)
    op.execute(FORMER_TRIGGERS)
