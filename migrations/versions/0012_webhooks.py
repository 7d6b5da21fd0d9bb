"""Webhooks and their deliveries."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "20261203_webhooks"
down_revision = "20261130_search_of_one_store"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=None if nullable else sa.text("now()"))


def _number(name: str, default: int) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default=sa.text(str(default)), nullable=False)


def _texts(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        _texts("topics"),
        sa.Column("query", sa.String(), nullable=True),
        sa.Column("read_as", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("previous_secret", sa.String(), nullable=True),
        _moment("previous_until", nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        _number("version", 1),
        _moment("created_at"),
        _moment("updated_at"),
        _moment("disabled_at", nullable=True),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        _number("failures", 0),
        _moment("failing_since", nullable=True),
        _moment("resting_until", nullable=True),
        _moment("tested_at", nullable=True),
        sa.Column("leased_by", sa.String(), nullable=True),
        _moment("leased_until", nullable=True),
        sa.CheckConstraint("read_as IN ('shopper', 'owner')", name=op.f("webhooks_read_as_check")),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="webhooks_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="webhooks_pkey"),
    )
    op.create_index("webhooks_config_id_idx", "webhooks", ["config_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("lane", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=True),
        _texts("changed_fields"),
        sa.Column("client_mutation_id", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        _moment("occurred_at"),
        sa.Column("state", sa.String(), server_default=sa.text("'pending'"), nullable=False),
        _number("attempts", 0),
        sa.Column("tries", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        _moment("next_attempt_at", nullable=True),
        _moment("created_at"),
        _moment("finished_at", nullable=True),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name=op.f("webhook_deliveries_state_check")),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="webhook_deliveries_webhook_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="webhook_deliveries_pkey"),
    )
    op.create_index("webhook_deliveries_newest_idx", "webhook_deliveries", ["webhook_id", "created_at", "id"])
    op.create_index(
        "webhook_deliveries_due_idx",
        "webhook_deliveries",
        ["webhook_id", "next_attempt_at"],
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    )
    op.create_index(
        "webhook_deliveries_lane_idx",
        "webhook_deliveries",
        ["webhook_id", "lane", "position", "id"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "webhook_deliveries_finished_idx",
        "webhook_deliveries",
        ["finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
