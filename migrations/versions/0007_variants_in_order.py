"""A product's variants stand in their index in the order in which they are shown: the first of them are read without sorting."""

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
