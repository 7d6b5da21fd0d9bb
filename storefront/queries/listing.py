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
    cast,
    column,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, array

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.row_keys import bind_store, depend_on_stores
from storefront.models.variant import fold_case
from storefront.queries import keyset, search
from storefront.queries.batching import bind_text_array, group_by_parent
from storefront.queries.fields import fold_json, is_variant_of_product
from storefront.queries.json_sql import DocumentRow, JsonDocument
from storefront.queries.projection import MAX_CACHED_STATEMENTS, PRODUCT_COLUMNS, RequestedColumns, filter_columns
from storefront.queries.search import Search
from storefront.queries.visibility import Audience, any_of_ids, is_product_sellable, is_store_published, is_variant_available


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


def has_price_between(
    config_id: ColumnElement[Any], lowest: ColumnElement[Any] = _MIN_PRICE, highest: ColumnElement[Any] = _MAX_PRICE
) -> ColumnElement[bool]:
    """Whether the price of an available variant is between two limits, each of which is met: by different variants, maybe."""
    is_between = func.coalesce(func.bool_or(variants.c.price.between(lowest, highest)), false())
    # An aggregate costs the same with and without the values of parameters, so Postgres caches a generic plan.
    # EXISTS does not, and may be hashed under OR: for that, the variants of all stores are read.
    found = select(is_between).where(is_variant_of_product(config_id), is_variant_available()).correlate_except(variants)
    return or_(products.c.price >= lowest, products.c.max_price <= highest, found.scalar_subquery())


def has_available_variant(config_id: ColumnElement[Any], condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether an available variant of a product of this store meets a condition."""
    found = select(variants.c.id).where(is_variant_of_product(config_id), is_variant_available(), condition)
    return found.correlate_except(variants).exists()


# Every filter by the name of its parameter: a condition on products, or on an available variant of them. A list combines its
# filters with AND.
FILTER_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "ids": products.c.id == any_of_ids("ids"),
    # Those below them are included.
    "categories": products.c.category_paths.op("&&", return_type=Boolean())(bind_text_array("categories")),
    "vendors": products.c.vendor == any_(bind_text_array("vendors")),
    "product_types": products.c.product_type == any_(bind_text_array("product_types")),
    "tags": products.c.tags.op("?|", return_type=Boolean())(bind_text_array("tags")),
    # An available variant has such a price.
    "min_price": (products.c.max_price >= _MIN_PRICE) & (products.c.variants_available > literal_column("0")),
    "max_price": (products.c.price <= _MAX_PRICE) & (products.c.variants_available > literal_column("0")),
    "in_stock": products.c.in_stock == bindparam("in_stock", type_=Boolean),
    "statuses": products.c.status == any_(bind_text_array("statuses")),
    "min_rating": products.c.rating >= bindparam("min_rating", type_=Double),
    "updated_since": products.c.updated_at >= bindparam("updated_since", type_=products.c.updated_at.type),
}
VARIANT_FILTER_CONDITIONS: dict[str, ColumnElement[bool]] = {"attributes": has_requested_attributes()}


@dataclass(frozen=True, slots=True)
class StoreScope:
    """A store of a selection, or the category of a store with this path and all below it.

    `corrected_search` replaces a search without results. `is_guess`: the correction may be wrong. It is then not run instead of
    the search, but offered as `offered_search`. The scopes of one statement are all stores, or all categories.
    """

    config_id: str
    corrected_search: Search | None = None
    is_guess: bool = False
    offered_search: Search | None = None
    category: str | None = None

    def offer_correction(self) -> "StoreScope":
        """The scope of the search as typed, with the correction as an offer."""
        return StoreScope(self.config_id, offered_search=self.corrected_search, category=self.category)


@dataclass(frozen=True, slots=True)
class Selection:
    """The products of a store: the audience, filters as pairs of parameter name and value, and the search."""

    audience: Audience
    filters: tuple[tuple[str, Any], ...] = ()
    search: Search | None = None

    def without_filters(self, *names: str) -> "Selection":
        """The selection without some filters: the base of a facet's counts."""
        return replace(self, filters=tuple(item for item in self.filters if item[0] not in names))

    def without_all_filters(self) -> "Selection":
        """The selection by search alone."""
        return replace(self, filters=())

    def build_parameters(self, scopes: Sequence[StoreScope]) -> dict[str, Any]:
        """The statement parameters of these scopes: store ids, the search components of each, filter values."""
        values: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in self.filters}
        if self.search is not None:
            searches = [scope.corrected_search or self.search for scope in scopes]
            values |= {
                component: [getattr(scope_search, component) for scope_search in searches]
                for component in search.SEARCH_COMPONENTS
            }
        components: Sequence[str] = search.SEARCH_COMPONENTS if self.search is not None else ()
        if scopes[0].category is not None:
            values["category"] = [scope.category for scope in scopes]
            components = ("category", *components)
        if len(scopes) > 1:
            return {"config_ids": [scope.config_id for scope in scopes], **values}
        # A single scope has scalar parameters, no arrays.
        return {"config_id": scopes[0].config_id, **values, **{name: values[name][0] for name in components}}


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


SORT_KEYS = {
    "created_at": keyset.SortKey(products.c.created_at, keyset.is_timestamp),
    "updated_at": keyset.SortKey(products.c.updated_at, keyset.is_timestamp),
    "price": keyset.SortKey(products.c.price, keyset.is_money_amount),
    "name": keyset.SortKey(products.c.sort_title, _is_text),
    "popularity": keyset.SortKey(products.c.popularity, keyset.is_count),
    "rating": keyset.SortKey(products.c.rating, _is_number),
    "relevance": keyset.SortKey(search.build_relevance(), _is_number),
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
        of_category = () if scope.category is None else (scope.category,)
        return keyset.compute_list_digest(scope.config_id, self.selection, self.order, *of_category)


@dataclass(frozen=True, slots=True)
class StatementShape:
    """The cache key of a list's statement: everything that its SQL depends on."""

    audience: Audience
    filters: tuple[str, ...]
    search_components: tuple[str, ...]
    is_single_store: bool
    # Of the scopes: of stores, or of categories.
    has_category: bool
    order: Order = UNORDERED
    backward: bool = False
    has_cursor: bool = False
    columns: RequestedColumns = None
    document: JsonDocument | None = None
    with_total: bool = False
    limit: int = 0

    @classmethod
    def from_selection(
        cls, selection: Selection, scopes: Sequence[StoreScope], order: Order = UNORDERED, *list_options: Any
    ) -> "StatementShape":
        """The shape of a selection with these list options."""
        filter_names = tuple(name for name, _ in selection.filters)
        # Only what it needs: the smaller the statement, the faster its planning.
        needed = search.SEARCH_COMPONENTS if order.key == "relevance" else search.SEARCH_COMPONENTS[:2]
        search_components = needed if selection.search is not None else ()
        has_category = scopes[0].category is not None
        return cls(selection.audience, filter_names, search_components, len(scopes) == 1, has_category, order, *list_options)


def build_parent_rows(shape: StatementShape) -> FromClause:
    """The scopes of a statement as rows, numbered from 1: a store may occur twice, with two searches.

    A single scope is a row of scalar parameters. For an array the planner knows the length only in a custom plan, and planning
    takes longer than reading a page; for one store Postgres caches a generic plan.
    """
    component_names = (*(["category"] if shape.has_category else []), *shape.search_components)
    if shape.is_single_store:
        columns = [bindparam(name, type_=Text).label(name) for name in component_names]
        return select(*columns, literal_column("1").label("number")).subquery("parent")
    arrays = [bindparam("config_ids", type_=ARRAY(UUID)), *(bind_text_array(name) for name in component_names)]
    parent_rows = func.unnest(*arrays).table_valued(
        column("id", UUID), *(column(name, Text) for name in component_names), with_ordinality="number"
    )
    return parent_rows.render_derived(name="parent")


def build_product_source(shape: StatementShape, parent: FromClause) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The FROM and WHERE of the products of a parent row."""
    source: FromClause = products
    store = get_parent_store(shape, parent)
    conditions = [products.c.config_id == store, *build_filter_conditions(shape.filters, store)]
    if shape.has_category:
        of_category = cast(array([parent.c.category]), ARRAY(Text))
        conditions.append(products.c.category_paths.op("@>", return_type=Boolean())(of_category))
    conditions += build_visibility_conditions(shape, store)
    if shape.search_components:
        source = products.join(search.parse_tsqueries(parent, shape.search_components, store), true())
        # IS TRUE hides the other conditions from the planner: only the full-text index may find the rows, whatever the values.
        conditions = [condition.is_(true()) for condition in conditions]
        conditions += [
            search.is_match(search.restrict_to_store(store, search.QUERY_COLUMN)),
            func.numnode(search.QUERY_COLUMN) > 0,
        ]
    return source, conditions


def build_visibility_conditions(
    shape: StatementShape, store: ColumnElement[Any], product: FromClause = products
) -> list[ColumnElement[bool]]:
    """The conditions on a product of this store for the audience to see it."""
    return [is_product_sellable(product), is_store_published(store)] if shape.audience is Audience.SHOPPER else []


def get_parent_store(shape: StatementShape, parent: FromClause) -> ColumnElement[Any]:
    """The store of a parent row."""
    return bind_store() if shape.is_single_store else parent.c.id


def build_filter_conditions(filters: Sequence[str], store: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    """The conditions of filters on a product of this store, all of which have to be met."""
    conditions = [
        has_available_variant(store, VARIANT_FILTER_CONDITIONS[name])
        if name in VARIANT_FILTER_CONDITIONS
        else FILTER_CONDITIONS[name]
        for name in filters
    ]
    return [*conditions, has_price_between(store)] if {"min_price", "max_price"} <= {*filters} else conditions


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
    found = await database.fetch(_select_page(shape), parameters)
    rows = (
        group_by_parent(found, range(1, len(scopes) + 1), "scope_number")
        if shape.has_category
        else group_by_parent(found, [scope.config_id for scope in scopes], "config_id")
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
        store = bind_store() if shape.is_single_store else page.c.config_id
        output_columns.append(shape.document.render(DocumentRow(page, store)).label("node"))
    if shape.has_category:
        output_columns.append(parent.c.number.label("scope_number"))
    if shape.with_total and not counts_in_page:
        total_row = _select_total(shape, parent)
        output_columns.append(total_row.c.total)
        rows = rows.join(total_row, true())
    query = select(*output_columns).select_from(rows.join(page, true()))
    ordered = query.order_by(*_order_by(shape, page.c.sort_value, page.c.id)) if shape.search_components else query
    return compile_statement(ordered, depends_on=depend_on_stores(shape.is_single_store))


def _build_search_page(shape: StatementShape, parent: FromClause, with_total: bool) -> tuple[Any, Any]:
    """The source and the rows of a search page: all matches are ranked by id, and only the page's rows are read whole."""
    ranked = _select_limited(shape, parent, ids_only=True, with_total=with_total).lateral("ranked")
    columns = [
        *filter_columns(PRODUCT_COLUMNS, shape.columns, "id", "config_id"),
        *(ranked_column for ranked_column in ranked.c if ranked_column.key != "id"),
    ]
    is_ranked = (products.c.config_id == get_parent_store(shape, parent)) & (products.c.id == ranked.c.id)
    full_rows = select(*columns).where(is_ranked).correlate(parent, ranked)
    return parent.join(ranked, true()), full_rows.lateral("page")


def _select_limited(
    shape: StatementShape, parent: FromClause, *, ids_only: bool = False, with_total: bool = False
) -> Select[Any]:
    source, conditions = build_product_source(shape, parent)
    key: ColumnElement[Any] = SORT_KEYS[shape.order.key].column
    tie_breaker: ColumnElement[Any] = products.c.id
    if shape.has_cursor:
        conditions.append(keyset.is_behind_cursor(key, tie_breaker, _is_descending(shape)))
    columns = [tie_breaker] if ids_only else filter_columns(PRODUCT_COLUMNS, shape.columns, "id", "config_id")
    page = select(*columns, key.label("sort_value")).select_from(source).where(*conditions).correlate(parent)
    if with_total:
        # OFFSET 0 is an optimization fence: counted and sorted are ids with their ranks, and not the documents that rank them.
        matches = page.offset(0).subquery("matches")
        page, key, tie_breaker = select(matches, func.count().over().label("total")), matches.c.sort_value, matches.c.id
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
    return compile_statement(query, depends_on=depend_on_stores(shape.is_single_store))


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
        page.limit(bindparam("limit")).offset(bindparam("offset")), depends_on=depend_on_stores(shape.is_single_store)
    )
