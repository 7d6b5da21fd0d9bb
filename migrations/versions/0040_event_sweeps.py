"""Expired sessions and counts are deleted by the server, in batches: no longer with the partitions of events.

That was one statement for all of them, which kept events from being recorded while it lasted.
"""

from alembic import op

revision = "0040_event_sweeps"
down_revision = "0038_category_paths"
branch_labels = None
depends_on = None

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
ROWS  RETURN gone;
END $$
"""
ROWS = """
  DELETE FROM analytics_events_other WHERE "timestamp" < date_trunc('month', before, 'UTC');
  DELETE FROM analytics_sessions WHERE began < date_trunc('month', before, 'UTC');
  FOREACH part IN ARRAY ARRAY['analytics_totals', 'analytics_products', 'analytics_sources'] LOOP
    EXECUTE format('DELETE FROM %I WHERE config_id = ANY(ARRAY(SELECT id FROM configs)) AND grain = 60 AND at < $1', part)
    USING date_trunc('month', before, 'UTC');
  END LOOP;
"""


def upgrade() -> None:
    """Drop only partitions."""
    op.execute(FORGET.replace("ROWS", ""))


def downgrade() -> None:
    """Delete the rows with the partitions."""
    op.execute(FORGET.replace("ROWS", ROWS.removeprefix("\n")))
