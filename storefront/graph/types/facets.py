"""Facets: how many products of a list each further filter value would leave."""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, TypeVar, cast

import orjson
import strawberry

from storefront.core.db.database import Row
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.batches import load_currencies
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.limits import ROW_LIMITS, row_limits
from storefront.graph.scalars import CurrencyCode
from storefront.graph.types.swatches import Swatch, build_swatch_batch
from storefront.models.row_keys import RowKey
from storefront.models.variant import fold_case
from storefront.queries.facet_index.counting import FacetCounter, FacetSnapshot
from storefront.queries.facets import MIN_RATINGS, list_fractions
from storefront.queries.listing import ScopedPage, Selection

FirstValues = Annotated[int, strawberry.argument(description="Maximum number of values, 1 to 100.", metadata=ROW_LIMITS)]
DEFAULT_FACET_VALUES = 50
MIN_BUCKETS, MAX_BUCKETS, DEFAULT_BUCKETS = 2, 10, 5
FirstBuckets = Annotated[
    int,
    strawberry.argument(description="Maximum number of ranges, 2 to 10.", metadata=row_limits(MAX_BUCKETS, min_rows=MIN_BUCKETS)),
]

V = TypeVar("V", "FacetValue", "AttributeFacetValue")


@strawberry.type(description="Number of products with a value.")
class FacetValue:
    value: str = strawberry.field(description="Value for the filter.")
    count: int = strawberry.field(description="Number of products.")
    is_selected: bool = strawberry.field(description="Whether the filter of the list has this value.")


@strawberry.type(description="Number of products with a value of an attribute.")
class AttributeFacetValue:
    name: strawberry.Private[str]
    # The oldest of the products; None if no product of the list has the value.
    product: strawberry.Private[RowKey | None]

    value: str = strawberry.field(description="Value for `AttributeFilterInput.values`.")
    swatch: Swatch | None = batch_field(
        build_swatch_batch(attrgetter("product")),
        description="How to show the value, as the oldest of the counted products does; null for plain text.",
    )
    count: int = strawberry.field(description="Number of products.")
    is_selected: bool = strawberry.field(description="Whether the filter of the list has this value.")


@strawberry.type(description="Numbers of products that can, or cannot, be bought at the moment.")
class AvailabilityFacetValue:
    in_stock: bool = strawberry.field(description="Value for `ProductFilterInput.inStock`.")
    count: int = strawberry.field(description="Number of products.")
    is_selected: bool = strawberry.field(description="Whether the filter of the list has this value.")


@strawberry.type(description="Number of products with at least an average rating.")
class RatingFacetValue:
    min_rating: float = strawberry.field(description="Value for `ProductFilterInput.minRating`.")
    count: int = strawberry.field(description="Number of products.")
    is_selected: bool = strawberry.field(description="Whether the filter of the list has this value.")


@strawberry.type(
    description="Number of products with an available variant in a price range. A product may be in several: its variants may "
    "have different prices, and a limit belongs to both of its ranges."
)
class PriceBucket:
    config_id: strawberry.Private[str]
    min: Decimal | None = strawberry.field(description="Value for `ProductFilterInput.minPrice`; null: no lower limit.")
    max: Decimal | None = strawberry.field(description="Value for `ProductFilterInput.maxPrice`; null: no upper limit.")

    currency: CurrencyCode = batch_field(load_currencies, description="Currency of both limits.")

    count: int = strawberry.field(description="Number of products.")
    is_selected: bool = strawberry.field(description="Whether the filter of the list has these limits.")


async def _load_attribute_values(
    facets: "Sequence[AttributeFacet]",
    info: Info,  # noqa: ARG001 - every batch resolver takes it
    first: FirstValues = DEFAULT_FACET_VALUES,
) -> Sequence[Sequence[AttributeFacetValue]]:
    limit = arguments.check_row_count(first)
    return [_limit_values(facet.facet_values, limit) for facet in facets]


@strawberry.type(description="Values of an attribute of variants.")
class AttributeFacet:
    name: str = strawberry.field(description="Name for `AttributeFilterInput.name`.")
    facet_values: strawberry.Private[Sequence[AttributeFacetValue]]

    # Without a weight: `ProductFacets.attributes` has read them.
    values: list[AttributeFacetValue] = batch_field(
        _load_attribute_values, description="Values, those with the most products first."
    )


@strawberry.type(description="Lowest and highest price.")
class PriceRange:
    config_id: strawberry.Private[str]
    min: Decimal = strawberry.field(description="Lowest price.")
    max: Decimal = strawberry.field(description="Highest price.")

    currency: CurrencyCode = batch_field(load_currencies, description="Currency of both prices.")


async def _load_values(facets: "Sequence[ProductFacets]", info: Info, name: str, first: int) -> Sequence[Sequence[FacetValue]]:
    limit = arguments.check_row_count(first)
    rows_by_facet = await asyncio.gather(*(facet.load_rows(info, name) for facet in facets))
    return [
        _limit_values(_build_facet_values(rows, facet.get_selected_values(name)), limit)
        for facet, rows in zip(facets, rows_by_facet, strict=True)
    ]


async def _load_categories(
    facets: "Sequence[ProductFacets]", info: Info, first: FirstValues = DEFAULT_FACET_VALUES
) -> Sequence[Sequence[FacetValue]]:
    return await _load_values(facets, info, "categories", first)


async def _load_vendors(
    facets: "Sequence[ProductFacets]", info: Info, first: FirstValues = DEFAULT_FACET_VALUES
) -> Sequence[Sequence[FacetValue]]:
    return await _load_values(facets, info, "vendors", first)


async def _load_product_types(
    facets: "Sequence[ProductFacets]", info: Info, first: FirstValues = DEFAULT_FACET_VALUES
) -> Sequence[Sequence[FacetValue]]:
    return await _load_values(facets, info, "product_types", first)


async def _load_tags(
    facets: "Sequence[ProductFacets]", info: Info, first: FirstValues = DEFAULT_FACET_VALUES
) -> Sequence[Sequence[FacetValue]]:
    return await _load_values(facets, info, "tags", first)


async def _load_price_buckets(
    facets: "Sequence[ProductFacets]", info: Info, first: FirstBuckets = DEFAULT_BUCKETS
) -> Sequence[Sequence[PriceBucket]]:
    count = arguments.check_row_count(first, max_rows=MAX_BUCKETS, min_rows=MIN_BUCKETS)
    return await asyncio.gather(*(facet.load_price_buckets(info, count) for facet in facets))


@strawberry.type(
    description="Number of products for each further choice. A facet ignores the filter of its own field, so that other choices "
    "stay visible."
)
class ProductFacets:
    listing_result: strawberry.Private[ScopedPage]
    selection: strawberry.Private[Selection]
    snapshot: strawberry.Private[FacetSnapshot | None]
    _counter: strawberry.Private[FacetCounter | None] = None

    async def load_rows(self, info: Info, facet: str) -> Sequence[Row]:
        rows = await counter.count(facet) if (counter := self._find_counter(info)) else None
        if rows is not None:
            return rows
        return await info.context.load(loaders.load_config_facet, self.listing_result.scope, facet, self.selection)

    async def _load_price_ranges(self, info: Info, count: int) -> Sequence[Row]:
        fractions = list_fractions(count)
        rows = await counter.count("price_buckets", fractions) if (counter := self._find_counter(info)) else None
        if rows is not None:
            return rows
        return await info.context.load(loaders.load_price_buckets, self.listing_result.scope, self.selection, count)

    def _find_counter(self, info: Info) -> FacetCounter | None:
        """What counts by the index of the store; None where facets are counted in SQL."""
        if self._counter is None and self.snapshot is not None and FacetCounter.is_countable(self.selection):
            scope = self.listing_result.scope
            load_hits = (
                partial(info.context.load, loaders.load_search_hits, scope, self.selection.without_all_filters())
                if self.selection.search
                else None
            )
            self._counter = FacetCounter(self.snapshot, scope, self.selection, load_hits)
        return self._counter

    async def load_price_buckets(self, info: Info, count: int) -> list[PriceBucket]:
        scope, filters = self.listing_result.scope, dict(self.selection.filters)
        selected_limits = [_parse_amount(filters.get(name)) for name in ("min_price", "max_price")]
        return [
            PriceBucket(
                config_id=scope.config_id,
                min=row.min,
                max=row.max,
                count=row.count,
                is_selected=[_parse_amount(row.min), _parse_amount(row.max)] == selected_limits,
            )
            for row in await self._load_price_ranges(info, count)
        ]

    def get_selected_values(self, name: str) -> Any:
        return dict(self.selection.filters).get(name, ())

    categories: list[FacetValue] = batch_field(
        _load_categories, description="Categories, those with the most products first.", metadata=costs(50)
    )

    vendors: list[FacetValue] = batch_field(
        _load_vendors, description="Vendors, those with the most products first.", metadata=costs(50)
    )

    product_types: list[FacetValue] = batch_field(
        _load_product_types, description="Product types, those with the most products first.", metadata=costs(50)
    )

    tags: list[FacetValue] = batch_field(_load_tags, description="Tags, those with the most products first.", metadata=costs(50))

    @strawberry.field(description="Attributes of the available variants.", metadata=costs(50, size=10))
    async def attributes(self, info: Info) -> list[AttributeFacet]:
        selected = orjson.loads(self.get_selected_values("attributes") or "{}")
        selected_by_name = {fold_case(name): values for name, values in selected.items()}
        by_name: dict[str, list[Row]] = {}
        for row in await self.load_rows(info, "attributes"):
            by_name.setdefault(row.name, []).append(row)
        return [
            AttributeFacet(
                name=name, facet_values=self._build_attribute_values(name, rows, selected_by_name.get(fold_case(name), ()))
            )
            for name, rows in by_name.items()
        ]

    def _build_attribute_values(
        self, name: str, rows: Sequence[Row], selected_values: Sequence[str]
    ) -> list[AttributeFacetValue]:
        config_id = self.listing_result.scope.config_id
        products = {row.value: RowKey(config_id, row.product_id) for row in rows}
        return [
            AttributeFacetValue(
                name=name,
                product=products.get(facet.value),
                value=facet.value,
                count=facet.count,
                is_selected=facet.is_selected,
            )
            for facet in _build_facet_values(rows, selected_values, fold=fold_case)
        ]

    @strawberry.field(description="Lowest and highest price of available variants; null without any.", metadata=costs(50))
    async def price(self, info: Info) -> PriceRange | None:
        (row,) = await self.load_rows(info, "price")
        return None if row.min is None else PriceRange(config_id=self.listing_result.scope.config_id, min=row.min, max=row.max)

    price_buckets: list[PriceBucket] = batch_field(
        _load_price_buckets,
        description="Price ranges with round limits, which together cover all products with an available variant; none where "
        "prices do not differ.",
        metadata=costs(50),
    )

    @strawberry.field(
        description="Products with an average of at least 4, 3, 2 and 1 stars.", metadata=costs(50, size=len(MIN_RATINGS))
    )
    async def ratings(self, info: Info) -> list[RatingFacetValue]:
        (row,) = await self.load_rows(info, "ratings")
        selected = dict(self.selection.filters).get("min_rating")
        return [
            RatingFacetValue(min_rating=minimum, count=count, is_selected=minimum == selected)
            for minimum, count in zip(MIN_RATINGS, row.counts, strict=True)
        ]

    @strawberry.field(description="Products that can, and that cannot, be bought at the moment.", metadata=costs(50, size=2))
    async def availability(self, info: Info) -> list[AvailabilityFacetValue]:
        selected_values = [value for name, value in self.selection.filters if name == "in_stock"]
        values = _build_facet_values(await self.load_rows(info, "availability"), selected_values)
        return [
            AvailabilityFacetValue(in_stock=cast(bool, facet.value), count=facet.count, is_selected=facet.is_selected)
            for facet in values
        ]


def _parse_amount(amount: Any) -> Decimal | None:
    return None if amount is None else Decimal(amount)


def _limit_values(values: Sequence[V], limit: int) -> list[V]:
    """The first values, and all that are selected, so that shoppers can deselect them."""
    return [value for n, value in enumerate(values) if n < limit or value.is_selected]


def _build_facet_values(
    rows: Sequence[Row], selected_values: Any, *, fold: Callable[[Any], Any] = lambda value: value
) -> list[FacetValue]:
    """The values of a facet. `fold`: what of a value is compared with the selected ones."""
    counted, selected = {fold(row.value) for row in rows}, {fold(value) for value in selected_values}
    # Selected values stay in the list even with a count of 0, so that shoppers can deselect them.
    missing = {value: 0 for value in selected_values if fold(value) not in counted}
    counts = {row.value: row.count for row in rows} | missing
    return [FacetValue(value=value, count=count, is_selected=fold(value) in selected) for value, count in counts.items()]
