"""Log entries have what the filters of lists depend on, as it was before the change."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0036_former_values"
down_revision = "0035_import_changes"
branch_labels = None
depends_on = None

COLUMNS = ("former_product", "former_variants")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("changes", sa.Column(name, postgresql.JSONB(), nullable=True))
    op.create_index("changes_product_idx", "changes", ["config_id", "product_id", "position"])


def downgrade() -> None:
    op.drop_index("changes_product_idx", "changes")
    for name in COLUMNS:
        op.drop_column("changes", name)
