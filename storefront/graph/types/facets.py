"""Facets: how many products of a list each further filter value would leave."""

from decimal import Decimal
from typing import Any

import orjson
import strawberry

from storefront.core.db.database import Row
from storefront.graph import loaders
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.queries.listing import ScopedPage, Selection


@strawberry.type
class FacetValue:
    value: str
    count: int = strawberry.field(description="Number of products with this value.")
    is_selected: bool


@strawberry.type
class AttributeFacet:
    name: str
    values: list[FacetValue] = strawberry.field(metadata=costs(size=10))


@strawberry.type
class PriceRange:
    min: Decimal
    max: Decimal


@strawberry.type(description="Facets: the number of products per filter value. The counts of a facet ignore its own filter.")
class ProductFacets:
    listing_result: strawberry.Private[ScopedPage]
    selection: strawberry.Private[Selection]

    async def _load_rows(self, info: Info, facet: str) -> list[Row]:
        return await info.context.load(loaders.load_config_facet, self.listing_result.scope, facet, self.selection)

    def _get_selected_values(self, name: str) -> Any:
        return dict(self.selection.filters).get(name, ())

    @strawberry.field(metadata=costs(50, size=20))
    async def categories(self, info: Info) -> list[FacetValue]:
        return _build_facet_values(await self._load_rows(info, "category"), self._get_selected_values("category"))

    @strawberry.field(metadata=costs(50, size=50))
    async def tags(self, info: Info) -> list[FacetValue]:
        return _build_facet_values(await self._load_rows(info, "tags"), self._get_selected_values("tags"))

    @strawberry.field(metadata=costs(50, size=10))
    async def attributes(self, info: Info) -> list[AttributeFacet]:
        selected_values = orjson.loads(self._get_selected_values("attributes") or "{}")
        by_name: dict[str, list[Row]] = {}
        for row in await self._load_rows(info, "attributes"):
            by_name.setdefault(row.name, []).append(row)
        return [
            AttributeFacet(name=name, values=_build_facet_values(rows, selected_values.get(name, ())))
            for name, rows in by_name.items()
        ]

    @strawberry.field(description="Null without products.", metadata=costs(50))
    async def price(self, info: Info) -> PriceRange | None:
        (row,) = await self._load_rows(info, "price")
        return None if row.min is None else PriceRange(min=row.min, max=row.max)

    @strawberry.field(description="IN_STOCK and OUT_OF_STOCK.", metadata=costs(50, size=2))
    async def availability(self, info: Info) -> list[FacetValue]:
        selected_values = [
            ("OUT_OF_STOCK", "IN_STOCK")[is_in_stock] for name, is_in_stock in self.selection.filters if name == "in_stock"
        ]
        return _build_facet_values(await self._load_rows(info, "availability"), selected_values)


def _build_facet_values(rows: list[Row], selected_values: Any) -> list[FacetValue]:
    # Selected values stay in the list even with a count of 0, so that shoppers can deselect them.
    counts = {row.value: row.count for row in rows} | {
        value: 0 for value in selected_values if value not in {r.value for r in rows}
    }
    return [FacetValue(value=value, count=count, is_selected=value in selected_values) for value, count in counts.items()]
