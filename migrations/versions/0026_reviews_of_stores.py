"""The store of each review, so that the reviews of a store are read in order, and indexes of reviews by their number of stars."""

import sqlalchemy as sa
from alembic import op

revision = "0026_reviews_of_stores"
down_revision = "0025_variant_columns"
branch_labels = None
depends_on = None

NEWEST_FIRST: tuple[sa.ColumnElement[object], ...] = (sa.literal_column("created_at DESC"), sa.literal_column("id DESC"))

# The ratings of products do not depend on it.
BACKFILL = """
ALTER TABLE reviews DISABLE TRIGGER count_changed;
UPDATE reviews AS r SET config_id = p.config_id FROM products AS p WHERE p.id = r.product_id;
ALTER TABLE reviews ENABLE TRIGGER count_changed;
"""
# A row without a store gets that of its product: SQL that does not know the column. WHEN spares other rows the call.
SET_STORE = """
CREATE FUNCTION storefront_set_review_store() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT config_id INTO NEW.config_id FROM products WHERE id = NEW.product_id;
  RETURN NEW;
END $$;
CREATE TRIGGER set_store BEFORE INSERT ON reviews
  FOR EACH ROW WHEN (NEW.config_id IS NULL) EXECUTE FUNCTION storefront_set_review_store();
"""


def upgrade() -> None:
    # The key that reviews refer to. It replaces an index that it begins with.
    op.create_index("products_config_id_id_key", "products", ["config_id", "id"], unique=True)
    op.drop_index("products_config_id_idx", "products")
    op.drop_index("reviews_newest_idx", "reviews")
    op.add_column("reviews", sa.Column("config_id", sa.Uuid(), nullable=True))
    op.execute(BACKFILL)
    op.alter_column("reviews", "config_id", nullable=False)
    op.execute(SET_STORE)
    op.drop_constraint("reviews_product_id_fkey", "reviews")
    op.create_foreign_key(
        "reviews_config_id_product_id_fkey",
        "reviews",
        "products",
        ["config_id", "product_id"],
        ["config_id", "id"],
        ondelete="CASCADE",
    )
    op.create_index("reviews_newest_idx", "reviews", ["config_id", "product_id", *NEWEST_FIRST])
    op.create_index("reviews_by_rating_idx", "reviews", ["product_id", "rating", *NEWEST_FIRST])
    op.create_index("reviews_of_store_idx", "reviews", ["config_id", *NEWEST_FIRST])


def downgrade() -> None:
    op.execute("DROP TRIGGER set_store ON reviews")
    op.execute("DROP FUNCTION storefront_set_review_store()")
    op.drop_index("reviews_by_rating_idx", "reviews")
    # The other indexes and the foreign key are dropped with their column.
    op.drop_column("reviews", "config_id")
    op.create_index("reviews_newest_idx", "reviews", ["product_id", *NEWEST_FIRST])
    op.create_foreign_key("reviews_product_id_fkey", "reviews", "products", ["product_id"], ["id"], ondelete="CASCADE")
    op.create_index("products_config_id_idx", "products", ["config_id"])
    op.drop_index("products_config_id_id_key", "products")
