"""Lists of products, of many stores at once: which ones, in what order, which part."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import orjson
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Double,
    FromClause,
    Numeric,
    Select,
    Text,
    any_,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSQUERY, UUID

from storefront.core.cache_dependencies import Named
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import configs, products, variants
from storefront.queries import keyset, search
from storefront.queries.batching import by_parent
from storefront.queries.json_sql import Document
from storefront.queries.projection import COLUMNS, MOST_STATEMENTS, Wanted, needed
from storefront.queries.search import Search
from storefront.queries.visibility import Audience, available, ids, sellable


def _texts(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=ARRAY(Text))


def fits_attributes(but: ColumnElement[str] | None = None) -> ColumnElement[bool]:
    """A variant that has, for every attribute asked for, one of the values asked for: parameter `attributes`."""
    wanted = func.jsonb_each(bindparam("attributes", type_=JSONB)).table_valued(column("key", Text), column("value", JSONB))
    asked = wanted.alias("wanted")
    has = asked.c.value.op("?", return_type=Boolean())(variants.c.attributes.op("->>")(asked.c.key))
    unmet = select(literal(1)).select_from(asked).where(func.coalesce(has, False).is_(False))
    return ~(unmet if but is None else unmet.where(asked.c.key != but)).correlate_except(asked).exists()


# Every filter, by the name of its parameter. A list combines those that it was given with AND.
CONDITIONS: dict[str, ColumnElement[bool]] = {
    "ids": products.c.id == ids("ids"),
    "category": products.c.category == any_(_texts("category")),
    "tags": products.c.tags.op("?|", return_type=Boolean())(_texts("tags")),
    "min_price": products.c.price >= bindparam("min_price", type_=Numeric),
    "max_price": products.c.price <= bindparam("max_price", type_=Numeric),
    "in_stock": products.c.in_stock == bindparam("in_stock", type_=Boolean),
    "status": products.c.status == any_(_texts("status")),
    "min_rating": products.c.rating >= bindparam("min_rating", type_=Double),
    "updated_since": products.c.updated_at >= bindparam("updated_since", type_=products.c.updated_at.type),
    "attributes": select(variants.c.id)
    .where(variants.c.product_id == products.c.id, available(), fits_attributes())
    .correlate(products)
    .exists(),
}


@dataclass(frozen=True, slots=True)
class Scope:
    """One store of those that a selection is read for, and what is searched for there when the words as typed find nothing."""

    config_id: str
    mended: Search | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which products of a store: for whom, the filters with their values by parameter name, and what was searched for."""

    audience: Audience
    filters: tuple[tuple[str, Any], ...] = ()
    search: Search | None = None

    def without(self, *names: str) -> "Selection":
        """The selection less some filters: what a facet counts over."""
        return replace(self, filters=tuple(item for item in self.filters if item[0] not in names))

    def parameters(self, scopes: Sequence[Scope]) -> dict[str, Any]:
        """What statements about these scopes take: the stores, the search of each, the filters' values."""
        found: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in self.filters}
        if self.search is not None:
            searches = [scope.mended or self.search for scope in scopes]
            found |= {part: [getattr(one, part) for one in searches] for part in search.PARTS}
        found["config_ids"] = [scope.config_id for scope in scopes]
        # One store is asked for by its key, not by a list of one.
        return found | ({name: found[name][0] for name in ("config_ids", *self._parts)} if len(scopes) == 1 else {})

    @property
    def _parts(self) -> Sequence[str]:
        return search.PARTS if self.search is not None else ()


def attributes_value(wanted: Sequence[tuple[str, str]]) -> str:
    """The `attributes` filter: values of one name are alternatives, names add up."""
    by_name: dict[str, list[str]] = {}
    for name, value in sorted(set(wanted)):
        by_name.setdefault(name, []).append(value)
    return orjson.dumps(by_name).decode()


# -------------------------------------------------------------------------------------------------- lists


@dataclass(frozen=True, slots=True)
class Sort:
    """A sort key, its column, and how to tell that a cursor's value is one of its values."""

    column: ColumnElement[Any]
    is_value: Callable[[object], bool]


def _is_amount(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9]{1,8}\.[0-9]{2}", value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: object) -> bool:
    return type(value) in {int, float}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


query_column: ColumnElement[Any] = column("query", TSQUERY)

SORTS = {
    "created_at": Sort(products.c.created_at, keyset.is_moment),
    "updated_at": Sort(products.c.updated_at, keyset.is_moment),
    "price": Sort(products.c.price, _is_amount),
    "name": Sort(products.c.sort_title, _is_text),
    "popularity": Sort(products.c.popularity, _is_count),
    "rating": Sort(products.c.rating, _is_number),
    "relevance": Sort(func.ts_rank(products.c.search_vector, query_column).cast(Double), _is_number),
}


@dataclass(frozen=True, slots=True)
class Order:
    """A sort key of SORTS and its direction."""

    key: str
    descending: bool


# For statements that count or group, where order means nothing.
UNORDERED = Order("created_at", descending=True)


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of products as it was asked for, of any store, with the columns that are needed of them; or as documents.

    `counted`: each row has the `total` of its list.
    """

    selection: Selection
    order: Order
    window: keyset.Window
    columns: Wanted = None
    document: Document | None = None
    counted: bool = False

    def digest(self, scope: Scope) -> str:
        """What a cursor of this list is bound to: everything but the window."""
        return keyset.digest(scope.config_id, self.selection, self.order)


@dataclass(frozen=True, slots=True)
class Shape:
    """All that the SQL of a list depends on."""

    audience: Audience
    filters: tuple[str, ...]
    searched: tuple[str, ...]
    of_one: bool
    order: Order = UNORDERED
    backward: bool = False
    behind: bool = False
    columns: Wanted = None
    document: Document | None = None
    counted: bool = False
    limit: int = 0

    @classmethod
    def of(cls, selection: Selection, scopes: Sequence[Scope], *rest: Any) -> "Shape":
        """The shape of a selection, and of the list that it is read as."""
        names = tuple(name for name, _ in selection.filters)
        searched: tuple[str, ...] = ()
        if selection.search is not None:
            # Of one search only the parts that it has: the less there is, the sooner it is planned.
            searched = search.parts(scopes[0].mended or selection.search) if len(scopes) == 1 else search.PARTS
        return cls(selection.audience, names, searched, len(scopes) == 1, *rest)


def parents(shape: Shape) -> FromClause:
    """The scopes that a statement is about, numbered from 1: a store may stand there twice, with two searches.

    One scope stands there as itself. Of a list Postgres knows the length only when it plans anew, which takes longer than reading
    a page does; with one store it keeps its plan.
    """
    names = shape.searched
    if shape.of_one:
        columns = [bindparam("config_ids", type_=UUID).label("id"), *(bindparam(name, type_=Text).label(name) for name in names)]
        return select(*columns, literal_column("1").label("number")).subquery("parent")
    arrays = [bindparam("config_ids", type_=ARRAY(UUID)), *(_texts(name) for name in names)]
    unnested = func.unnest(*arrays).table_valued(
        column("id", UUID), *(column(name, Text) for name in names), with_ordinality="number"
    )
    return unnested.render_derived(name="parent")


def within(shape: Shape, parent: FromClause) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The FROM and WHERE of the products of a parent row."""
    source: FromClause = products
    wanted = [products.c.config_id == parent.c.id, *(CONDITIONS[name] for name in shape.filters)]
    if shape.audience is Audience.SHOPPER:
        published = select(configs.c.id).where(configs.c.id == parent.c.id, configs.c.is_published)
        wanted += [sellable(), published.correlate(parent).exists()]
    if shape.searched:
        # OFFSET 0 keeps the planner from writing the query's making into the rank of every row.
        query = select(search.tsquery(parent).label("query")).correlate(parent).offset(0).lateral("searched")
        source = products.join(query, true())
        # The index of words alone is to find the rows, with whatever values: for conditions said like this there is no other.
        wanted = [condition.is_(true()) for condition in wanted]
        wanted += [search.finds(search.of_store(parent.c.id, query_column)), func.numnode(query_column) > 0]
    return source, wanted


@dataclass(frozen=True, slots=True)
class Found:
    """A page of one store's products, with the scope that found it."""

    scope: Scope
    page: keyset.Page


async def pages(database: Database, scopes: Sequence[Scope], listing: Listing) -> list[Found]:
    """One page of products for each scope, in one statement."""
    window, is_value = listing.window, SORTS[listing.order.key].is_value
    cursor = keyset.resume(window, (listing.digest(scope) for scope in scopes), is_value)
    if cursor is not None and cursor.extra is not None:
        # The list was begun with a mended search: its next page continues that one.
        search.check_size(window.argument, cursor.extra)
        scopes = [replace(scope, mended=search.parse(cursor.extra)) for scope in scopes]
    document, parameters = listing.document, keyset.parameters(window, cursor)
    columns, limit = document.columns if document else listing.columns, parameters.pop("limit")
    shape = Shape.of(
        listing.selection, scopes, listing.order, window.backward, cursor is not None, columns, document, listing.counted, limit
    )
    parameters |= listing.selection.parameters(scopes)
    rows = by_parent(await database.fetch(_page(shape), parameters), [scope.config_id for scope in scopes], "config_id")
    return [Found(s, keyset.page_of(r, window, _cursor_maker(s, listing))) for s, r in zip(scopes, rows, strict=True)]


def _cursor_maker(scope: Scope, listing: Listing) -> Callable[[Row], str]:
    digest, extra = listing.digest(scope), scope.mended.text if scope.mended else None
    return lambda row: keyset.encode(digest, keyset.Cursor(row.sort_value, row.id, extra))


@lru_cache(MOST_STATEMENTS)
def _page(shape: Shape) -> Statement:
    parent = parents(shape)
    # The first page of a search has looked at all that it finds anyway.
    counts_itself = shape.counted and bool(shape.searched) and not shape.behind
    rows, page = _searched(shape, parent, counts_itself) if shape.searched else (parent, _limited(shape, parent).lateral("page"))
    told: list[Any] = [page]
    if shape.document is not None:
        # Written behind the limit: only of rows that are on the page.
        told = [column for column in page.c if column.key in _OF_EVERY_ROW]
        told.append(shape.document.written(page).label("node"))
    if shape.counted and not counts_itself:
        counted = _counted(shape, parent)
        told.append(counted.c.total)
        rows = rows.join(counted, true())
    found = select(*told).select_from(rows.join(page, true()))
    ordered = found.order_by(*_order(shape, page.c.sort_value, page.c.id)) if shape.searched else found
    return compiled(ordered, reads=Named("config_ids"))


def _searched(shape: Shape, parent: FromClause, counts: bool) -> tuple[Any, Any]:
    """Where a page of a search comes from, and the page: much is counted and sorted of which only what it shows is read whole."""
    ranked = _limited(shape, parent, narrow=True, counts=counts).lateral("ranked")
    columns = [*needed(COLUMNS, shape.columns, "id", "config_id"), *(one for one in ranked.c if one.key != "id")]
    whole = select(*columns).where(products.c.id == ranked.c.id).correlate(ranked)
    return parent.join(ranked, true()), whole.lateral("page")


def _limited(shape: Shape, parent: FromClause, *, narrow: bool = False, counts: bool = False) -> Select[Any]:
    source, wanted = within(shape, parent)
    key, tie = SORTS[shape.order.key].column, products.c.id
    if shape.behind:
        wanted.append(keyset.behind(key, tie, _descends(shape)))
    columns = [tie] if narrow else needed(COLUMNS, shape.columns, "id", "config_id")
    total = [func.count().over().label("total")] if counts else []
    page = select(*columns, key.label("sort_value"), *total).select_from(source).where(*wanted).correlate(parent)
    # Written out: without a number Postgres expects a tenth of the store, and never keeps its plan.
    return page.order_by(*_order(shape, key, tie)).limit(literal_column(str(shape.limit)))


def _order(shape: Shape, key: ColumnElement[Any], tie: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    return keyset.order(key, tie, _descends(shape))


def _descends(shape: Shape) -> bool:
    return shape.order.descending != shape.backward


_OF_EVERY_ROW = {"id", "config_id", "sort_value", "total"}


def _counted(shape: Shape, parent: FromClause) -> Any:
    source, wanted = within(shape, parent)
    return select(func.count().label("total")).select_from(source).where(*wanted).correlate(parent).lateral("counted")


async def counts(database: Database, scopes: Sequence[Scope], selection: Selection) -> list[int]:
    """How many products each scope has."""
    rows = await database.fetch(_count(Shape.of(selection, scopes)), selection.parameters(scopes))
    found = {row.number: row.total for row in rows}
    return [found[number] for number in range(1, len(scopes) + 1)]


@cache
def _count(shape: Shape) -> Statement:
    parent = parents(shape)
    counted = _counted(shape, parent)
    found = select(parent.c.number, counted.c.total).select_from(parent.join(counted, true()))
    return compiled(found, reads=Named("config_ids"))


async def offset_page(
    database: Database, scope: Scope, selection: Selection, order: Order, limit: int, offset: int, columns: Wanted = None
) -> list[Row]:
    """Rows by number. Rows that come or go meanwhile shift what follows them: `pages` does not have that."""
    parameters = selection.parameters([scope]) | {"limit": limit, "offset": offset}
    return await database.fetch(_offset_page(Shape.of(selection, [scope], order, False, False, columns)), parameters)


@lru_cache(MOST_STATEMENTS)
def _offset_page(shape: Shape) -> Statement:
    parent = parents(shape)
    source, wanted = within(shape, parent)
    ordered = keyset.order(SORTS[shape.order.key].column, products.c.id, shape.order.descending)
    columns = needed(COLUMNS, shape.columns, "id", "config_id")
    page = select(*columns).select_from(parent.join(source, true())).where(*wanted).order_by(*ordered)
    return compiled(page.limit(bindparam("limit")).offset(bindparam("offset")), reads=Named("config_ids"))
