"""Live counters, for owners who watch: read only while somebody does, once a second however many they are."""

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
from storefront.graph.types import TimeZone
from storefront.queries import analytics
from storefront.queries.analytics import ACTIVE_MINUTES, EventCounts, Span

log = logging.getLogger("storefront")

Shared = strawberry.Private[dict[Any, Any]]


@strawberry.type(description="What has happened today, and who is there now. Bots are left out.")
class AnalyticsTick:
    at: datetime
    since: datetime = strawberry.field(description="When today began, by the clocks of the time zone.")
    page_views: int
    product_clicks: int
    add_to_carts: int
    purchases: int
    searches: int
    sessions: int = strawberry.field(description="Those that began today.")
    active_sessions: int = strawberry.field(
        description=f"Those with an event in the last {ACTIVE_MINUTES} minutes, to the minute."
    )
    # Executed once for all who ask for the same of it.
    shared: Shared = field(default_factory=dict)


@strawberry.type
class AnalyticsSubscription:
    @strawberry.subscription(
        description="Counters of a store of one's own: at once, then when they change, once a second at most."
    )
    async def analytics_feed(
        self, info: Info, config_id: strawberry.ID, time_zone: TimeZone = "UTC"
    ) -> AsyncGenerator[AnalyticsTick, None]:
        zone = arguments.check_time_zone(time_zone, "timeZone")
        store = await require_own_store(info, config_id, "its analytics")
        async for tick in _watch_counters(info.context, store, zone):
            yield tick


async def _watch_counters(context: Context, store: str, zone: str) -> AsyncGenerator[AnalyticsTick, None]:
    """Ends when the store is no longer the asker's."""
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
        # All listeners of a process wake at the same moment, and share what the first of them reads.
        await asyncio.sleep(1 - time.time() % 1)


async def _load_tick(context: Context, store: str, owner: str, zone: str) -> AnalyticsTick | None:
    active = await analytics.count_active_sessions(context.database, store, owner)
    if active is None:
        return None
    now = datetime.now(UTC)
    since = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    # Nothing lies ahead of now. Two days from any midnight are few pieces, without an edge where single events would be counted.
    [counts] = await analytics.load_figures(context.database, [store], Span(since, since + timedelta(days=2)))
    return AnalyticsTick(**_to_counter_fields(counts), at=now, since=since, active_sessions=active)


_COUNTER_FIELDS = ("page_views", "product_clicks", "add_to_carts", "purchases", "searches", "sessions")


def _to_counter_fields(counts: EventCounts) -> dict[str, Any]:
    return {name: getattr(counts, name) for name in _COUNTER_FIELDS}


def _counter_values(tick: AnalyticsTick) -> tuple[int, ...]:
    return (*(getattr(tick, name) for name in _COUNTER_FIELDS), tick.active_sessions)
