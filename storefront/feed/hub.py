"""Reads the logs of stores with listeners: one reader per store and process, for any number of listeners.

A listener is only a position. The hub caches the newest entries of each store for all of them; a listener behind these reads
from the log table; one whose next entry was deleted by log retention receives a Gap.

To add a subscription over this log, read `Hub.stream_batches` in the `steps` of a source of `serving.run.fanout` (as
`ProductFeed` in `products.changes` does), apply the viewer's visibility to each entry there, and return the source from the
resolver; equal subscriptions then share the reader and executions. A subscription over other data needs only wake-ups: publish
its key with `PubSub.publish` after the commit, which calls the listeners in every process, and poll as well.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TypeVar

from storefront.core.db.database import DATABASE_ERRORS, Database, retry_until_available
from storefront.core.errors import TimedOut
from storefront.core.request_context import create_detached_task
from storefront.core.single_flight import SingleFlight
from storefront.core.tasks import cancel_and_wait, share
from storefront.feed import log
from storefront.feed.log import GapReason, explain_gap
from storefront.models.rows import ChangeRow

T = TypeVar("T")

logger = logging.getLogger("storefront")

# Entries cached per followed store, and read at a time, 2 kB each.
MAX_RECENT_ENTRIES = 1_000
BATCH_ENTRIES = 100
# Cached batches of older entries, shared by listeners that are behind, and their time to live. Entries are immutable.
MAX_SHARED_BATCHES, SHARED_BATCH_TTL_SECONDS = 16, 10.0
# Upper bound in seconds of the read timeout, which doubles with each timeout.
MAX_READ_TIMEOUT_SECONDS = 30.0
# A listener further behind than this receives a Gap: reading the store again is cheaper.
MAX_ENTRIES_BEHIND = 10_000


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that a listener cannot receive, deleted or too many: everything up to `position` may have changed."""

    position: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class LogBatch:
    """The next entries of a log, or a gap, and the position after them. No entries: the listener has caught up.

    `is_heartbeat`: the log has moved since the last heartbeat, and the listener has now read all of it.
    """

    position: int
    entries: Sequence[ChangeRow | Gap] = ()
    is_heartbeat: bool = False


@dataclass(slots=True, eq=False)
class StoreChannel:
    """The state of a followed store in this process."""

    config_id: str
    head: int
    recent_entries: deque[ChangeRow] = field(default_factory=lambda: deque(maxlen=MAX_RECENT_ENTRIES))
    listener_count: int = 0
    entries_arrived: asyncio.Event = field(default_factory=asyncio.Event)
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    is_deleted: bool = False
    heartbeat_count: int = 0
    heartbeat_head: int = 0

    def get_entries_after(self, position: int) -> Sequence[ChangeRow] | None:
        """The entries after a position, at most BATCH_ENTRIES; None if not all of them are cached."""
        if position >= self.head:
            return ()
        if not self.recent_entries or self.recent_entries[0].position > position + 1:
            return None
        # Positions are gapless, so the index of an entry follows from its position.
        return list(islice(self.recent_entries, position + 1 - self.recent_entries[0].position, None))[:BATCH_ENTRIES]

    def append_entries(self, entries: Sequence[ChangeRow]) -> None:
        """Append entries in order, and wake the listeners."""
        if entries[0].position != self.head + 1:
            # Log retention deleted entries before they were read: the cached ones no longer connect.
            self.recent_entries.clear()
        self.recent_entries.extend(entries)
        self.head = entries[-1].position
        self._wake_listeners()

    def send_heartbeat(self) -> None:
        """Wake the listeners with a heartbeat, if the log has moved since the last one."""
        if self.head != self.heartbeat_head:
            self.heartbeat_count, self.heartbeat_head = self.heartbeat_count + 1, self.head
            self._wake_listeners()

    def _wake_listeners(self) -> None:
        previous_event, self.entries_arrived = self.entries_arrived, asyncio.Event()
        previous_event.set()


@dataclass(slots=True)
class HubStats:
    """Counters since the start. `missed_wakeups`: stores whose advance only a poll found.

    `restarts`: reads of logs or positions that timed out. `max_behind`: the largest lag of a store in entries, at the last poll.
    `last_position`: the last position read, of any store.
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
    """The followed stores of this process, with a reader task each and a poll as fallback for lost wake-ups.

    One timer sends heartbeats to the listeners of all stores, with the positions that were read anyway: without statements.
    """

    def __init__(self, database: Database, poll_interval: float = 1.0, heartbeat_interval: float = 20.0) -> None:
        self._database, self._poll_interval, self._heartbeat_interval = database, poll_interval, heartbeat_interval
        self._channels: dict[str, StoreChannel] = {}
        # Reads of the positions from which stores are followed, each shared by all listeners that open the same store.
        self._opening_reads: dict[str, asyncio.Task[dict[str, int]]] = {}
        self._shared_batches = SingleFlight(MAX_SHARED_BATCHES, SHARED_BATCH_TTL_SECONDS)
        self._follower_tasks: dict[str, asyncio.Task[None]] = {}
        self._poll_task: asyncio.Task[None] | None = None
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._read_timeout = self._min_read_timeout = 2 * poll_interval
        self._stats = HubStats()

    @property
    def is_alive(self) -> bool:
        """Whether the poll, the heartbeats and all reader tasks are running."""
        tasks = [self._poll_task, self._heartbeat_task, *self._follower_tasks.values()]
        return all(task is not None and not task.done() for task in tasks)

    @property
    def stats(self) -> HubStats:
        """The counters, with the current numbers of stores and listeners."""
        channels = list(self._channels.values())
        return replace(self._stats, stores=len(channels), listeners=sum(channel.listener_count for channel in channels))

    def notify(self, config_id: str) -> None:
        """Handle a wake-up: the store's log has advanced."""
        self._stats.wakeups += 1
        channel = self._channels.get(config_id)
        if channel is not None:
            channel.wakeup.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll the followed stores, and send heartbeats, while this lasts."""
        poll = self._poll_task = asyncio.create_task(self._poll_positions())
        heartbeats = self._heartbeat_task = asyncio.create_task(self._send_heartbeats())
        try:
            yield
        finally:
            await cancel_and_wait([poll, heartbeats, *self._opening_reads.values(), *self._follower_tasks.values()])

    async def stream_batches(self, config_id: str, after: int | None) -> AsyncGenerator[LogBatch, None]:
        """Yield a store's entries after a position (None: from now on), in batches. Ends when the store is deleted.

        Yields an empty batch before each wait, and with each heartbeat.
        """
        async with self._following(config_id) as channel:
            position, heartbeat_count = channel.head if after is None else after, channel.heartbeat_count
            while not channel.is_deleted:
                entries_arrived = channel.entries_arrived
                entries = await retry_until_available(partial(self._load_next, channel, position))
                if entries:
                    position = entries[-1].position
                    yield LogBatch(position, entries)
                elif position >= channel.head:
                    yield LogBatch(position, is_heartbeat=channel.heartbeat_count != heartbeat_count)
                    heartbeat_count = channel.heartbeat_count
                    await entries_arrived.wait()

    async def _load_next(self, channel: StoreChannel, position: int) -> Sequence[ChangeRow | Gap]:
        if position > channel.head:
            return await self._resolve_position_ahead(channel, position)
        if channel.head - position > MAX_ENTRIES_BEHIND:
            reason = explain_gap(position, channel.head)
            return [Gap(channel.head, reason if reason is GapReason.DATA_REPLACED else GapReason.TOO_FAR_BEHIND)]
        recent_entries = channel.get_entries_after(position)
        if recent_entries is not None:
            return recent_entries
        older_entries = await self._load_older(channel, position)
        if not older_entries or older_entries[0].position != position + 1:
            return [Gap(channel.head, explain_gap(position, channel.head))]
        return older_entries

    async def _load_older(self, channel: StoreChannel, position: int) -> Sequence[ChangeRow]:
        """Load entries that are no longer cached. Reconnecting clients share batches: many may resume at once."""
        batch_start = position - position % BATCH_ENTRIES
        # The last batch of a log grows: its key includes its end.
        key = (channel.config_id, batch_start, min(batch_start + BATCH_ENTRIES, channel.head))
        batch = await self._shared_batches.call(
            key, partial(log.read_entries, self._database, channel.config_id, batch_start, BATCH_ENTRIES)
        )
        return [entry for entry in batch if entry.position > position]

    async def _resolve_position_ahead(self, channel: StoreChannel, position: int) -> Sequence[Gap]:
        # The client may know a commit from another process that this process has not read yet.
        head = (await self._load_heads([channel.config_id])).get(channel.config_id, 0)
        if position <= head:
            channel.wakeup.set()
            return ()
        return [Gap(channel.head, explain_gap(position, head))]

    @asynccontextmanager
    async def _following(self, config_id: str) -> AsyncIterator[StoreChannel]:
        channel = self._channels.get(config_id) or await self._open_channel(config_id)
        channel.listener_count += 1
        try:
            yield channel
        finally:
            channel.listener_count -= 1
            if not channel.listener_count:
                self._close_channel(config_id)

    async def _open_channel(self, config_id: str) -> StoreChannel:
        if config_id not in self._opening_reads:
            read = self._opening_reads[config_id] = create_detached_task(self._load_heads([config_id]))
            read.add_done_callback(lambda _: self._opening_reads.pop(config_id, None))
        # Without a lock: a read that hangs must not delay the listeners of other stores.
        head = (await share(self._opening_reads[config_id])).get(config_id, 0)
        if (opened_channel := self._channels.get(config_id)) is not None:
            return opened_channel
        channel = self._channels[config_id] = StoreChannel(config_id, head, heartbeat_head=head)
        self._follower_tasks[config_id] = create_detached_task(self._follow_channel(channel))
        # Wake-ups during the read of the head had no listener: read once more.
        channel.wakeup.set()
        return channel

    def _close_channel(self, config_id: str) -> None:
        self._channels.pop(config_id, None)
        follower = self._follower_tasks.pop(config_id, None)
        if follower is not None:
            follower.cancel()

    async def _follow_channel(self, channel: StoreChannel) -> None:
        """Read new entries after each wake-up. A wake-up during a read leads to another read."""
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
                # Any error: if the reader ended, its listeners would receive nothing more.
                unexpected_error = None if isinstance(error, DATABASE_ERRORS) else error
                logger.warning(
                    "reading the log of store %s failed; retrying at the next poll",
                    channel.config_id,
                    exc_info=unexpected_error,
                )

    async def _read_with_timeout(self, pending_read: Awaitable[T]) -> T:
        """Read with a timeout of two poll intervals, doubled after each timeout (backoff). Raises TimedOut."""
        try:
            async with asyncio.timeout(self._read_timeout):
                result = await pending_read
        except TimeoutError:
            self._stats.restarts += 1
            self._read_timeout = min(2 * self._read_timeout, MAX_READ_TIMEOUT_SECONDS)
            raise TimedOut("reading the log timed out") from None
        self._read_timeout = self._min_read_timeout
        return result

    async def _poll_positions(self) -> None:
        """Poll the positions of the followed stores: the fallback for lost wake-ups."""
        while True:
            await asyncio.sleep(self._poll_interval)
            # A snapshot: channels opened during the read are not in its result.
            polled_channels = list(self._channels.values())
            try:
                heads, deleted = await self._read_with_timeout(
                    self._load_state([channel.config_id for channel in polled_channels])
                )
            except Exception as error:
                if not isinstance(error, DATABASE_ERRORS):
                    logger.exception("reading the positions of the followed stores failed; retrying")
                continue
            self._stats.polls += 1
            self._stats.max_behind = max((heads.get(polled.config_id, 0) - polled.head for polled in polled_channels), default=0)
            for channel in polled_channels:
                if heads.get(channel.config_id, channel.head) > channel.head:
                    self._stats.missed_wakeups += 1
                    channel.wakeup.set()
                elif channel.config_id in deleted:
                    channel.is_deleted = True
                    channel.entries_arrived.set()

    async def _send_heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_interval)
            for channel in self._channels.values():
                channel.send_heartbeat()

    async def _load_state(self, config_ids: list[str]) -> tuple[dict[str, int], set[str]]:
        """The last positions of stores, and those of them that are deleted."""
        heads = await self._load_heads(config_ids) if config_ids else {}
        # A store without a position may be one whose log is empty.
        missing = [config_id for config_id in config_ids if config_id not in heads]
        existing = await log.find_existing_stores(self._database, missing) if missing else set[str]()
        return heads, {*missing} - existing

    async def _load_heads(self, config_ids: list[str]) -> dict[str, int]:
        return await log.load_last_positions(self._database, config_ids)
