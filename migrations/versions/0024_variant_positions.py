"""The position of a variant within its product. The index in display order follows it."""

import sqlalchemy as sa
from alembic import op

revision = "0024_variant_positions"
down_revision = "0023_jobs_of_stores"
branch_labels = None
depends_on = None

# A row without a position gets the one after the product's last: commands that add one variant, and SQL that knows no positions.
# WHEN spares rows with a position the call.
APPEND_VARIANT = """
CREATE FUNCTION storefront_append_variant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT coalesce(max(position) + 1, 0) INTO NEW.position FROM product_variants WHERE product_id = NEW.product_id;
  RETURN NEW;
END $$;
CREATE TRIGGER append_variant BEFORE INSERT ON product_variants
  FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION storefront_append_variant();
"""

# The counts of products do not depend on positions.
BACKFILL = """
ALTER TABLE product_variants DISABLE TRIGGER count_changed;
UPDATE product_variants AS v SET position = numbered.position
FROM (SELECT id, row_number() OVER (PARTITION BY product_id ORDER BY created_at, id) - 1 AS position FROM product_variants)
  AS numbered
WHERE v.id = numbered.id;
ALTER TABLE product_variants ENABLE TRIGGER count_changed;
"""


def upgrade() -> None:
    op.add_column("product_variants", sa.Column("position", sa.Integer(), nullable=True))
    op.execute(BACKFILL)
    op.alter_column("product_variants", "position", nullable=False)
    op.create_check_constraint(op.f("product_variants_position_check"), "product_variants", "position >= 0")
    op.drop_index("product_variants_in_order_idx", "product_variants")
    op.create_index("product_variants_in_order_idx", "product_variants", ["product_id", "position", "id"])
    op.execute(APPEND_VARIANT)


def downgrade() -> None:
    op.execute("DROP TRIGGER append_variant ON product_variants")
    op.execute("DROP FUNCTION storefront_append_variant()")
    op.drop_index("product_variants_in_order_idx", "product_variants")
    op.create_index("product_variants_in_order_idx", "product_variants", ["product_id", "created_at", "id"])
    op.drop_column("product_variants", "position")
