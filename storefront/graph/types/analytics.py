"""Analytics of a store: events, reports, series, funnels and sources."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import strawberry

from storefront.core.currencies import round_amount
from storefront.core.db.database import Row
from storefront.core.ids import parse_id
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.batches import build_reference_batch
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.limits import MAX_FILTER_ITEMS, ROW_LIMITS, limits
from storefront.graph.pagination import Connection
from storefront.graph.scalars import JSON, CurrencyCode
from storefront.models.row_keys import RowKey
from storefront.queries.analytics import MAX_SOURCES, EventCounts, EventFilter, SeriesPoint, Span
from storefront.queries.purchases import ProductFigures, ProductPoint, RevenueSum

if TYPE_CHECKING:
    from storefront.graph.types.catalogue import Config, Product

T = TypeVar("T")

TimeZone = Annotated[str, strawberry.argument(description='IANA time zone in which days begin: "Europe/Berlin".')]


@strawberry.enum(description="Length of an interval in a time series.")
class AnalyticsInterval(Enum):
    HOUR = strawberry.enum_value("hour", description="An hour.")
    DAY = strawberry.enum_value("day", description="A calendar day.")
    WEEK = strawberry.enum_value("week", description="A calendar week, starting on Monday.")
    MONTH = strawberry.enum_value("month", description="A calendar month.")


@strawberry.input(description="A period of time, half-open.")
class DateRangeInput:
    from_: datetime = strawberry.field(name="from", description="Start, inclusive.")
    to: datetime = strawberry.field(description="End, exclusive.")


@strawberry.input(description="Limits a list of events. All given fields have to match.")
class AnalyticsEventFilterInput:
    events: list[str] | None = strawberry.field(
        default=None, description="Names of events; one has to match.", metadata=limits(items=MAX_FILTER_ITEMS)
    )
    session_id: str | None = strawberry.field(default=None, description="Session of the shopper.")
    range: DateRangeInput | None = strawberry.field(default=None, description="Period in which the events happened.")


Range = Annotated[DateRangeInput, strawberry.argument(description="Period of the report.")]
MaybeEventFilter = Annotated[
    AnalyticsEventFilterInput | None, strawberry.argument(description="Limits the list to events that match.")
]


@strawberry.type(description="An action of a shopper, as it was recorded.")
class AnalyticsEvent:
    id: strawberry.ID = strawberry.field(description="Globally unique, opaque and permanent.")
    event: str = strawberry.field(description='Name of the event: "page_view", "product_click", "add_to_cart".')
    properties: JSON = strawberry.field(description="Details, as a JSON object.")
    session_id: str | None = strawberry.field(description="Session of the shopper.")
    user_id: str | None = strawberry.field(description="ID that the shop's own system has for the shopper.")
    user_agent: str | None = strawberry.field(description="User agent of the shopper's browser.")
    ip_address: str | None = strawberry.field(description="IP network of the shopper, /24 or /48. Full addresses are not stored.")
    referrer: str | None = strawberry.field(description="URL of the referring page.")
    utm_source: str | None = strawberry.field(description="UTM source.")
    utm_medium: str | None = strawberry.field(description="UTM medium.")
    utm_campaign: str | None = strawberry.field(description="UTM campaign.")
    is_bot: bool = strawberry.field(description="Whether the user agent is a known bot.")
    timestamp: datetime = strawberry.field(description="When the event happened.")

    config: Annotated["Config", strawberry.lazy("storefront.graph.types.catalogue")] = batch_field(
        build_reference_batch(loaders.load_configs, attrgetter("config_id"), "store"), description="The store."
    )


@strawberry.type(description="Figures of one of the most clicked products.")
class TopProduct:
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")
    clicks: int = strawberry.field(description="Number of `product_click` events.")
    add_to_carts: int = strawberry.field(description="Number of `add_to_cart` events.")
    # The id of the store.
    parent_id: strawberry.Private[str]

    @strawberry.field(description="The product; null if it has been deleted.")
    async def product(self, info: Info) -> Annotated["Product", strawberry.lazy("storefront.graph.types.catalogue")] | None:
        # Product ids in events come from browsers: the product may belong to another store.
        id_ = parse_id(self.product_id)
        found_product = await info.context.load(loaders.load_products, RowKey(self.parent_id, id_)) if id_ else None
        return cast("Product | None", found_product)


@strawberry.type(description="Figures of a store for one interval.")
class AnalyticsPoint:
    starts_at: datetime = strawberry.field(description="Start of the interval. The first may start before the period.")
    page_views: int = strawberry.field(description="Number of `page_view` events.")
    product_clicks: int = strawberry.field(description="Number of `product_click` events.")
    add_to_carts: int = strawberry.field(description="Number of `add_to_cart` events.")
    purchases: int = strawberry.field(description="Number of `purchase` events.")
    sessions: int = strawberry.field(description="Number of sessions that started in the interval.")


@strawberry.type(description="Revenue in one currency, of the purchases that state their `total` and `currency`.")
class Revenue:
    currency: CurrencyCode = strawberry.field(description="Currency of the amount.")
    amount: Decimal = strawberry.field(description="Sum of the totals.")
    purchases: int = strawberry.field(description="Number of these `purchase` events.")


@strawberry.type(description="Figures of one product for one interval.")
class ProductAnalyticsPoint:
    starts_at: datetime = strawberry.field(description="Start of the interval. The first may start before the period.")
    product_clicks: int = strawberry.field(description="Number of `product_click` events.")
    add_to_carts: int = strawberry.field(description="Number of `add_to_cart` events.")
    purchases: int = strawberry.field(description="Number of `purchase` events.")


@strawberry.type(description="Where sessions came from: the UTM parameters of their first page, or else the referring site.")
class AnalyticsSource:
    source: str = strawberry.field(description='UTM source, or else the host name of the referrer, or else "direct".')
    medium: str | None = strawberry.field(description="UTM medium.")
    campaign: str | None = strawberry.field(description="UTM campaign.")
    sessions: int = strawberry.field(description="Number of sessions.")
    events: int = strawberry.field(description="Number of events in these sessions.")


@strawberry.type(description="A step of the purchase funnel.")
class FunnelStep:
    event: str | None = strawberry.field(
        description="The event that is required for this step, besides those of the steps before; null for the first step, "
        "which has all sessions."
    )
    sessions: int = strawberry.field(description="Number of sessions that reached this step.")
    rate: float = strawberry.field(description="Share of the sessions of the previous step, in percent.")


FirstProducts = Annotated[int, strawberry.argument(description="Maximum number of products, 1 to 100.", metadata=ROW_LIMITS)]

_FUNNEL_COUNTERS = {
    None: "sessions",
    "product_click": "clicked_sessions",
    "add_to_cart": "converted_sessions",
    "purchase": "purchased_sessions",
}


_REVENUE_DESCRIPTION = (
    "Revenue by currency, of the `purchase` events that state their `total` and `currency`; the currency with the most purchases "
    "first."
)


def _build_revenue(sums: Sequence[RevenueSum]) -> list[Revenue]:
    return [
        Revenue(
            currency=cast(CurrencyCode, one.currency),
            amount=round_amount(Decimal(one.amount), one.currency),
            purchases=one.purchases,
        )
        for one in sums
    ]


async def _load_by_span(
    reports: "Sequence[AnalyticsReport]", load: Callable[[list[str], Span], Awaitable[Sequence[T]]]
) -> list[T]:
    """Values of the stores of reports, loaded in one batch per span: that of the reports, and the previous one."""
    values_by_span: dict[Span, Iterator[T]] = {}
    for span in {report.span for report in reports}:
        values_by_span[span] = iter(await load([report.config_id for report in reports if report.span == span], span))
    return [next(values_by_span[report.span]) for report in reports]


async def _load_top_products(
    reports: "Sequence[AnalyticsReport]", info: Info, first: FirstProducts = 10
) -> Sequence[Sequence[Row]]:
    limit, load = arguments.check_row_count(first), info.context.load_many
    return await _load_by_span(reports, lambda keys, span: load(loaders.load_config_top_products, keys, span, limit))


async def _load_series(
    reports: "Sequence[AnalyticsReport]",
    info: Info,
    interval: Annotated[AnalyticsInterval, strawberry.argument(description="Length of the intervals.")] = AnalyticsInterval.DAY,
) -> Sequence[Sequence[SeriesPoint]]:
    length, load = cast(str, interval.value), info.context.load_many
    for report in reports:
        arguments.check_series_interval(length, report.span, "interval")
    # One field of a document resolves the reports of one field above it: they have the same time zone.
    zone = reports[0].time_zone
    return await _load_by_span(reports, lambda keys, span: load(loaders.load_config_event_series, keys, span, length, zone))


@strawberry.type(
    description="Figures of a store for a period. Bots are excluded. Events are counted about a second after they arrive."
)
class AnalyticsReport:
    config_id: strawberry.Private[str]
    span: strawberry.Private[Span]
    time_zone: strawberry.Private[str]
    is_previous: strawberry.Private[bool] = False

    async def _load_counts(self, info: Info) -> EventCounts:
        return await info.context.load(loaders.load_config_event_counts, self.config_id, self.span)

    @strawberry.field(description="Number of `page_view` events.")
    async def page_views(self, info: Info) -> int:
        return (await self._load_counts(info)).page_views

    @strawberry.field(description="Number of `product_click` events.")
    async def product_clicks(self, info: Info) -> int:
        return (await self._load_counts(info)).product_clicks

    @strawberry.field(description="Number of `add_to_cart` events.")
    async def add_to_carts(self, info: Info) -> int:
        return (await self._load_counts(info)).add_to_carts

    @strawberry.field(description="Number of `purchase` events.")
    async def purchases(self, info: Info) -> int:
        return (await self._load_counts(info)).purchases

    @strawberry.field(description="Number of `search` events.")
    async def searches(self, info: Info) -> int:
        return (await self._load_counts(info)).searches

    @strawberry.field(description="Number of sessions that started in the period. A session counts once, when it started.")
    async def sessions(self, info: Info) -> int:
        return (await self._load_counts(info)).sessions

    @strawberry.field(description="Additions to carts per product click, in percent. Can exceed 100.")
    async def conversion_rate(self, info: Info) -> float:
        counts = await self._load_counts(info)
        return _compute_percent(counts.add_to_carts, counts.product_clicks)

    @strawberry.field(description=_REVENUE_DESCRIPTION, metadata=costs(size=3))
    async def revenue(self, info: Info) -> list[Revenue]:
        return _build_revenue(await info.context.load(loaders.load_config_revenue, self.config_id, self.span))

    @strawberry.field(description="Share of the sessions with a product click that also added to a cart, in percent.")
    async def session_conversion_rate(self, info: Info) -> float:
        counts = await self._load_counts(info)
        return _compute_percent(counts.converted_sessions, counts.clicked_sessions)

    @strawberry.field(
        description="Steps towards a purchase: all sessions, then those with a product click, an addition to the cart, "
        "a purchase.",
        metadata=costs(size=4),
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
        _load_top_products, description="Products with the most clicks, then additions to carts.", metadata=costs(50)
    )

    series: list[AnalyticsPoint] = batch_field(
        _load_series,
        description="All intervals of the period in order, including empty ones. The first and last count only what is within "
        "the period.",
        metadata=costs(50, size=100),
    )

    @strawberry.field(description=f"The {MAX_SOURCES} sources with the most sessions.", metadata=costs(50, size=MAX_SOURCES))
    async def sources(self, info: Info) -> list[AnalyticsSource]:
        rows = await info.context.load(loaders.load_config_sources, self.config_id, self.span)
        return cast(list[AnalyticsSource], rows)

    @strawberry.field(description="The period of the same length just before, for comparison; null within a previous period.")
    def previous(self) -> "AnalyticsReport | None":
        return None if self.is_previous else replace(self, span=self.span.get_previous(), is_previous=True)


async def _load_product_series(
    reports: "Sequence[ProductAnalytics]",
    info: Info,
    interval: Annotated[AnalyticsInterval, strawberry.argument(description="Length of the intervals.")] = AnalyticsInterval.DAY,
) -> Sequence[Sequence[ProductPoint]]:
    length, load = cast(str, interval.value), info.context.load_many
    zone = reports[0].time_zone
    points_by_span: dict[Span, Iterator[Sequence[ProductPoint]]] = {}
    for span in {report.span for report in reports}:
        arguments.check_series_interval(length, span, "interval")
        keys = [report.product for report in reports if report.span == span]
        points_by_span[span] = iter(await load(loaders.load_product_series, keys, span, length, zone))
    return [next(points_by_span[report.span]) for report in reports]


@strawberry.type(description="Figures of one product for a period. Bots are excluded.")
class ProductAnalytics:
    product: strawberry.Private[RowKey]
    span: strawberry.Private[Span]
    time_zone: strawberry.Private[str]
    is_previous: strawberry.Private[bool] = False

    async def _load_figures(self, info: Info) -> ProductFigures:
        return await info.context.load(loaders.load_product_figures, self.product, self.span)

    @strawberry.field(description="Number of `product_click` events.")
    async def product_clicks(self, info: Info) -> int:
        return (await self._load_figures(info)).product_clicks

    @strawberry.field(description="Number of `add_to_cart` events.")
    async def add_to_carts(self, info: Info) -> int:
        return (await self._load_figures(info)).add_to_carts

    @strawberry.field(description="Number of `purchase` events.")
    async def purchases(self, info: Info) -> int:
        return (await self._load_figures(info)).purchases

    @strawberry.field(description=_REVENUE_DESCRIPTION, metadata=costs(size=3))
    async def revenue(self, info: Info) -> list[Revenue]:
        return _build_revenue((await self._load_figures(info)).revenue)

    @strawberry.field(description="Additions to carts per product click, in percent. Can exceed 100.")
    async def conversion_rate(self, info: Info) -> float:
        figures = await self._load_figures(info)
        return _compute_percent(figures.add_to_carts, figures.product_clicks)

    series: list[ProductAnalyticsPoint] = batch_field(
        _load_product_series,
        description="All intervals of the period in order, including empty ones. The first and last count only what is within "
        "the period.",
        metadata=costs(50, size=31),
    )

    @strawberry.field(description="The period of the same length just before, for comparison; null within a previous period.")
    def previous(self) -> "ProductAnalytics | None":
        return None if self.is_previous else replace(self, span=self.span.get_previous(), is_previous=True)


def build_product_analytics(range: DateRangeInput, time_zone: str) -> ProductAnalytics:
    """The report of a product, to be completed with its key. The caller checks permissions. Raises InvalidInput."""
    span = arguments.build_report_range(range.from_, range.to, "range")
    return ProductAnalytics(product=RowKey("", ""), span=span, time_zone=arguments.check_time_zone(time_zone, "timeZone"))


def build_analytics_report(config_id: str, range: DateRangeInput, time_zone: str) -> AnalyticsReport:
    """The report of one store, computed when resolved. The caller checks permissions. Raises InvalidInput."""
    span = arguments.build_report_range(range.from_, range.to, "range")
    zone = arguments.check_time_zone(time_zone, "timeZone")
    return AnalyticsReport(config_id=config_id, span=span, time_zone=zone)


def _compute_percent(count: int, total: int) -> float:
    return 100 * count / total if total else 0.0


@strawberry.type(description="A page of events.")
class AnalyticsEventConnection(Connection[AnalyticsEvent]):
    pass


async def load_event_connections(
    info: Info, config_ids: Sequence[str], filter_: AnalyticsEventFilterInput | None, first: int, after: str | None
) -> list[AnalyticsEventConnection]:
    """A page of the events of each store, in one batch. The caller checks permissions. Raises InvalidInput."""
    event_filter = _build_event_filter(filter_ or AnalyticsEventFilterInput())
    window, load = arguments.build_window(first, after), info.context.load_many
    pages = await load(loaders.load_config_events, config_ids, event_filter, window)
    return [
        AnalyticsEventConnection(
            page=page, count=partial(info.context.load, loaders.count_config_events, config_id, event_filter)
        )
        for config_id, page in zip(config_ids, pages, strict=True)
    ]


def _build_event_filter(filter_: AnalyticsEventFilterInput) -> EventFilter:
    return EventFilter(
        arguments.check_texts(filter_.events, "filter.events") if filter_.events else None,
        arguments.check_text(filter_.session_id, "filter.sessionId") if filter_.session_id is not None else None,
        arguments.build_date_range(filter_.range.from_, filter_.range.to, "filter.range") if filter_.range else None,
    )
