"""Rollups of events, updated from a queue of events that are not counted yet."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "20261125_rollups"
down_revision = "20261124_events"
branch_labels = None
depends_on = None

# A trigger queues inserted events in the same transaction: none is counted before its commit, and none is missed. A queue row
# holds the keys of up to a thousand events of a store.
QUEUE = """
CREATE FUNCTION storefront_queue_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO analytics_queue (config_id, ids, moments)
  SELECT config_id, array_agg(id), array_agg("timestamp")
  FROM (SELECT config_id, id, "timestamp", row_number() OVER (PARTITION BY config_id) / 1000 AS part FROM added) AS event
  GROUP BY config_id, part;
  RETURN NULL;
END $$;
CREATE TRIGGER queue_added AFTER INSERT ON analytics_events
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION storefront_queue_events();
INSERT INTO analytics_queue (config_id, ids, moments)
SELECT config_id, array_agg(id), array_agg("timestamp")
FROM (SELECT config_id, id, "timestamp", row_number() OVER (PARTITION BY config_id) / 1000 AS part FROM analytics_events) AS event
GROUP BY config_id, part;
"""

# Expired months, with the sessions that began in them. Not while one of their events is queued.
FORGET = """
CREATE FUNCTION storefront_forget_events(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  part text;
  gone integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(7312029);
  IF EXISTS (SELECT FROM analytics_queue CROSS JOIN unnest(moments) AS moment WHERE moment < before) THEN
    RETURN 0;
  END IF;
  FOR part IN
    SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'analytics_events'::regclass AND c.relname ~ '^analytics_events_\\d{4}_\\d\\d$'
      AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= before
  LOOP
    EXECUTE format('DROP TABLE %I', part);
    gone := gone + 1;
  END LOOP;
  DELETE FROM analytics_events_other WHERE "timestamp" < date_trunc('month', before, 'UTC');
  DELETE FROM analytics_sessions WHERE began < date_trunc('month', before, 'UTC');
  RETURN gone;
END $$
"""


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in names]


def _rollup(name: str, keys: list[sa.Column[Any]], counts: list[sa.Column[int]]) -> None:
    op.create_table(
        name,
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("grain", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        *keys,
        *counts,
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name=f"{name}_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "grain", "at", *(key.name for key in keys), name=f"{name}_pkey"),
    )


def upgrade() -> None:
    op.create_table(
        "analytics_queue",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("ids", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.Column("moments", sa.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="analytics_queue_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="analytics_queue_pkey"),
    )
    op.create_table(
        "analytics_sessions",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("began", sa.DateTime(timezone=True), nullable=False),
        sa.Column("began_with", sa.Uuid(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("medium", sa.String(), nullable=False),
        sa.Column("campaign", sa.String(), nullable=False),
        sa.Column("clicked", sa.Boolean(), nullable=False),
        sa.Column("carted", sa.Boolean(), nullable=False),
        sa.Column("purchased", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], name="analytics_sessions_config_id_fkey", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "session_id", name="analytics_sessions_pkey"),
    )
    op.create_index("analytics_sessions_began_idx", "analytics_sessions", ["config_id", "began"])
    kinds = "page_views", "product_clicks", "add_to_carts", "purchases", "searches"
    visits = "sessions", "clicked_sessions", "converted_sessions", "purchased_sessions"
    _rollup("analytics_totals", [], _counts(*kinds, *visits))
    _rollup("analytics_products", [sa.Column("product_id", sa.Uuid(), nullable=False)], _counts("clicks", "add_to_carts"))
    origin = [sa.Column(name, sa.String(), nullable=False) for name in ("source", "medium", "campaign")]
    _rollup("analytics_sources", origin, _counts("events", "sessions"))
    # A covering index: the products of a month are read by index-only scans.
    op.execute(
        """ALTER TABLE analytics_products DROP CONSTRAINT analytics_products_pkey, ADD CONSTRAINT analytics_products_pkey
        PRIMARY KEY (config_id, grain, at, product_id) INCLUDE (clicks, add_to_carts)"""
    )
    op.execute(QUEUE)
    op.execute(FORGET)


def downgrade() -> None:
    op.execute("DROP TRIGGER queue_added ON analytics_events")
    for function in ("storefront_queue_events()", "storefront_forget_events(timestamptz)"):
        op.execute(f"DROP FUNCTION {function}")
    for table in ("sources", "products", "totals", "sessions", "queue"):
        op.drop_table(f"analytics_{table}")
