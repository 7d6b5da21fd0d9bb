"""The nouns. Plain fields read the row that a query returned; methods are edges or values made of several columns."""

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, cast

import orjson
import strawberry

from storefront.core.database import Row
from storefront.graph import checks, inputs, loaders
from storefront.graph.context import Info
from storefront.graph.inputs import AttributeInput, ProductFilter, ProductSort, ProductStatus
from storefront.graph.pagination import Connection
from storefront.graph.scalars import Position
from storefront.queries.listing import Found, Listing, Scope, Selection
from storefront.queries.visibility import Audience

First = Annotated[int, strawberry.argument(description="How many, 1 to 100.")]
After = Annotated[str | None, strawberry.argument(description="The cursor to continue behind.")]


@strawberry.type(description="Somebody who owns stores or writes reviews.")
class User:
    id: strawberry.ID
    name: str | None
    image: str | None
    created_at: datetime

    @strawberry.field(description="Told to oneself only.")
    def email(self, info: Info) -> str | None:
        viewer = info.context.viewer
        return cast(Row, self).email if viewer and viewer.id == self.id else None

    @strawberry.field(description="One's own stores; of others the published ones. Newest first.")
    async def configs(self, info: Info, first: First = 20, after: After = None) -> "ConfigConnection":
        page = await info.context.load(loaders.configs_of_user, str(self.id), checks.window(first, after))
        return ConfigConnection(page=page, count=lambda: info.context.load(loaders.config_count_of_user, str(self.id)))


@strawberry.type
class Theme:
    primary_color: str
    secondary_color: str
    font_family: str
    custom_css: str | None = strawberry.field(default=None, name="customCSS")


@strawberry.enum
class HeaderStyle(Enum):
    MINIMAL = "minimal"
    FULL = "full"
    CENTERED = "centered"


@strawberry.type
class Layout:
    header_style: HeaderStyle
    grid_columns: int = strawberry.field(description="2, 3 or 4.")
    show_prices: bool
    show_descriptions: bool


@strawberry.type(description="The access token itself is never readable.")
class ShopifyIntegration:
    domain: str
    is_connected: bool


@strawberry.type
class StripeIntegration:
    publishable_key: str


@strawberry.type
class GoogleAnalyticsIntegration:
    google_analytics_id: str


@strawberry.type(description="Connections to other services: the parts that a browser may know.")
class Integrations:
    shopify: ShopifyIntegration | None = strawberry.field(description="Told to the owner only.")
    stripe: StripeIntegration | None
    analytics: GoogleAnalyticsIntegration | None


@strawberry.type
class FacetValue:
    value: str
    count: int = strawberry.field(description="How many products there would be with this value.")
    is_selected: bool


@strawberry.type
class AttributeFacet:
    name: str
    values: list[FacetValue]


@strawberry.type
class PriceRange:
    min: Decimal
    max: Decimal


@strawberry.type(description="A store.")
class Config:
    id: strawberry.ID
    store_name: str
    slug: str
    description: str | None
    is_published: bool
    currency: str = strawberry.field(description="ISO 4217.")
    version: int
    created_at: datetime
    updated_at: datetime

    @strawberry.field
    def theme(self) -> Theme | None:
        given = cast(Row, self).theme
        return Theme(**_fields(given, _THEME)) if given else None

    @strawberry.field
    def layout(self) -> Layout | None:
        given = cast(Row, self).layout
        return Layout(**_fields(given, _LAYOUT)) if given else None

    @strawberry.field
    def integrations(self, info: Info) -> Integrations | None:
        given = cast(Row, self).integrations
        return _integrations(given, info.context.audience(str(self.id))) if given else None

    @strawberry.field
    async def owner(self, info: Info) -> User:
        return cast(User, await info.context.load(loaders.user, cast(Row, self).user_id))

    @strawberry.field(description="How far the store's log has come.")
    async def position(self, info: Info) -> Position:
        return cast(Position, await info.context.load(loaders.position_of_config, str(self.id)))

    @strawberry.field(description="The store's products. Pages by cursor do not shift when others are added.")
    async def products(
        self,
        info: Info,
        filter: ProductFilter | None = None,
        search: str | None = None,
        sort: ProductSort | None = None,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> "ProductConnection":
        chosen = inputs.selection(filter, search, info.context.audience(str(self.id)))
        listing = Listing(chosen, inputs.order(sort, chosen), checks.window(first, after, last, before))
        return await product_connection(info, str(self.id), listing)

    @strawberry.field(description="The categories that the store's products have, the fullest first.")
    async def categories(self, info: Info) -> list[FacetValue]:
        selection = Selection(info.context.audience(str(self.id)))
        rows = await info.context.load(loaders.facet_of_config, Scope(str(self.id)), "category", selection)
        return [FacetValue(value=row.value, count=row.count, is_selected=False) for row in rows]


@strawberry.type
class Attribute:
    name: str
    value: str


@strawberry.type
class ReviewSummary:
    average: float | None = strawberry.field(description="Stars; null without reviews.")
    count: int
    distribution: list[int] = strawberry.field(description="Five counts, one star first.")


@strawberry.type
class Product:
    id: strawberry.ID
    title: str
    handle: str = strawberry.field(description="Its name in URLs, unique in the store.")
    description: str | None
    price: Decimal
    compare_at_price: Decimal | None
    images: list[str]
    category: str | None
    tags: list[str]
    inventory: int | None
    track_inventory: bool
    in_stock: bool = strawberry.field(description="Whether it, or any available variant of it, can be bought.")
    seo_title: str | None
    seo_description: str | None
    status: ProductStatus
    popularity: int = strawberry.field(description="Clicks, and carts five times, of the last 30 days.")
    version: int
    created_at: datetime
    updated_at: datetime

    @strawberry.field(description="Over the available variants, else the product's own price.")
    def price_range(self) -> PriceRange:
        row = cast(Row, self)
        return PriceRange(min=row.variants_min_price or row.price, max=row.variants_max_price or row.price)

    @strawberry.field
    async def config(self, info: Info) -> Config:
        return cast(Config, await info.context.load(loaders.config, cast(Row, self).config_id))

    @strawberry.field(description="The first variants. Unavailable ones are shown to the owner, with `availableOnly: false`.")
    async def variants(self, info: Info, first: First = 5, available_only: bool = True) -> "list[ProductVariant]":
        only = available_only or not _is_owner(self, info)
        found = await info.context.load(loaders.variants_of_product, str(self.id), checks.first(first), only)
        return cast("list[ProductVariant]", found)

    @strawberry.field(description="How many variants the asker may see.")
    def variant_count(self, info: Info) -> int:
        row = cast(Row, self)
        return int(row.variants_total if _is_owner(self, info) else row.variants_available)

    @strawberry.field(description="The variant that has all these attributes.")
    async def variant(self, info: Info, attributes: list[AttributeInput]) -> "ProductVariant | None":
        wanted = orjson.dumps(dict(inputs.attributes(attributes, "attributes"))).decode()
        found = await info.context.load(loaders.variant_of_product, str(self.id), wanted, not _is_owner(self, info))
        return cast("ProductVariant | None", found)

    @strawberry.field(description="Newest first.")
    async def reviews(self, info: Info, first: First = 3, after: After = None) -> "ReviewConnection":
        page = await info.context.load(loaders.reviews_of_product, str(self.id), checks.window(first, after))
        counts: list[int] = cast(Row, self).rating_counts

        async def count() -> int:
            return sum(counts)

        return ReviewConnection(page=page, count=count)

    @strawberry.field
    def review_summary(self) -> ReviewSummary:
        counts: list[int] = cast(Row, self).rating_counts
        total = sum(counts)
        stars = sum(stars * count for stars, count in enumerate(counts, 1))
        return ReviewSummary(average=stars / total if total else None, count=total, distribution=counts)

    @strawberry.field(description="Same category first, then shared tags, then popularity.")
    async def related(self, info: Info, first: First = 4) -> "list[Product]":
        found = await info.context.load(loaders.related_to_product, str(self.id), checks.first(first))
        return cast("list[Product]", found)


@strawberry.type
class ProductVariant:
    id: strawberry.ID
    name: str
    price: Decimal
    compare_at_price: Decimal | None
    inventory: int | None = strawberry.field(description="Null: not counted, never runs out.")
    sku: str | None
    is_available: bool
    in_stock: bool
    version: int
    created_at: datetime

    @strawberry.field
    def attributes(self) -> list[Attribute]:
        return [Attribute(name=name, value=value) for name, value in cast(Row, self).attributes.items()]

    @strawberry.field
    async def product(self, info: Info) -> Product:
        return cast(Product, await info.context.load(loaders.product, cast(Row, self).product_id))


@strawberry.type
class Review:
    id: strawberry.ID
    rating: int = strawberry.field(description="One to five stars.")
    title: str | None
    body: str | None
    version: int
    created_at: datetime

    @strawberry.field
    async def user(self, info: Info) -> User:
        return cast(User, await info.context.load(loaders.user, cast(Row, self).user_id))

    @strawberry.field
    async def product(self, info: Info) -> Product:
        return cast(Product, await info.context.load(loaders.product, cast(Row, self).product_id))


# -------------------------------------------------------------------------------------------------- lists


@strawberry.type
class ConfigConnection(Connection[Config]):
    """A page of stores."""


@strawberry.type
class ReviewConnection(Connection[Review]):
    """A page of reviews."""


@strawberry.type(description="How many products each further choice would leave. A facet does not count its own filter.")
class ProductFacets:
    found: strawberry.Private[Found]
    selection: strawberry.Private[Selection]

    async def _rows(self, info: Info, facet: str) -> list[Row]:
        return await info.context.load(loaders.facet_of_config, self.found.scope, facet, self.selection)

    def _chosen(self, name: str) -> Any:
        return dict(self.selection.filters).get(name, ())

    @strawberry.field
    async def categories(self, info: Info) -> list[FacetValue]:
        return _facet_values(await self._rows(info, "category"), self._chosen("category"))

    @strawberry.field
    async def tags(self, info: Info) -> list[FacetValue]:
        return _facet_values(await self._rows(info, "tags"), self._chosen("tags"))

    @strawberry.field
    async def attributes(self, info: Info) -> list[AttributeFacet]:
        chosen = orjson.loads(self._chosen("attributes") or "{}")
        by_name: dict[str, list[Row]] = {}
        for row in await self._rows(info, "attributes"):
            by_name.setdefault(row.name, []).append(row)
        return [AttributeFacet(name=name, values=_facet_values(rows, chosen.get(name, ()))) for name, rows in by_name.items()]

    @strawberry.field(description="Null without products.")
    async def price(self, info: Info) -> PriceRange | None:
        (row,) = await self._rows(info, "price")
        return None if row.min is None else PriceRange(min=row.min, max=row.max)

    @strawberry.field(description="IN_STOCK and OUT_OF_STOCK.")
    async def availability(self, info: Info) -> list[FacetValue]:
        chosen = [("OUT_OF_STOCK", "IN_STOCK")[wanted] for name, wanted in self.selection.filters if name == "in_stock"]
        return _facet_values(await self._rows(info, "availability"), chosen)


@strawberry.type
class ProductConnection(Connection[Product]):
    """A page of products."""

    found: strawberry.Private[Found]
    selection: strawberry.Private[Selection]

    @strawberry.field(description="Counted only when asked for.")
    def facets(self) -> ProductFacets:
        return ProductFacets(found=self.found, selection=self.selection)

    @strawberry.field(description="What was searched for instead, where the words as typed find nothing.")
    def corrected_search(self) -> str | None:
        mended = self.found.scope.mended
        return mended.text if mended else None


async def product_connection(info: Info, config_id: str, listing: Listing) -> ProductConnection:
    """A page of one store's products, read together with those that other stores are asked for at the same time."""
    found = await info.context.load(loaders.products_of_config, config_id, listing)
    selection = listing.selection
    return ProductConnection(
        page=found.page,
        count=lambda: info.context.load(loaders.product_count_of_config, found.scope, selection),
        found=found,
        selection=selection,
    )


# ------------------------------------------------------------------------------------------- from columns


def _is_owner(product: Product, info: Info) -> bool:
    return info.context.audience(cast(Row, product).config_id) is Audience.OWNER


def _facet_values(rows: list[Row], chosen: Any) -> list[FacetValue]:
    return [FacetValue(value=row.value, count=row.count, is_selected=row.value in chosen) for row in rows]


_THEME = {
    "primaryColor": "primary_color",
    "secondaryColor": "secondary_color",
    "fontFamily": "font_family",
    "customCSS": "custom_css",
}
_LAYOUT = {
    "headerStyle": "header_style",
    "gridColumns": "grid_columns",
    "showPrices": "show_prices",
    "showDescriptions": "show_descriptions",
}


def _fields(document: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {ours: document.get(theirs) for theirs, ours in names.items()}


def _integrations(document: dict[str, Any], audience: Audience) -> Integrations:
    shopify, stripe, analytics = (document.get(name) for name in ("shopify", "stripe", "analytics"))
    if audience is not Audience.OWNER:
        shopify = None
    return Integrations(
        shopify=ShopifyIntegration(domain=shopify["domain"], is_connected="accessToken" in shopify) if shopify else None,
        stripe=StripeIntegration(publishable_key=stripe["publishableKey"]) if stripe else None,
        analytics=GoogleAnalyticsIntegration(google_analytics_id=analytics["googleAnalyticsId"]) if analytics else None,
    )
