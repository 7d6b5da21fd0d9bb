"""How events are counted: under what, and in stretches of which lengths; and how a span is put together of these."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, BindParameter, DateTime, Integer, bindparam

MOMENT = DateTime(timezone=True)

# Seconds that are counted together: a minute, a quarter of an hour, which is as finely as clocks of time zones differ, up to 16
# days. A report takes the longest that fit, so that what it reads hardly depends on how much happened. Thirty days are six grains
# or so, and up to some moment thirty of them. Minutes are kept as long as single events are: what is finer is counted from these.
MINUTE, QUARTER, _HOUR, DAY = 60, 900, 3_600, 86_400
GRAINS = (MINUTE, QUARTER, 2 * _HOUR, 6 * _HOUR, 12 * _HOUR, DAY, 2 * DAY, 4 * DAY, 8 * DAY, 16 * DAY)
# Where grains begin: midnight in UTC.
ORIGIN = datetime(2001, 1, 1, tzinfo=UTC)
BIN = "date_bin({grain} * interval '1 second', {moment}, timestamptz '2001-01-01 00:00:00+00')"

# The host of an address: after the scheme and a name with password, before a port; an IPv6 address keeps its brackets.
_HOST = r"lower(substring(referrer FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^]/?#]*\]|[^]/?#:@[]+)'))"

# What an event is counted under, as expressions over its columns: cut to what an index has room for, '' where it says nothing.
SOURCE = f"left(coalesce(nullif(utm_source, ''), {_HOST}, 'direct'), 253)"
MEDIUM = "left(coalesce(utm_medium, ''), 150)"
CAMPAIGN = "left(coalesce(utm_campaign, ''), 150)"
_ID = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
PRODUCT = f"CASE WHEN properties ->> 'productId' ~* {_ID} THEN CAST(properties ->> 'productId' AS uuid) END"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a span: grains of so many seconds from `start` up to `stop`; with a grain of 0, single events."""

    grain: int
    start: datetime
    stop: datetime


def pieces(start: datetime, end: datetime, *, most: int = GRAINS[-1]) -> list[Piece]:
    """The span in as few grains as it can be put together of, none longer than `most` seconds, in order."""
    return _cut(start, end, [grain for grain in reversed(GRAINS) if grain <= most])


def days_around(parts: Sequence[Piece]) -> list[Piece]:
    """The days that the pieces lie in, each of which is shorter than one, and lies in one."""
    days = dict.fromkeys(_floor(part.start, DAY) for part in parts)
    return [Piece(DAY, day, day + timedelta(days=1)) for day in days]


def units_of(parts: Sequence[Piece]) -> list[Piece]:
    """The single grains that pieces consist of."""
    return [
        Piece(part.grain, at, at + timedelta(seconds=part.grain))
        for part in parts
        for at in (part.start + timedelta(seconds=n) for n in range(0, int((part.stop - part.start).total_seconds()), part.grain))
    ]


def _cut(start: datetime, end: datetime, grains: Sequence[int]) -> list[Piece]:
    if start >= end:
        return []
    if not grains:
        return [Piece(0, start, end)]
    grain, *finer = grains
    first, last = _floor(start + timedelta(seconds=grain) - timedelta.resolution, grain), _floor(end, grain)
    if first >= last:
        return _cut(start, end, finer)
    return [*_cut(start, first, finer), Piece(grain, first, last), *_cut(last, end, finer)]


def _floor(moment: datetime, grain: int) -> datetime:
    return moment - (moment - ORIGIN) % timedelta(seconds=grain)


def grain_of(moments: Sequence[datetime]) -> int:
    """The longest grain that begins at each of the moments; 0 where not even the shortest does."""
    fits = [grain for grain in GRAINS if all(not (moment - ORIGIN) % timedelta(seconds=grain) for moment in moments)]
    return max(fits, default=0)


# Statements over pieces begin with this, and take these parameters.
WITH_PIECES = "WITH piece AS (SELECT * FROM unnest(:grains, :starts_of, :stops) AS piece (grain, start, stop))"


def piece_types(prefix: str = "") -> list[BindParameter[Any]]:
    """The types of the parameters."""
    moments = [bindparam(f"{prefix}{name}", type_=ARRAY(MOMENT)) for name in ("starts_of", "stops")]
    return [bindparam(f"{prefix}grains", type_=ARRAY(Integer)), *moments]


def counted(table: str, piece: str = "piece") -> str:
    """What the pieces are made of. Asked piece by piece, as a planner may prefer to read a whole table for many of them."""
    return f"""FROM {piece} AS piece CROSS JOIN LATERAL (
    SELECT * FROM analytics_{table}
    WHERE config_id = ANY(:ids) AND grain = piece.grain AND at >= piece.start AND at < piece.stop OFFSET 0
  ) AS part"""


# Where a span begins and ends within a minute. Moments of their own: of these a planner knows that there are few events between.
_AT_EDGES = """FROM {table} WHERE config_id = ANY(:ids) AND {people}
  ({moment} >= :head_start AND {moment} < :head_stop OR {moment} >= :tail_start AND {moment} < :tail_stop)"""
EVENTS = _AT_EDGES.format(table="analytics_events", people="NOT is_bot AND", moment='"timestamp"')
SESSIONS = _AT_EDGES.format(table="analytics_sessions", people="", moment="began")
EDGE_TYPES = tuple(bindparam(name, type_=MOMENT) for name in ("head_start", "head_stop", "tail_start", "tail_stop"))


def piece_parameters(parts: Sequence[Piece], prefix: str = "") -> dict[str, object]:
    """The pieces as parameters."""
    return {
        f"{prefix}grains": [part.grain for part in parts],
        f"{prefix}starts_of": [part.start for part in parts],
        f"{prefix}stops": [part.stop for part in parts],
    }


def edge_parameters(parts: Sequence[Piece]) -> dict[str, object]:
    """Those of the pieces that are single events as parameters: two at most, as there is nothing between them but grains."""
    none = Piece(0, ORIGIN, ORIGIN)
    head, tail, *_ = [*(part for part in parts if not part.grain), none, none]
    return {"head_start": head.start, "head_stop": head.stop, "tail_start": tail.start, "tail_stop": tail.stop}
