"""The time of a user's sign-out everywhere: it revokes credentials that were issued before."""

import sqlalchemy as sa
from alembic import op

revision = "20261124_sign_out"
down_revision = "20261123_idempotency"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("signed_out_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("users", "signed_out_at")
