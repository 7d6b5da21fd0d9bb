"""Webhook topics and message types of stores begin with config., as their enum values in the API do."""

from alembic import op

revision = "0022_config_topics"
down_revision = "0021_review_updates"
branch_labels = None
depends_on = None


def _rename_prefix(old: str, new: str) -> None:
    op.execute(
        f"UPDATE webhooks SET topics = ARRAY(SELECT regexp_replace(topic, '^{old}[.]', '{new}.') "
        "FROM unnest(topics) WITH ORDINALITY AS listed (topic, number) ORDER BY number) "
        f"WHERE EXISTS (SELECT FROM unnest(topics) AS topic WHERE topic LIKE '{old}.%')"
    )
    op.execute(f"UPDATE webhook_deliveries SET type = regexp_replace(type, '^{old}[.]', '{new}.') WHERE type LIKE '{old}.%'")


def upgrade() -> None:
    _rename_prefix("store", "config")


def downgrade() -> None:
    _rename_prefix("config", "store")
