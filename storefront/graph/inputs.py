"""Inputs that filter, search and sort products, and their translation into selections and orders."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any

import orjson
import strawberry

from storefront.core.casing import to_camel_case
from storefront.core.errors import Forbidden, InvalidInput
from storefront.graph import arguments
from storefront.graph.limits import MAX_FILTER_ITEMS, SEARCH_LIMITS, limits
from storefront.models.categories import normalize_category
from storefront.models.variant import MAX_ATTRIBUTES, fold_case
from storefront.queries import search
from storefront.queries.listing import Order, Selection, encode_attributes_filter
from storefront.queries.visibility import Audience

FILTER_ITEM_LIMITS = limits(items=MAX_FILTER_ITEMS)
SearchText = Annotated[
    str | None,
    strawberry.argument(
        description='Words to search for; "…" for phrases, - to exclude, or for alternatives. The last word may be incomplete.',
        metadata=SEARCH_LIMITS,
    ),
]


@strawberry.enum(description="Status of a product.")
class ProductStatus(Enum):
    ACTIVE = strawberry.enum_value("active", description="Visible to shoppers, if the store is published.")
    INACTIVE = strawberry.enum_value("inactive", description="Hidden from shoppers.")
    ARCHIVED = strawberry.enum_value("archived", description="Hidden from shoppers, and no longer maintained.")


@strawberry.enum(description="Status of a review.")
class ReviewStatus(Enum):
    PENDING = strawberry.enum_value(
        "pending", description="Waits for approval. Visible to its author and the owner of the store."
    )
    PUBLISHED = strawberry.enum_value("published", description="Visible to everybody who can see the product.")
    HIDDEN = strawberry.enum_value(
        "hidden", description="Refused or taken back by the owner. Visible to its author and the owner of the store."
    )


@strawberry.enum(description="How new and edited reviews are published.")
class ReviewPolicy(Enum):
    PUBLISH = strawberry.enum_value("publish", description="At once.")
    MODERATE = strawberry.enum_value("moderate", description="When the owner has approved them.")


@strawberry.enum(description="Sort key of a product list. Ties are ordered by id.")
class ProductSortKey(Enum):
    CREATED_AT = strawberry.enum_value("created_at", description="When the product was created.")
    UPDATED_AT = strawberry.enum_value("updated_at", description="When the product was last changed.")
    PRICE = strawberry.enum_value("price", description="`Product.price`.")
    NAME = strawberry.enum_value("name", description="The title, without case and accents.")
    POPULARITY = strawberry.enum_value("popularity", description="Clicks and weighted carts of the last 30 days.")
    RATING = strawberry.enum_value("rating", description="Average stars. A product without reviews counts as zero.")
    RELEVANCE = strawberry.enum_value(
        "relevance", description="Relevance of the search result. Needs `search`, and is its default."
    )


@strawberry.enum(description="What happens when the stock of a variant runs out.")
class InventoryPolicy(Enum):
    DENY = strawberry.enum_value("deny", description="It can no longer be bought.")
    CONTINUE = strawberry.enum_value("continue", description="It can still be bought, and is delivered later.")


@strawberry.enum(description="Unit of weight.")
class WeightUnit(Enum):
    GRAM = strawberry.enum_value("gram", description="Gram")
    KILOGRAM = strawberry.enum_value("kilogram", description="Kilogram")
    OUNCE = strawberry.enum_value("ounce", description="Ounce")
    POUND = strawberry.enum_value("pound", description="Pound")


@strawberry.input(description="A weight.")
class WeightInput:
    value: Decimal = strawberry.field(description="Amount, in `unit`.")
    unit: WeightUnit = strawberry.field(description="Unit of `value`.")


@strawberry.enum(description="Sort key of the variants of a product, ascending. Ties are ordered by ID.")
class ProductVariantSortKey(Enum):
    POSITION = strawberry.enum_value("position", description="Display order of the product.")
    PRICE = strawberry.enum_value("price", description="Price.")
    CREATED_AT = strawberry.enum_value("created_at", description="Time of creation.")


@strawberry.enum(description="Direction of a sort order.")
class SortOrder(Enum):
    ASC = strawberry.enum_value("asc", description="Smallest, oldest or first in the alphabet first.")
    DESC = strawberry.enum_value("desc", description="Largest, newest or last in the alphabet first.")


@strawberry.input(description="Attribute of a variant.")
class AttributeInput:
    name: str = strawberry.field(description='Name, such as "Size".')
    value: str = strawberry.field(description='Value, such as "Large".')


@strawberry.input(description="Order of a product list.")
class ProductSortInput:
    key: ProductSortKey = strawberry.field(default=ProductSortKey.CREATED_AT, description="What to sort by.")
    order: SortOrder | None = strawberry.field(
        default=None, description="Direction. Omitted: ascending for NAME and PRICE, descending for all others."
    )


@strawberry.input(description="Attribute of a variant, and its accepted values.")
class AttributeFilterInput:
    name: str = strawberry.field(description='Name, such as "Size".')
    values: list[str] = strawberry.field(description="Values, of which one is enough.", metadata=FILTER_ITEM_LIMITS)


@strawberry.input(
    description="Limits a list of products. All given fields have to match; of a list, one value is enough, and an empty one is "
    "no condition."
)
class ProductFilterInput:
    ids: list[strawberry.ID] | None = strawberry.field(default=None, description="IDs of products.", metadata=FILTER_ITEM_LIMITS)
    categories: list[str] | None = strawberry.field(
        default=None, description="Category paths. Categories below them are included.", metadata=FILTER_ITEM_LIMITS
    )
    vendors: list[str] | None = strawberry.field(
        default=None, description="Values of `Product.vendor`.", metadata=FILTER_ITEM_LIMITS
    )
    product_types: list[str] | None = strawberry.field(
        default=None, description="Values of `Product.productType`.", metadata=FILTER_ITEM_LIMITS
    )
    tags: list[str] | None = strawberry.field(default=None, description="Tags.", metadata=FILTER_ITEM_LIMITS)
    min_price: Decimal | None = strawberry.field(default=None, description="Lowest price of an available variant, inclusive.")
    max_price: Decimal | None = strawberry.field(default=None, description="Highest price of an available variant, inclusive.")
    attributes: list[AttributeFilterInput] | None = strawberry.field(
        default=None,
        description="Attributes; a single available variant has to match all of them.",
        metadata=limits(items=MAX_ATTRIBUTES),
    )
    in_stock: bool | None = strawberry.field(default=None, description="Whether the product can be bought at the moment.")
    min_rating: float | None = strawberry.field(default=None, description="Lowest average rating, inclusive.")
    updated_since: datetime | None = strawberry.field(default=None, description="Changed at this time or later.")
    statuses: list[ProductStatus] | None = strawberry.field(
        default=None, description="Statuses. Owner only.", metadata=limits(items=len(ProductStatus))
    )


MaybeFilter = Annotated[ProductFilterInput | None, strawberry.argument(description="Limits the list to products that match.")]
MaybeSort = Annotated[
    ProductSortInput | None,
    strawberry.argument(description="Order of the list; by relevance with `search`, otherwise newest first."),
]


def build_selection(
    filter_: ProductFilterInput | None, search_text: str | None, audience: Audience, field: str = "filter"
) -> Selection:
    """The selection of products by filter and search, as an audience sees them. Raises InvalidInput and Forbidden."""
    filters = dict(_parse_filters(filter_, field)) if filter_ else {}
    if "statuses" in filters and audience is not Audience.OWNER:
        field = f"{field}.statuses"
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
        if (value := getattr(filter_, name)) is None:
            continue
        parsed = parse(value, f"{field}.{to_camel_case(name)}")
        # An empty list is no condition, and an attribute without values neither.
        if parsed not in ((), _NO_ATTRIBUTES):
            yield name, parsed


_NO_ATTRIBUTES = encode_attributes_filter(())


def _pass_through(value: Any, _: str) -> Any:
    return value


def _parse_statuses(value: list[ProductStatus], _: str) -> tuple[str, ...]:
    return tuple(sorted({str(status.value) for status in value}))


def _parse_ids(value: list[strawberry.ID], field: str) -> tuple[str, ...]:
    return tuple(arguments.check_id(id_, field) for id_ in arguments.check_texts(value, field))


def _parse_categories(value: list[str], field: str) -> tuple[str, ...]:
    return tuple(map(normalize_category, arguments.check_texts(value, field)))


def _parse_attributes(value: list[AttributeFilterInput], field: str) -> str:
    return encode_attributes_filter(
        (arguments.check_text(attribute.name, f"{field}.{n}.name"), text)
        for n, attribute in enumerate(value)
        for text in arguments.check_texts(attribute.values, f"{field}.{n}.values")
    )


_FILTER_PARSERS: dict[str, Callable[[Any, str], Any]] = {
    "categories": _parse_categories,
    "vendors": arguments.check_texts,
    "product_types": arguments.check_texts,
    "tags": arguments.check_texts,
    "min_price": _pass_through,
    "max_price": _pass_through,
    "attributes": _parse_attributes,
    "in_stock": _pass_through,
    "statuses": _parse_statuses,
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
    if sort.order is None:
        return Order(str(sort.key.value), descending=sort.key not in _ASCENDING_KEYS)
    return Order(str(sort.key.value), sort.order is SortOrder.DESC)


# Keys whose natural direction is ascending.
_ASCENDING_KEYS = {ProductSortKey.NAME, ProductSortKey.PRICE}


@strawberry.input(one_of=True, description="Identifies a variant of a product by exactly one of these.")
class VariantInProductByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the variant.")
    sku: str | None = strawberry.field(default=strawberry.UNSET, description="SKU of the variant.")
    attributes: list[AttributeInput] | None = strawberry.field(
        default=strawberry.UNSET, description="Attributes, all of which the variant has.", metadata=limits(items=MAX_ATTRIBUTES)
    )


@strawberry.input(one_of=True, description="Identifies a product of a store by exactly one of these.")
class ProductInConfigByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the product.")
    handle: str | None = strawberry.field(default=strawberry.UNSET, description="Current or former handle of the product.")
    sku: str | None = strawberry.field(default=strawberry.UNSET, description="SKU of a variant.")


def parse_variant_lookup(by: VariantInProductByInput) -> tuple[str, str]:
    """The name of the lookup and its value, for attributes a JSON object. Raises InvalidInput."""
    if isinstance(by.attributes, list):
        return "attributes", orjson.dumps(dict(parse_attribute_pairs(by.attributes, "by.attributes"))).decode()
    return _parse_lookup({"id": by.id, "sku": by.sku}, "id, sku or attributes")


def parse_product_lookup(by: ProductInConfigByInput) -> tuple[str, str]:
    """The name of the lookup and its value. Raises InvalidInput."""
    return _parse_lookup({"id": by.id, "handle": by.handle, "sku": by.sku}, "id, handle or sku")


def _parse_lookup(values: Mapping[str, str | None], alternatives: str) -> tuple[str, str]:
    for name, value in values.items():
        if isinstance(value, str):
            check = arguments.check_id if name == "id" else arguments.check_text
            return name, check(value, f"by.{name}")
    raise InvalidInput("by", f"give one of {alternatives}, and not null.")


def parse_attribute_pairs(attribute_inputs: list[AttributeInput], field: str) -> tuple[tuple[str, str], ...]:
    """Attribute names and values that identify a variant. Raises InvalidInput for duplicate names."""
    pairs = _parse_pairs(attribute_inputs, field)
    if len({fold_case(name) for name, _ in pairs}) < len(pairs):
        raise InvalidInput(field, "each name may be given once, in upper or lower case.")
    return pairs
