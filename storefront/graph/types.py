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
from storefront.execution.batch_field import Batch, edge
from storefront.execution.lookahead import selected
from storefront.graph import arguments, inputs, loaders
from storefront.graph.cache_hints import PERSONAL
from storefront.graph.context import Context, Info
from storefront.graph.cost_hints import costs
from storefront.graph.images import Image, media_of
from storefront.graph.inputs import AttributeInput, ProductFilter, ProductSort, ProductStatus
from storefront.graph.json_pushdown import nodes_of
from storefront.graph.limits import MAX_CURSOR_CHARACTERS, ROWS, SEARCH, limits
from storefront.graph.pagination import Connection
from storefront.graph.projection import columns_of, needs
from storefront.graph.scalars import JSON, Position
from storefront.queries.analytics import MOST_SOURCES, Counts, Span
from storefront.queries.listing import Found, Listing, Scope, Selection
from storefront.queries.visibility import Audience
from storefront.writes.product_validation import MAX_ATTRIBUTES

Edge = Callable[[Context, Sequence[str]], Awaitable[Sequence[Row | None]]]
K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

First = Annotated[int, strawberry.argument(description="How many, 1 to 100.", metadata=ROWS)]
CURSOR = limits(characters=MAX_CURSOR_CHARACTERS)
MaybeFirst = Annotated[int | None, strawberry.argument(description="How many behind the cursor, 1 to 100.", metadata=ROWS)]
MaybeLast = Annotated[int | None, strawberry.argument(description="How many before the cursor, 1 to 100.", metadata=ROWS)]
After = Annotated[str | None, strawberry.argument(description="The cursor to continue behind.", metadata=CURSOR)]
Searched = Annotated[str | None, strawberry.argument(metadata=SEARCH)]
Before = Annotated[str | None, strawberry.argument(description="The cursor to stop before.", metadata=CURSOR)]
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


def target(loader: Edge, column: str, noun: str) -> Batch:
    """Where rows lead by a key of theirs, never null: what it leads to may be gone or hidden by the time that it is asked for."""

    async def targets(rows: Sequence[Row], info: Info) -> Sequence[Row]:
        found = await info.context.load_many(loader, [getattr(row, column) for row in rows])
        if None in found:
            raise NotFound(f"The {noun} that this belongs to is gone, or not for you to see.")
        return found

    return targets


async def _configs(users: Sequence[Row], info: Info, first: First = 20, after: After = None) -> "Sequence[ConfigConnection]":
    pages = await info.context.load_many(loaders.configs_of_user, [row.id for row in users], arguments.window(first, after))
    return [
        ConfigConnection(page=page, count=partial(info.context.load, loaders.config_count_of_user, row.id))
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

    configs: "ConfigConnection" = edge(
        _configs, description="One's own stores; of others the published ones. Newest first.", metadata=PERSONAL
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


async def _products(
    stores: Sequence[Row],
    info: Info,
    filter: ProductFilter | None = None,
    search: Searched = None,
    sort: ProductSort | None = None,
    first: MaybeFirst = None,
    after: After = None,
    last: MaybeLast = None,
    before: Before = None,
) -> "Sequence[ProductConnection]":
    window = arguments.window(first, after, last, before)
    audiences = [info.context.audience(store.id) for store in stores]
    listings: dict[Audience, Listing] = {}
    for audience in set(audiences):
        chosen = inputs.selection(filter, search, audience)
        listings[audience] = _completed(info, Listing(chosen, inputs.order(sort, chosen), window))
    load = info.context.load_many
    found = await _loaded_apart(
        stores, audiences, lambda keys, audience: load(loaders.products_of_config, keys, listings[audience])
    )
    return [_connection(info, one, listings[audience]) for one, audience in zip(found, audiences, strict=True)]


async def _analytics(
    stores: Sequence[Row], info: Info, range: DateRange, interval: Interval = Interval.DAY, time_zone: TimeZone = "UTC"
) -> "Sequence[AnalyticsReport | None]":
    owned = [info.context.audience(row.id) is Audience.OWNER for row in stores]
    report = analytics_report("", range, interval, time_zone) if any(owned) else None
    return [
        replace(report, config_id=row.id) if report and is_owned else None for row, is_owned in zip(stores, owned, strict=True)
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

    owner: User = edge(target(loaders.user, "user_id", "user"))

    @strawberry.field(description="How far the store's log has come.")
    async def position(self, info: Info) -> Position:
        return cast(Position, await info.context.load(loaders.position_of_config, str(self.id)))

    products: "ProductConnection" = edge(
        _products,
        description="The store's products. Pages by cursor do not shift when others are added.",
        metadata=costs(size=20),
    )

    @strawberry.field(
        description="The categories that the store's products have, the fullest first.", metadata=costs(50, size=20)
    )
    async def categories(self, info: Info) -> list[FacetValue]:
        selection = Selection(info.context.audience(str(self.id)))
        rows = await info.context.load(loaders.facet_of_config, Scope(str(self.id)), "category", selection)
        return [FacetValue(value=row.value, count=row.count, is_selected=False) for row in rows]

    analytics: "AnalyticsReport | None" = edge(
        _analytics, description="What shoppers did. Told to the owner, null to others.", metadata=costs(50)
    )


@strawberry.type
class Attribute:
    name: str
    value: str


class _NameAndValue(NamedTuple):
    name: str
    value: str


# There are many of them.
_name_and_value: Callable[[tuple[str, str]], Any] = partial(tuple.__new__, _NameAndValue)


@strawberry.type
class ReviewSummary:
    average: float | None = strawberry.field(description="Stars; null without reviews.")
    count: int
    distribution: list[int] = strawberry.field(description="Five counts, one star first.")


async def _variants(
    products: Sequence[Row], info: Info, first: First = 5, available_only: bool = True
) -> Sequence[Sequence[Row]]:
    limit, columns, context = arguments.first(first), columns_of(info, ProductVariant), info.context
    # One who shows the unavailable ones sees those of their own products only.
    hidden = [available_only or context.audience(row.config_id) is not Audience.OWNER for row in products]
    return await _loaded_apart(
        products, hidden, lambda keys, only: context.load_many(loaders.variants_of_product, keys, limit, only, columns)
    )


async def _loaded_apart(
    rows: Sequence[Row], kinds: Sequence[K], load: Callable[[Sequence[str], K], Awaitable[Sequence[T]]]
) -> list[T]:
    """What is loaded for the rows of each kind together, in the order of the rows."""
    loading = {kind: load([r.id for r, k in zip(rows, kinds, strict=True) if k is kind], kind) for kind in set(kinds)}
    found = {kind: iter(await values) for kind, values in loading.items()}
    return [next(found[kind]) for kind in kinds]


async def _variant(
    products: Sequence[Row],
    info: Info,
    attributes: Annotated[list[AttributeInput], strawberry.argument(metadata=limits(items=MAX_ATTRIBUTES))],
) -> Sequence[Row | None]:
    wanted = orjson.dumps(dict(inputs.attributes(attributes, "attributes"))).decode()
    load = info.context.load_many
    hidden = [info.context.audience(row.config_id) is not Audience.OWNER for row in products]
    return await _loaded_apart(products, hidden, lambda keys, only: load(loaders.variant_of_product, keys, wanted, only))


async def _reviews(products: Sequence[Row], info: Info, first: First = 3, after: After = None) -> "Sequence[ReviewConnection]":
    window, columns = arguments.window(first, after), columns_of(info, Review)
    pages = await info.context.load_many(loaders.reviews_of_product, [row.id for row in products], window, columns)
    return [ReviewConnection(page=page, count=_sum_of(row.rating_counts)) for row, page in zip(products, pages, strict=True)]


def _sum_of(counts: Sequence[int]) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return sum(counts)

    return count


async def _related(products: Sequence[Row], info: Info, first: First = 4) -> Sequence[Sequence[Row]]:
    return await info.context.load_many(loaders.related_to_product, [row.id for row in products], arguments.first(first))


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
        metadata=needs("price", "variants_min_price", "variants_max_price"),
    )
    def price_range(self) -> PriceRange:
        row = cast(Row, self)
        return PriceRange(min=row.variants_min_price or row.price, max=row.variants_max_price or row.price)

    config: Config = edge(target(loaders.config, "config_id", "store"))

    variants: "list[ProductVariant]" = edge(
        _variants, description="The first variants. Unavailable ones are shown to the owner, with `availableOnly: false`."
    )

    @strawberry.field(description="How many variants the asker may see.", metadata=needs("variants_total", "variants_available"))
    def variant_count(self, info: Info) -> int:
        row = cast(Row, self)
        return int(row.variants_total if _is_owner(self, info) else row.variants_available)

    variant: "ProductVariant | None" = edge(_variant, description="The variant that has all these attributes.")

    media: list[Image] = edge(
        media_of,
        description="The first pictures that `images` has the addresses of, in the same order.",
        metadata=needs("images", "config_id"),
    )

    reviews: "ReviewConnection" = edge(_reviews, description="Newest first.", metadata=needs("rating_counts"))

    @strawberry.field(metadata=needs("rating_counts"))
    def review_summary(self) -> ReviewSummary:
        counts: list[int] = cast(Row, self).rating_counts
        total = sum(counts)
        stars = sum(stars * count for stars, count in enumerate(counts, 1))
        return ReviewSummary(average=stars / total if total else None, count=total, distribution=counts)

    related: "list[Product]" = edge(
        _related, description="Same category first, then shared tags, then popularity.", metadata=costs(20)
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

    @strawberry.field(metadata=needs("attributes") | costs(size=3))
    def attributes(self) -> list[Attribute]:
        row: Any = self
        return [*map(_name_and_value, row.attributes.items())]

    product: Product = edge(target(loaders.product, "product_id", "product"))


@strawberry.type
class Review:
    id: strawberry.ID
    rating: int = strawberry.field(description="One to five stars.")
    title: str | None
    body: str | None
    version: int
    created_at: datetime

    user: User = edge(target(loaders.user, "user_id", "user"), metadata=needs("user_id"))

    product: Product = edge(target(loaders.product, "product_id", "product"))


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
        found = await info.context.load(loaders.product, key) if key else None
        # Events say what browsers sent: the product may be another store's.
        return cast(Product, found) if found and found.config_id == row.parent_id else None


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


_FUNNEL = {
    None: "sessions",
    "product_click": "clicked_sessions",
    "add_to_cart": "converted_sessions",
    "purchase": "purchased_sessions",
}


async def _top_products(reports: "Sequence[AnalyticsReport]", info: Info, first: First = 10) -> Sequence[Sequence[Row]]:
    limit, load = arguments.first(first), info.context.load_many
    found: dict[Span, Iterator[Sequence[Row]]] = {}
    for span in {one.span for one in reports}:
        keys = [one.config_id for one in reports if one.span == span]
        found[span] = iter(await load(loaders.top_products_of_config, keys, span, limit))
    return [next(found[one.span]) for one in reports]


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

    async def _counts(self, info: Info) -> Counts:
        return await info.context.load(loaders.figures_of_config, self.config_id, self.span)

    @strawberry.field
    async def page_views(self, info: Info) -> int:
        return (await self._counts(info)).page_views

    @strawberry.field
    async def product_clicks(self, info: Info) -> int:
        return (await self._counts(info)).product_clicks

    @strawberry.field
    async def add_to_carts(self, info: Info) -> int:
        return (await self._counts(info)).add_to_carts

    @strawberry.field
    async def purchases(self, info: Info) -> int:
        return (await self._counts(info)).purchases

    @strawberry.field
    async def searches(self, info: Info) -> int:
        return (await self._counts(info)).searches

    @strawberry.field(description="Those that began then: a session is that of its first event, and counts once, as a whole.")
    async def sessions(self, info: Info) -> int:
        return (await self._counts(info)).sessions

    @strawberry.field(description="Adds to cart per product click, in percent. Above 100 where carts are filled without clicks.")
    async def conversion_rate(self, info: Info) -> float:
        counts = await self._counts(info)
        return _percent(counts.add_to_carts, counts.product_clicks)

    @strawberry.field(description="Of the sessions with a product click, those that also added to a cart, in percent: 0 to 100.")
    async def session_conversion_rate(self, info: Info) -> float:
        counts = await self._counts(info)
        return _percent(counts.converted_sessions, counts.clicked_sessions)

    @strawberry.field(
        description="How far the sessions came: a product clicked, put into the cart, purchased.", metadata=costs(size=4)
    )
    async def funnel(self, info: Info) -> list[FunnelStep]:
        counts = await self._counts(info)
        found = [(event, int(getattr(counts, name))) for event, name in _FUNNEL.items()]
        before = [count for _, count in found[:1] + found]
        return [
            FunnelStep(event=event, sessions=n, rate=_percent(n, last)) for (event, n), last in zip(found, before, strict=False)
        ]

    top_products: list[TopProduct] = edge(_top_products, description="By clicks, then by adds to cart.", metadata=costs(50))

    @strawberry.field(
        description="Every interval that the range touches, in order, those without events included.",
        metadata=costs(50, size=100),
    )
    async def series(self, info: Info) -> list[AnalyticsPoint]:
        load, how = info.context.load, (self.span, self.interval, self.time_zone)
        found = await load(loaders.series_of_config, self.config_id, *how)
        return cast(list[AnalyticsPoint], found)

    @strawberry.field(description=f"The {MOST_SOURCES} with the most sessions.", metadata=costs(50, size=MOST_SOURCES))
    async def sources(self, info: Info) -> list[SourceBreakdown]:
        found = await info.context.load(loaders.sources_of_config, self.config_id, self.span)
        return cast(list[SourceBreakdown], found)

    @strawberry.field(description="As long a time just before, to compare with; null in a previous one.")
    def previous(self) -> "AnalyticsReport | None":
        return None if self.is_previous else replace(self, span=self.span.before(), is_previous=True)


def analytics_report(config_id: str, range: DateRange, interval: Interval, time_zone: str) -> AnalyticsReport:
    """The report of one store, nothing counted yet. Whether the asker may have it is for the caller to say."""
    span = arguments.report_range(range.from_, range.to, "range", interval.value)
    zone = arguments.time_zone(time_zone, "timeZone")
    return AnalyticsReport(config_id=config_id, span=span, interval=interval.value, time_zone=zone)


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


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
    found: strawberry.Private[Found]
    selection: strawberry.Private[Selection]

    async def _rows(self, info: Info, facet: str) -> list[Row]:
        return await info.context.load(loaders.facet_of_config, self.found.scope, facet, self.selection)

    def _chosen(self, name: str) -> Any:
        return dict(self.selection.filters).get(name, ())

    @strawberry.field(metadata=costs(50, size=20))
    async def categories(self, info: Info) -> list[FacetValue]:
        return _facet_values(await self._rows(info, "category"), self._chosen("category"))

    @strawberry.field(metadata=costs(50, size=50))
    async def tags(self, info: Info) -> list[FacetValue]:
        return _facet_values(await self._rows(info, "tags"), self._chosen("tags"))

    @strawberry.field(metadata=costs(50, size=10))
    async def attributes(self, info: Info) -> list[AttributeFacet]:
        chosen = orjson.loads(self._chosen("attributes") or "{}")
        by_name: dict[str, list[Row]] = {}
        for row in await self._rows(info, "attributes"):
            by_name.setdefault(row.name, []).append(row)
        return [AttributeFacet(name=name, values=_facet_values(rows, chosen.get(name, ()))) for name, rows in by_name.items()]

    @strawberry.field(description="Null without products.", metadata=costs(50))
    async def price(self, info: Info) -> PriceRange | None:
        (row,) = await self._rows(info, "price")
        return None if row.min is None else PriceRange(min=row.min, max=row.max)

    @strawberry.field(description="IN_STOCK and OUT_OF_STOCK.", metadata=costs(50, size=2))
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
    """A page of one store's products, read together with those that other fields ask for at the same time."""
    completed = _completed(info, listing)
    return _connection(info, await info.context.load(loaders.products_of_config, config_id, completed), completed)


def _completed(info: Info, listing: Listing) -> Listing:
    is_counted = "total_count" in (selected(info._raw_info, "ProductConnection") or ())
    document = nodes_of(info, is_owner=listing.selection.audience is Audience.OWNER)
    return replace(listing, columns=columns_of(info, Product), document=document, counted=is_counted)


def _connection(info: Info, found: Found, listing: Listing) -> ProductConnection:
    selection, rows = listing.selection, found.page.rows

    async def count() -> int:
        counted = (
            [rows[0].total]
            if listing.counted and rows
            else [await info.context.load(loaders.product_count_of_config, found.scope, selection)]
        )
        return int(counted[0])

    return ProductConnection(page=found.page, count=count, found=found, selection=selection)


# ------------------------------------------------------------------------------------------- from columns


def _is_owner(product: Product, info: Info) -> bool:
    return info.context.audience(cast(Row, product).config_id) is Audience.OWNER


def _facet_values(rows: list[Row], chosen: Any) -> list[FacetValue]:
    # What is chosen stays in the list even where it leaves nothing: it has to be there to be taken back.
    counts = {row.value: row.count for row in rows} | {value: 0 for value in chosen if value not in {r.value for r in rows}}
    return [FacetValue(value=value, count=count, is_selected=value in chosen) for value, count in counts.items()]


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
