"""Imports that fetch images do not keep their store from running the next job."""

import sqlalchemy as sa
from alembic import op

revision = "0051_image_fetching"
down_revision = "0050_webhook_field_versions"
branch_labels = None
depends_on = None

# Two jobs of a store may be running.
REQUEUE = """
UPDATE jobs SET status = 'queued', worker = NULL, lease_until = NULL WHERE status = 'running' AND is_fetching_images
"""


def upgrade() -> None:
    """Add the columns, by which jobs are exclusive and owners take turns."""
    op.add_column("jobs", sa.Column("is_fetching_images", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("images_started_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("jobs_running_key", "jobs")
    is_exclusive = sa.text("status = 'running' AND NOT is_fetching_images")
    op.create_index("jobs_running_key", "jobs", ["config_id"], unique=True, postgresql_where=is_exclusive)
    op.create_index("jobs_images_owner_idx", "jobs", ["user_id", "images_started_at"])


def downgrade() -> None:
    """Drop them."""
    op.execute(REQUEUE)
    op.drop_index("jobs_images_owner_idx", "jobs")
    op.drop_index("jobs_running_key", "jobs")
    is_running = sa.text("status = 'running'")
    op.create_index("jobs_running_key", "jobs", ["config_id"], unique=True, postgresql_where=is_running)
    op.drop_column("jobs", "images_started_at")
    op.drop_column("jobs", "is_fetching_images")
