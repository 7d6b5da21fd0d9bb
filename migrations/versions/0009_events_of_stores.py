"""The foreign key from events to stores is checked once per batch, by the queue row, and no longer per event."""

from alembic import op

revision = "20261128_events_of_stores"
down_revision = "20261127_minutes"
branch_labels = None
depends_on = None

# The queue's foreign key locks the store until the inserts commit: its deletion waits, and then sees the events.
FORGET = """
CREATE FUNCTION storefront_forget_stores() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM analytics_events WHERE config_id IN (SELECT id FROM gone);
  RETURN NULL;
END $$;
CREATE TRIGGER events_of_stores AFTER DELETE ON configs
  REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION storefront_forget_stores();
"""


def upgrade() -> None:
    op.drop_constraint("analytics_events_config_id_fkey", "analytics_events")
    op.execute(FORGET)


def downgrade() -> None:
    op.execute("DROP TRIGGER events_of_stores ON configs")
    op.execute("DROP FUNCTION storefront_forget_stores()")
    op.create_foreign_key(
        "analytics_events_config_id_fkey", "analytics_events", "configs", ["config_id"], ["id"], ondelete="CASCADE"
    )
