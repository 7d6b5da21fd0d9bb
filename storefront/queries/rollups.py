"""Rollup grains and dimensions of events, and the split of a span into grains."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, BindParameter, DateTime, Integer, bindparam

from storefront.models.row_keys import IN_STORES_SQL

TIMESTAMP_TYPE = DateTime(timezone=True)

# Grains in seconds: a minute, a quarter-hour (the finest difference between time zones), up to 16 days. A report reads the
# longest grains that fit, so that its cost hardly depends on traffic: thirty whole days take about six grains, a span that ends
# at any moment up to thirty. Minutes are retained as long as raw events, which cover what is finer.
MINUTE_SECONDS, QUARTER_HOUR_SECONDS, _HOUR_SECONDS, DAY_SECONDS = 60, 900, 3_600, 86_400
GRAINS_SECONDS = (
    MINUTE_SECONDS,
    QUARTER_HOUR_SECONDS,
    2 * _HOUR_SECONDS,
    6 * _HOUR_SECONDS,
    12 * _HOUR_SECONDS,
    DAY_SECONDS,
    2 * DAY_SECONDS,
    4 * DAY_SECONDS,
    8 * DAY_SECONDS,
    16 * DAY_SECONDS,
)
# Grains align with this origin: midnight in UTC.
GRAIN_ORIGIN = datetime(2001, 1, 1, tzinfo=UTC)
DATE_BIN_SQL = "date_bin({grain} * interval '1 second', {moment}, timestamptz '2001-01-01 00:00:00+00')"

# The host of a URL: after the scheme and user info, before the port; an IPv6 address keeps its brackets.
_REFERRER_HOST_SQL = r"lower(substring(referrer FROM '^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^]/?#]*\]|[^]/?#:@[]+)'))"

# The dimensions of an event, as expressions over its columns: truncated to the limit of an index entry, '' for none.
SOURCE_SQL = f"left(coalesce(nullif(utm_source, ''), {_REFERRER_HOST_SQL}, 'direct'), 253)"
MEDIUM_SQL = "left(coalesce(utm_medium, ''), 150)"
CAMPAIGN_SQL = "left(coalesce(utm_campaign, ''), 150)"
_UUID_PATTERN_SQL = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
PRODUCT_ID_SQL = f"CASE WHEN properties ->> 'productId' ~* {_UUID_PATTERN_SQL} THEN CAST(properties ->> 'productId' AS uuid) END"
# Of a purchase with a total and a currency: the total. Totals are text or JSON numbers, and four digits of the latter count.
_AMOUNT_SQL = r"""CASE WHEN properties ->> 'currency' ~ '^[A-Z]{3}$' AND properties ->> 'total' ~ '^[0-9]{1,15}([.][0-9]+)?$'
  THEN round(CAST(properties ->> 'total' AS numeric), 4) END"""
AMOUNT_SQL = f"coalesce({_AMOUNT_SQL}, 0)"
# '' without both.
CURRENCY_SQL = f"CASE WHEN ({_AMOUNT_SQL}) IS NULL THEN '' ELSE properties ->> 'currency' END"
# Of purchases that do not say of which product.
NO_PRODUCT_ID = "00000000-0000-0000-0000-000000000000"
PURCHASED_ID_SQL = f"coalesce({PRODUCT_ID_SQL}, CAST('{NO_PRODUCT_ID}' AS uuid))"


@dataclass(frozen=True, slots=True)
class SpanPiece:
    """A part of a span: grains of `grain` seconds from `start` to `stop`; with a grain of 0, raw events."""

    grain: int
    start: datetime
    stop: datetime


def split_span(start: datetime, end: datetime, *, max_grain: int = GRAINS_SECONDS[-1]) -> list[SpanPiece]:
    """Split a span into the fewest grains, none longer than `max_grain` seconds, in order."""
    return _split_by_grains(start, end, [grain for grain in reversed(GRAINS_SECONDS) if grain <= max_grain])


def list_surrounding_days(pieces: Sequence[SpanPiece]) -> list[SpanPiece]:
    """The days that contain the pieces, each of which lies within one day."""
    days = dict.fromkeys(_floor_to_grain(piece.start, DAY_SECONDS) for piece in pieces)
    return [SpanPiece(DAY_SECONDS, day, day + timedelta(days=1)) for day in days]


def list_single_grains(pieces: Sequence[SpanPiece]) -> list[SpanPiece]:
    """The single grains of the pieces."""
    return [
        SpanPiece(piece.grain, at, at + timedelta(seconds=piece.grain))
        for piece in pieces
        for at in (
            piece.start + timedelta(seconds=n) for n in range(0, int((piece.stop - piece.start).total_seconds()), piece.grain)
        )
    ]


def _split_by_grains(start: datetime, end: datetime, grains: Sequence[int]) -> list[SpanPiece]:
    if start >= end:
        return []
    if not grains:
        return [SpanPiece(0, start, end)]
    grain, *finer = grains
    first, last = _floor_to_grain(start + timedelta(seconds=grain) - timedelta.resolution, grain), _floor_to_grain(end, grain)
    if first >= last:
        return _split_by_grains(start, end, finer)
    return [*_split_by_grains(start, first, finer), SpanPiece(grain, first, last), *_split_by_grains(last, end, finer)]


def _floor_to_grain(timestamp: datetime, grain: int) -> datetime:
    return timestamp - (timestamp - GRAIN_ORIGIN) % timedelta(seconds=grain)


def find_common_grain(timestamps: Sequence[datetime]) -> int:
    """The longest grain that is aligned with every timestamp; 0 if none is."""
    fitting_grains = [
        grain
        for grain in GRAINS_SECONDS
        if all(not (timestamp - GRAIN_ORIGIN) % timedelta(seconds=grain) for timestamp in timestamps)
    ]
    return max(fitting_grains, default=0)


# Statements over pieces begin with this, and take the parameters of `bind_piece_types`. Their stores are those of IN_STORES_SQL.
WITH_PIECES_SQL = "WITH piece AS (SELECT * FROM unnest(:grains, :starts_of, :stops) AS piece (grain, start, stop))"


def bind_piece_types(prefix: str = "") -> list[BindParameter[Any]]:
    """The typed parameters of the pieces."""
    timestamp_types = [bindparam(f"{prefix}{name}", type_=ARRAY(TIMESTAMP_TYPE)) for name in ("starts_of", "stops")]
    return [bindparam(f"{prefix}grains", type_=ARRAY(Integer)), *timestamp_types]


def build_pieces_from_clause(table: str, cte_name: str = "piece") -> str:
    """A FROM clause with the rollup rows of the pieces. LATERAL: joined, many pieces may lead the planner to scan the table."""
    return f"""FROM {cte_name} AS piece CROSS JOIN LATERAL (
    SELECT * FROM analytics_{table}
    WHERE {IN_STORES_SQL} AND grain = piece.grain AND at >= piece.start AND at < piece.stop OFFSET 0
  ) AS part"""


# The edges of a span within a minute. As scalar parameters: from these the planner knows that few events lie between.
_EDGE_ROWS_SQL = """FROM {table} WHERE {in_stores} AND {people}
  ({moment} >= :head_start AND {moment} < :head_stop OR {moment} >= :tail_start AND {moment} < :tail_stop)"""
EDGE_EVENTS_SQL = _EDGE_ROWS_SQL.format(
    in_stores=IN_STORES_SQL, table="analytics_events", people="NOT is_bot AND", moment='"timestamp"'
)
EDGE_SESSIONS_SQL = _EDGE_ROWS_SQL.format(in_stores=IN_STORES_SQL, table="analytics_sessions", people="", moment="began")
EDGE_PARAMETER_TYPES = tuple(
    bindparam(name, type_=TIMESTAMP_TYPE) for name in ("head_start", "head_stop", "tail_start", "tail_stop")
)


def build_piece_parameters(pieces: Sequence[SpanPiece], prefix: str = "") -> dict[str, object]:
    """The parameters of the pieces."""
    return {
        f"{prefix}grains": [piece.grain for piece in pieces],
        f"{prefix}starts_of": [piece.start for piece in pieces],
        f"{prefix}stops": [piece.stop for piece in pieces],
    }


def build_edge_parameters(pieces: Sequence[SpanPiece]) -> dict[str, object]:
    """The parameters of the pieces with raw events: at most two, at the ends of the span."""
    empty_piece = SpanPiece(0, GRAIN_ORIGIN, GRAIN_ORIGIN)
    head, tail, *_ = [*(piece for piece in pieces if not piece.grain), empty_piece, empty_piece]
    return {"head_start": head.start, "head_stop": head.stop, "tail_start": tail.start, "tail_stop": tail.stop}
