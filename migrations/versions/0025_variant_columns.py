"""Barcode, weight, taxes, shipping, cost, inventory policy and image of a variant, and when it was last changed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025_variant_columns"
down_revision = "0024_variant_positions"
branch_labels = None
depends_on = None

CHECKS = {
    "weight": "weight IS NULL OR (jsonb_typeof(weight -> 'value') = 'string' AND (weight ->> 'value')::numeric >= 0"
    " AND weight ->> 'unit' IN ('gram', 'kilogram', 'ounce', 'pound')) IS TRUE",
    "cost": "cost >= 0",
    "inventory_policy": "inventory_policy IN ('deny', 'continue')",
}
COUNT_VARIANTS = """
CREATE OR REPLACE FUNCTION storefront_count_variants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM products WHERE id IN (SELECT product_id FROM touched) ORDER BY id FOR NO KEY UPDATE;
  UPDATE products AS p
  SET variants_total = s.total, variants_available = s.available, variants_in_stock = s.in_stock,
      variants_min_price = s.min_price, variants_max_price = s.max_price
  FROM (
    SELECT t.product_id, count(v.id) AS total,
           count(*) FILTER (WHERE v.is_available) AS available,
           count(*) FILTER (WHERE v.is_available AND ({in_stock})) AS in_stock,
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
"""
IN_STOCK, FORMER_IN_STOCK = "coalesce(v.inventory, 1) > 0 OR v.inventory_policy = 'continue'", "coalesce(v.inventory, 1) > 0"


def upgrade() -> None:
    true = sa.text("true")
    op.add_column("product_variants", sa.Column("barcode", sa.String(), nullable=True))
    op.add_column("product_variants", sa.Column("weight", postgresql.JSONB(), nullable=True))
    op.add_column("product_variants", sa.Column("taxable", sa.Boolean(), server_default=true, nullable=False))
    op.add_column("product_variants", sa.Column("requires_shipping", sa.Boolean(), server_default=true, nullable=False))
    op.add_column("product_variants", sa.Column("cost", sa.Numeric(10, 2), nullable=True))
    op.add_column(
        "product_variants", sa.Column("inventory_policy", sa.String(), server_default=sa.text("'deny'"), nullable=False)
    )
    op.add_column("product_variants", sa.Column("image", sa.String(), nullable=True))
    op.add_column(
        "product_variants", sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False)
    )
    # The counts of products do not depend on it.
    op.execute("ALTER TABLE product_variants DISABLE TRIGGER count_changed")
    op.execute("UPDATE product_variants SET updated_at = created_at")
    op.execute("ALTER TABLE product_variants ENABLE TRIGGER count_changed")
    for name, condition in CHECKS.items():
        op.create_check_constraint(op.f(f"product_variants_{name}_check"), "product_variants", condition)
    # Stock is negative while more has been sold than there was.
    op.drop_constraint("product_variants_inventory_check", "product_variants")
    op.execute(COUNT_VARIANTS.format(in_stock=IN_STOCK))


def downgrade() -> None:
    op.execute(COUNT_VARIANTS.format(in_stock=FORMER_IN_STOCK))
    # This also counts the variants of which stock is sold out again.
    op.execute("UPDATE product_variants SET inventory = greatest(inventory, 0) WHERE inventory < 0 OR inventory_policy <> 'deny'")
    op.create_check_constraint(op.f("product_variants_inventory_check"), "product_variants", "inventory >= 0")
    for name in ("updated_at", "image", "inventory_policy", "cost", "requires_shipping", "taxable", "weight", "barcode"):
        op.drop_column("product_variants", name)
