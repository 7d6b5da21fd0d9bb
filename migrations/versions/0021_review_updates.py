"""The time of the last change of each review."""

import sqlalchemy as sa
from alembic import op

revision = "0021_review_updates"
down_revision = "20261205_jobs_by_owner"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reviews", sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False))
    # When an existing review was changed is not known.
    op.execute("UPDATE reviews SET updated_at = created_at")


def downgrade() -> None:
    op.drop_column("reviews", "updated_at")
