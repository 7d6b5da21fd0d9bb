"""Rollups by the minute, and the minute of each session's last event."""

import sqlalchemy as sa
from alembic import op

revision = "20261127_minutes"
down_revision = "20261126_variants_in_order"
branch_labels = None
depends_on = None

# Backfill by the minute, from the retained events. Queued events are counted later.
_BIN = "date_bin('1 minute', {moment}, '2001-01-01 00:00:00+00')"
_HOST = r"lower(substring(referrer FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^]/?#]*\]|[^]/?#:@[]+)'))"
_ID = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
COUNT = f"""
CREATE TEMPORARY TABLE counted ON COMMIT DROP AS
SELECT config_id, {_BIN.format(moment='"timestamp"')} AS at, session_id, event,
       CASE WHEN properties ->> 'productId' ~* {_ID} THEN CAST(properties ->> 'productId' AS uuid) END AS product_id,
       left(coalesce(nullif(utm_source, ''), {_HOST}, 'direct'), 253) AS source,
       left(coalesce(utm_medium, ''), 150) AS medium, left(coalesce(utm_campaign, ''), 150) AS campaign
FROM analytics_events AS event
WHERE NOT is_bot AND NOT EXISTS (
  SELECT FROM (SELECT config_id, unnest(ids) AS id FROM analytics_queue) AS queued
  WHERE queued.config_id = event.config_id AND queued.id = event.id
);
UPDATE analytics_sessions AS session SET seen = last.at
FROM (SELECT config_id, session_id, max(at) AS at FROM counted GROUP BY 1, 2) AS last
WHERE session.config_id = last.config_id AND session.session_id = last.session_id;
INSERT INTO analytics_totals (config_id, grain, at, page_views, product_clicks, add_to_carts, purchases, searches,
  sessions, clicked_sessions, converted_sessions, purchased_sessions)
SELECT config_id, 60, at, sum(a), sum(b), sum(c), sum(d), sum(e), sum(f), sum(g), sum(h), sum(i) FROM (
  SELECT config_id, at, (event = 'page_view')::int AS a, (event = 'product_click')::int AS b, (event = 'add_to_cart')::int AS c,
         (event = 'purchase')::int AS d, (event = 'search')::int AS e, 0 AS f, 0 AS g, 0 AS h, 0 AS i FROM counted
  UNION ALL
  SELECT config_id, {_BIN.format(moment="began")}, 0, 0, 0, 0, 0,
         1, clicked::int, (clicked AND carted)::int, (clicked AND carted AND purchased)::int FROM analytics_sessions
) AS change GROUP BY 1, 2, 3;
INSERT INTO analytics_products (config_id, grain, at, product_id, clicks, add_to_carts)
SELECT config_id, 60, at, product_id, count(*) FILTER (WHERE event = 'product_click'), count(*) FILTER (WHERE event = 'add_to_cart')
FROM counted WHERE product_id IS NOT NULL AND event IN ('product_click', 'add_to_cart') GROUP BY 1, 2, 3, 4;
INSERT INTO analytics_sources (config_id, grain, at, source, medium, campaign, events, sessions)
SELECT config_id, 60, at, source, medium, campaign, sum(events), sum(sessions) FROM (
  SELECT config_id, at, source, medium, campaign, 1 AS events, 0 AS sessions FROM counted
  UNION ALL
  SELECT config_id, {_BIN.format(moment="began")}, source, medium, campaign, 0, 1 FROM analytics_sessions
) AS change GROUP BY 1, 2, 3, 4, 5, 6;
DROP TABLE counted;
"""

LAST_SEEN = """
INSERT INTO analytics_totals (config_id, grain, at, last_seen_sessions)
SELECT config_id, grain, date_bin(grain * interval '1 second', seen, '2001-01-01 00:00:00+00'), count(*)
FROM analytics_sessions
CROSS JOIN (VALUES (60), (900), (3600), (21600), (86400), (172800), (345600), (691200), (1382400)) AS grains (grain)
GROUP BY 1, 2, 3
ON CONFLICT (config_id, grain, at) DO UPDATE SET last_seen_sessions = excluded.last_seen_sessions
"""

# In order of time, so that rows that are read together are stored together.
QUEUE = """
CREATE OR REPLACE FUNCTION storefront_queue_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO analytics_queue (config_id, ids, moments)
  SELECT config_id, array_agg(id), array_agg("timestamp")
  FROM (SELECT config_id, id, "timestamp", row_number() OVER (PARTITION BY config_id{order}) / 1000 AS part FROM added) AS event
  GROUP BY config_id, part{parts};
  RETURN NULL;
END $$
"""

# Expired months, with the sessions that began in them and the minute rollups. Not while one of their events is queued.
FORGET = """
CREATE OR REPLACE FUNCTION storefront_forget_events(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
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
MINUTES  RETURN gone;
END $$
"""
MINUTES = """
  FOREACH part IN ARRAY ARRAY['analytics_totals', 'analytics_products', 'analytics_sources'] LOOP
    EXECUTE format('DELETE FROM %I WHERE config_id = ANY(ARRAY(SELECT id FROM configs)) AND grain = 60 AND at < $1', part)
    USING date_trunc('month', before, 'UTC');
  END LOOP;
"""


def upgrade() -> None:
    # Blocks concurrent rollups.
    op.execute("SELECT pg_advisory_xact_lock(7312030)")
    op.add_column(
        "analytics_totals", sa.Column("last_seen_sessions", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("analytics_sessions", sa.Column("seen", sa.DateTime(timezone=True)))
    op.execute("UPDATE analytics_sessions SET seen = " + _BIN.format(moment="began"))
    op.execute(COUNT)
    op.execute(LAST_SEEN)
    op.alter_column("analytics_sessions", "seen", nullable=False)
    op.execute(QUEUE.format(order=' ORDER BY "timestamp"', parts=" ORDER BY config_id, part"))
    op.execute(FORGET.replace("MINUTES", MINUTES.removeprefix("\n")))


def downgrade() -> None:
    op.execute(FORGET.replace("MINUTES", ""))
    op.execute(QUEUE.format(order="", parts=""))
    for table in ("totals", "products", "sources"):
        op.execute(f"DELETE FROM analytics_{table} WHERE grain = 60")
    op.drop_column("analytics_totals", "last_seen_sessions")
    op.drop_column("analytics_sessions", "seen")
