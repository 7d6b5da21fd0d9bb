"""Log positions of stores as this process knows them: the freshness of cached responses depends on them.

A response may be cached under a position that was read before its rows: at worst the log has advanced meanwhile, and the response
is not used. Under a position read after the rows it could be older than the position says. This module maintains that order.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.sql.expression import any_

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY, CacheDependency, ParameterDependency, RowDependency
from storefront.core.db.database import DATABASE_ERRORS, Database, Row, Statement, compile_statement
from storefront.core.tasks import cancel_and_wait, retrieve_exception, share
from storefront.models import configs, positions

logger = logging.getLogger("storefront")

# The position of a store that does not exist.
ABSENT_POSITION = -1
# The most tracked stores, and the seconds without use after which a store is no longer tracked.
MAX_TRACKED_STORES, IDLE_SECONDS = 10_000, 60.0
# Timeout of reading positions: to revalidate a cached response, or to cache a new one under them.
REVALIDATION_TIMEOUT_SECONDS = 2.0
# Attempts to read rows under known positions: reads repeat for stores that are untracked or change all the time.
MAX_READ_ATTEMPTS = 3


@dataclass(slots=True)
class LogPosition:
    """A position, the number of the refresh that read it, and when it was last confirmed and last used."""

    position: int
    refresh_number: int
    confirmed_at: float
    last_used_at: float


class LogPositions:
    """The positions of requested stores, refreshed within `max_age` seconds and invalidated by every wake-up.

    `strict`: positions are read again for each check.
    """

    def __init__(self, database: Database, max_age: float, *, strict: bool = False) -> None:
        self._database, self._max_age, self._strict = database, max_age, strict
        self._positions: dict[str, LogPosition] = {}
        self.refresh_count = 0
        self._requested_ids: set[str] = set()
        self._next_refresh: asyncio.Task[None] | None = None
        self._current_refresh: asyncio.Task[None] | None = None
        # Stores invalidated during a refresh: it may have read their old positions.
        self._moved_ids: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Refresh periodically while this lasts."""
        poll = asyncio.create_task(self._poll_positions())
        try:
            yield
        finally:
            await cancel_and_wait(task for task in (poll, self._current_refresh, self._next_refresh) if task is not None)

    def invalidate(self, config_id: str) -> None:
        """Handle a wake-up: forget the store's position."""
        self._positions.pop(config_id, None)
        if self._current_refresh is not None:
            self._moved_ids.add(config_id)

    def invalidate_all(self) -> None:
        """Forget all positions: the database may be another one by now, which is behind them."""
        for config_id in list(self._positions):
            self.invalidate(config_id)

    def is_fresh(self, dependencies: Mapping[str, int]) -> bool | None:
        """Whether the logs are still at these positions; None if that takes a refresh."""
        is_current, now = None if self._strict and dependencies else True, monotonic()
        for config_id, position in dependencies.items():
            log_position = self._positions.get(config_id)
            if log_position is None or log_position.position < position or now - log_position.confirmed_at > self._max_age:
                is_current = None
            elif log_position.position > position:
                return False
            else:
                log_position.last_used_at = now
        return is_current

    async def revalidate(self, dependencies: Mapping[str, int]) -> bool:
        """`is_fresh` with a refresh. False on timeouts and database errors: the caller then executes the request."""
        try:
            async with asyncio.timeout(REVALIDATION_TIMEOUT_SECONDS):
                await self.refresh(dependencies)
        except (*DATABASE_ERRORS, TimeoutError):
            return False
        return all(self.get_position(config_id) == position for config_id, position in dependencies.items())

    def get_position(self, config_id: str, max_refresh_number: int | None = None) -> int | None:
        """The known position, optionally only if a refresh up to this number read it; else None."""
        log_position = self._positions.get(config_id)
        if log_position is None or (max_refresh_number is not None and log_position.refresh_number > max_refresh_number):
            return None
        log_position.last_used_at = monotonic()
        return log_position.position

    async def refresh(self, config_ids: Iterable[str]) -> None:
        """Read positions again, in one statement with those of concurrent callers."""
        self._requested_ids.update(config_ids)
        if self._next_refresh is None:
            self._next_refresh = asyncio.create_task(self._run_refresh(self._current_refresh))
            self._next_refresh.add_done_callback(retrieve_exception)
        # A cancelled caller must not cancel the refresh of the others.
        await share(self._next_refresh)

    async def _run_refresh(self, previous_refresh: "asyncio.Task[None] | None") -> None:
        if previous_refresh is not None:
            await asyncio.wait([previous_refresh])
        config_ids, self._requested_ids = self._requested_ids, set()
        self._current_refresh, self._next_refresh = self._next_refresh, None
        self._moved_ids.clear()
        now = monotonic()
        try:
            rows = await self._database.fetch(_select_positions(), {"ids": list(config_ids)})
            self._store_positions(config_ids - self._moved_ids, {row.config_id: row.position for row in rows}, now)
        finally:
            self._current_refresh = None

    def _store_positions(self, config_ids: set[str], positions_by_store: Mapping[str, int], now: float) -> None:
        self.refresh_count += 1
        for config_id in config_ids:
            position, log_position = positions_by_store.get(config_id, ABSENT_POSITION), self._positions.get(config_id)
            if log_position is not None and log_position.position == position:
                log_position.confirmed_at = now
            else:
                self._positions[config_id] = LogPosition(position, self.refresh_count, now, now)
        while len(self._positions) > MAX_TRACKED_STORES:
            del self._positions[next(iter(self._positions))]

    async def _poll_positions(self) -> None:
        while True:
            # At half the maximum age, so that positions do not expire while a refresh is running.
            await asyncio.sleep(self._max_age / 2)
            idle_cutoff = monotonic() - IDLE_SECONDS
            self._positions = {
                config_id: log_position
                for config_id, log_position in self._positions.items()
                if log_position.last_used_at > idle_cutoff
            }
            try:
                if self._positions:
                    await self.refresh(self._positions)
            except Exception as error:
                # Any error: if the poll ended, all callers would have to refresh. The positions expire until the next one.
                if not isinstance(error, DATABASE_ERRORS):
                    logger.exception("reading log positions failed; retrying")


class ReadTracker:
    """Tracks the stores that an execution reads, each with a log position from before the read: a DependencyRecorder."""

    def __init__(self, log_positions: LogPositions) -> None:
        self._log_positions = log_positions
        self._positions: dict[str, int] = {}
        self._is_complete = True

    @property
    def dependencies(self) -> Mapping[str, int] | None:
        """The stores with their positions; None if the result depends on more than logs (uncacheable)."""
        return self._positions if self._is_complete else None

    def mark_uncacheable(self) -> None:
        """Record a read that no log position covers."""
        self._is_complete = False

    async def run_recorded(
        self, dependency: CacheDependency | None, parameters: Mapping[str, Any], run_query: Callable[[], Awaitable[list[Row]]]
    ) -> list[Row]:
        """Run a query and record its stores with their positions."""
        if dependency is None or (dependency is INHERITED_DEPENDENCY and not self._positions):
            # Rows with an inherited dependency depend on the stores of their parents: without any, the dependency is unknown.
            self.mark_uncacheable()
        elif isinstance(dependency, RowDependency) and self._is_complete:
            return await self._read_until_tracked(dependency, parameters, run_query)
        elif isinstance(dependency, ParameterDependency) and self._is_complete:
            await self._track_named_stores(dependency.resolve_scopes(parameters))
        return await run_query()

    async def _track_named_stores(self, config_ids: set[str]) -> None:
        for _ in range(MAX_READ_ATTEMPTS):
            if self._note_positions(config_ids, self._log_positions.refresh_count):
                return
            if not await self._refresh_positions(config_ids):
                break
        self.mark_uncacheable()

    async def _read_until_tracked(
        self, dependency: RowDependency, parameters: Mapping[str, Any], run_query: Callable[[], Awaitable[list[Row]]]
    ) -> list[Row]:
        """Read rows that name their stores themselves; read again if a store's position was unknown before the read."""
        for _ in range(MAX_READ_ATTEMPTS):
            refresh_number, rows = self._log_positions.refresh_count, await run_query()
            config_ids = dependency.resolve_scopes(parameters, rows)
            if config_ids is None:
                break
            if self._note_positions(config_ids, refresh_number):
                return rows
            if not await self._refresh_positions(config_ids):
                break
        self.mark_uncacheable()
        return rows

    def _note_positions(self, config_ids: set[str], max_refresh_number: int) -> bool:
        """Record the positions known by a refresh; whether all were known. The first position of a store counts."""
        for config_id in config_ids - self._positions.keys():
            position = self._log_positions.get_position(config_id, max_refresh_number)
            if position is None:
                return False
            self._positions[config_id] = position
        return True

    async def _refresh_positions(self, config_ids: set[str]) -> bool:
        """Read the positions again; False on timeouts and database errors, on which the response is sent but not cached."""
        try:
            async with asyncio.timeout(REVALIDATION_TIMEOUT_SECONDS):
                await self._log_positions.refresh(config_ids - self._positions.keys())
        except (*DATABASE_ERRORS, TimeoutError):
            return False
        return True


@cache
def _select_positions() -> Statement:
    joined = configs.join(positions, positions.c.config_id == configs.c.id, isouter=True)
    position = func.coalesce(positions.c.position, 0).label("position")
    is_requested = configs.c.id == any_(bindparam("ids", type_=ARRAY(UUID)))
    return compile_statement(select(configs.c.id.label("config_id"), position).select_from(joined).where(is_requested))
