"""Figures of products, and revenue of stores and products, from rollups and from raw events: of many at once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models.row_keys import (
    IN_STORES_SQL,
    RowKey,
    are_of_single_store,
    bind_store_type,
    build_key_parameters,
    build_store_parameters,
    build_store_sql,
    have_single_store,
)
from storefront.queries.analytics import Span, list_interval_starts
from storefront.queries.batching import group_by_parent
from storefront.queries.rollups import (
    AMOUNT_SQL,
    CURRENCY_SQL,
    EDGE_EVENTS_SQL,
    EDGE_PARAMETER_TYPES,
    PRODUCT_ID_SQL,
    TIMESTAMP_TYPE,
    WITH_PIECES_SQL,
    SpanPiece,
    bind_piece_types,
    build_edge_parameters,
    build_piece_parameters,
    build_pieces_from_clause,
    find_common_grain,
    list_single_grains,
    split_span,
)


class RevenueSum(NamedTuple):
    """The purchases in one currency that state their total, and the sum of these totals as text."""

    currency: str
    purchases: int
    amount: str


class ProductFigures(NamedTuple):
    """Event counts of a product, and its revenue by currency, the one with the most purchases first."""

    product_clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0
    revenue: Sequence[RevenueSum] = ()


class ProductPoint(NamedTuple):
    """The start of an interval, and the event counts of a product in it."""

    starts_at: str
    product_clicks: int = 0
    add_to_carts: int = 0
    purchases: int = 0


# ------------------------------------------------------------------------------------------------ stores

_STORE_REVENUE_SQL = f"""
{WITH_PIECES_SQL}
SELECT config_id AS parent_id, currency, sum(purchases)::bigint AS purchases, sum(amount)::text AS amount FROM (
  SELECT config_id, currency, purchases, amount {build_pieces_from_clause("purchases")}
  UNION ALL
  SELECT config_id, {CURRENCY_SQL}, 1, {AMOUNT_SQL} {EDGE_EVENTS_SQL} AND event = 'purchase'
) AS total
WHERE currency <> '' GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
"""


async def load_revenue_of_stores(database: Database, keys: Sequence[str], span: Span) -> list[list[RevenueSum]]:
    """The revenue of each store by currency, the one with the most purchases first."""
    pieces = split_span(span.start, span.end)
    parameters = {**build_store_parameters(keys), **build_piece_parameters(pieces), **build_edge_parameters(pieces)}
    rows = group_by_parent(await database.fetch(_select_store_revenue(have_single_store(keys)), parameters), keys)
    return [[RevenueSum(row.currency, row.purchases, row.amount) for row in store_rows] for store_rows in rows]


@cache
def _select_store_revenue(is_single_store: bool) -> Statement:
    types = bind_store_type(is_single_store), *bind_piece_types(), *EDGE_PARAMETER_TYPES
    return compile_statement(
        text(build_store_sql(_STORE_REVENUE_SQL, is_single_store)).bindparams(*types), needs_custom_plan=True
    )


# ---------------------------------------------------------------------------------------------- products

_LOOKUP_SQL = f"""
  SELECT wanted.config_id, wanted.product_id, unit.at, {{columns}}
  FROM wanted CROSS JOIN unit CROSS JOIN LATERAL (
    SELECT * FROM {{table}} AS row WHERE {IN_STORES_SQL} AND row.config_id = wanted.config_id
      AND row.grain = unit.grain AND row.at = unit.at AND row.product_id = wanted.product_id OFFSET 0
  ) AS part"""
# Single grains, so that each row is found by its whole key: a range of them would be read for all products.
_PRODUCT_PARTS_SQL = f"""
WITH unit AS (SELECT * FROM unnest(:unit_grains, :unit_starts_of) AS unit (grain, at)),
wanted AS (SELECT * FROM unnest(:wanted_stores, :ids) AS wanted (config_id, product_id)),
part AS (
  {
    _LOOKUP_SQL.format(
        table="analytics_products", columns="clicks, add_to_carts, 0::bigint AS purchases, '' AS currency, 0::numeric AS amount"
    )
}
  UNION ALL
  {_LOOKUP_SQL.format(table="analytics_purchases", columns="0, 0, purchases, currency, amount")}
  UNION ALL
  SELECT config_id, {PRODUCT_ID_SQL}, "timestamp", (event = 'product_click')::int, (event = 'add_to_cart')::int,
    (event = 'purchase')::int, CASE WHEN event = 'purchase' THEN {CURRENCY_SQL} ELSE '' END,
    CASE WHEN event = 'purchase' THEN {AMOUNT_SQL} ELSE 0 END
  {EDGE_EVENTS_SQL} AND event IN ('product_click', 'add_to_cart', 'purchase') AND EXISTS (
    SELECT FROM wanted WHERE wanted.config_id = analytics_events.config_id AND wanted.product_id = {PRODUCT_ID_SQL}
  )
)"""
_SUMS_SQL = """sum(clicks)::bigint AS product_clicks, sum(add_to_carts)::bigint AS add_to_carts,
  sum(purchases)::bigint AS purchases"""
_FIGURES_SQL = f"""{_PRODUCT_PARTS_SQL}
SELECT product_id AS parent_id, currency, {_SUMS_SQL}, sum(amount)::text AS amount
FROM part GROUP BY 1, 2 ORDER BY 1, purchases DESC, 2
"""
_SERIES_SQL = f"""{_PRODUCT_PARTS_SQL}
SELECT product_id AS parent_id, width_bucket(at, :starts) AS bucket, {_SUMS_SQL} FROM part GROUP BY 1, 2
"""


async def load_product_figures(database: Database, keys: Sequence[RowKey], span: Span) -> list[ProductFigures]:
    """The figures of each product."""
    pieces = split_span(span.start, span.end)
    rows = await database.fetch(_select_figures(are_of_single_store(keys)), _build_product_parameters(keys, pieces))
    return [_build_figures(product_rows) for product_rows in group_by_parent(rows, [key.id for key in keys])]


def _build_figures(rows: Sequence[Row]) -> ProductFigures:
    return ProductFigures(
        sum(row.product_clicks for row in rows),
        sum(row.add_to_carts for row in rows),
        sum(row.purchases for row in rows),
        [RevenueSum(row.currency, row.purchases, row.amount) for row in rows if row.currency],
    )


async def load_product_series(
    database: Database, keys: Sequence[RowKey], span: Span, interval: str, time_zone: str
) -> list[list[ProductPoint]]:
    """The counts of each product for every interval that overlaps the span, including empty ones."""
    starts = list_interval_starts(span, interval, time_zone)
    parameters = _build_product_parameters(keys, _split_by_interval(span, starts)) | {"starts": starts}
    rows = group_by_parent(await database.fetch(_select_series(are_of_single_store(keys)), parameters), [key.id for key in keys])
    timestamps = [start.strftime("%Y-%m-%dT%H:%M:%SZ") for start in starts]
    return [_build_points(timestamps, {row.bucket: row for row in product_rows}) for product_rows in rows]


def _split_by_interval(span: Span, starts: Sequence[datetime]) -> list[SpanPiece]:
    """The pieces of each interval: longer grains than those that divide all intervals."""
    if not find_common_grain(starts[1:]):
        return split_span(span.start, span.end, max_grain=0)
    ends = [*starts[1:], span.end]
    return [
        piece for start, end in zip(starts, ends, strict=True) for piece in split_span(max(start, span.start), min(end, span.end))
    ]


def _build_points(timestamps: Sequence[str], rows: Mapping[int, Row]) -> list[ProductPoint]:
    return [
        ProductPoint(at, row.product_clicks, row.add_to_carts, row.purchases) if (row := rows.get(bucket)) else ProductPoint(at)
        for bucket, at in enumerate(timestamps, 1)
    ]


def _build_product_parameters(keys: Sequence[RowKey], pieces: Sequence[SpanPiece]) -> dict[str, Any]:
    units = build_piece_parameters(list_single_grains([piece for piece in pieces if piece.grain]), "unit_")
    del units["unit_stops"]
    stores = {"wanted_stores": [key.config_id for key in keys]}
    return {**build_key_parameters(keys), **stores, **units, **build_edge_parameters(pieces)}


@cache
def _select_figures(is_single_store: bool) -> Statement:
    return _compile_product_statement(_FIGURES_SQL, is_single_store)


@cache
def _select_series(is_single_store: bool) -> Statement:
    return _compile_product_statement(_SERIES_SQL, is_single_store, bindparam("starts", type_=ARRAY(TIMESTAMP_TYPE)))


def _compile_product_statement(sql: str, is_single_store: bool, *extra_types: Any) -> Statement:
    ids = [bindparam(name, type_=ARRAY(UUID)) for name in ("wanted_stores", "ids")]
    types = bind_store_type(is_single_store), *ids, *bind_piece_types("unit_")[:2], *EDGE_PARAMETER_TYPES, *extra_types
    return compile_statement(text(build_store_sql(sql, is_single_store)).bindparams(*types), needs_custom_plan=True)
