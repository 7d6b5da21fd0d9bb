"""Analytics of a store: events, reports, series, funnels and sources."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, cast

import strawberry

from storefront.core.db.database import Row
from storefront.core.ids import parse_id
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.pagination import Connection, First
from storefront.graph.scalars import JSON
from storefront.queries.analytics import MAX_SOURCES, EventCounts, Span

if TYPE_CHECKING:
    from storefront.graph.types.catalogue import Product

TimeZone = Annotated[
    str, strawberry.argument(description='IANA name of the time zone that days begin in, such as "Europe/Berlin".')
]


@strawberry.enum(description="Length of an interval of a series.")
class AnalyticsInterval(Enum):
    HOUR = "hour"
    DAY = "day"
    WEEK = strawberry.enum_value("week", description="Begins on Monday.")
    MONTH = "month"


@strawberry.input(description="A half-open range of time.")
class DateRangeInput:
    from_: datetime = strawberry.field(name="from", description="Start, inclusive.")
    to: datetime = strawberry.field(description="End, exclusive.")


@strawberry.type(description="Something a shopper did in a store.")
class AnalyticsEvent:
    id: strawberry.ID
    event: str = strawberry.field(description="Such as page_view, product_click, add_to_cart or purchase.")
    properties: JSON
    session_id: str | None
    user_id: str | None
    user_agent: str | None
    ip_address: str | None = strawberry.field(
        description="Truncated before it was stored: it identifies a network, not a shopper."
    )
    referrer: str | None
    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    is_bot: bool = strawberry.field(description="Whether the user agent is that of a known bot.")
    timestamp: datetime


@strawberry.type
class TopProduct:
    product_id: strawberry.ID
    clicks: int
    add_to_carts: int
    # The id of the store.
    parent_id: strawberry.Private[str]

    @strawberry.field(description="Null once the product is deleted.")
    async def product(self, info: Info) -> Annotated["Product", strawberry.lazy("storefront.graph.types.catalogue")] | None:
        key = parse_id(self.product_id)
        found_product = await info.context.load(loaders.load_products, key) if key else None
        # Product ids in events come from browsers: the product may belong to another store.
        return cast("Product", found_product) if found_product and found_product.config_id == self.parent_id else None


@strawberry.type(description="One interval of a series.")
class AnalyticsPoint:
    at: datetime = strawberry.field(
        description="Start of the interval. The first one may begin before the range, but counts only events within it."
    )
    page_views: int
    product_clicks: int
    add_to_carts: int
    purchases: int
    sessions: int = strawberry.field(description="Sessions that began in the interval.")


@strawberry.type(description="A traffic source: the UTM parameters of the link, else the referrer.")
class AnalyticsSource:
    source: str = strawberry.field(description='The UTM source, else the host of the referrer, else "direct".')
    medium: str | None = strawberry.field(description="The UTM medium.")
    campaign: str | None = strawberry.field(description="The UTM campaign.")
    sessions: int = strawberry.field(description="Sessions whose first event is from this source.")
    events: int


@strawberry.type(description="A step of the purchase funnel.")
class FunnelStep:
    event: str | None = strawberry.field(description="The event of this step; null in the first step, which has all sessions.")
    sessions: int = strawberry.field(description="Sessions with the events of this step and of all before it.")
    rate: float = strawberry.field(description="Share of the sessions of the previous step, in percent: 0 to 100.")


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
    description="Analytics of a store in a range of time, without bots. Each part is computed only when selected. "
    "An event is counted about a second after it was received."
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

    @strawberry.field(
        description="Sessions that began in the range: a session is attributed to the time of its first event, and counted once."
    )
    async def sessions(self, info: Info) -> int:
        return (await self._load_counts(info)).sessions

    @strawberry.field(description="Adds to cart per product click, in percent. Above 100 if products are added without clicks.")
    async def conversion_rate(self, info: Info) -> float:
        counts = await self._load_counts(info)
        return _compute_percent(counts.add_to_carts, counts.product_clicks)

    @strawberry.field(description="Share of the sessions with a product click that also added to a cart, in percent: 0 to 100.")
    async def session_conversion_rate(self, info: Info) -> float:
        counts = await self._load_counts(info)
        return _compute_percent(counts.converted_sessions, counts.clicked_sessions)

    @strawberry.field(
        description="The purchase funnel: all sessions, product clicked, added to cart, purchased.", metadata=costs(size=4)
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
        _load_top_products, description="Ordered by clicks, then by adds to cart.", metadata=costs(50)
    )

    @strawberry.field(
        description="Every interval that overlaps the range, in order, including those without events.",
        metadata=costs(50, size=100),
    )
    async def series(self, info: Info) -> list[AnalyticsPoint]:
        load, series_arguments = info.context.load, (self.span, self.interval, self.time_zone)
        points = await load(loaders.load_config_event_series, self.config_id, *series_arguments)
        return cast(list[AnalyticsPoint], points)

    @strawberry.field(description=f"The {MAX_SOURCES} sources with the most sessions.", metadata=costs(50, size=MAX_SOURCES))
    async def sources(self, info: Info) -> list[AnalyticsSource]:
        rows = await info.context.load(loaders.load_config_sources, self.config_id, self.span)
        return cast(list[AnalyticsSource], rows)

    @strawberry.field(description="The range of the same length just before, for comparison; null within a previous report.")
    def previous(self) -> "AnalyticsReport | None":
        return None if self.is_previous else replace(self, span=self.span.get_previous(), is_previous=True)


def build_analytics_report(config_id: str, range: DateRangeInput, interval: AnalyticsInterval, time_zone: str) -> AnalyticsReport:
    """The report of one store, computed when resolved. The caller checks permissions. Raises InvalidInput."""
    span = arguments.build_report_range(range.from_, range.to, "range", interval.value)
    zone = arguments.check_time_zone(time_zone, "timeZone")
    return AnalyticsReport(config_id=config_id, span=span, interval=interval.value, time_zone=zone)


def _compute_percent(count: int, total: int) -> float:
    return 100 * count / total if total else 0.0


@strawberry.type
class AnalyticsEventConnection(Connection[AnalyticsEvent]):
    """A page of events."""
