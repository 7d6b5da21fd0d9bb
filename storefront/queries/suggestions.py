"""Predictive search: the most popular products whose titles have the words typed so far."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    distinct,
    func,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products
from storefront.models.row_keys import depend_on_stores
from storefront.queries.listing import (
    Order,
    Selection,
    StatementShape,
    StoreScope,
    build_parent_rows,
    build_product_source,
    build_visibility_conditions,
    get_parent_store,
)
from storefront.queries.search import Search, has_ranked_words, parse_tsqueries

# The most popular products of a store are looked through before the index is used. Of what begins many titles, such as a letter,
# they have enough: the index would find, and read, half of the store.
POPULAR_PRODUCTS = 600


@dataclass(frozen=True, slots=True)
class TitleMatches:
    """The most popular products with matching titles, and the distinct titles of products in the same order."""

    ids: list[str]
    titles: list[str]


async def load_title_matches(
    database: Database, scopes: Sequence[StoreScope], selection: Selection, limit: int
) -> list[TitleMatches]:
    """For each scope, `limit` products and titles with the words typed so far, of which the last is a beginning."""
    selection, scopes = _match_titles(selection, scopes)
    parameters = selection.build_parameters(scopes) | {"limit": limit}
    shape = StatementShape.from_selection(selection, scopes, Order("relevance", descending=True))
    return [
        TitleMatches(row.ids[:limit], [*dict.fromkeys(row.titles)][:limit])
        for row in await database.fetch(_select_matches(shape), parameters)
    ]


def _match_titles(selection: Selection, scopes: Sequence[StoreScope]) -> tuple[Selection, Sequence[StoreScope]]:
    def match_titles(search: Search | None) -> Search | None:
        return search.match_titles() if search else None

    return replace(selection, search=match_titles(selection.search)), [
        replace(scope, corrected_search=match_titles(scope.corrected_search)) for scope in scopes
    ]


@cache
def _select_matches(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    popular = _limit_matches(_select_popular(shape, parent)).correlate(parent).lateral("popular")
    source, conditions = build_product_source(shape, parent)
    # What the index finds has the words anywhere.
    indexed = _select_match().select_from(source).where(*conditions, has_ranked_words(products.c.search_vector))
    is_needed = popular.c.title_count < _LIMIT
    found = _limit_matches(indexed.where(is_needed).correlate(parent, popular)).correlate(parent, popular).lateral("found")
    columns = (func.coalesce(found.c[name], popular.c[name], literal_column("'{}'")).label(name) for name in ("ids", "titles"))
    rows = select(*columns).select_from(parent.join(popular, true()).join(found, true())).order_by(parent.c.number)
    return compile_statement(rows, depends_on=depend_on_stores(shape.is_single_store))


_LIMIT = bindparam("limit", type_=Integer)


def _select_match(of: FromClause = products) -> Select[Any]:
    return select(of.c.id, of.c.title, of.c.popularity)


def _select_popular(shape: StatementShape, parent: FromClause) -> Select[Any]:
    store = get_parent_store(shape, parent)
    columns = (products.c[name] for name in ("id", "title", "popularity", "status", "search_vector"))
    first = select(*columns).where(products.c.config_id == store).order_by(products.c.popularity.desc(), products.c.id.desc())
    walked = first.limit(literal_column(str(POPULAR_PRODUCTS))).correlate(parent).lateral("walked")
    visible = build_visibility_conditions(shape, store, walked)
    source = walked.join(parse_tsqueries(parent, shape.search_components, store), true())
    return _select_match(walked).select_from(source).where(*visible, has_ranked_words(walked.c.search_vector)).correlate(parent)


def _limit_matches(matches: Select[Any]) -> Select[Any]:
    """One row with the first matches: enough for `limit` products and for `limit` titles."""
    match = matches.subquery("match")
    order = match.c.popularity.desc(), match.c.id.desc()
    placed = select(
        match.c.id,
        match.c.title,
        func.row_number().over(order_by=order).label("place"),
        func.row_number().over(partition_by=match.c.title, order_by=order).label("place_of_title"),
    ).subquery("placed")
    is_wanted = or_(placed.c.place <= _LIMIT, placed.c.place_of_title == literal_column("1"))
    first = select(placed).where(is_wanted).order_by(placed.c.place).limit(2 * _LIMIT).subquery("first")

    def collect(column: ColumnElement[Any], name: str) -> ColumnElement[Any]:
        return func.array_agg(aggregate_order_by(cast(column, Text), first.c.place)).label(name)

    title_count = func.count(distinct(first.c.title)).label("title_count")
    return select(collect(first.c.id, "ids"), collect(first.c.title, "titles"), title_count)
