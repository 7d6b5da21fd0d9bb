"""What owners add to the categories of their stores, and an index that counts the products of each."""

import sqlalchemy as sa
from alembic import op

revision = "0044_category_details"
down_revision = "0043_search_documents"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both."""
    op.create_index("products_categories_idx", "products", ["config_id", "category", "status"])
    op.create_table(
        "category_details",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("image", sa.String(), nullable=True),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("seo_title", sa.String(), nullable=True),
        sa.Column("seo_description", sa.String(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "path"),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("category_details")
    op.drop_index("products_categories_idx", "products")
