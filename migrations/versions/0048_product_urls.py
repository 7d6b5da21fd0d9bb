"""The URL of a product in the shop, which product feeds link to."""

import sqlalchemy as sa
from alembic import op

revision = "0048_product_urls"
down_revision = "0047_search_synonyms"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("configs", sa.Column("product_url_template", sa.String(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("configs", "product_url_template")
