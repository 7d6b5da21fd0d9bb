"""What dry runs of imports would change, and alternative texts of images that are hosted elsewhere."""

import sqlalchemy as sa
from alembic import op

revision = "0035_import_changes"
down_revision = "0034_review_moderation"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of changes, and the column of alternative texts."""
    alts = sa.Column("image_alts", sa.JSON(), server_default=sa.text("'{}'::json"), nullable=False)
    op.add_column("products", alts)
    op.create_check_constraint("image_alts", "products", "json_typeof(image_alts) = 'object'")
    op.create_table(
        "job_changes",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("variant", sa.String(), nullable=True),
        sa.Column("field", sa.String(), nullable=True),
        sa.Column("old_value", sa.String(), nullable=True),
        sa.Column("new_value", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["config_id", "job_id"], ["jobs.config_id", "jobs.id"], name="job_changes_job_id_fkey", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("config_id", "job_id", "number", name="job_changes_pkey"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("job_changes")
    op.drop_column("products", "image_alts")
