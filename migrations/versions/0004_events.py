"""Monthly partitions of events, event ids for deduplication, and bot detection."""

import sqlalchemy as sa
from alembic import op

revision = "20261124_events"
down_revision = "20261124_sign_out"
branch_labels = None
depends_on = None

_COLUMNS = (
    "id, config_id, event, properties, session_id, user_id, user_agent, ip_address, referrer, "
    'utm_source, utm_medium, utm_campaign, "timestamp"'
)

# The primary key begins with store and timestamp: one index serves the newest events of a store and time ranges, and inserts
# append to its end. Deduplication has its own table: the timestamp of a retry may differ.
EVENTS = """
CREATE TABLE analytics_events (
  id uuid NOT NULL,
  config_id uuid NOT NULL,
  event varchar NOT NULL,
  properties jsonb NOT NULL DEFAULT '{}'::jsonb,
  session_id varchar,
  user_id varchar,
  user_agent varchar,
  ip_address varchar,
  referrer varchar,
  utm_source varchar,
  utm_medium varchar,
  utm_campaign varchar,
  is_bot boolean NOT NULL DEFAULT false,
  "timestamp" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT analytics_events_pkey PRIMARY KEY (config_id, "timestamp", id),
  CONSTRAINT analytics_events_config_id_fkey FOREIGN KEY (config_id) REFERENCES configs (id) ON DELETE CASCADE
) PARTITION BY RANGE ("timestamp");
CREATE INDEX analytics_events_session_idx ON analytics_events (config_id, session_id);
CREATE TABLE analytics_events_other PARTITION OF analytics_events DEFAULT;
"""

# One partition per month in UTC. Rows that arrive before their partition exists go to the default one, and are moved later.
PARTITIONS = """
CREATE FUNCTION storefront_event_partitions(earliest timestamptz, latest timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  month timestamp := date_trunc('month', earliest AT TIME ZONE 'UTC');
  part text;
  made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(7312029);
  WHILE month <= latest AT TIME ZONE 'UTC' LOOP
    part := 'analytics_events_' || to_char(month, 'YYYY_MM');
    IF to_regclass(part) IS NULL THEN
      LOCK TABLE analytics_events_other IN ACCESS EXCLUSIVE MODE;
      EXECUTE format('CREATE TABLE %I (LIKE analytics_events INCLUDING DEFAULTS)', part);
      EXECUTE format(
        'WITH early AS (DELETE FROM analytics_events_other WHERE "timestamp" >= %2$L AND "timestamp" < %3$L RETURNING *)
         INSERT INTO %1$I SELECT * FROM early',
        part, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
      EXECUTE format('ALTER TABLE analytics_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        part, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
      made := made + 1;
    END IF;
    month := month + interval '1 month';
  END LOOP;
  RETURN made;
END $$
"""

KEPT = f"""
SELECT storefront_event_partitions(
  least(min("timestamp"), now() - interval '1 month'), greatest(max("timestamp"), now() + interval '3 months'))
FROM analytics_events_old WHERE "timestamp" > now() - interval '5 years' AND "timestamp" < now() + interval '1 year';
INSERT INTO analytics_events ({_COLUMNS}) SELECT {_COLUMNS} FROM analytics_events_old;
DROP TABLE analytics_events_old;
"""

OLD_INDEXES = "config_id_idx", "event_idx", "newest_idx", "session_id_idx", "timestamp_idx"


def upgrade() -> None:
    op.rename_table("analytics_events", "analytics_events_old")
    for constraint in ("analytics_events_pkey", "analytics_events_config_id_fkey"):
        op.drop_constraint(constraint, "analytics_events_old")
    for index in OLD_INDEXES:
        op.drop_index(f"analytics_events_{index}")
    op.execute(EVENTS)
    op.execute(PARTITIONS)
    op.execute(KEPT)
    # No foreign key: the retention of ids deletes those of deleted stores.
    op.create_table(
        "analytics_event_ids",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("config_id", "id", name="analytics_event_ids_pkey"),
    )
    op.create_index("analytics_event_ids_received_at_idx", "analytics_event_ids", ["received_at"], postgresql_using="brin")


def downgrade() -> None:
    op.drop_table("analytics_event_ids")
    op.execute("ALTER TABLE analytics_events RENAME TO analytics_events_new")
    op.execute("CREATE TABLE analytics_events (LIKE analytics_events_new INCLUDING DEFAULTS)")
    op.drop_column("analytics_events", "is_bot")
    # Ids were unique per store; now they are unique globally.
    op.execute(
        f"INSERT INTO analytics_events ({_COLUMNS}) SELECT DISTINCT ON (id) {_COLUMNS} FROM analytics_events_new ORDER BY id"
    )
    op.execute("DROP TABLE analytics_events_new")
    op.execute("DROP FUNCTION storefront_event_partitions(timestamptz, timestamptz)")
    op.create_primary_key("analytics_events_pkey", "analytics_events", ["id"])
    op.create_foreign_key(
        "analytics_events_config_id_fkey", "analytics_events", "configs", ["config_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("analytics_events_config_id_idx", "analytics_events", ["config_id"])
    op.create_index("analytics_events_event_idx", "analytics_events", ["event"])
    newest: list[sa.ColumnElement[object]] = [sa.literal_column('"timestamp" DESC'), sa.literal_column("id DESC")]
    op.create_index("analytics_events_newest_idx", "analytics_events", ["config_id", *newest])
    op.create_index("analytics_events_session_id_idx", "analytics_events", ["session_id"])
    op.create_index("analytics_events_timestamp_idx", "analytics_events", [newest[0]])
