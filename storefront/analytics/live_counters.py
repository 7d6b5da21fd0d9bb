"""Live counters as a subscription: read once a second per store while there are subscribers, however many (single-flight)."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
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


@strawberry.type(description="Counters of today, and active sessions. Bots are excluded.")
class AnalyticsTick:
    at: datetime
    since: datetime = strawberry.field(description="Start of today in the time zone.")
    page_views: int
    product_clicks: int
    add_to_carts: int
    purchases: int
    searches: int
    sessions: int = strawberry.field(description="Sessions that began today.")
    active_sessions: int = strawberry.field(
        description=f"Sessions with an event in the last {ACTIVE_MINUTES} minutes, to the minute."
    )
    # Cache of field results that identical subscriptions share.
    shared: Shared = field(default_factory=dict)


@strawberry.type
class AnalyticsSubscription:
    @strawberry.subscription(
        description="Live counters of a store that the viewer owns: at once, then after each change, at most once a second."
    )
    async def analytics_feed(
        self, info: Info, config_id: strawberry.ID, time_zone: TimeZone = "UTC"
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
    since = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    # There are no events in the future. Two days from midnight are few rollup pieces, without edges of single events.
    [counts] = await analytics.load_figures(context.database, [store], Span(since, since + timedelta(days=2)))
    return AnalyticsTick(**_to_counter_fields(counts), at=now, since=since, active_sessions=active)


_COUNTER_FIELDS = ("page_views", "product_clicks", "add_to_carts", "purchases", "searches", "sessions")


def _to_counter_fields(counts: EventCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in _COUNTER_FIELDS}


def _counter_values(tick: AnalyticsTick) -> tuple[int, ...]:
    return (*(getattr(tick, name) for name in _COUNTER_FIELDS), tick.active_sessions)
