"""The last check of each integration of a store, to limit the rate of checks."""

import sqlalchemy as sa
from alembic import op

revision = "20261203_integration_checks"
down_revision = "20261201_images"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "integration_checks",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("integration", sa.String(), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="integration_checks_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "integration", name="integration_checks_pkey"),
    )


def downgrade() -> None:
    op.drop_table("integration_checks")
