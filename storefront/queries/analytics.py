"""What happened in many stores at once: the figures of a report, counted from the raw events, and the events themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, DateTime, Text, and_, any_, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.database import Database, Row, Statement, compiled
from storefront.models import events
from storefront.queries import keyset
from storefront.queries.grouped import by_key, by_parent

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
    """The figures of a store."""

    page_views: int = 0
    product_clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0
    sessions: int = 0
    clicked_sessions: int = 0
    converted_sessions: int = 0


# ------------------------------------------------------------------------------------------------ figures

_WHERE = 'config_id = ANY(:ids) AND "timestamp" >= :start AND "timestamp" < :end'
_MOMENT = DateTime(timezone=True)
_CLICKS = "count(*) FILTER (WHERE event = 'product_click')"
_CARTS = "count(*) FILTER (WHERE event = 'add_to_cart')"

# First per session, then over the sessions: count(DISTINCT …) would sort every event to tell sessions apart. Events without
# a session are one group with the key NULL, which count(session_id) leaves out.
_COUNTS = f"""
SELECT config_id AS parent_id, bucket,
       sum(page_views)::bigint AS page_views, sum(clicks)::bigint AS product_clicks,
       sum(carts)::bigint AS add_to_carts, sum(purchases)::bigint AS purchases,
       count(session_id) AS sessions,
       count(session_id) FILTER (WHERE clicks > 0) AS clicked_sessions,
       count(session_id) FILTER (WHERE clicks > 0 AND carts > 0) AS converted_sessions
FROM (
  SELECT config_id, {{bucket}} AS bucket, session_id, {_CLICKS} AS clicks, {_CARTS} AS carts,
         count(*) FILTER (WHERE event = 'page_view') AS page_views,
         count(*) FILTER (WHERE event = 'purchase') AS purchases
  FROM analytics_events
  WHERE {_WHERE}
  GROUP BY 1, 2, 3
) AS visit
GROUP BY 1, 2
"""


async def figures(database: Database, keys: Sequence[str], span: Span) -> list[Counts]:
    """The figures of each store."""
    rows = by_key(await database.fetch(_figures(), _parameters(keys, span)), keys, "parent_id")
    return [Counts(*row[2:]) if row else Counts() for row in rows]


@cache
def _figures() -> Statement:
    return _statement(_COUNTS.format(bucket="1"))


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
    rows = by_parent(await database.fetch(_series(), _parameters(keys, span) | {"starts": starts}), keys)
    moments = [start.strftime("%Y-%m-%dT%H:%M:%SZ") for start in starts]
    return [_points(moments, found) for found in rows]


@cache
def _series() -> Statement:
    return _statement(_COUNTS.format(bucket='width_bucket("timestamp", :starts)'), bindparam("starts", type_=ARRAY(_MOMENT)))


def _points(moments: list[str], rows: list[Row]) -> list[Point]:
    found = {row.bucket: row[2:7] for row in rows}
    return [Point(at, *found.get(bucket, ())) for bucket, at in enumerate(moments, 1)]


_TOP_PRODUCTS = f"""
SELECT * FROM (
  SELECT *, row_number() OVER (PARTITION BY parent_id ORDER BY clicks DESC, add_to_carts DESC, product_id) AS place
  FROM (
    SELECT config_id AS parent_id, properties ->> 'productId' COLLATE "C" AS product_id,
           {_CLICKS} AS clicks, {_CARTS} AS add_to_carts
    FROM analytics_events
    WHERE {_WHERE} AND event IN ('product_click', 'add_to_cart') AND properties ->> 'productId' IS NOT NULL
    GROUP BY 1, 2
  ) AS product
) AS ranked
WHERE place <= :limit
ORDER BY parent_id, place
"""


async def top_products(database: Database, keys: Sequence[str], span: Span, limit: int) -> list[list[Row]]:
    """The products of each store that were clicked most, then put into carts most. Products since deleted are among them."""
    return by_parent(await database.fetch(_top_products(), _parameters(keys, span) | {"limit": limit}), keys)


@cache
def _top_products() -> Statement:
    return _statement(_TOP_PRODUCTS, bindparam("limit"))


# The host of an address: after the scheme and a name with password, before a port; an IPv6 address keeps its brackets.
_HOST = r"lower(substring(referrer FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^]/?#]*\]|[^]/?#:@[]+)'))"

_SOURCES = f"""
SELECT * FROM (
  SELECT *, row_number() OVER (
    PARTITION BY parent_id ORDER BY sessions DESC, events DESC, source, medium NULLS FIRST, campaign NULLS FIRST
  ) AS place
  FROM (
    SELECT config_id AS parent_id, source, medium, campaign,
           count(session_id) AS sessions, sum(events)::bigint AS events
    FROM (
      SELECT config_id, coalesce(nullif(utm_source, ''), {_HOST}, 'direct') COLLATE "C" AS source,
             nullif(utm_medium, '') COLLATE "C" AS medium, nullif(utm_campaign, '') COLLATE "C" AS campaign,
             session_id, count(*) AS events
      FROM analytics_events
      WHERE {_WHERE}
      GROUP BY 1, 2, 3, 4, 5
    ) AS visit
    GROUP BY 1, 2, 3, 4
  ) AS origin
) AS ranked
WHERE place <= {MOST_SOURCES}
ORDER BY parent_id, place
"""


async def sources(database: Database, keys: Sequence[str], span: Span) -> list[list[Row]]:
    """Where the events of each store came from, the origins with the most sessions first."""
    return by_parent(await database.fetch(_sources(), _parameters(keys, span)), keys)


@cache
def _sources() -> Statement:
    return _statement(_SOURCES)


def _parameters(keys: Sequence[str], span: Span) -> dict[str, Any]:
    return {"ids": list(keys), "start": span.start, "end": span.end}


def _statement(sql: str, *more: Any) -> Statement:
    span = [bindparam(name, type_=_MOMENT) for name in ("start", "end")]
    return compiled(text(sql).bindparams(bindparam("ids", type_=ARRAY(UUID)), *span, *more))


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
        events.c.timestamp >= bindparam("start", type_=_MOMENT),
        events.c.timestamp < bindparam("end", type_=_MOMENT),
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
