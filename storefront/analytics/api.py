"""Fields that tell owners what shoppers did."""

import strawberry

from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.limits import MAX_FILTER_ITEMS, limits
from storefront.graph.permissions import own_store
from storefront.graph.types import (
    After,
    AnalyticsEventConnection,
    AnalyticsReport,
    DateRange,
    First,
    Interval,
    TimeZone,
    analytics_report,
)
from storefront.queries import analytics
from storefront.queries.analytics import Events


@strawberry.input(description="Filters add up.")
class EventFilter:
    event: list[str] | None = strawberry.field(
        default=None, description="Names such as add_to_cart; any of them.", metadata=limits(items=MAX_FILTER_ITEMS)
    )
    session_id: str | None = None
    range: DateRange | None = None


@strawberry.type
class AnalyticsQuery:
    @strawberry.field(description="What shoppers did in a store of one's own.")
    async def analytics(
        self,
        info: Info,
        config_id: strawberry.ID,
        range: DateRange,
        interval: Interval = Interval.DAY,
        time_zone: TimeZone = "UTC",
    ) -> AnalyticsReport:
        return analytics_report(await own_store(info, config_id, "its analytics"), range, interval, time_zone)

    @strawberry.field(description="The events of a store of one's own, newest first.")
    async def events(
        self, info: Info, config_id: strawberry.ID, filter: EventFilter | None = None, first: First = 20, after: After = None
    ) -> AnalyticsEventConnection:
        chosen = _chosen(await own_store(info, config_id, "its analytics"), filter or EventFilter())
        page = await analytics.page(info.context.reads, chosen, arguments.window(first, after))
        return AnalyticsEventConnection(page=page, count=lambda: analytics.count(info.context.reads, chosen))


def _chosen(store: str, given: EventFilter) -> Events:
    return Events(
        store,
        arguments.texts(given.event, "filter.event") if given.event is not None else None,
        arguments.text(given.session_id, "filter.sessionId") if given.session_id is not None else None,
        arguments.date_range(given.range.from_, given.range.to, "filter.range") if given.range else None,
    )
