"""Product lists of many stores at once: filters, search, sort order and keyset pagination."""

from collections.abc import Callable, Iterable, Sequence
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
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSQUERY, UUID

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import configs, products, variants
from storefront.models.variant import fold_case
from storefront.queries import keyset, search
from storefront.queries.batching import bind_text_array, group_by_parent
from storefront.queries.fields import fold_json
from storefront.queries.json_sql import JsonDocument
from storefront.queries.projection import MAX_CACHED_STATEMENTS, PRODUCT_COLUMNS, RequestedColumns, filter_columns
from storefront.queries.search import Search
from storefront.queries.visibility import Audience, any_of_ids, is_product_sellable, is_variant_available


def has_requested_attributes(excluded_name: ColumnElement[str] | None = None) -> ColumnElement[bool]:
    """Whether a variant has, for every requested attribute, one of its requested values, in any case. Parameter `attributes`.

    `excluded_name`: a name, without case, that is not regarded.
    """
    requested_values = func.jsonb_each(fold_json(bindparam("attributes", type_=JSONB))).table_valued(
        column("key", Text), column("value", JSONB)
    )
    requested = requested_values.alias("wanted")
    has_value = requested.c.value.op("?", return_type=Boolean())(variants.c.folded_attributes.op("->>")(requested.c.key))
    unmet_attributes = select(literal(1)).select_from(requested).where(func.coalesce(has_value, False).is_(False))
    return (
        ~(unmet_attributes if excluded_name is None else unmet_attributes.where(requested.c.key != excluded_name))
        .correlate_except(requested)
        .exists()
    )


_MIN_PRICE, _MAX_PRICE = (bindparam(name, type_=Numeric) for name in ("min_price", "max_price"))


def has_price_between() -> ColumnElement[bool]:
    """Whether the price of an available variant is between two filters, each of which is met: by different variants, maybe."""
    is_between = func.coalesce(func.bool_or(variants.c.price.between(_MIN_PRICE, _MAX_PRICE)), false())
    # An aggregate costs the same with and without the values of parameters, so Postgres caches a generic plan.
    # EXISTS does not, and may be hashed under OR: for that, the variants of all stores are read.
    found = select(is_between).where(variants.c.product_id == products.c.id, is_variant_available())
    return or_(products.c.price >= _MIN_PRICE, products.c.max_price <= _MAX_PRICE, found.correlate(products).scalar_subquery())


# Every filter by the name of its parameter. A list combines its filters with AND.
FILTER_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "ids": products.c.id == any_of_ids("ids"),
    "categories": products.c.category == any_(bind_text_array("categories")),
    "tags": products.c.tags.op("?|", return_type=Boolean())(bind_text_array("tags")),
    # An available variant has such a price.
    "min_price": (products.c.max_price >= _MIN_PRICE) & (products.c.variants_available > literal_column("0")),
    "max_price": (products.c.price <= _MAX_PRICE) & (products.c.variants_available > literal_column("0")),
    "in_stock": products.c.in_stock == bindparam("in_stock", type_=Boolean),
    "statuses": products.c.status == any_(bind_text_array("statuses")),
    "min_rating": products.c.rating >= bindparam("min_rating", type_=Double),
    "updated_since": products.c.updated_at >= bindparam("updated_since", type_=products.c.updated_at.type),
    "attributes": select(variants.c.id)
    .where(variants.c.product_id == products.c.id, is_variant_available(), has_requested_attributes())
    .correlate(products)
    .exists(),
}


@dataclass(frozen=True, slots=True)
class StoreScope:
    """A store of a selection, with the corrected search that replaces one without results."""

    config_id: str
    corrected_search: Search | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The products of a store: the audience, filters as pairs of parameter name and value, and the search."""

    audience: Audience
    filters: tuple[tuple[str, Any], ...] = ()
    search: Search | None = None

    def without_filters(self, *names: str) -> "Selection":
        """The selection without some filters: the base of a facet's counts."""
        return replace(self, filters=tuple(item for item in self.filters if item[0] not in names))

    def build_parameters(self, scopes: Sequence[StoreScope]) -> dict[str, Any]:
        """The statement parameters of these scopes: store ids, the search components of each, filter values."""
        values: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in self.filters}
        if self.search is not None:
            searches = [scope.corrected_search or self.search for scope in scopes]
            values |= {
                component: [getattr(scope_search, component) for scope_search in searches]
                for component in search.SEARCH_COMPONENTS
            }
        values["config_ids"] = [scope.config_id for scope in scopes]
        # A single store is a scalar parameter, not an array.
        return values | ({name: values[name][0] for name in ("config_ids", *self._search_components)} if len(scopes) == 1 else {})

    @property
    def _search_components(self) -> Sequence[str]:
        return search.SEARCH_COMPONENTS if self.search is not None else ()


def encode_attributes_filter(pairs: Iterable[tuple[str, str]]) -> str:
    """The `attributes` filter as JSON: values of one name are combined with OR, names with AND. Both differ in more than case."""
    names: dict[str, str] = {}
    values_by_name: dict[str, dict[str, str]] = {}
    for name, value in sorted(set(pairs)):
        values = values_by_name.setdefault(names.setdefault(fold_case(name), name), {})
        values.setdefault(fold_case(value), value)
    return orjson.dumps({name: [*values.values()] for name, values in values_by_name.items()}).decode()


# -------------------------------------------------------------------------------------------------- lists


def _is_number(value: object) -> bool:
    return type(value) in {int, float}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


QUERY_COLUMN: ColumnElement[Any] = column("query", TSQUERY)

SORT_KEYS = {
    "created_at": keyset.SortKey(products.c.created_at, keyset.is_timestamp),
    "updated_at": keyset.SortKey(products.c.updated_at, keyset.is_timestamp),
    "price": keyset.SortKey(products.c.price, keyset.is_money_amount),
    "name": keyset.SortKey(products.c.sort_title, _is_text),
    "popularity": keyset.SortKey(products.c.popularity, keyset.is_count),
    "rating": keyset.SortKey(products.c.rating, _is_number),
    "relevance": keyset.SortKey(func.ts_rank(products.c.search_vector, QUERY_COLUMN).cast(Double), _is_number),
}


@dataclass(frozen=True, slots=True)
class Order:
    """A key of SORT_KEYS and its direction."""

    key: str
    descending: bool


# For statements that count or group, where the order has no effect.
UNORDERED = Order("created_at", descending=True)


@dataclass(frozen=True, slots=True)
class Listing:
    """A requested product list, for any store, as rows with `columns` or as JSON documents.

    `with_total`: each row has the `total` of its list.
    """

    selection: Selection
    order: Order
    window: keyset.Window
    columns: RequestedColumns = None
    document: JsonDocument | None = None
    with_total: bool = False

    def compute_digest(self, scope: StoreScope) -> str:
        """The digest that binds cursors to this list: everything but the window."""
        return keyset.compute_list_digest(scope.config_id, self.selection, self.order)


@dataclass(frozen=True, slots=True)
class StatementShape:
    """The cache key of a list's statement: everything that its SQL depends on."""

    audience: Audience
    filters: tuple[str, ...]
    search_components: tuple[str, ...]
    is_single_store: bool
    order: Order = UNORDERED
    backward: bool = False
    has_cursor: bool = False
    columns: RequestedColumns = None
    document: JsonDocument | None = None
    with_total: bool = False
    limit: int = 0

    @classmethod
    def from_selection(cls, selection: Selection, scopes: Sequence[StoreScope], *list_options: Any) -> "StatementShape":
        """The shape of a selection with these list options."""
        filter_names = tuple(name for name, _ in selection.filters)
        search_components: tuple[str, ...] = ()
        if selection.search is not None:
            # A single search passes only its own components: the smaller the statement, the faster its planning.
            search_components = (
                search.list_components(scopes[0].corrected_search or selection.search)
                if len(scopes) == 1
                else search.SEARCH_COMPONENTS
            )
        return cls(selection.audience, filter_names, search_components, len(scopes) == 1, *list_options)


def build_parent_rows(shape: StatementShape) -> FromClause:
    """The scopes of a statement as rows, numbered from 1: a store may occur twice, with two searches.

    A single scope is a row of scalar parameters. For an array the planner knows the length only in a custom plan, and planning
    takes longer than reading a page; for one store Postgres caches a generic plan.
    """
    component_names = shape.search_components
    if shape.is_single_store:
        columns = [
            bindparam("config_ids", type_=UUID).label("id"),
            *(bindparam(name, type_=Text).label(name) for name in component_names),
        ]
        return select(*columns, literal_column("1").label("number")).subquery("parent")
    arrays = [bindparam("config_ids", type_=ARRAY(UUID)), *(bind_text_array(name) for name in component_names)]
    parent_rows = func.unnest(*arrays).table_valued(
        column("id", UUID), *(column(name, Text) for name in component_names), with_ordinality="number"
    )
    return parent_rows.render_derived(name="parent")


def build_product_source(shape: StatementShape, parent: FromClause) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The FROM and WHERE of the products of a parent row."""
    source: FromClause = products
    conditions = [products.c.config_id == parent.c.id, *(FILTER_CONDITIONS[name] for name in shape.filters)]
    if {"min_price", "max_price"} <= {*shape.filters}:
        conditions.append(has_price_between())
    if shape.audience is Audience.SHOPPER:
        published_store = select(configs.c.id).where(configs.c.id == parent.c.id, configs.c.is_published)
        conditions += [is_product_sellable(), published_store.correlate(parent).exists()]
    if shape.search_components:
        # OFFSET 0 is an optimization fence: the tsquery is built once, not for the rank of every row.
        search_query = select(search.build_tsquery(parent).label("query")).correlate(parent).offset(0).lateral("searched")
        source = products.join(search_query, true())
        # IS TRUE hides the other conditions from the planner: only the full-text index may find the rows, whatever the values.
        conditions = [condition.is_(true()) for condition in conditions]
        conditions += [search.is_match(search.restrict_to_store(parent.c.id, QUERY_COLUMN)), func.numnode(QUERY_COLUMN) > 0]
    return source, conditions


@dataclass(frozen=True, slots=True)
class ScopedPage:
    """A page of one store's products, with the scope that found it."""

    scope: StoreScope
    page: keyset.Page


async def load_pages(database: Database, scopes: Sequence[StoreScope], listing: Listing) -> list[ScopedPage]:
    """One page of products for each scope, in one statement."""
    window, is_valid_value = listing.window, SORT_KEYS[listing.order.key].is_valid_value
    cursor = keyset.decode_window_cursor(window, (listing.compute_digest(scope) for scope in scopes), is_valid_value)
    if cursor is not None and cursor.extra is not None:
        # The cursor carries the corrected search of the first page.
        search.check_search_size(window.argument_name, cursor.extra)
        scopes = [replace(scope, corrected_search=search.parse_search(cursor.extra)) for scope in scopes]
    document, parameters = listing.document, keyset.build_parameters(window, cursor)
    columns, limit = document.columns if document else listing.columns, parameters.pop("limit")
    shape = StatementShape.from_selection(
        listing.selection,
        scopes,
        listing.order,
        window.backward,
        cursor is not None,
        columns,
        document,
        listing.with_total,
        limit,
    )
    parameters |= listing.selection.build_parameters(scopes)
    rows = group_by_parent(
        await database.fetch(_select_page(shape), parameters), [scope.config_id for scope in scopes], "config_id"
    )
    return [
        ScopedPage(scoped, keyset.build_page(page_rows, window, _build_cursor_encoder(scoped, listing)))
        for scoped, page_rows in zip(scopes, rows, strict=True)
    ]


def _build_cursor_encoder(scope: StoreScope, listing: Listing) -> Callable[[Row], str]:
    digest, extra = listing.compute_digest(scope), scope.corrected_search.text if scope.corrected_search else None
    return lambda row: keyset.encode_cursor(digest, keyset.Cursor(row.sort_value, row.id, extra))


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_page(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    # The first page of a search reads all matches anyway, so it can count them.
    counts_in_page = shape.with_total and bool(shape.search_components) and not shape.has_cursor
    rows, page = (
        _build_search_page(shape, parent, counts_in_page)
        if shape.search_components
        else (parent, _select_limited(shape, parent).lateral("page"))
    )
    output_columns: list[Any] = [page]
    if shape.document is not None:
        # Rendered after LIMIT: only for the rows of the page.
        output_columns = [column for column in page.c if column.key in _ALWAYS_SELECTED]
        output_columns.append(shape.document.render(page).label("node"))
    if shape.with_total and not counts_in_page:
        total_row = _select_total(shape, parent)
        output_columns.append(total_row.c.total)
        rows = rows.join(total_row, true())
    query = select(*output_columns).select_from(rows.join(page, true()))
    ordered = query.order_by(*_order_by(shape, page.c.sort_value, page.c.id)) if shape.search_components else query
    return compile_statement(ordered, depends_on=ParameterDependency("config_ids"))


def _build_search_page(shape: StatementShape, parent: FromClause, with_total: bool) -> tuple[Any, Any]:
    """The source and the rows of a search page: all matches are ranked by id, and only the page's rows are read whole."""
    ranked = _select_limited(shape, parent, ids_only=True, with_total=with_total).lateral("ranked")
    columns = [
        *filter_columns(PRODUCT_COLUMNS, shape.columns, "id", "config_id"),
        *(ranked_column for ranked_column in ranked.c if ranked_column.key != "id"),
    ]
    full_rows = select(*columns).where(products.c.id == ranked.c.id).correlate(ranked)
    return parent.join(ranked, true()), full_rows.lateral("page")


def _select_limited(
    shape: StatementShape, parent: FromClause, *, ids_only: bool = False, with_total: bool = False
) -> Select[Any]:
    source, conditions = build_product_source(shape, parent)
    key, tie_breaker = SORT_KEYS[shape.order.key].column, products.c.id
    if shape.has_cursor:
        conditions.append(keyset.is_behind_cursor(key, tie_breaker, _is_descending(shape)))
    columns = [tie_breaker] if ids_only else filter_columns(PRODUCT_COLUMNS, shape.columns, "id", "config_id")
    total = [func.count().over().label("total")] if with_total else []
    page = select(*columns, key.label("sort_value"), *total).select_from(source).where(*conditions).correlate(parent)
    # A literal: without one the planner expects a tenth of the store and never caches a generic plan.
    return page.order_by(*_order_by(shape, key, tie_breaker)).limit(literal_column(str(shape.limit)))


def _order_by(shape: StatementShape, key: ColumnElement[Any], tie_breaker: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    return keyset.order_by_key(key, tie_breaker, _is_descending(shape))


def _is_descending(shape: StatementShape) -> bool:
    return shape.order.descending != shape.backward


_ALWAYS_SELECTED = {"id", "config_id", "sort_value", "total"}


def _select_total(shape: StatementShape, parent: FromClause) -> Any:
    source, conditions = build_product_source(shape, parent)
    return select(func.count().label("total")).select_from(source).where(*conditions).correlate(parent).lateral("counted")


async def load_counts(database: Database, scopes: Sequence[StoreScope], selection: Selection) -> list[int]:
    """The number of products of each scope."""
    rows = await database.fetch(
        _select_counts(StatementShape.from_selection(selection, scopes)), selection.build_parameters(scopes)
    )
    total_by_number = {row.number: row.total for row in rows}
    return [total_by_number[number] for number in range(1, len(scopes) + 1)]


@cache
def _select_counts(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    total_row = _select_total(shape, parent)
    query = select(parent.c.number, total_row.c.total).select_from(parent.join(total_row, true()))
    return compile_statement(query, depends_on=ParameterDependency("config_ids"))


async def load_offset_page(
    database: Database,
    scope: StoreScope,
    selection: Selection,
    order: Order,
    limit: int,
    offset: int,
    columns: RequestedColumns = None,
) -> list[Row]:
    """A page by offset. Concurrent inserts and deletes shift it, unlike the keyset pages of `load_pages`."""
    parameters = selection.build_parameters([scope]) | {"limit": limit, "offset": offset}
    return await database.fetch(
        _select_offset_page(StatementShape.from_selection(selection, [scope], order, False, False, columns)), parameters
    )


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_offset_page(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    source, conditions = build_product_source(shape, parent)
    ordering = keyset.order_by_key(SORT_KEYS[shape.order.key].column, products.c.id, shape.order.descending)
    columns = filter_columns(PRODUCT_COLUMNS, shape.columns, "id", "config_id")
    page = select(*columns).select_from(parent.join(source, true())).where(*conditions).order_by(*ordering)
    return compile_statement(
        page.limit(bindparam("limit")).offset(bindparam("offset")), depends_on=ParameterDependency("config_ids")
    )
