"""Query fields of analytics: reports and events, for store owners."""

import strawberry

from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.limits import MAX_FILTER_ITEMS, limits
from storefront.graph.pagination import After, First
from storefront.graph.permissions import require_own_store
from storefront.graph.types.analytics import (
    AnalyticsEventConnection,
    AnalyticsInterval,
    AnalyticsReport,
    DateRangeInput,
    TimeZone,
    build_analytics_report,
)
from storefront.queries import analytics
from storefront.queries.analytics import Events


@strawberry.input(description="All filters must match (AND).")
class AnalyticsEventFilterInput:
    event: list[str] | None = strawberry.field(
        default=None, description="Names such as add_to_cart; any of them matches.", metadata=limits(items=MAX_FILTER_ITEMS)
    )
    session_id: str | None = None
    range: DateRangeInput | None = None


@strawberry.type
class AnalyticsQuery:
    @strawberry.field(description="The report of a store that the viewer owns.")
    async def analytics(
        self,
        info: Info,
        config_id: strawberry.ID,
        range: DateRangeInput,
        interval: AnalyticsInterval = AnalyticsInterval.DAY,
        time_zone: TimeZone = "UTC",
    ) -> AnalyticsReport | None:
        return build_analytics_report(await require_own_store(info, config_id, "its analytics"), range, interval, time_zone)

    @strawberry.field(description="The events of a store that the viewer owns, newest first.")
    async def events(
        self,
        info: Info,
        config_id: strawberry.ID,
        filter: AnalyticsEventFilterInput | None = None,
        first: First = 20,
        after: After = None,
    ) -> AnalyticsEventConnection | None:
        criteria = _build_criteria(
            await require_own_store(info, config_id, "its analytics"), filter or AnalyticsEventFilterInput()
        )
        page = await analytics.load_event_page(info.context.read_database, criteria, arguments.build_window(first, after))
        return AnalyticsEventConnection(page=page, count=lambda: analytics.count_events(info.context.read_database, criteria))


def _build_criteria(store: str, event_filter: AnalyticsEventFilterInput) -> Events:
    return Events(
        store,
        arguments.check_texts(event_filter.event, "filter.event") if event_filter.event is not None else None,
        arguments.check_text(event_filter.session_id, "filter.sessionId") if event_filter.session_id is not None else None,
        arguments.build_date_range(event_filter.range.from_, event_filter.range.to, "filter.range")
        if event_filter.range
        else None,
    )
