"""Fair scheduling of jobs by owner, and detection of poison jobs."""

import sqlalchemy as sa
from alembic import op

revision = "20261205_jobs_by_owner"
down_revision = "20261205_image_tokens"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False))
    # Its last entry is the start of an owner's latest job.
    op.create_index("jobs_owner_idx", "jobs", ["user_id", "started_at"])
    op.drop_index("jobs_user_id_idx", "jobs")


def downgrade() -> None:
    op.create_index("jobs_user_id_idx", "jobs", ["user_id"])
    op.drop_index("jobs_owner_idx", "jobs")
    op.drop_column("jobs", "crashes")
