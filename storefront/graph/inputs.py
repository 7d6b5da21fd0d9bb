"""Inputs that filter, search and sort products, and their translation into selections and orders."""

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any

import strawberry

from storefront.core.casing import to_camel_case
from storefront.core.errors import Forbidden, InvalidInput
from storefront.graph import arguments
from storefront.graph.limits import MAX_FILTER_ITEMS, SEARCH_LIMITS, limits
from storefront.queries import search
from storefront.queries.listing import Order, Selection, encode_attributes_filter
from storefront.queries.visibility import Audience

FILTER_ITEM_LIMITS = limits(items=MAX_FILTER_ITEMS)
SearchText = Annotated[str | None, strawberry.argument(metadata=SEARCH_LIMITS)]


@strawberry.enum(description="Shoppers see active products only.")
class ProductStatus(Enum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    ARCHIVED = "archived"


@strawberry.enum(description="Sort key of a product list. Ties are ordered by id.")
class ProductSortKey(Enum):
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    PRICE = "price"
    NAME = strawberry.enum_value("name", description="The title, without case and accents.")
    POPULARITY = strawberry.enum_value("popularity", description="Clicks and weighted carts of the last 30 days.")
    RATING = strawberry.enum_value("rating", description="Average stars. A product without reviews counts as zero.")
    RELEVANCE = strawberry.enum_value(
        "relevance", description="Relevance of the search result. Needs `search`, and is its default."
    )


@strawberry.enum
class SortOrder(Enum):
    ASC = "asc"
    DESC = "desc"


@strawberry.input
class AttributeInput:
    name: str
    value: str


@strawberry.input
class ProductSortInput:
    key: ProductSortKey = ProductSortKey.CREATED_AT
    order: SortOrder = SortOrder.DESC


@strawberry.input(description="Filters are combined with AND; the values within one filter with OR.")
class ProductFilterInput:
    category: list[str] | None = strawberry.field(default=None, metadata=FILTER_ITEM_LIMITS)
    tags: list[str] | None = strawberry.field(default=None, metadata=FILTER_ITEM_LIMITS)
    min_price: Decimal | None = strawberry.field(default=None, description="The product's own price, inclusive.")
    max_price: Decimal | None = strawberry.field(default=None, description="The product's own price, inclusive.")
    attributes: list[AttributeInput] | None = strawberry.field(
        default=None,
        description="Products with an available variant that has, for every name given, one of its values.",
        metadata=FILTER_ITEM_LIMITS,
    )
    in_stock: bool | None = None
    status: list[ProductStatus] | None = strawberry.field(
        default=None, description="Owner only.", metadata=limits(items=len(ProductStatus))
    )
    min_rating: float | None = None
    ids: list[strawberry.ID] | None = strawberry.field(default=None, metadata=FILTER_ITEM_LIMITS)
    updated_since: datetime | None = None


def build_selection(
    filter_: ProductFilterInput | None, search_text: str | None, audience: Audience, field: str = "filter"
) -> Selection:
    """The selection of products by filter and search, as an audience sees them. Raises InvalidInput and Forbidden."""
    filters = dict(_parse_filters(filter_, field)) if filter_ else {}
    if "status" in filters and audience is not Audience.OWNER:
        field = f"{field}.status"
        raise Forbidden(f"{field}: only the store's owner may filter by status; shoppers see active products.", field)
    if (
        filters.get("min_price") is not None
        and filters.get("max_price") is not None
        and filters["min_price"] > filters["max_price"]
    ):
        raise InvalidInput(f"{field}.minPrice", "must not be above maxPrice.")
    parsed_search = (
        search.parse_search(arguments.check_text(search_text, "search")) if search_text and search_text.strip() else None
    )
    return Selection(audience, tuple(sorted(filters.items())), parsed_search)


def _parse_filters(filter_: ProductFilterInput, field: str) -> Iterator[tuple[str, Any]]:
    for name, parse in _FILTER_PARSERS.items():
        # An empty list of attributes is no filter; an empty list in any other filter matches no product.
        if (value := getattr(filter_, name)) is not None and (name != "attributes" or value):
            yield name, parse(value, f"{field}.{to_camel_case(name)}")


def _pass_through(value: Any, _: str) -> Any:
    return value


def _parse_statuses(value: list[ProductStatus], _: str) -> tuple[str, ...]:
    return tuple(sorted({status.value for status in value}))


def _parse_ids(value: list[strawberry.ID], field: str) -> tuple[str, ...]:
    return tuple(arguments.check_id(id_, field) for id_ in arguments.check_texts(value, field))


def _parse_attributes(value: list[AttributeInput], field: str) -> str:
    return encode_attributes_filter(_parse_pairs(value, field))


_FILTER_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "category": arguments.check_texts,
    "tags": arguments.check_texts,
    "min_price": _pass_through,
    "max_price": _pass_through,
    "attributes": _parse_attributes,
    "in_stock": _pass_through,
    "status": _parse_statuses,
    "min_rating": arguments.check_number,
    "ids": _parse_ids,
    "updated_since": _pass_through,
}


def _parse_pairs(attribute_inputs: list[AttributeInput], field: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (arguments.check_text(attribute.name, f"{field}.{n}.name"), arguments.check_text(attribute.value, f"{field}.{n}.value"))
        for n, attribute in enumerate(attribute_inputs)
    )


def build_order(sort: ProductSortInput | None, selection: Selection) -> Order:
    """The requested order. The default is by relevance for a search, else newest first. Raises InvalidInput."""
    if sort is None:
        return Order("relevance" if selection.search else "created_at", descending=True)
    if sort.key is ProductSortKey.RELEVANCE and selection.search is None:
        raise InvalidInput("sort.key", "RELEVANCE orders the results of a search: give `search`, or choose another key.")
    return Order(sort.key.value, sort.order is SortOrder.DESC)


def parse_attribute_pairs(attribute_inputs: list[AttributeInput], field: str) -> tuple[tuple[str, str], ...]:
    """Attribute names and values that identify a variant. Raises InvalidInput for duplicate names."""
    pairs = _parse_pairs(attribute_inputs, field)
    if len(dict(pairs)) < len(pairs):
        raise InvalidInput(field, "each name may be given once.")
    return pairs
