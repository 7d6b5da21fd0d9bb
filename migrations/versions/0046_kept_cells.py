"""Cells of imported files that have no field, kept with their variants, so that an export writes them back."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0046_kept_cells"
down_revision = "0045_purchase_totals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    column = sa.Column("kept_cells", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False)
    op.add_column("product_variants", column)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("product_variants", "kept_cells")
