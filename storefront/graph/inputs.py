"""What clients send to choose products, checked and turned into a selection."""

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import strawberry

from storefront.core.casing import camel
from storefront.core.errors import Forbidden, InvalidInput
from storefront.graph import arguments
from storefront.graph.limits import MAX_FILTER_ITEMS, limits
from storefront.queries import search
from storefront.queries.listing import Order, Selection, attributes_value
from storefront.queries.visibility import Audience

ITEMS = limits(items=MAX_FILTER_ITEMS)


@strawberry.enum(description="Shoppers see active products only.")
class ProductStatus(Enum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    ARCHIVED = "archived"


@strawberry.enum(description="What a list of products is ordered by. Ties are ordered by id.")
class ProductSortKey(Enum):
    CREATED_AT = "created_at"
    UPDATED_AT = "updated_at"
    PRICE = "price"
    NAME = strawberry.enum_value("name", description="The title, without case and accents.")
    POPULARITY = strawberry.enum_value("popularity", description="Clicks and weighted carts of the last 30 days.")
    RATING = strawberry.enum_value("rating", description="Average stars. A product without reviews counts as zero.")
    RELEVANCE = strawberry.enum_value("relevance", description="How well a search fits. Needs `search`, and is its default.")


@strawberry.enum
class SortOrder(Enum):
    ASC = "asc"
    DESC = "desc"


@strawberry.input
class AttributeInput:
    name: str
    value: str


@strawberry.input
class ProductSort:
    key: ProductSortKey = ProductSortKey.CREATED_AT
    order: SortOrder = SortOrder.DESC


@strawberry.input(description="Filters add up. Values within one of them are alternatives.")
class ProductFilter:
    category: list[str] | None = strawberry.field(default=None, metadata=ITEMS)
    tags: list[str] | None = strawberry.field(default=None, metadata=ITEMS)
    min_price: Decimal | None = strawberry.field(default=None, description="The product's own price, inclusive.")
    max_price: Decimal | None = strawberry.field(default=None, description="The product's own price, inclusive.")
    attributes: list[AttributeInput] | None = strawberry.field(
        default=None,
        description="Products with an available variant that has one of the values of every name given.",
        metadata=ITEMS,
    )
    in_stock: bool | None = None
    status: list[ProductStatus] | None = strawberry.field(
        default=None, description="Owner only.", metadata=limits(items=len(ProductStatus))
    )
    min_rating: float | None = None
    ids: list[strawberry.ID] | None = strawberry.field(default=None, metadata=ITEMS)
    updated_since: datetime | None = None


def selection(filter_: ProductFilter | None, typed: str | None, audience: Audience, field: str = "filter") -> Selection:
    """The products that a filter and a search choose, for an audience."""
    filters = dict(_filters(filter_, field)) if filter_ else {}
    if "status" in filters and audience is not Audience.OWNER:
        field = f"{field}.status"
        raise Forbidden(f"{field}: only the store's owner may choose by status; shoppers see active products.", field)
    if (
        filters.get("min_price") is not None
        and filters.get("max_price") is not None
        and filters["min_price"] > filters["max_price"]
    ):
        raise InvalidInput(f"{field}.minPrice", "must not be above maxPrice.")
    searched = search.parse(arguments.text(typed, "search")) if typed and typed.strip() else None
    return Selection(audience, tuple(sorted(filters.items())), searched)


def _filters(given: ProductFilter, field: str) -> Iterator[tuple[str, Any]]:
    for name, check in _CHECKS.items():
        # No attributes asked for is no filter; no values of another filter are values that no product has.
        if (value := getattr(given, name)) is not None and (name != "attributes" or value):
            yield name, check(value, f"{field}.{camel(name)}")


def _as_given(value: Any, _: str) -> Any:
    return value


def _statuses(value: list[ProductStatus], _: str) -> tuple[str, ...]:
    return tuple(sorted({status.value for status in value}))


def _ids(value: list[strawberry.ID], field: str) -> tuple[str, ...]:
    return tuple(arguments.key(id_, field) for id_ in arguments.texts(value, field))


def _attributes(value: list[AttributeInput], field: str) -> str:
    return attributes_value(_pairs(value, field))


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "category": arguments.texts,
    "tags": arguments.texts,
    "min_price": _as_given,
    "max_price": _as_given,
    "attributes": _attributes,
    "in_stock": _as_given,
    "status": _statuses,
    "min_rating": arguments.number,
    "ids": _ids,
    "updated_since": _as_given,
}


def _pairs(given: list[AttributeInput], field: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (arguments.text(one.name, f"{field}.{n}.name"), arguments.text(one.value, f"{field}.{n}.value"))
        for n, one in enumerate(given)
    )


def order(sort: ProductSort | None, chosen: Selection) -> Order:
    """The order asked for; without one, best match first for a search, else newest first."""
    if sort is None:
        return Order("relevance" if chosen.search else "created_at", descending=True)
    if sort.key is ProductSortKey.RELEVANCE and chosen.search is None:
        raise InvalidInput("sort.key", "RELEVANCE orders the results of a search: give `search`, or choose another key.")
    return Order(sort.key.value, sort.order is SortOrder.DESC)


def attributes(given: list[AttributeInput], field: str) -> tuple[tuple[str, str], ...]:
    """Names and values to look a variant up by."""
    pairs = _pairs(given, field)
    if len(dict(pairs)) < len(pairs):
        raise InvalidInput(field, "each name may be given once.")
    return pairs
