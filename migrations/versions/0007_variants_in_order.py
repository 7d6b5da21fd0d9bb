"""An index of variants in display order: the first ones of a product are read without sorting."""

from alembic import op

revision = "20261126_variants_in_order"
down_revision = "20261126_attribute_list"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("product_variants_in_order_idx", "product_variants", ["product_id", "created_at", "id"])
    op.drop_index("product_variants_product_id_idx", "product_variants")


def downgrade() -> None:
    op.create_index("product_variants_product_id_idx", "product_variants", ["product_id"])
    op.drop_index("product_variants_in_order_idx", "product_variants")
