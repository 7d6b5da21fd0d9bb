"""Query fields of analytics: reports and events, for store owners."""

from typing import Annotated

import strawberry

from storefront.graph.context import Info
from storefront.graph.pagination import After, First
from storefront.graph.permissions import require_own_store
from storefront.graph.types.analytics import (
    AnalyticsEventConnection,
    AnalyticsReport,
    MaybeEventFilter,
    Range,
    TimeZone,
    build_analytics_report,
    load_event_connections,
)

ConfigId = Annotated[strawberry.ID, strawberry.argument(description="ID of the store.")]


@strawberry.type
class AnalyticsQuery:
    @strawberry.field(description="Traffic and sales figures; the same as `Config.analytics`. Owner only.")
    async def analytics(
        self, info: Info, config_id: ConfigId, range: Range, time_zone: TimeZone = "UTC"
    ) -> AnalyticsReport | None:
        return build_analytics_report(await require_own_store(info, config_id, "its analytics"), range, time_zone)

    @strawberry.field(description="Raw analytics events; the same list as `Config.events`. Owner only.")
    async def events(
        self, info: Info, config_id: ConfigId, filter: MaybeEventFilter = None, first: First = 20, after: After = None
    ) -> AnalyticsEventConnection | None:
        store = await require_own_store(info, config_id, "its analytics")
        return (await load_event_connections(info, [store], filter, first, after))[0]
