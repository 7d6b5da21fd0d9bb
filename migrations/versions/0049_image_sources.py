"""The URL that an image was fetched from."""

import sqlalchemy as sa
from alembic import op

revision = "0049_image_sources"
down_revision = "0048_product_urls"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("images", sa.Column("source_url", sa.String(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("images", "source_url")
