"""What happened in many stores at once: the figures of a report, from what was counted before, and the events themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Text, and_, any_, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import events
from storefront.queries import keyset
from storefront.queries.batching import by_key, by_parent
from storefront.queries.rollups import (
    BIN,
    CAMPAIGN,
    DAY,
    EDGE_TYPES,
    EVENTS,
    MEDIUM,
    MINUTE,
    MOMENT,
    PRODUCT,
    SESSIONS,
    SOURCE,
    WITH_PIECES,
    Piece,
    counted,
    days_around,
    edge_parameters,
    grain_of,
    piece_parameters,
    piece_types,
    pieces,
    units_of,
)

# A breakdown lists so many sources; past these there are only one-off campaigns and stray hosts.
MOST_SOURCES = 100


@dataclass(frozen=True, slots=True)
class Span:
    """The time from `start` up to `end`, without `end` itself. Both in UTC: between two local times clocks may change."""

    start: datetime
    end: datetime

    def before(self) -> "Span":
        """As long a time, just before this one."""
        return Span(self.start - (self.end - self.start), self.start)


class Counts(NamedTuple):
    """The figures of a store. Sessions that converted also clicked, those that purchased did all three."""

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

# Counts of whole grains, and what events and sessions add at edges that no grain ends at. Bots are in neither.
_TOTALS = f"""
SELECT config_id, at, page_views, product_clicks, add_to_carts, purchases, searches,
       sessions, clicked_sessions, converted_sessions, purchased_sessions
{counted("totals")}
UNION ALL
SELECT config_id, "timestamp", (event = 'page_view')::int, (event = 'product_click')::int, (event = 'add_to_cart')::int,
       (event = 'purchase')::int, (event = 'search')::int, 0, 0, 0, 0
{EVENTS}
UNION ALL
SELECT config_id, began, 0, 0, 0, 0, 0, 1, clicked::int, (clicked AND carted)::int, (clicked AND carted AND purchased)::int
{SESSIONS}
"""
_SUMS = ", ".join(f"sum({name})::bigint AS {name}" for name in Counts._fields)
_FIGURES = f"{WITH_PIECES} SELECT config_id AS parent_id, {_SUMS} FROM ({_TOTALS}) AS total GROUP BY 1"


async def figures(database: Database, keys: Sequence[str], span: Span) -> list[Counts]:
    """The figures of each store."""
    rows = by_key(await database.fetch(_figures(), _parameters(keys, pieces(span.start, span.end))), keys, "parent_id")
    return [Counts(*row[1:]) if row else Counts() for row in rows]


@cache
def _figures() -> Statement:
    return _statement(_FIGURES)


class Point(NamedTuple):
    """When an interval begins, and its figures."""

    at: str
    page_views: int = 0
    product_clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0
    sessions: int = 0


async def series(database: Database, keys: Sequence[str], span: Span, interval: str, zone: str) -> list[list[Point]]:
    """Each store's figures for every interval that the span touches, those without events included."""
    starts = begins(span, interval, zone)
    # No grain may reach from one interval into the next.
    parts = pieces(span.start, span.end, most=grain_of(starts[1:]))
    rows = by_parent(await database.fetch(_series(), _parameters(keys, parts) | {"starts": starts}), keys)
    moments = [start.strftime("%Y-%m-%dT%H:%M:%SZ") for start in starts]
    return [_points(moments, found) for found in rows]


@cache
def _series() -> Statement:
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in Point._fields[1:])
    bucket = "width_bucket(at, :starts) AS bucket"
    sql = f"{WITH_PIECES} SELECT config_id AS parent_id, {bucket}, {sums} FROM ({_TOTALS}) AS total GROUP BY 1, 2"
    return _statement(sql, bindparam("starts", type_=ARRAY(MOMENT)))


def _points(moments: list[str], rows: list[Row]) -> list[Point]:
    found = {row.bucket: row[2:] for row in rows}
    return [Point(at, *found.get(bucket, ())) for bucket, at in enumerate(moments, 1)]


_CLICKS = f"""
    SELECT config_id, {PRODUCT} AS product_id,
           (event = 'product_click')::int AS clicks, (event = 'add_to_cart')::int AS add_to_carts
    {EVENTS} AND event IN ('product_click', 'add_to_cart') AND {PRODUCT} IS NOT NULL
"""
_RANKED = """
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
_COUNTED_CLICKS = f"SELECT config_id, product_id, clicks, add_to_carts {counted('products')}"
_TOP_PRODUCTS = WITH_PIECES + _RANKED.format(total=f"{_COUNTED_CLICKS} UNION ALL {_CLICKS}")

# Where a span begins and ends within a day, the fine grains there have the more rows the more has happened. Most products have no
# need of them: with all clicks of those two days they would have fewer than the last of the first has without any. So whole days
# are read, of the span and around its ends, and the fine grains only for the few that it may be. Where these are many, as in a
# store in which all sell alike, the fine grains are read from end to end after all.
_FEW = 200
_TOP_OF_DAYS = f"""
{WITH_PIECES},
around AS (SELECT * FROM unnest(:around_grains, :around_starts_of, :around_stops) AS piece (grain, start, stop)),
fine AS (SELECT * FROM unnest(:fine_grains, :fine_starts_of, :fine_stops) AS piece (grain, start, stop)),
known AS MATERIALIZED (
  SELECT config_id, product_id, sum(clicks)::bigint AS clicks, sum(add_to_carts)::bigint AS add_to_carts,
         sum(clicks + more)::bigint AS most
  FROM (
    SELECT config_id, product_id, clicks, add_to_carts, 0 AS more {counted("products")}
    UNION ALL
    SELECT config_id, product_id, 0, 0, clicks {counted("products", "around")}
    UNION ALL
    SELECT *, 0 FROM ({_CLICKS}) AS edge
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
    SELECT clicks, add_to_carts FROM analytics_products AS row WHERE row.config_id = possible.config_id
      AND row.grain = unit.grain AND row.at = unit.at AND row.product_id = possible.product_id OFFSET 0
  ) AS part
  WHERE (SELECT count(*) FROM possible) <= {_FEW}
  UNION ALL
  SELECT config_id, product_id, clicks, add_to_carts {counted("products", "fine")}
  WHERE (SELECT count(*) FROM possible) > {_FEW}
)
{_RANKED.format(total="SELECT config_id, product_id, clicks, add_to_carts FROM possible UNION ALL SELECT * FROM within")}
"""


async def top_products(database: Database, keys: Sequence[str], span: Span, limit: int) -> list[list[Row]]:
    """The products of each store that were clicked most, then put into carts most. Products since deleted are among them."""
    parts = pieces(span.start, span.end)
    days, fine = [part for part in parts if part.grain >= DAY], [part for part in parts if 0 < part.grain < DAY]
    if not (days and fine):
        return by_parent(await database.fetch(_top_products(), _parameters(keys, parts) | {"limit": limit}), keys)
    ends = piece_parameters(days_around(fine), "around_") | piece_parameters(fine, "fine_")
    ends |= piece_parameters(units_of(fine), "unit_")
    given = {"ids": list(keys), **piece_parameters(days), **edge_parameters(parts), **ends, "limit": limit}
    return by_parent(await database.fetch(_top_of_days(), given), keys)


@cache
def _top_products() -> Statement:
    return _statement(_TOP_PRODUCTS, bindparam("limit"))


@cache
def _top_of_days() -> Statement:
    units = piece_types("unit_")[:2]
    return _statement(_TOP_OF_DAYS, bindparam("limit"), *piece_types("around_"), *piece_types("fine_"), *units)


_SOURCES = f"""
{WITH_PIECES}
SELECT parent_id, source, nullif(medium, '') AS medium, nullif(campaign, '') AS campaign, sessions, events FROM (
  SELECT config_id AS parent_id, source, medium, campaign, sum(sessions)::bigint AS sessions, sum(events)::bigint AS events,
         row_number() OVER (PARTITION BY config_id ORDER BY sum(sessions) DESC, sum(events) DESC,
           source COLLATE "C", medium COLLATE "C", campaign COLLATE "C") AS place
  FROM (
    SELECT config_id, source, medium, campaign, sessions, events {counted("sources")}
    UNION ALL
    SELECT config_id, {SOURCE}, {MEDIUM}, {CAMPAIGN}, 0, 1 {EVENTS}
    UNION ALL
    SELECT config_id, source, medium, campaign, 1, 0 {SESSIONS}
  ) AS total
  GROUP BY 1, 2, 3, 4
  HAVING sum(events) > 0 OR sum(sessions) > 0
) AS ranked
WHERE place <= {MOST_SOURCES}
ORDER BY parent_id, place
"""


async def sources(database: Database, keys: Sequence[str], span: Span) -> list[list[Row]]:
    """Where the events of each store came from, the origins with the most sessions first."""
    return by_parent(await database.fetch(_sources(), _parameters(keys, pieces(span.start, span.end))), keys)


@cache
def _sources() -> Statement:
    return _statement(_SOURCES)


# Minutes without an event after which a session is not taken to go on.
ACTIVE_MINUTES = 5
# Each session is counted in the minute that it was last seen in: however many there are, this reads six rows.
_ACTIVE = f"""
SELECT (SELECT coalesce(sum(last_seen_sessions), 0) FROM analytics_totals WHERE config_id = configs.id AND grain = {MINUTE}
        AND at >= {BIN.format(grain=MINUTE, moment=f"now() - interval '{ACTIVE_MINUTES} minutes'")}) AS active
FROM configs WHERE id = :id AND user_id = :owner
"""


async def active_sessions(database: Database, config_id: str, owner: str) -> int | None:
    """How many sessions of a store have had an event lately, to the minute; None where it is no longer the owner's."""
    rows = await database.fetch(_active(), {"id": config_id, "owner": owner})
    return int(rows[0].active) if rows else None


@cache
def _active() -> Statement:
    return compiled(text(_ACTIVE).bindparams(bindparam("id", type_=UUID), bindparam("owner", type_=UUID)))


def _parameters(keys: Sequence[str], parts: Sequence[Piece]) -> dict[str, Any]:
    return {"ids": list(keys), **piece_parameters(parts), **edge_parameters(parts)}


def _statement(sql: str, *more: Any) -> Statement:
    types = bindparam("ids", type_=ARRAY(UUID)), *piece_types(), *EDGE_TYPES, *more
    return compiled(text(sql).bindparams(*types), varies=True)


# ---------------------------------------------------------------------------------------------- intervals


def begins(span: Span, interval: str, zone: str) -> list[datetime]:
    """When each "hour", "day", "week" or "month" begins that the span touches, by the clocks of a time zone; in UTC.

    Reckoned here and not by generate_series: where clocks go back over midnight there are two midnights, and Postgres would
    begin the day with the second.
    """
    clock = ZoneInfo(zone)
    found = _hours(span, clock) if interval == "hour" else _dates(span, interval, clock)
    # A day that a zone skipped (Samoa, 30 December 2011) begins when the next one does.
    return [*dict.fromkeys(found)]


def _hours(span: Span, clock: ZoneInfo) -> Iterator[datetime]:
    local = span.start.astimezone(clock)
    at = span.start - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    while at < span.end:
        yield at
        # To the next full hour on the clock: not always in sixty minutes, Lord Howe Island moves its clocks by thirty.
        at += timedelta(minutes=60 - at.astimezone(clock).minute)


def _dates(span: Span, interval: str, clock: ZoneInfo) -> Iterator[datetime]:
    day = _first_day(span.start.astimezone(clock).date(), interval)
    while (at := datetime.combine(day, time(), clock).astimezone(UTC)) < span.end:
        yield at
        day = _first_day(day + timedelta(days={"day": 1, "week": 7, "month": 31}[interval]), interval)


def _first_day(day: date, interval: str) -> date:
    """The day on which a day's interval begins: for a week its Monday."""
    if interval == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if interval == "month" else day


# ------------------------------------------------------------------------------------------------- events


def _texts(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=ARRAY(Text))


# Every filter of the list of events, by its name.
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "event": events.c.event == any_(_texts("event")),
    "session_id": events.c.session_id == bindparam("session_id"),
    "span": and_(
        events.c.timestamp >= bindparam("start", type_=MOMENT),
        events.c.timestamp < bindparam("end", type_=MOMENT),
    ),
}


@dataclass(frozen=True, slots=True)
class Events:
    """Which events of a store: None leaves a filter out."""

    config_id: str
    event: tuple[str, ...] | None = None
    session_id: str | None = None
    span: Span | None = None

    @property
    def filters(self) -> tuple[str, ...]:
        """The names of the filters that are given."""
        return tuple(name for name in _CONDITIONS if getattr(self, name) is not None)

    def parameters(self) -> dict[str, Any]:
        """What statements about these events take."""
        given = {"config_id": self.config_id, "event": list(self.event or ()), "session_id": self.session_id}
        return given | ({"start": self.span.start, "end": self.span.end} if self.span else {})


async def page(database: Database, chosen: Events, window: keyset.Window) -> keyset.Page:
    """A page of events, newest first."""
    digest = keyset.digest("events", chosen)
    cursor = keyset.resume(window, [digest], keyset.is_moment)
    parameters = chosen.parameters() | keyset.parameters(window, cursor)
    rows = await database.fetch(_page(chosen.filters, cursor is not None), parameters)
    return keyset.page_of(rows, window, lambda row: keyset.encode(digest, keyset.Cursor(row.timestamp, row.id)))


@cache
def _page(filters: tuple[str, ...], behind: bool) -> Statement:
    key, tie = events.c.timestamp, events.c.id
    wanted = [keyset.behind(key, tie, descending=True)] if behind else []
    newest = keyset.order(key, tie, descending=True)
    return compiled(select(events).where(*_wanted(filters), *wanted).order_by(*newest).limit(bindparam("limit")))


async def count(database: Database, chosen: Events) -> int:
    """How many events there are."""
    [(found,)] = await database.fetch(_count(chosen.filters), chosen.parameters())
    return int(found)


@cache
def _count(filters: tuple[str, ...]) -> Statement:
    return compiled(select(func.count()).select_from(events).where(*_wanted(filters)))


def _wanted(filters: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [events.c.config_id == bindparam("config_id"), *(_CONDITIONS[name] for name in filters)]
