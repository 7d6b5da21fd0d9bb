"""Analytics reports of many stores at once, from rollups and from raw events, and lists of the events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, partial
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, and_, any_, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import configs, events
from storefront.models.row_keys import (
    IN_STORES_SQL,
    bind_store,
    bind_store_type,
    build_store_parameters,
    build_store_sql,
    have_single_store,
    is_any_store,
)
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, bind_text_array, group_by_parent
from storefront.queries.paging import limit_newest, load_page_per_parent, select_per_parent
from storefront.queries.rollups import (
    CAMPAIGN_SQL,
    DATE_BIN_SQL,
    DAY_SECONDS,
    EDGE_EVENTS_SQL,
    EDGE_PARAMETER_TYPES,
    EDGE_SESSIONS_SQL,
    MEDIUM_SQL,
    MINUTE_SECONDS,
    PRODUCT_ID_SQL,
    SOURCE_SQL,
    TIMESTAMP_TYPE,
    WITH_PIECES_SQL,
    SpanPiece,
    bind_piece_types,
    build_edge_parameters,
    build_piece_parameters,
    build_pieces_from_clause,
    find_common_grain,
    list_single_grains,
    list_surrounding_days,
    split_span,
)

# Sources in a breakdown; beyond these there are only one-off campaigns and stray hosts.
MAX_SOURCES = 100


@dataclass(frozen=True, slots=True)
class Span:
    """The half-open interval from `start` to `end`, in UTC: local times are ambiguous at clock changes."""

    start: datetime
    end: datetime

    def get_previous(self) -> "Span":
        """The span of the same length just before this one."""
        return Span(self.start - (self.end - self.start), self.start)


class EventCounts(NamedTuple):
    """Event and session counts of a store. Steps of the funnel are cumulative: purchased sessions also clicked and converted."""

    page_views: int = 0
    product_clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0
    searches: int = 0
    sessions: int = 0
    clicked_sessions: int = 0
    converted_sessions: int = 0
    purchased_sessions: int = 0


# ------------------------------------------------------------------------------------------------ figures

# Rollups of whole grains, plus raw events and sessions at edges within a grain. Both exclude bots.
_TOTALS_SQL = f"""
SELECT config_id, at, page_views, product_clicks, add_to_carts, purchases, searches,
       sessions, clicked_sessions, converted_sessions, purchased_sessions
{build_pieces_from_clause("totals")}
UNION ALL
SELECT config_id, "timestamp", (event = 'page_view')::int, (event = 'product_click')::int, (event = 'add_to_cart')::int,
       (event = 'purchase')::int, (event = 'search')::int, 0, 0, 0, 0
{EDGE_EVENTS_SQL}
UNION ALL
SELECT config_id, began, 0, 0, 0, 0, 0, 1, clicked::int, (clicked AND carted)::int, (clicked AND carted AND purchased)::int
{EDGE_SESSIONS_SQL}
"""
_SUMS_SQL = ", ".join(f"sum({name})::bigint AS {name}" for name in EventCounts._fields)
_FIGURES_SQL = f"{WITH_PIECES_SQL} SELECT config_id AS parent_id, {_SUMS_SQL} FROM ({_TOTALS_SQL}) AS total GROUP BY 1"


async def load_figures(database: Database, keys: Sequence[str], span: Span) -> list[EventCounts]:
    """The figures of each store."""
    rows = align_by_key(
        await database.fetch(_select_figures(have_single_store(keys)), _build_parameters(keys, split_span(span.start, span.end))),
        keys,
        "parent_id",
    )
    return [EventCounts(*row[1:]) if row else EventCounts() for row in rows]


@cache
def _select_figures(is_single_store: bool) -> Statement:
    return _compile_statement(_FIGURES_SQL, is_single_store)


class SeriesPoint(NamedTuple):
    """The start of an interval, and its counts."""

    starts_at: str
    page_views: int = 0
    product_clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0
    sessions: int = 0


async def load_series(
    database: Database, keys: Sequence[str], span: Span, interval: str, time_zone: str
) -> list[list[SeriesPoint]]:
    """Each store's counts for every interval that overlaps the span, including empty ones."""
    starts = list_interval_starts(span, interval, time_zone)
    # No grain may cross a boundary between intervals.
    span_pieces = split_span(span.start, span.end, max_grain=find_common_grain(starts[1:]))
    rows = group_by_parent(
        await database.fetch(_select_series(have_single_store(keys)), _build_parameters(keys, span_pieces) | {"starts": starts}),
        keys,
    )
    timestamps = [start.strftime("%Y-%m-%dT%H:%M:%SZ") for start in starts]
    return [_build_points(timestamps, store_rows) for store_rows in rows]


@cache
def _select_series(is_single_store: bool) -> Statement:
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in SeriesPoint._fields[1:])
    bucket = "width_bucket(at, :starts) AS bucket"
    sql = f"{WITH_PIECES_SQL} SELECT config_id AS parent_id, {bucket}, {sums} FROM ({_TOTALS_SQL}) AS total GROUP BY 1, 2"
    return _compile_statement(sql, is_single_store, bindparam("starts", type_=ARRAY(TIMESTAMP_TYPE)))


def _build_points(timestamps: list[str], rows: list[Row]) -> list[SeriesPoint]:
    figures_by_bucket = {row.bucket: row[2:] for row in rows}
    return [SeriesPoint(at, *figures_by_bucket.get(bucket, ())) for bucket, at in enumerate(timestamps, 1)]


_EDGE_CLICKS_SQL = f"""
    SELECT config_id, {PRODUCT_ID_SQL} AS product_id,
           (event = 'product_click')::int AS clicks, (event = 'add_to_cart')::int AS add_to_carts
    {EDGE_EVENTS_SQL} AND event IN ('product_click', 'add_to_cart') AND {PRODUCT_ID_SQL} IS NOT NULL
"""
_RANKED_SQL = """
SELECT parent_id, product_id, clicks, add_to_carts FROM (
  SELECT config_id AS parent_id, product_id, sum(clicks)::bigint AS clicks, sum(add_to_carts)::bigint AS add_to_carts,
         row_number() OVER (PARTITION BY config_id ORDER BY sum(clicks) DESC, sum(add_to_carts) DESC, product_id) AS place
  FROM ({total}) AS total
  GROUP BY 1, 2
  HAVING sum(clicks) > 0 OR sum(add_to_carts) > 0
) AS ranked
WHERE place <= :limit
ORDER BY parent_id, place
"""
_GRAIN_CLICKS_SQL = f"SELECT config_id, product_id, clicks, add_to_carts {build_pieces_from_clause('products')}"
_TOP_PRODUCTS_SQL = WITH_PIECES_SQL + _RANKED_SQL.format(total=f"{_GRAIN_CLICKS_SQL} UNION ALL {_EDGE_CLICKS_SQL}")

# A span that begins or ends within a day needs fine grains there, whose number of rows grows with traffic. Most products can be
# ruled out without them: even with all clicks of those two days they would rank below the top without any. So whole days are read
# (within the span, and around its ends), and fine grains only for the candidates that remain. If these are many, as in a store
# whose products sell alike, the fine grains are scanned after all.
_MAX_PRODUCTS_BY_ID = 200
_TOP_PRODUCTS_BY_DAY_SQL = f"""
{WITH_PIECES_SQL},
around AS (SELECT * FROM unnest(:around_grains, :around_starts_of, :around_stops) AS piece (grain, start, stop)),
fine AS (SELECT * FROM unnest(:fine_grains, :fine_starts_of, :fine_stops) AS piece (grain, start, stop)),
known AS MATERIALIZED (
  SELECT config_id, product_id, sum(clicks)::bigint AS clicks, sum(add_to_carts)::bigint AS add_to_carts,
         sum(clicks + more)::bigint AS most
  FROM (
    SELECT config_id, product_id, clicks, add_to_carts, 0 AS more {build_pieces_from_clause("products")}
    UNION ALL
    SELECT config_id, product_id, 0, 0, clicks {build_pieces_from_clause("products", "around")}
    UNION ALL
    SELECT *, 0 FROM ({_EDGE_CLICKS_SQL}) AS edge
  ) AS part
  GROUP BY 1, 2
),
bar AS (
  SELECT config_id, min(clicks) AS clicks
  FROM (SELECT config_id, clicks, row_number() OVER (PARTITION BY config_id ORDER BY clicks DESC) AS place FROM known) AS placed
  WHERE place <= :limit GROUP BY 1 HAVING count(*) = :limit
),
possible AS MATERIALIZED (
  SELECT known.* FROM known LEFT JOIN bar USING (config_id) WHERE known.most >= coalesce(bar.clicks, 0)
),
within AS (
  SELECT config_id, product_id, part.clicks, part.add_to_carts
  FROM possible CROSS JOIN unnest(:unit_grains, :unit_starts_of) AS unit (grain, at) CROSS JOIN LATERAL (
    SELECT clicks, add_to_carts FROM analytics_products AS row WHERE {IN_STORES_SQL} AND row.config_id = possible.config_id
      AND row.grain = unit.grain AND row.at = unit.at AND row.product_id = possible.product_id OFFSET 0
  ) AS part
  WHERE (SELECT count(*) FROM possible) <= {_MAX_PRODUCTS_BY_ID}
  UNION ALL
  SELECT config_id, product_id, clicks, add_to_carts {build_pieces_from_clause("products", "fine")}
  WHERE (SELECT count(*) FROM possible) > {_MAX_PRODUCTS_BY_ID}
)
{_RANKED_SQL.format(total="SELECT config_id, product_id, clicks, add_to_carts FROM possible UNION ALL SELECT * FROM within")}
"""


async def load_top_products(database: Database, keys: Sequence[str], span: Span, limit: int) -> list[list[Row]]:
    """The products of each store with the most clicks, then the most carts. Includes deleted products."""
    span_pieces = split_span(span.start, span.end)
    day_pieces, fine_pieces = (
        [piece for piece in span_pieces if piece.grain >= DAY_SECONDS],
        [piece for piece in span_pieces if 0 < piece.grain < DAY_SECONDS],
    )
    if not (day_pieces and fine_pieces):
        return group_by_parent(
            await database.fetch(
                _select_top_products(have_single_store(keys)), _build_parameters(keys, span_pieces) | {"limit": limit}
            ),
            keys,
        )
    end_parameters = build_piece_parameters(list_surrounding_days(fine_pieces), "around_") | build_piece_parameters(
        fine_pieces, "fine_"
    )
    end_parameters |= build_piece_parameters(list_single_grains(fine_pieces), "unit_")
    parameters = {
        **build_store_parameters(keys),
        **build_piece_parameters(day_pieces),
        **build_edge_parameters(span_pieces),
        **end_parameters,
        "limit": limit,
    }
    rows = await database.fetch(_select_top_products_by_day(have_single_store(keys)), parameters)
    return group_by_parent(rows, keys)


@cache
def _select_top_products(is_single_store: bool) -> Statement:
    return _compile_statement(_TOP_PRODUCTS_SQL, is_single_store, bindparam("limit"))


@cache
def _select_top_products_by_day(is_single_store: bool) -> Statement:
    types = bindparam("limit"), *bind_piece_types("around_"), *bind_piece_types("fine_"), *bind_piece_types("unit_")[:2]
    return _compile_statement(_TOP_PRODUCTS_BY_DAY_SQL, is_single_store, *types)


_SOURCES_SQL = f"""
{WITH_PIECES_SQL}
SELECT parent_id, source, nullif(medium, '') AS medium, nullif(campaign, '') AS campaign, sessions, events FROM (
  SELECT config_id AS parent_id, source, medium, campaign, sum(sessions)::bigint AS sessions, sum(events)::bigint AS events,
         row_number() OVER (PARTITION BY config_id ORDER BY sum(sessions) DESC, sum(events) DESC,
           source COLLATE "C", medium COLLATE "C", campaign COLLATE "C") AS place
  FROM (
    SELECT config_id, source, medium, campaign, sessions, events {build_pieces_from_clause("sources")}
    UNION ALL
    SELECT config_id, {SOURCE_SQL}, {MEDIUM_SQL}, {CAMPAIGN_SQL}, 0, 1 {EDGE_EVENTS_SQL}
    UNION ALL
    SELECT config_id, source, medium, campaign, 1, 0 {EDGE_SESSIONS_SQL}
  ) AS total
  GROUP BY 1, 2, 3, 4
  HAVING sum(events) > 0 OR sum(sessions) > 0
) AS ranked
WHERE place <= {MAX_SOURCES}
ORDER BY parent_id, place
"""


async def load_sources(database: Database, keys: Sequence[str], span: Span) -> list[list[Row]]:
    """The traffic sources of each store, those with the most sessions first."""
    return group_by_parent(
        await database.fetch(_select_sources(have_single_store(keys)), _build_parameters(keys, split_span(span.start, span.end))),
        keys,
    )


@cache
def _select_sources(is_single_store: bool) -> Statement:
    return _compile_statement(_SOURCES_SQL, is_single_store)


# Minutes without an event after which a session is not active.
ACTIVE_MINUTES = 5
# Each session is counted in the minute of its last event: this reads six rows, for any number of sessions.
_ACTIVE_SESSIONS_SQL = f"""
SELECT (SELECT coalesce(sum(last_seen_sessions), 0) FROM analytics_totals
    WHERE config_id = :id AND grain = {MINUTE_SECONDS}
        AND at >= {DATE_BIN_SQL.format(grain=MINUTE_SECONDS, moment=f"now() - interval '{ACTIVE_MINUTES} minutes'")}) AS active
FROM configs WHERE id = :id AND user_id = :owner
"""


async def count_active_sessions(database: Database, config_id: str, owner_id: str) -> int | None:
    """The number of sessions with an event in the last ACTIVE_MINUTES; None if the store is not the owner's."""
    rows = await database.fetch(_select_active_sessions(), {"id": config_id, "owner": owner_id})
    return int(rows[0].active) if rows else None


@cache
def _select_active_sessions() -> Statement:
    return compile_statement(text(_ACTIVE_SESSIONS_SQL).bindparams(bindparam("id", type_=UUID), bindparam("owner", type_=UUID)))


def _build_parameters(keys: Sequence[str], span_pieces: Sequence[SpanPiece]) -> dict[str, Any]:
    return {**build_store_parameters(keys), **build_piece_parameters(span_pieces), **build_edge_parameters(span_pieces)}


def _compile_statement(sql: str, is_single_store: bool, *extra_types: Any) -> Statement:
    types = bind_store_type(is_single_store), *bind_piece_types(), *EDGE_PARAMETER_TYPES, *extra_types
    return compile_statement(text(build_store_sql(sql, is_single_store)).bindparams(*types), needs_custom_plan=True)


# ---------------------------------------------------------------------------------------------- intervals


def list_interval_starts(span: Span, interval: str, time_zone: str) -> list[datetime]:
    """The starts, in UTC, of each "hour", "day", "week" or "month" of a time zone that overlaps the span.

    Computed here and not by generate_series: where clocks go back over midnight there are two midnights, and Postgres would
    start the day at the second.
    """
    zone_info = ZoneInfo(time_zone)
    starts = _iterate_hours(span, zone_info) if interval == "hour" else _iterate_dates(span, interval, zone_info)
    # A day that a zone skipped (Samoa, 30 December 2011) starts when the next day does.
    return [*dict.fromkeys(starts)]


def _iterate_hours(span: Span, zone_info: ZoneInfo) -> Iterator[datetime]:
    local = span.start.astimezone(zone_info)
    at = span.start - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    while at < span.end:
        yield at
        # To the next full local hour, not always 60 minutes later: Lord Howe Island shifts its clocks by 30.
        at += timedelta(minutes=60 - at.astimezone(zone_info).minute)


def _iterate_dates(span: Span, interval: str, zone_info: ZoneInfo) -> Iterator[datetime]:
    day = _find_first_day(span.start.astimezone(zone_info).date(), interval)
    while (at := datetime.combine(day, time(), zone_info).astimezone(UTC)) < span.end:
        yield at
        day = _find_first_day(day + timedelta(days={"day": 1, "week": 7, "month": 31}[interval]), interval)


def _find_first_day(day: date, interval: str) -> date:
    """The first day of a day's interval: of a week, its Monday."""
    if interval == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if interval == "month" else day


# ------------------------------------------------------------------------------------------------- events


# Every filter of event lists, by its name.
_FILTER_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "event": events.c.event == any_(bind_text_array("event")),
    "session_id": events.c.session_id == bindparam("session_id"),
    "span": and_(
        events.c.timestamp >= bindparam("start", type_=TIMESTAMP_TYPE),
        events.c.timestamp < bindparam("end", type_=TIMESTAMP_TYPE),
    ),
}


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The filters of a list of events; None: not filtered."""

    event: tuple[str, ...] | None = None
    session_id: str | None = None
    span: Span | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the filters in use."""
        return tuple(name for name in _FILTER_CONDITIONS if getattr(self, name) is not None)

    def build_parameters(self) -> dict[str, Any]:
        """The statement parameters of these filters."""
        values = {"event": list(self.event or ()), "session_id": self.session_id}
        return values | ({"start": self.span.start, "end": self.span.end} if self.span else {})


async def load_events_of_stores(
    database: Database, keys: Sequence[str], event_filter: EventFilter, window: keyset.Window
) -> list[keyset.Page]:
    """A page of each store's events, newest first."""
    build_statement = partial(_select_events_of_stores, have_single_store(keys), event_filter.names)
    parameters = {**build_store_parameters(keys), **event_filter.build_parameters()}
    list_name = ("events", event_filter)
    return await load_page_per_parent(
        database, build_statement, window, list_name, keys, "config_id", parameters, key_column="timestamp"
    )


@cache
def _select_events_of_stores(is_single_store: bool, filters: tuple[str, ...], has_cursor: bool) -> Statement:
    store = bind_store() if is_single_store else configs.c.id
    rows = select(events).where(events.c.config_id == store, *(_FILTER_CONDITIONS[name] for name in filters))
    page = limit_newest(rows, events.c.timestamp, events.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(configs, page, is_any_store(configs.c.id, is_single_store)))


async def count_events_of_stores(database: Database, keys: Sequence[str], event_filter: EventFilter) -> list[int]:
    """The number of these events of each store."""
    parameters = {**build_store_parameters(keys), **event_filter.build_parameters()}
    statement = _select_event_counts(have_single_store(keys), event_filter.names)
    rows = align_by_key(await database.fetch(statement, parameters), keys, "config_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_event_counts(is_single_store: bool, filters: tuple[str, ...]) -> Statement:
    counts = select(events.c.config_id, func.count().label("count")).where(
        is_any_store(events.c.config_id, is_single_store), *(_FILTER_CONDITIONS[name] for name in filters)
    )
    return compile_statement(counts.group_by(events.c.config_id))
