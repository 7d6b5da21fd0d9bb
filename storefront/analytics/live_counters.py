"""Live counters as a subscription: read once a second per store while there are subscribers, however many (single-flight)."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import strawberry

from storefront.core.db.database import DATABASE_ERRORS
from storefront.graph import arguments
from storefront.graph.context import Context, Info
from storefront.graph.permissions import require_own_store
from storefront.graph.types.analytics import TimeZone
from storefront.queries import analytics
from storefront.queries.analytics import ACTIVE_MINUTES, EventCounts, Span

log = logging.getLogger("storefront")

Shared = strawberry.Private[dict[Any, Any]]


@strawberry.type(description="Figures of a store for today, and the sessions that are active now. Bots are excluded.")
class AnalyticsTick:
    measured_at: datetime = strawberry.field(description="When the figures were read.")
    day_started_at: datetime = strawberry.field(description="When today started in the requested time zone.")
    page_views: int = strawberry.field(description="Number of `page_view` events today.")
    product_clicks: int = strawberry.field(description="Number of `product_click` events today.")
    add_to_carts: int = strawberry.field(description="Number of `add_to_cart` events today.")
    purchases: int = strawberry.field(description="Number of `purchase` events today.")
    searches: int = strawberry.field(description="Number of `search` events today.")
    sessions: int = strawberry.field(description="Number of sessions that started today.")
    active_sessions: int = strawberry.field(description=f"Number of sessions with an event in the last {ACTIVE_MINUTES} minutes.")
    # Cache of field results that identical subscriptions share.
    shared: Shared = field(default_factory=dict)


@strawberry.type
class AnalyticsSubscription:
    @strawberry.subscription(
        description="Today's figures of a store: at once, then at most once a second when they change. Owner only."
    )
    async def analytics_feed(
        self,
        info: Info,
        config_id: Annotated[strawberry.ID, strawberry.argument(description="ID of the store.")],
        time_zone: TimeZone = "UTC",
    ) -> AsyncGenerator[AnalyticsTick, None]:
        zone = arguments.check_time_zone(time_zone, "timeZone")
        store = await require_own_store(info, config_id, "its analytics")
        async for tick in _watch_counters(info.context, store, zone):
            yield tick


async def _watch_counters(context: Context, store: str, zone: str) -> AsyncGenerator[AnalyticsTick, None]:
    """Yield the counters after each change. Ends when the viewer no longer owns the store."""
    owner, last_tick = context.require_viewer().id, None
    while True:
        try:
            key = ("analytics", store, owner, zone, int(time.time()))
            tick = await context.feed.events.call(key, partial(_load_tick, context, store, owner, zone))
        except DATABASE_ERRORS:
            log.warning("the counters of store %s could not be read; trying again in a second", store)
        else:
            if tick is None:
                return
            if last_tick is None or _counter_values(tick) != _counter_values(last_tick):
                yield tick
            last_tick = tick
        # All subscriptions of a process wake at the full second, and share one read.
        await asyncio.sleep(1 - time.time() % 1)


async def _load_tick(context: Context, store: str, owner: str, zone: str) -> AnalyticsTick | None:
    active = await analytics.count_active_sessions(context.database, store, owner)
    if active is None:
        return None
    now = datetime.now(UTC)
    day_started_at = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    # There are no events in the future. Two days from midnight are few rollup pieces, without edges of single events.
    [counts] = await analytics.load_figures(context.database, [store], Span(day_started_at, day_started_at + timedelta(days=2)))
    return AnalyticsTick(**_to_counter_fields(counts), measured_at=now, day_started_at=day_started_at, active_sessions=active)


_COUNTER_FIELDS = ("page_views", "product_clicks", "add_to_carts", "purchases", "searches", "sessions")


def _to_counter_fields(counts: EventCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in _COUNTER_FIELDS}


def _counter_values(tick: AnalyticsTick) -> tuple[int, ...]:
    return (*(getattr(tick, name) for name in _COUNTER_FIELDS), tick.active_sessions)
