"""Follows the logs of the stores that somebody listens to: one reader per store and process, however many listeners.

A listener is a position and nothing else. The hub keeps the newest entries of each store for all of them; one that falls
behind these reads from the log itself; one whose next entry is no longer kept is told so.

A subscription of your own over this log: read `Hub.parts` in the `steps` of a `serving.crowds.Source` (as `ProductFeed` in
`products.changes` does), judge each entry for the asker there, and return the source from the resolver; listeners alike then
share reader and executions. One over something else than the log needs only the waking: publish its key with
`WakeUps.publish` after the commit, which calls `Hub.heard` in every process, or look by itself now and then.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from typing import TypeVar

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.sql.expression import any_

from storefront.core.db.database import DATABASE_ERRORS, Database, Row, Statement, compile_statement, retry_until_available
from storefront.core.errors import TimedOut
from storefront.core.request_context import create_detached_task
from storefront.core.single_flight import SingleFlight
from storefront.feed import log
from storefront.models import positions

T = TypeVar("T")

logger = logging.getLogger("storefront")

# Entries kept per followed store, and read at a time, 2 kB each.
MAX_RECENT_ENTRIES = 1_000
BATCH_ENTRIES = 100
# Batches of older entries that the listeners who are behind share, and for how many seconds. Entries never change.
MAX_SHARED_BATCHES, SHARED_BATCH_TTL_SECONDS = 16, 10.0
# Seconds that a read of a log may take at the most, however often it took too long before.
MAX_READ_TIMEOUT_SECONDS = 30.0
# A listener that is further behind than this is better off reading the store again.
MAX_ENTRIES_BEHIND = 10_000


@dataclass(frozen=True, slots=True)
class Gap:
    """What came after the listener's position is no longer kept, or too much: everything up to `position` may have changed."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class LogBatch:
    """The next entries of a log, or a gap, and the position that they reach. None: there is nothing more for now."""

    position: int
    entries: Sequence[Row | Gap] = ()


@dataclass(slots=True, eq=False)
class StoreChannel:
    """One store as this process follows it."""

    config_id: str
    head: int
    recent_entries: deque[Row] = field(default_factory=lambda: deque(maxlen=MAX_RECENT_ENTRIES))
    listener_count: int = 0
    entries_arrived: asyncio.Event = field(default_factory=asyncio.Event)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    is_deleted: bool = False

    def get_entries_after(self, position: int) -> Sequence[Row] | None:
        """The entries after a position, or None where they are not all at hand."""
        if position >= self.head:
            return ()
        if not self.recent_entries or self.recent_entries[0].position > position + 1:
            return None
        # Positions have no gaps, so the place of one is known.
        return list(islice(self.recent_entries, position + 1 - self.recent_entries[0].position, None))[:BATCH_ENTRIES]

    def append_entries(self, entries: Sequence[Row]) -> None:
        """New entries, in order. Whoever waits is told."""
        if entries[0].position != self.head + 1:
            # Some were swept before they were read: what is older no longer joins on.
            self.recent_entries.clear()
        self.recent_entries.extend(entries)
        self.head = entries[-1].position
        previous_event, self.entries_arrived = self.entries_arrived, asyncio.Event()
        previous_event.set()


@dataclass(slots=True)
class HubStats:
    """What the hub has seen since the start: wake-ups, polls, stores that only a poll found to have moved, entries.

    `restarts`: how often a read of a log, or a poll, was given up because it did not come round, and begun anew. `behind` and
    `position`: how many entries the store furthest behind was, at the last poll, and the last position read of any.
    """

    stores: int = 0
    listeners: int = 0
    wakeups: int = 0
    polls: int = 0
    missed_wakeups: int = 0
    restarts: int = 0
    entries_read: int = 0
    max_behind: int = 0
    last_position: int = 0


class Hub:
    """The followed stores of this process."""

    def __init__(self, database: Database, poll_interval: float = 1.0) -> None:
        self._database, self._poll_interval = database, poll_interval
        self._channels: dict[str, StoreChannel] = {}
        self._open_lock = asyncio.Lock()
        self._shared_batches = SingleFlight(MAX_SHARED_BATCHES, SHARED_BATCH_TTL_SECONDS)
        self._follower_tasks: dict[str, asyncio.Task[None]] = {}
        self._poll_task: asyncio.Task[None] | None = None
        self._read_timeout = self._min_read_timeout = 2 * poll_interval
        self._stats = HubStats()

    @property
    def is_alive(self) -> bool:
        """Whether all that follows still runs."""
        tasks = [self._poll_task, *self._follower_tasks.values()]
        return all(task is not None and not task.done() for task in tasks)

    @property
    def stats(self) -> HubStats:
        """What there has been to see."""
        channels = list(self._channels.values())
        return replace(self._stats, stores=len(channels), listeners=sum(channel.listener_count for channel in channels))

    def notify(self, config_id: str) -> None:
        """A store's log has moved, somebody says."""
        self._stats.wakeups += 1
        channel = self._channels.get(config_id)
        if channel is not None:
            channel.wakeup.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the followed stores while this lasts, wake-ups or not."""
        poll = self._poll_task = asyncio.create_task(self._poll_positions())
        try:
            yield
        finally:
            tasks = [poll, *self._follower_tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stream_entries(self, config_id: str, after: int | None) -> AsyncGenerator[Row | Gap, None]:
        """A store's entries after a position, or from now on, as long as somebody asks for more. Ends with the store."""
        async with aclosing(self.stream_batches(config_id, after)) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    yield entry

    async def stream_batches(self, config_id: str, after: int | None) -> AsyncGenerator[LogBatch, None]:
        """The same in parts, as they are at hand; an empty one before each wait."""
        async with self._following(config_id) as channel:
            position = channel.head if after is None else after
            while not channel.is_deleted:
                entries_arrived = channel.entries_arrived
                entries = await retry_until_available(partial(self._load_next, channel, position))
                if entries:
                    position = entries[-1].position
                    yield LogBatch(position, entries)
                elif position >= channel.head:
                    yield LogBatch(position)
                    await entries_arrived.wait()

    async def _load_next(self, channel: StoreChannel, position: int) -> Sequence[Row | Gap]:
        if position > channel.head:
            return await self._resolve_position_ahead(channel, position)
        if channel.head - position > MAX_ENTRIES_BEHIND:
            return [Gap(channel.head, "too far behind to catch up one by one: refetch, then resume from here")]
        recent_entries = channel.get_entries_after(position)
        if recent_entries is not None:
            return recent_entries
        older_entries = await self._load_older(channel, position)
        if not older_entries or older_entries[0].position != position + 1:
            return [Gap(channel.head, "the position asked for is no longer kept: refetch, then resume from here")]
        return older_entries

    async def _load_older(self, channel: StoreChannel, position: int) -> Sequence[Row]:
        """Entries after a position that the channel no longer has at hand: many clients come back with theirs at once."""
        batch_start = position - position % BATCH_ENTRIES
        # The last batch of a log grows: it is another one with each entry.
        key = (channel.config_id, batch_start, min(batch_start + BATCH_ENTRIES, channel.head))
        batch = await self._shared_batches.call(
            key, partial(log.read_entries, self._database, channel.config_id, batch_start, BATCH_ENTRIES)
        )
        return [entry for entry in batch if entry.position > position]

    async def _resolve_position_ahead(self, channel: StoreChannel, position: int) -> Sequence[Gap]:
        # Another process may have told the client of a commit that this one has not heard of yet.
        head = (await self._load_heads([channel.config_id])).get(channel.config_id, 0)
        if position <= head:
            channel.wakeup.set()
            return ()
        return [Gap(channel.head, "the position asked for lies ahead of the log: refetch, then resume from here")]

    @asynccontextmanager
    async def _following(self, config_id: str) -> AsyncIterator[StoreChannel]:
        async with self._open_lock:
            channel = self._channels.get(config_id) or await self._open_channel(config_id)
            channel.listener_count += 1
        try:
            yield channel
        finally:
            channel.listener_count -= 1
            if not channel.listener_count:
                self._close_channel(config_id)

    async def _open_channel(self, config_id: str) -> StoreChannel:
        head = (await self._load_heads([config_id])).get(config_id, 0)
        channel = self._channels[config_id] = StoreChannel(config_id, head)
        self._follower_tasks[config_id] = create_detached_task(self._follow_channel(channel))
        # What moved while the head was read was told to nobody: look once more.
        channel.wakeup.set()
        return channel

    def _close_channel(self, config_id: str) -> None:
        self._channels.pop(config_id, None)
        follower = self._follower_tasks.pop(config_id, None)
        if follower is not None:
            follower.cancel()

    async def _follow_channel(self, channel: StoreChannel) -> None:
        """Read what is new whenever the channel is stirred. Stirred while reading, it reads once more: no wake-up is wasted."""
        while True:
            await channel.wakeup.wait()
            channel.wakeup.clear()
            try:
                while entries := await self._read_with_timeout(
                    log.read_entries(self._database, channel.config_id, channel.head, BATCH_ENTRIES)
                ):
                    channel.append_entries(entries)
                    self._stats.entries_read += len(entries)
                    self._stats.last_position = channel.head
            except Exception as error:
                # Whatever it is: a reader that ends would leave its listeners in silence.
                unexpected_error = None if isinstance(error, DATABASE_ERRORS) else error
                logger.warning(
                    "the log of store %s could not be read; trying again at the next poll",
                    channel.config_id,
                    exc_info=unexpected_error,
                )

    async def _read_with_timeout(self, pending_read: Awaitable[T]) -> T:
        """Read within two poll intervals, or raise TimedOut; longer each time, so that a slow database is not asked in vain."""
        try:
            async with asyncio.timeout(self._read_timeout):
                result = await pending_read
        except TimeoutError:
            self._stats.restarts += 1
            self._read_timeout = min(2 * self._read_timeout, MAX_READ_TIMEOUT_SECONDS)
            raise TimedOut("reading a log took too long") from None
        self._read_timeout = self._min_read_timeout
        return result

    async def _poll_positions(self) -> None:
        """The net below the wake-ups."""
        while True:
            await asyncio.sleep(self._poll_interval)
            # Those that are opened while the positions are read were not asked about.
            polled_channels = list(self._channels.values())
            try:
                heads = (
                    await self._read_with_timeout(self._load_heads([channel.config_id for channel in polled_channels]))
                    if polled_channels
                    else {}
                )
            except Exception as error:
                if not isinstance(error, DATABASE_ERRORS):
                    logger.exception("the positions of the followed stores could not be read; trying again")
                continue
            self._stats.polls += 1
            self._stats.max_behind = max((heads.get(polled.config_id, 0) - polled.head for polled in polled_channels), default=0)
            for channel in polled_channels:
                if heads.get(channel.config_id, channel.head) > channel.head:
                    self._stats.missed_wakeups += 1
                    channel.wakeup.set()
                elif channel.head and channel.config_id not in heads:
                    channel.is_deleted = True
                    channel.entries_arrived.set()

    async def _load_heads(self, config_ids: list[str]) -> dict[str, int]:
        return {row.config_id: row.position for row in await self._database.fetch(_select_positions(), {"ids": config_ids})}


@cache
def _select_positions() -> Statement:
    is_followed = positions.c.config_id == any_(bindparam("ids", type_=ARRAY(UUID)))
    return compile_statement(select(positions).where(is_followed))
