"""The catalogue: users, stores, products, variants and reviews, with their connections.

Plain fields read the row that a query returned; methods are edges, or values computed from several columns. These types refer to
each other in cycles, as a graph does: therefore they are one module.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, NamedTuple, cast

import orjson
import strawberry

from storefront.core.db.database import Row
from storefront.execution.batch_field import batch_field
from storefront.execution.lookahead import get_selected_names
from storefront.graph import arguments, inputs, loaders
from storefront.graph.batches import build_reference_batch, load_by_kind
from storefront.graph.cache_hints import PERSONAL
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.images import Image, load_media
from storefront.graph.inputs import AttributeInput, ProductFilterInput, ProductSortInput, ProductStatus, SearchText
from storefront.graph.json_pushdown import build_nodes_document
from storefront.graph.limits import limits
from storefront.graph.pagination import After, Before, Connection, First, MaybeFirst, MaybeLast
from storefront.graph.projection import get_selected_columns, requires_columns
from storefront.graph.scalars import Position
from storefront.graph.types.analytics import AnalyticsInterval, AnalyticsReport, DateRangeInput, TimeZone, build_analytics_report
from storefront.graph.types.facets import FacetValue, PriceRange, ProductFacets
from storefront.graph.types.jobs import JobConnection, load_jobs_of_stores
from storefront.graph.types.store_settings import Integrations, Layout, Theme, build_integrations, build_layout, build_theme
from storefront.graph.types.webhooks import Webhook, load_webhooks_of_stores
from storefront.queries import fields
from storefront.queries.listing import Listing, ScopedPage, Selection, StoreScope
from storefront.queries.visibility import Audience
from storefront.queries.webhooks import MAX_WEBHOOKS_PER_STORE
from storefront.writes.product_validation import MAX_ATTRIBUTES


async def _load_configs(users: Sequence[Row], info: Info, first: First = 20, after: After = None) -> "Sequence[ConfigConnection]":
    pages = await info.context.load_many(
        loaders.load_user_configs, [row.id for row in users], arguments.build_window(first, after)
    )
    return [
        ConfigConnection(page=page, count=partial(info.context.load, loaders.count_user_configs, row.id))
        for row, page in zip(users, pages, strict=True)
    ]


@strawberry.type(description="A user, who may own stores and write reviews.")
class User:
    id: strawberry.ID
    name: str | None
    image: str | None
    created_at: datetime

    @strawberry.field(description="Visible to the user themselves only; null for others.", metadata=PERSONAL)
    def email(self, info: Info) -> str | None:
        viewer = info.context.viewer
        return cast(Row, self).email if viewer and viewer.id == self.id else None

    configs: "ConfigConnection" = batch_field(
        _load_configs, description="The user's stores, newest first. Others see the published ones only.", metadata=PERSONAL
    )


async def _load_products(
    stores: Sequence[Row],
    info: Info,
    filter: ProductFilterInput | None = None,
    search: SearchText = None,
    sort: ProductSortInput | None = None,
    first: MaybeFirst = None,
    after: After = None,
    last: MaybeLast = None,
    before: Before = None,
) -> "Sequence[ProductConnection]":
    window = arguments.build_window(first, after, last, before)
    audiences = [info.context.get_audience(store.id) for store in stores]
    listings: dict[Audience, Listing] = {}
    for audience in set(audiences):
        selection = inputs.build_selection(filter, search, audience)
        listings[audience] = _complete_listing(info, Listing(selection, inputs.build_order(sort, selection), window))
    load = info.context.load_many
    results = await load_by_kind(
        stores, audiences, lambda keys, audience: load(loaders.load_config_products, keys, listings[audience])
    )
    return [
        _build_product_connection(info, result, listings[audience]) for result, audience in zip(results, audiences, strict=True)
    ]


async def _load_analytics(
    stores: Sequence[Row],
    info: Info,
    range: DateRangeInput,
    interval: AnalyticsInterval = AnalyticsInterval.DAY,
    time_zone: TimeZone = "UTC",
) -> Sequence[AnalyticsReport | None]:
    owned_flags = [info.context.get_audience(row.id) is Audience.OWNER for row in stores]
    report = build_analytics_report("", range, interval, time_zone) if any(owned_flags) else None
    return [
        replace(report, config_id=row.id) if report and is_owned else None
        for row, is_owned in zip(stores, owned_flags, strict=True)
    ]


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
        document = cast(Row, self).theme
        return build_theme(document) if document else None

    @strawberry.field
    def layout(self) -> Layout | None:
        document = cast(Row, self).layout
        return build_layout(document) if document else None

    @strawberry.field
    def integrations(self, info: Info) -> Integrations | None:
        document = cast(Row, self).integrations
        return build_integrations(document, info.context.get_audience(str(self.id))) if document else None

    owner: User = batch_field(build_reference_batch(loaders.load_users, "user_id", "user"))

    @strawberry.field(description="The current position of the store's log.")
    async def position(self, info: Info) -> Position:
        return cast(Position, await info.context.load(loaders.load_config_positions, str(self.id)))

    products: "ProductConnection" = batch_field(
        _load_products,
        description="The store's products. Cursor pages do not shift when products are added.",
        metadata=costs(size=20),
    )

    @strawberry.field(description="The categories of the store's products, largest first.", metadata=costs(50, size=20))
    async def categories(self, info: Info) -> list[FacetValue]:
        selection = Selection(info.context.get_audience(str(self.id)))
        rows = await info.context.load(loaders.load_config_facet, StoreScope(str(self.id)), "category", selection)
        return [FacetValue(value=row.value, count=row.count, is_selected=False) for row in rows]

    analytics: AnalyticsReport | None = batch_field(
        _load_analytics, description="Analytics of the store. Visible to the owner; null for others.", metadata=costs(50)
    )

    webhooks: list[Webhook] | None = batch_field(
        load_webhooks_of_stores,
        description=f"Webhooks, oldest first; at most {MAX_WEBHOOKS_PER_STORE}. Owner only; null for others.",
        metadata=costs(size=MAX_WEBHOOKS_PER_STORE),
    )

    jobs: JobConnection | None = batch_field(
        load_jobs_of_stores, description="Imports and exports, newest first. Owner only; null for others."
    )


@strawberry.type
class VariantAttribute:
    name: str
    value: str


class _NameAndValue(NamedTuple):
    name: str
    value: str


# The fastest constructor: there are many attributes per response.
_make_name_and_value: Callable[[tuple[str, str]], Any] = partial(tuple.__new__, _NameAndValue)


@strawberry.type
class ReviewSummary:
    average: float | None = strawberry.field(description="Average stars; null without reviews.")
    count: int
    distribution: list[int] = strawberry.field(description="Five counts, from one star to five.")


async def _load_variants(
    products: Sequence[Row], info: Info, first: First = 5, available_only: bool = True
) -> Sequence[Sequence[Row]]:
    limit, columns, context = arguments.check_row_count(first), get_selected_columns(info, ProductVariant), info.context
    # Unavailable variants are visible to the owner of the product only.
    available_only_flags = [available_only or context.get_audience(row.config_id) is not Audience.OWNER for row in products]
    return await load_by_kind(
        products,
        available_only_flags,
        lambda keys, only: context.load_many(loaders.load_product_variants, keys, limit, only, columns),
    )


async def _load_variant_by_attributes(
    products: Sequence[Row],
    info: Info,
    attributes: Annotated[list[AttributeInput], strawberry.argument(metadata=limits(items=MAX_ATTRIBUTES))],
) -> Sequence[Row | None]:
    attributes_json = orjson.dumps(dict(inputs.parse_attribute_pairs(attributes, "attributes"))).decode()
    load = info.context.load_many
    available_only_flags = [info.context.get_audience(row.config_id) is not Audience.OWNER for row in products]
    return await load_by_kind(
        products,
        available_only_flags,
        lambda keys, only: load(loaders.load_product_variant_by_attributes, keys, attributes_json, only),
    )


async def _load_reviews(
    products: Sequence[Row], info: Info, first: First = 3, after: After = None
) -> "Sequence[ReviewConnection]":
    window, columns = arguments.build_window(first, after), get_selected_columns(info, Review)
    pages = await info.context.load_many(loaders.load_product_reviews, [row.id for row in products], window, columns)
    return [
        ReviewConnection(page=page, count=_make_counter(row.rating_counts)) for row, page in zip(products, pages, strict=True)
    ]


def _make_counter(counts: Sequence[int]) -> Callable[[], Awaitable[int]]:
    async def sum_counts() -> int:
        return sum(counts)

    return sum_counts


async def _load_related(products: Sequence[Row], info: Info, first: First = 4) -> Sequence[Sequence[Row]]:
    return await info.context.load_many(
        loaders.load_related_products, [row.id for row in products], arguments.check_row_count(first)
    )


@strawberry.type
class Product:
    id: strawberry.ID
    title: str
    handle: str = strawberry.field(description="Name in URLs, unique in the store.")
    description: str | None
    price: Decimal
    compare_at_price: Decimal | None
    images: list[str]
    category: str | None
    tags: list[str]
    inventory: int | None
    track_inventory: bool
    in_stock: bool = strawberry.field(description="Whether the product, or any available variant of it, can be bought.")
    seo_title: str | None
    seo_description: str | None
    status: ProductStatus
    popularity: int = strawberry.field(description="Clicks plus five times the adds to cart of the last 30 days.")
    version: int
    created_at: datetime
    updated_at: datetime

    @strawberry.field(
        description="Lowest and highest price of the available variants, else the product's own price.",
        metadata=requires_columns(*fields.PRICE_RANGE_COLUMNS),
    )
    def price_range(self) -> PriceRange:
        return PriceRange(**fields.get_price_range(self))

    config: Config = batch_field(build_reference_batch(loaders.load_configs, "config_id", "store"))

    variants: "list[ProductVariant]" = batch_field(
        _load_variants, description="The first variants. The owner sees unavailable ones with `availableOnly: false`."
    )

    @strawberry.field(
        description="The number of variants visible to the viewer.",
        metadata=requires_columns(*fields.VARIANT_COUNT_COLUMNS),
    )
    def variant_count(self, info: Info) -> int:
        return int(getattr(self, fields.get_variant_count_column(_is_owner(self, info))))

    variant: "ProductVariant | None" = batch_field(
        _load_variant_by_attributes, description="The variant with all these attributes."
    )

    media: list[Image] = batch_field(
        load_media,
        description="The first images of the product, in the order of `images`.",
        metadata=requires_columns("images", "config_id"),
    )

    reviews: "ReviewConnection" = batch_field(
        _load_reviews, description="Newest first.", metadata=requires_columns("rating_counts")
    )

    @strawberry.field(metadata=requires_columns(*fields.REVIEW_SUMMARY_COLUMNS))
    def review_summary(self) -> ReviewSummary:
        return ReviewSummary(**fields.get_review_summary(self))

    related: "list[Product]" = batch_field(
        _load_related, description="Related products: same category first, then shared tags, then popularity.", metadata=costs(20)
    )


@strawberry.type
class ProductVariant:
    id: strawberry.ID
    name: str
    price: Decimal
    compare_at_price: Decimal | None
    inventory: int | None = strawberry.field(description="Null: not tracked, never out of stock.")
    sku: str | None
    is_available: bool
    in_stock: bool
    version: int
    created_at: datetime

    @strawberry.field(metadata=requires_columns("attributes") | costs(size=3))
    def attributes(self) -> list[VariantAttribute]:
        row: Any = self
        return [*map(_make_name_and_value, row.attributes.items())]

    product: Product = batch_field(build_reference_batch(loaders.load_products, "product_id", "product"))


@strawberry.type
class Review:
    id: strawberry.ID
    rating: int = strawberry.field(description="One to five stars.")
    title: str | None
    body: str | None
    version: int
    created_at: datetime

    user: User = batch_field(build_reference_batch(loaders.load_users, "user_id", "user"), metadata=requires_columns("user_id"))

    product: Product = batch_field(build_reference_batch(loaders.load_products, "product_id", "product"))


@strawberry.type
class ConfigConnection(Connection[Config]):
    """A page of stores."""


@strawberry.type
class ReviewConnection(Connection[Review]):
    """A page of reviews."""


@strawberry.type
class ProductConnection(Connection[Product]):
    """A page of products."""

    listing_result: strawberry.Private[ScopedPage]
    selection: strawberry.Private[Selection]

    @strawberry.field(description="Counted only when asked for.")
    def facets(self) -> ProductFacets:
        return ProductFacets(listing_result=self.listing_result, selection=self.selection)

    @strawberry.field(description="What was searched for instead, where the words as typed find nothing.")
    def corrected_search(self) -> str | None:
        corrected = self.listing_result.scope.corrected_search
        return corrected.text if corrected else None


async def load_product_connection(info: Info, config_id: str, listing: Listing) -> ProductConnection:
    """A page of one store's products, batched with those of other fields."""
    completed_listing = _complete_listing(info, listing)
    return _build_product_connection(
        info, await info.context.load(loaders.load_config_products, config_id, completed_listing), completed_listing
    )


def _complete_listing(info: Info, listing: Listing) -> Listing:
    is_counted = "total_count" in (get_selected_names(info, "ProductConnection") or ())
    document = build_nodes_document(info, is_owner=listing.selection.audience is Audience.OWNER)
    return replace(listing, columns=get_selected_columns(info, Product), document=document, with_total=is_counted)


def _build_product_connection(info: Info, listing_result: ScopedPage, listing: Listing) -> ProductConnection:
    selection, rows = listing.selection, listing_result.page.rows

    async def count_products() -> int:
        totals = (
            [rows[0].total]
            if listing.with_total and rows
            else [await info.context.load(loaders.count_config_products, listing_result.scope, selection)]
        )
        return int(totals[0])

    return ProductConnection(page=listing_result.page, count=count_products, listing_result=listing_result, selection=selection)


def _is_owner(product: Product, info: Info) -> bool:
    return info.context.get_audience(cast(Row, product).config_id) is Audience.OWNER
