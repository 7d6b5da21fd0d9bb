"""Import and export jobs: checkpoints, issues, and the handles that an import has seen."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261202_jobs"
down_revision = "20261203_webhooks"
branch_labels = None
depends_on = None


def upgrade() -> None:
    document = postgresql.JSONB(astext_type=sa.Text())
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("status", sa.String(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("options", document, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("object_key", sa.String(), nullable=True),
        sa.Column("object_size", sa.BigInteger(), nullable=True),
        sa.Column("file_name", sa.String(), nullable=True),
        sa.Column("checkpoint", document, nullable=True),
        sa.Column("done", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("rows", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("rejected", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("error", document, nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("is_cancelled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("worker", sa.Uuid(), nullable=True),
        sa.Column("lease_until", moment, nullable=True),
        sa.Column("not_before", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", moment, nullable=True),
        sa.Column("finished_at", moment, nullable=True),
        sa.CheckConstraint("kind IN ('import', 'export')", name=op.f("jobs_kind_check")),
        sa.CheckConstraint("source IN ('shopify_csv', 'shopify_store', 'catalogue')", name=op.f("jobs_source_check")),
        sa.CheckConstraint(
            "status IN ('uploading', 'queued', 'running', 'succeeded', 'failed', 'cancelled')", name=op.f("jobs_status_check")
        ),
        sa.CheckConstraint("(status = 'running') = (worker IS NOT NULL)", name=op.f("jobs_worker_check")),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="jobs_config_id_fkey", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="jobs_user_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="jobs_pkey"),
    )
    waiting = sa.text("status IN ('queued', 'running')")
    op.create_index("jobs_running_key", "jobs", ["config_id"], unique=True, postgresql_where=sa.text("status = 'running'"))
    op.create_index("jobs_waiting_idx", "jobs", ["created_at", "id"], postgresql_where=waiting)
    op.create_index("jobs_newest_idx", "jobs", ["config_id", "kind", "created_at", "id"])
    op.create_index("jobs_finished_at_idx", "jobs", ["finished_at"])
    op.create_index("jobs_user_id_idx", "jobs", ["user_id"])
    op.create_table(
        "job_issues",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=True),
        sa.Column("handle", sa.String(), nullable=True),
        sa.Column("field", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="job_issues_job_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name="job_issues_pkey"),
    )
    op.create_table(
        "job_handles",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="job_handles_job_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "handle", name="job_handles_pkey"),
    )


def downgrade() -> None:
    for table in ("job_handles", "job_issues", "jobs"):
        op.drop_table(table)
