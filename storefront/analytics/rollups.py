"""Rollups: aggregates queued events into counts per interval, exactly once, whenever they arrive.

One transaction takes events from the queue and adds them to the counts, in one process at a time. So at any time, and after any
crash, a count is the sum over all events that are not in the queue.
"""

from functools import cache

from sqlalchemy import Integer, bindparam, text

from storefront.core.db.database import LONG_STATEMENT_MS, Database, Statement, compile_statement
from storefront.core.db.sweeps import Sweep, run_sweep, sweep_rows
from storefront.queries.rollups import (
    AMOUNT_SQL,
    CAMPAIGN_SQL,
    CURRENCY_SQL,
    DATE_BIN_SQL,
    GRAINS_SECONDS,
    MEDIUM_SQL,
    MINUTE_SECONDS,
    PRODUCT_ID_SQL,
    PURCHASED_ID_SQL,
    SOURCE_SQL,
)

# Events of one transaction. Larger batches cost less per event: those of one product and hour are one update.
MAX_EVENTS_PER_TRANSACTION = 50_000

_ROLLUP_LOCK_ID = 7312030
_FINEST_GRAIN, _ALL_GRAINS_SQL = GRAINS_SECONDS[0], ", ".join(f"({grain})" for grain in GRAINS_SECONDS)
_EVENT_KINDS = ("page_view", "product_click", "add_to_cart", "purchase", "search")
_EVENT_COLUMNS = ("page_views", "product_clicks", "add_to_carts", "purchases", "searches")
_COLUMN_BY_EVENT = dict(zip(_EVENT_KINDS, _EVENT_COLUMNS, strict=True))
_SESSION_COLUMNS = ("sessions", "clicked_sessions", "converted_sessions", "purchased_sessions", "last_seen_sessions")


def _render_rollup_sql(name: str, keys: tuple[str, ...], counts: tuple[str, ...], changes_sql: str) -> str:
    """SQL that adds changes (store, `moment`, keys, counts) to a rollup table: summed by the finest grain first, then for all."""
    key, sums = "".join(f"{key}, " for key in keys), ", ".join(f"sum({count}) AS {count}" for count in counts)
    increments = ", ".join(f"{count} = {name}.{count} + excluded.{count}" for count in counts)
    has_change = " OR ".join(f"sum({count}) <> 0" for count in counts)
    return f"""
{name}_finest AS (
  SELECT config_id, {DATE_BIN_SQL.format(grain=_FINEST_GRAIN, moment="moment")} AS at, {key}{sums}
  FROM ({changes_sql}) AS change GROUP BY config_id, 2{"".join(f", {key}" for key in keys)}
),
{name}_counted AS (
  INSERT INTO {name} (config_id, grain, at, {key}{", ".join(counts)})
  SELECT config_id, grain, {DATE_BIN_SQL.format(grain="grain", moment="at")}, {key}{sums}
  FROM {name}_finest CROSS JOIN (VALUES {_ALL_GRAINS_SQL}) AS grains (grain)
  GROUP BY config_id, grain, 3{"".join(f", {key}" for key in keys)} HAVING {has_change}
  ON CONFLICT (config_id, grain, at{"".join(f", {key}" for key in keys)}) DO UPDATE SET {increments}
)"""


_TOTALS_CHANGES_SQL = f"""
  SELECT config_id, moment, {", ".join(f"(event = '{kind}')::int AS {name}" for kind, name in _COLUMN_BY_EVENT.items())},
         {", ".join(f"0 AS {name}" for name in _SESSION_COLUMNS)} FROM fresh
  UNION ALL
  SELECT config_id, began, 0, 0, 0, 0, 0,
         one, one * clicked::int, one * (clicked AND carted)::int, one * (clicked AND carted AND purchased)::int, 0 FROM visits
  UNION ALL
  SELECT config_id, seen, 0, 0, 0, 0, 0, 0, 0, 0, 0, one FROM visits"""
_PRODUCT_CHANGES_SQL = """
  SELECT config_id, moment, product_id, (event = 'product_click')::int AS clicks, (event = 'add_to_cart')::int AS add_to_carts
  FROM fresh WHERE event IN ('product_click', 'add_to_cart') AND product_id IS NOT NULL"""
_PURCHASE_CHANGES_SQL = """
  SELECT config_id, moment, purchased_id AS product_id, currency, 1 AS purchases, amount FROM fresh WHERE event = 'purchase'"""
_SOURCE_CHANGES_SQL = """
  SELECT config_id, moment, source, medium, campaign, 1 AS events, 0 AS sessions FROM fresh
  UNION ALL
  SELECT config_id, began, source, medium, campaign, 0, one FROM visits"""

_ROLL_UP_SQL = f"""
WITH taken AS MATERIALIZED (
  DELETE FROM analytics_queue WHERE id = ANY(ARRAY(
    SELECT id FROM (
      SELECT id, sum(cardinality(ids)) OVER (ORDER BY id) - cardinality(ids) AS before
      FROM (SELECT id, ids FROM analytics_queue ORDER BY id LIMIT 2000) AS oldest
    ) AS row WHERE before < {MAX_EVENTS_PER_TRANSACTION}
  ))
  RETURNING config_id, ids, moments
),
fresh AS MATERIALIZED (
  SELECT event.config_id, event.id, event."timestamp" AS moment, event.event, event.session_id,
         {PRODUCT_ID_SQL} AS product_id, {PURCHASED_ID_SQL} AS purchased_id, {CURRENCY_SQL} AS currency, {AMOUNT_SQL} AS amount,
         {SOURCE_SQL} AS source, {MEDIUM_SQL} AS medium, {CAMPAIGN_SQL} AS campaign
  -- Nested loops are forced: the planner does not know how few rows there are, and would scan the tables.
  FROM taken CROSS JOIN LATERAL unnest(taken.ids, taken.moments) AS queued (id, moment) CROSS JOIN LATERAL (
    SELECT * FROM analytics_events
    WHERE config_id = taken.config_id AND "timestamp" = queued.moment AND id = queued.id AND NOT is_bot OFFSET 0
  ) AS event
),
visit AS MATERIALIZED (
  SELECT DISTINCT ON (config_id, session_id)
         config_id, session_id, moment AS began, id AS began_with, source, medium, campaign,
         bool_or(event = 'product_click') OVER whole AS clicked,
         bool_or(event = 'add_to_cart') OVER whole AS carted,
         bool_or(event = 'purchase') OVER whole AS purchased,
         {DATE_BIN_SQL.format(grain=MINUTE_SECONDS, moment="max(moment) OVER whole")} AS seen
  FROM fresh WHERE session_id IS NOT NULL
  WINDOW whole AS (PARTITION BY config_id, session_id)
  ORDER BY config_id, session_id, moment, id
),
-- The stored state of each session. An earlier event may arrive late, and is then the session's first.
known AS MATERIALIZED (
  SELECT session.*, (session.began, session.began_with) < (visit.began, visit.began_with) AS is_earlier
  FROM visit CROSS JOIN LATERAL (
    SELECT * FROM analytics_sessions WHERE config_id = visit.config_id AND session_id = visit.session_id OFFSET 0
  ) AS session
),
now_known AS MATERIALIZED (
  SELECT visit.config_id, visit.session_id,
         CASE WHEN is_earlier THEN known.began ELSE visit.began END AS began,
         CASE WHEN is_earlier THEN known.began_with ELSE visit.began_with END AS began_with,
         CASE WHEN is_earlier THEN known.source ELSE visit.source END AS source,
         CASE WHEN is_earlier THEN known.medium ELSE visit.medium END AS medium,
         CASE WHEN is_earlier THEN known.campaign ELSE visit.campaign END AS campaign,
         visit.clicked OR coalesce(known.clicked, false) AS clicked,
         visit.carted OR coalesce(known.carted, false) AS carted,
         visit.purchased OR coalesce(known.purchased, false) AS purchased,
         greatest(visit.seen, known.seen) AS seen
  FROM visit LEFT JOIN known USING (config_id, session_id)
),
remembered AS (
  INSERT INTO analytics_sessions
    (config_id, session_id, began, began_with, source, medium, campaign, clicked, carted, purchased, seen)
  SELECT config_id, session_id, began, began_with, source, medium, campaign, clicked, carted, purchased, seen FROM now_known
  ON CONFLICT (config_id, session_id) DO UPDATE SET
    began = excluded.began, began_with = excluded.began_with,
    source = excluded.source, medium = excluded.medium, campaign = excluded.campaign,
    clicked = excluded.clicked, carted = excluded.carted, purchased = excluded.purchased, seen = excluded.seen
  WHERE (analytics_sessions.began, analytics_sessions.began_with, analytics_sessions.clicked, analytics_sessions.carted,
         analytics_sessions.purchased, analytics_sessions.seen)
    <> (excluded.began, excluded.began_with, excluded.clicked, excluded.carted, excluded.purchased, excluded.seen)
),
-- Subtract the old state, add the new one.
visits AS MATERIALIZED (
  SELECT config_id, began, source, medium, campaign, clicked, carted, purchased, seen, 1 AS one FROM now_known
  UNION ALL
  SELECT config_id, began, source, medium, campaign, clicked, carted, purchased, seen, -1 FROM known
),
{_render_rollup_sql("analytics_totals", (), (*_EVENT_COLUMNS, *_SESSION_COLUMNS), _TOTALS_CHANGES_SQL)},
{_render_rollup_sql("analytics_products", ("product_id",), ("clicks", "add_to_carts"), _PRODUCT_CHANGES_SQL)},
{_render_rollup_sql("analytics_purchases", ("product_id", "currency"), ("purchases", "amount"), _PURCHASE_CHANGES_SQL)},
{_render_rollup_sql("analytics_sources", ("source", "medium", "campaign"), ("events", "sessions"), _SOURCE_CHANGES_SQL)}
SELECT count(*) AS rows FROM taken
"""


async def roll_up(database: Database, *, wait: bool = False) -> int:
    """Aggregate all queued events; returns how many rows of the queue were processed.

    An advisory lock admits one process at a time. Others return at once, or with `wait` wait for it and process the rest.
    """
    total_rows = 0
    # The queue is empty most of the time: check this without a lock and a transaction.
    while await _has_queued_events(database) and (row_count := await _roll_up_batch(database, wait)):
        total_rows += row_count
    return total_rows


async def _has_queued_events(database: Database) -> bool:
    [(is_queued,)] = await database.fetch(_has_queued_statement())
    return bool(is_queued)


@cache
def _has_queued_statement() -> Statement:
    return compile_statement(text("SELECT EXISTS (SELECT FROM analytics_queue) AS found"))


async def _roll_up_batch(database: Database, wait: bool) -> int:
    # A backlog may take longer than the statement timeout of requests.
    settings = {"jit": "off", "lock_timeout": LONG_STATEMENT_MS}
    async with database.transaction(statement_timeout=LONG_STATEMENT_MS, settings=settings) as connection:
        # A statement of its own, so that the next one sees all that the previous holder of the lock has committed.
        [(_, has_lock)] = await connection.fetch(_lock_statement(wait))
        if not has_lock:
            return 0
        [(rows,)] = await connection.fetch(_roll_up_statement())
    return int(rows)


@cache
def _lock_statement(wait: bool) -> Statement:
    expression = (
        f"pg_advisory_xact_lock({_ROLLUP_LOCK_ID})::text, true" if wait else f"'', pg_try_advisory_xact_lock({_ROLLUP_LOCK_ID})"
    )
    return Statement(f"SELECT {expression}", {})


@cache
def _roll_up_statement() -> Statement:
    return compile_statement(text(_ROLL_UP_SQL))


# The lock of both functions below. A process that does not get it leaves the partitions to the one that has it.
_TRY_PARTITION_LOCK_SQL = "SELECT pg_try_advisory_xact_lock(7312029) AS has_lock"
# Partitions are created months ahead: a server that runs for long without a restart has one for the next event.
_CREATE_PARTITIONS_SQL = "SELECT storefront_event_partitions(now(), now() + interval '3 months') AS made"
_DROP_PARTITIONS_SQL = "SELECT storefront_forget_events(now() - make_interval(days => :days)) AS gone"
# Neither statement scans events, so that a connection that went silent is closed long before LONG_STATEMENT_MS.
PARTITIONS_TIMEOUT_MS = 60_000


async def maintain_partitions(database: Database, *, days: int) -> int:
    """Create the partitions of the next months, and drop those that ended more than so many days ago; returns how many of both.

    Dropped events have been aggregated before. Then delete the sessions and counts by the minute of those months.
    """
    # A lock request that waits blocks all later ones: rather fail, and run again an hour later.
    settings = {"lock_timeout": 2_000}
    created_count = dropped_count = 0
    async with database.transaction(statement_timeout=PARTITIONS_TIMEOUT_MS, settings=settings) as connection:
        [(has_lock,)] = await connection.fetch(Statement(_TRY_PARTITION_LOCK_SQL, {}))
        if has_lock:
            [(created_count,)] = await connection.fetch(_create_partitions_statement())
            [(dropped_count,)] = await connection.fetch(_drop_partitions_statement(), {"days": days})
    # Not in the same transaction: it holds a lock that keeps events from being recorded.
    for sweep in _build_event_sweeps():
        await run_sweep(database, sweep, {"days": days})
    return created_count + dropped_count


@cache
def _build_event_sweeps() -> list[Sweep]:
    retained_from = "now() - make_interval(days => :days)"
    # Late events that are queued need their sessions, and have to be counted first.
    is_counted = f"NOT EXISTS (SELECT FROM analytics_queue CROSS JOIN unnest(moments) AS moment WHERE moment < {retained_from})"
    is_old = f"< date_trunc('month', {retained_from}, 'UTC') AND {is_counted}"
    # Names the stores, because the indexes begin with them.
    in_any_store = "config_id = ANY(ARRAY(SELECT id FROM configs))"
    counts = ("analytics_totals", "analytics_products", "analytics_purchases", "analytics_sources")
    return [
        sweep_rows("analytics_events_other", f'"timestamp" {is_old}'),
        sweep_rows("analytics_sessions", f"{in_any_store} AND began {is_old}"),
        *(sweep_rows(table, f"{in_any_store} AND grain = {MINUTE_SECONDS} AND at {is_old}") for table in counts),
    ]


@cache
def _create_partitions_statement() -> Statement:
    return compile_statement(text(_CREATE_PARTITIONS_SQL))


@cache
def _drop_partitions_statement() -> Statement:
    return compile_statement(text(_DROP_PARTITIONS_SQL).bindparams(bindparam("days", type_=Integer)))
