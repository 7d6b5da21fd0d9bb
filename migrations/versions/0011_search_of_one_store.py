"""The full-text index includes the store of each product: a search reads only matches of its own store."""

import sqlalchemy as sa
from alembic import op

revision = "20261130_search_of_one_store"
down_revision = "20261129_half_days"
branch_labels = None
depends_on = None

SEARCHED = "(search_vector || array_to_tsvector(ARRAY[config_id::text]))"


def upgrade() -> None:
    op.drop_index("products_search_idx", "products")
    op.create_index("products_search_idx", "products", [sa.literal_column(SEARCHED)], postgresql_using="gin")


def downgrade() -> None:
    op.drop_index("products_search_idx", "products")
    op.create_index("products_search_idx", "products", ["search_vector"], postgresql_using="gin")
