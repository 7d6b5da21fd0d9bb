"""Jobs of all kinds of a store in one list, newest first."""

from alembic import op

revision = "0023_jobs_of_stores"
down_revision = "0022_config_topics"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("jobs_newest_idx", "jobs")
    op.create_index("jobs_newest_idx", "jobs", ["config_id", "created_at", "id"])


def downgrade() -> None:
    op.drop_index("jobs_newest_idx", "jobs")
    op.create_index("jobs_newest_idx", "jobs", ["config_id", "kind", "created_at", "id"])
