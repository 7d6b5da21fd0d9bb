"""The nouns. Plain fields read the row that a query returned; methods are edges or values made of several columns."""

from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import orjson
import strawberry

from storefront.core.db.database import Row
from storefront.core.errors import NotFound
from storefront.core.ids import parse_id
from storefront.execution.batch_field import BatchResolver, batch_field
from storefront.execution.lookahead import get_selected_names
from storefront.graph import arguments, inputs, loaders
from storefront.graph.cache_hints import PERSONAL
from storefront.graph.context import Context, Info
from storefront.graph.cost_hints import costs
from storefront.graph.images import Image, load_media
from storefront.graph.inputs import AttributeInput, ProductFilter, ProductSort, ProductStatus
from storefront.graph.json_pushdown import build_nodes_document
from storefront.graph.limits import MAX_CURSOR_CHARACTERS, ROW_LIMITS, SEARCH_LIMITS, limits
from storefront.graph.pagination import Connection
from storefront.graph.projection import get_selected_columns, requires_columns
from storefront.graph.scalars import JSON, Position
from storefront.queries import fields
from storefront.queries.analytics import MAX_SOURCES, EventCounts, Span
from storefront.queries.listing import Listing, ScopedPage, Selection, StoreScope
from storefront.queries.visibility import Audience
from storefront.writes.product_validation import MAX_ATTRIBUTES

RowLoader = Callable[[Context, Sequence[str]], Awaitable[Sequence[Row | None]]]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

First = Annotated[int, strawberry.argument(description="How many, 1 to 100.", metadata=ROW_LIMITS)]
CURSOR_LIMITS = limits(characters=MAX_CURSOR_CHARACTERS)
MaybeFirst = Annotated[int | None, strawberry.argument(description="How many behind the cursor, 1 to 100.", metadata=ROW_LIMITS)]
MaybeLast = Annotated[int | None, strawberry.argument(description="How many before the cursor, 1 to 100.", metadata=ROW_LIMITS)]
After = Annotated[str | None, strawberry.argument(description="The cursor to continue behind.", metadata=CURSOR_LIMITS)]
SearchText = Annotated[str | None, strawberry.argument(metadata=SEARCH_LIMITS)]
Before = Annotated[str | None, strawberry.argument(description="The cursor to stop before.", metadata=CURSOR_LIMITS)]
TimeZone = Annotated[str, strawberry.argument(description='IANA name, such as "Europe/Berlin": by whose clocks days begin.')]


@strawberry.enum(description="How long a point of a series is.")
class Interval(Enum):
    HOUR = "hour"
    DAY = "day"
    WEEK = strawberry.enum_value("week", description="From Monday on.")
    MONTH = "month"


@strawberry.input(description="A stretch of time.")
class DateRange:
    from_: datetime = strawberry.field(name="from", description="The first moment.")
    to: datetime = strawberry.field(description="The moment after the last: `from` of the stretch that follows.")


def build_reference_batch(loader: RowLoader, key_column: str, noun: str) -> BatchResolver:
    """Where rows lead by a key of theirs, never null: what it leads to may be gone or hidden by the time that it is asked for."""

    async def load_targets(rows: Sequence[Row], info: Info) -> Sequence[Row]:
        related_rows = await info.context.load_many(loader, [getattr(row, key_column) for row in rows])
        if None in related_rows:
            raise NotFound(f"The {noun} that this belongs to is gone, or not for you to see.")
        return related_rows

    return load_targets


async def _load_configs(users: Sequence[Row], info: Info, first: First = 20, after: After = None) -> "Sequence[ConfigConnection]":
    pages = await info.context.load_many(
        loaders.load_user_configs, [row.id for row in users], arguments.build_window(first, after)
    )
    return [
        ConfigConnection(page=page, count=partial(info.context.load, loaders.count_user_configs, row.id))
        for row, page in zip(users, pages, strict=True)
    ]


@strawberry.type(description="Somebody who owns stores or writes reviews.")
class User:
    id: strawberry.ID
    name: str | None
    image: str | None
    created_at: datetime

    @strawberry.field(description="Told to oneself only.", metadata=PERSONAL)
    def email(self, info: Info) -> str | None:
        viewer = info.context.viewer
        return cast(Row, self).email if viewer and viewer.id == self.id else None

    configs: "ConfigConnection" = batch_field(
        _load_configs, description="One's own stores; of others the published ones. Newest first.", metadata=PERSONAL
    )


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
    values: list[FacetValue] = strawberry.field(metadata=costs(size=10))


@strawberry.type
class PriceRange:
    min: Decimal
    max: Decimal


async def _load_products(
    stores: Sequence[Row],
    info: Info,
    filter: ProductFilter | None = None,
    search: SearchText = None,
    sort: ProductSort | None = None,
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
    results = await _load_by_kind(
        stores, audiences, lambda keys, audience: load(loaders.load_config_products, keys, listings[audience])
    )
    return [
        _build_product_connection(info, result, listings[audience]) for result, audience in zip(results, audiences, strict=True)
    ]


async def _load_analytics(
    stores: Sequence[Row], info: Info, range: DateRange, interval: Interval = Interval.DAY, time_zone: TimeZone = "UTC"
) -> "Sequence[AnalyticsReport | None]":
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
        return Theme(**_rename_keys(document, _THEME_FIELDS)) if document else None

    @strawberry.field
    def layout(self) -> Layout | None:
        document = cast(Row, self).layout
        return Layout(**_rename_keys(document, _LAYOUT_FIELDS)) if document else None

    @strawberry.field
    def integrations(self, info: Info) -> Integrations | None:
        document = cast(Row, self).integrations
        return _build_integrations(document, info.context.get_audience(str(self.id))) if document else None

    owner: User = batch_field(build_reference_batch(loaders.load_users, "user_id", "user"))

    @strawberry.field(description="How far the store's log has come.")
    async def position(self, info: Info) -> Position:
        return cast(Position, await info.context.load(loaders.load_config_positions, str(self.id)))

    products: "ProductConnection" = batch_field(
        _load_products,
        description="The store's products. Pages by cursor do not shift when others are added.",
        metadata=costs(size=20),
    )

    @strawberry.field(
        description="The categories that the store's products have, the fullest first.", metadata=costs(50, size=20)
    )
    async def categories(self, info: Info) -> list[FacetValue]:
        selection = Selection(info.context.get_audience(str(self.id)))
        rows = await info.context.load(loaders.load_config_facet, StoreScope(str(self.id)), "category", selection)
        return [FacetValue(value=row.value, count=row.count, is_selected=False) for row in rows]

    analytics: "AnalyticsReport | None" = batch_field(
        _load_analytics, description="What shoppers did. Told to the owner, null to others.", metadata=costs(50)
    )


@strawberry.type
class Attribute:
    name: str
    value: str


class _NameAndValue(NamedTuple):
    name: str
    value: str


# There are many of them.
_make_name_and_value: Callable[[tuple[str, str]], Any] = partial(tuple.__new__, _NameAndValue)


@strawberry.type
class ReviewSummary:
    average: float | None = strawberry.field(description="Stars; null without reviews.")
    count: int
    distribution: list[int] = strawberry.field(description="Five counts, one star first.")


async def _load_variants(
    products: Sequence[Row], info: Info, first: First = 5, available_only: bool = True
) -> Sequence[Sequence[Row]]:
    limit, columns, context = arguments.check_row_count(first), get_selected_columns(info, ProductVariant), info.context
    # One who shows the unavailable ones sees those of their own products only.
    available_only_flags = [available_only or context.get_audience(row.config_id) is not Audience.OWNER for row in products]
    return await _load_by_kind(
        products,
        available_only_flags,
        lambda keys, only: context.load_many(loaders.load_product_variants, keys, limit, only, columns),
    )


async def _load_by_kind(
    rows: Sequence[Row], kinds: Sequence[K], load: Callable[[Sequence[str], K], Awaitable[Sequence[T]]]
) -> list[T]:
    """What is loaded for the rows of each kind together, in the order of the rows."""
    pending_by_kind = {kind: load([r.id for r, k in zip(rows, kinds, strict=True) if k is kind], kind) for kind in set(kinds)}
    values_by_kind = {kind: iter(await values) for kind, values in pending_by_kind.items()}
    return [next(values_by_kind[kind]) for kind in kinds]


async def _load_variant_by_attributes(
    products: Sequence[Row],
    info: Info,
    attributes: Annotated[list[AttributeInput], strawberry.argument(metadata=limits(items=MAX_ATTRIBUTES))],
) -> Sequence[Row | None]:
    attributes_json = orjson.dumps(dict(inputs.parse_attribute_pairs(attributes, "attributes"))).decode()
    load = info.context.load_many
    available_only_flags = [info.context.get_audience(row.config_id) is not Audience.OWNER for row in products]
    return await _load_by_kind(
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

    @strawberry.field(
        description="Over the available variants, else the product's own price.",
        metadata=requires_columns(*fields.PRICE_RANGE_COLUMNS),
    )
    def price_range(self) -> PriceRange:
        return PriceRange(**fields.get_price_range(self))

    config: Config = batch_field(build_reference_batch(loaders.load_configs, "config_id", "store"))

    variants: "list[ProductVariant]" = batch_field(
        _load_variants, description="The first variants. Unavailable ones are shown to the owner, with `availableOnly: false`."
    )

    @strawberry.field(
        description="How many variants the asker may see.", metadata=requires_columns(*fields.VARIANT_COUNT_COLUMNS)
    )
    def variant_count(self, info: Info) -> int:
        return int(getattr(self, fields.get_variant_count_column(_is_owner(self, info))))

    variant: "ProductVariant | None" = batch_field(
        _load_variant_by_attributes, description="The variant that has all these attributes."
    )

    media: list[Image] = batch_field(
        load_media,
        description="The first pictures that `images` has the addresses of, in the same order.",
        metadata=requires_columns("images", "config_id"),
    )

    reviews: "ReviewConnection" = batch_field(
        _load_reviews, description="Newest first.", metadata=requires_columns("rating_counts")
    )

    @strawberry.field(metadata=requires_columns(*fields.REVIEW_SUMMARY_COLUMNS))
    def review_summary(self) -> ReviewSummary:
        return ReviewSummary(**fields.get_review_summary(self))

    related: "list[Product]" = batch_field(
        _load_related, description="Same category first, then shared tags, then popularity.", metadata=costs(20)
    )


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

    @strawberry.field(metadata=requires_columns("attributes") | costs(size=3))
    def attributes(self) -> list[Attribute]:
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


# ---------------------------------------------------------------------------------------------- analytics


@strawberry.type(description="Something that a shopper did.")
class AnalyticsEvent:
    id: strawberry.ID
    event: str = strawberry.field(description="Such as page_view, product_click, add_to_cart or purchase.")
    properties: JSON
    session_id: str | None
    user_id: str | None
    user_agent: str | None
    ip_address: str | None = strawberry.field(description="Shortened before it was stored: it names a network, not a shopper.")
    referrer: str | None
    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    is_bot: bool = strawberry.field(description="Whether its user agent is a known bot's.")
    timestamp: datetime


@strawberry.type
class TopProduct:
    product_id: strawberry.ID
    clicks: int
    add_to_carts: int

    @strawberry.field(description="Null once it is deleted.")
    async def product(self, info: Info) -> Product | None:
        row = cast(Row, self)
        key = parse_id(row.product_id)
        found_product = await info.context.load(loaders.load_products, key) if key else None
        # Events say what browsers sent: the product may be another store's.
        return cast(Product, found_product) if found_product and found_product.config_id == row.parent_id else None


@strawberry.type(description="One interval of a series.")
class AnalyticsPoint:
    at: datetime = strawberry.field(
        description="When the interval begins. The first may begin before the range, but counts only what is in it."
    )
    page_views: int
    product_clicks: int
    add_to_carts: int
    purchases: int
    sessions: int = strawberry.field(description="Those that began in it.")


@strawberry.type(description="Where events came from: what their link said, else the page that linked here.")
class SourceBreakdown:
    source: str = strawberry.field(description='The UTM source, else the host of the referrer, else "direct".')
    medium: str | None = strawberry.field(description="The UTM medium.")
    campaign: str | None = strawberry.field(description="The UTM campaign.")
    sessions: int = strawberry.field(description="Sessions that began with an event from there.")
    events: int


@strawberry.type(description="A step on the way to a purchase.")
class FunnelStep:
    event: str | None = strawberry.field(
        description="What was done in the sessions of this step; null in the first, which has all."
    )
    sessions: int = strawberry.field(description="Those that did this, and what the steps before ask for.")
    rate: float = strawberry.field(description="Of the sessions of the step before, in percent: 0 to 100.")


_FUNNEL_COUNTERS = {
    None: "sessions",
    "product_click": "clicked_sessions",
    "add_to_cart": "converted_sessions",
    "purchase": "purchased_sessions",
}


async def _load_top_products(reports: "Sequence[AnalyticsReport]", info: Info, first: First = 10) -> Sequence[Sequence[Row]]:
    limit, load = arguments.check_row_count(first), info.context.load_many
    rows_by_span: dict[Span, Iterator[Sequence[Row]]] = {}
    for span in {report.span for report in reports}:
        keys = [report.config_id for report in reports if report.span == span]
        rows_by_span[span] = iter(await load(loaders.load_config_top_products, keys, span, limit))
    return [next(rows_by_span[report.span]) for report in reports]


@strawberry.type(
    description="What shoppers did in a store in a stretch of time, bots left out. Each part is read only when asked for. "
    "An event is counted about a second after it has come in."
)
class AnalyticsReport:
    config_id: strawberry.Private[str]
    span: strawberry.Private[Span]
    interval: strawberry.Private[str]
    time_zone: strawberry.Private[str]
    is_previous: strawberry.Private[bool] = False

    async def _load_counts(self, info: Info) -> EventCounts:
        return await info.context.load(loaders.load_config_event_counts, self.config_id, self.span)

    @strawberry.field
    async def page_views(self, info: Info) -> int:
        return (await self._load_counts(info)).page_views

    @strawberry.field
    async def product_clicks(self, info: Info) -> int:
        return (await self._load_counts(info)).product_clicks

    @strawberry.field
    async def add_to_carts(self, info: Info) -> int:
        return (await self._load_counts(info)).add_to_carts

    @strawberry.field
    async def purchases(self, info: Info) -> int:
        return (await self._load_counts(info)).purchases

    @strawberry.field
    async def searches(self, info: Info) -> int:
        return (await self._load_counts(info)).searches

    @strawberry.field(description="Those that began then: a session is that of its first event, and counts once, as a whole.")
    async def sessions(self, info: Info) -> int:
        return (await self._load_counts(info)).sessions

    @strawberry.field(description="Adds to cart per product click, in percent. Above 100 where carts are filled without clicks.")
    async def conversion_rate(self, info: Info) -> float:
        counts = await self._load_counts(info)
        return _compute_percent(counts.add_to_carts, counts.product_clicks)

    @strawberry.field(description="Of the sessions with a product click, those that also added to a cart, in percent: 0 to 100.")
    async def session_conversion_rate(self, info: Info) -> float:
        counts = await self._load_counts(info)
        return _compute_percent(counts.converted_sessions, counts.clicked_sessions)

    @strawberry.field(
        description="How far the sessions came: a product clicked, put into the cart, purchased.", metadata=costs(size=4)
    )
    async def funnel(self, info: Info) -> list[FunnelStep]:
        counts = await self._load_counts(info)
        step_counts = [(event, int(getattr(counts, name))) for event, name in _FUNNEL_COUNTERS.items()]
        previous_counts = [count for _, count in step_counts[:1] + step_counts]
        return [
            FunnelStep(event=event, sessions=n, rate=_compute_percent(n, previous_count))
            for (event, n), previous_count in zip(step_counts, previous_counts, strict=False)
        ]

    top_products: list[TopProduct] = batch_field(
        _load_top_products, description="By clicks, then by adds to cart.", metadata=costs(50)
    )

    @strawberry.field(
        description="Every interval that the range touches, in order, those without events included.",
        metadata=costs(50, size=100),
    )
    async def series(self, info: Info) -> list[AnalyticsPoint]:
        load, series_arguments = info.context.load, (self.span, self.interval, self.time_zone)
        points = await load(loaders.load_config_event_series, self.config_id, *series_arguments)
        return cast(list[AnalyticsPoint], points)

    @strawberry.field(description=f"The {MAX_SOURCES} with the most sessions.", metadata=costs(50, size=MAX_SOURCES))
    async def sources(self, info: Info) -> list[SourceBreakdown]:
        rows = await info.context.load(loaders.load_config_sources, self.config_id, self.span)
        return cast(list[SourceBreakdown], rows)

    @strawberry.field(description="As long a time just before, to compare with; null in a previous one.")
    def previous(self) -> "AnalyticsReport | None":
        return None if self.is_previous else replace(self, span=self.span.get_previous(), is_previous=True)


def build_analytics_report(config_id: str, range: DateRange, interval: Interval, time_zone: str) -> AnalyticsReport:
    """The report of one store, nothing counted yet. Whether the asker may have it is for the caller to say."""
    span = arguments.build_report_range(range.from_, range.to, "range", interval.value)
    zone = arguments.check_time_zone(time_zone, "timeZone")
    return AnalyticsReport(config_id=config_id, span=span, interval=interval.value, time_zone=zone)


def _compute_percent(count: int, total: int) -> float:
    return 100 * count / total if total else 0.0


# -------------------------------------------------------------------------------------------------- lists


@strawberry.type
class ConfigConnection(Connection[Config]):
    """A page of stores."""


@strawberry.type
class ReviewConnection(Connection[Review]):
    """A page of reviews."""


@strawberry.type
class AnalyticsEventConnection(Connection[AnalyticsEvent]):
    """A page of events."""


@strawberry.type(description="How many products each further choice would leave. A facet does not count its own filter.")
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
    """A page of one store's products, read together with those that other fields ask for at the same time."""
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


# ------------------------------------------------------------------------------------------- from columns


def _is_owner(product: Product, info: Info) -> bool:
    return info.context.get_audience(cast(Row, product).config_id) is Audience.OWNER


def _build_facet_values(rows: list[Row], selected_values: Any) -> list[FacetValue]:
    # What is chosen stays in the list even where it leaves nothing: it has to be there to be taken back.
    counts = {row.value: row.count for row in rows} | {
        value: 0 for value in selected_values if value not in {r.value for r in rows}
    }
    return [FacetValue(value=value, count=count, is_selected=value in selected_values) for value, count in counts.items()]


_THEME_FIELDS = {
    "primaryColor": "primary_color",
    "secondaryColor": "secondary_color",
    "fontFamily": "font_family",
    "customCSS": "custom_css",
}
_LAYOUT_FIELDS = {
    "headerStyle": "header_style",
    "gridColumns": "grid_columns",
    "showPrices": "show_prices",
    "showDescriptions": "show_descriptions",
}


def _rename_keys(document: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {field_name: document.get(json_name) for json_name, field_name in names.items()}


def _build_integrations(document: dict[str, Any], audience: Audience) -> Integrations:
    shopify, stripe, analytics = (document.get(name) for name in ("shopify", "stripe", "analytics"))
    if audience is not Audience.OWNER:
        shopify = None
    return Integrations(
        shopify=ShopifyIntegration(domain=shopify["domain"], is_connected="accessToken" in shopify) if shopify else None,
        stripe=StripeIntegration(publishable_key=stripe["publishableKey"]) if stripe else None,
        analytics=GoogleAnalyticsIntegration(google_analytics_id=analytics["googleAnalyticsId"]) if analytics else None,
    )
