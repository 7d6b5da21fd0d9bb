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

from storefront.core.db.database import FAILURES, Database, Row, Statement, compiled, retry_until_available
from storefront.core.errors import TimedOut
from storefront.core.request_context import for_all
from storefront.core.single_flight import SingleFlight
from storefront.feed import log
from storefront.models import positions

T = TypeVar("T")

logger = logging.getLogger("storefront")

# Entries kept per followed store, and read at a time, 2 kB each.
KEPT = 1_000
BATCH = 100
# Batches of older entries that the listeners who are behind share, and for how many seconds. Entries never change.
SHARED_BATCHES, SHARED_BATCH_SECONDS = 16, 10.0
# Seconds that a read of a log may take at the most, however often it took too long before.
LONGEST_PATIENCE = 30.0
# A listener that is further behind than this is better off reading the store again.
MOST_BEHIND = 10_000


@dataclass(frozen=True, slots=True)
class Gap:
    """What came after the listener's position is no longer kept, or too much: everything up to `position` may have changed."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """The next entries of a log, or a gap, and the position that they reach. None: there is nothing more for now."""

    position: int
    entries: Sequence[Row | Gap] = ()


@dataclass(slots=True, eq=False)
class Channel:
    """One store as this process follows it."""

    config_id: str
    head: int
    tail: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT))
    listeners: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    stirred: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False

    def after(self, position: int) -> Sequence[Row] | None:
        """The entries after a position, or None where they are not all at hand."""
        if position >= self.head:
            return ()
        if not self.tail or self.tail[0].position > position + 1:
            return None
        # Positions have no gaps, so the place of one is known.
        return list(islice(self.tail, position + 1 - self.tail[0].position, None))[:BATCH]

    def take(self, entries: Sequence[Row]) -> None:
        """New entries, in order. Whoever waits is told."""
        if entries[0].position != self.head + 1:
            # Some were swept before they were read: what is older no longer joins on.
            self.tail.clear()
        self.tail.extend(entries)
        self.head = entries[-1].position
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()


@dataclass(slots=True)
class Seen:
    """What the hub has seen since the start: wake-ups, polls, stores that only a poll found to have moved, entries.

    `restarts`: how often a read of a log, or a poll, was given up because it did not come round, and begun anew. `behind` and
    `position`: how many entries the store furthest behind was, at the last poll, and the last position read of any.
    """

    stores: int = 0
    listeners: int = 0
    wakeups: int = 0
    polls: int = 0
    late: int = 0
    restarts: int = 0
    entries: int = 0
    behind: int = 0
    position: int = 0


class Hub:
    """The followed stores of this process."""

    def __init__(self, database: Database, poll_interval: float = 1.0) -> None:
        self._database, self._poll_interval = database, poll_interval
        self._channels: dict[str, Channel] = {}
        self._opening = asyncio.Lock()
        self._batches = SingleFlight(SHARED_BATCHES, SHARED_BATCH_SECONDS)
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._patience = self._shortest_patience = 2 * poll_interval
        self._seen = Seen()

    @property
    def is_alive(self) -> bool:
        """Whether all that follows still runs."""
        following = [self._polling, *self._followers.values()]
        return all(task is not None and not task.done() for task in following)

    @property
    def seen(self) -> Seen:
        """What there has been to see."""
        channels = list(self._channels.values())
        return replace(self._seen, stores=len(channels), listeners=sum(channel.listeners for channel in channels))

    def heard(self, config_id: str) -> None:
        """A store's log has moved, somebody says."""
        self._seen.wakeups += 1
        channel = self._channels.get(config_id)
        if channel is not None:
            channel.stirred.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the followed stores while this lasts, wake-ups or not."""
        poll = self._polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            tasks = [poll, *self._followers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def entries(self, config_id: str, after: int | None) -> AsyncGenerator[Row | Gap, None]:
        """A store's entries after a position, or from now on, as long as somebody asks for more. Ends with the store."""
        async with aclosing(self.parts(config_id, after)) as parts:
            async for part in parts:
                for entry in part.entries:
                    yield entry

    async def parts(self, config_id: str, after: int | None) -> AsyncGenerator[Part, None]:
        """The same in parts, as they are at hand; an empty one before each wait."""
        async with self._followed(config_id) as channel:
            position = channel.head if after is None else after
            while not channel.gone:
                moved = channel.moved
                found = await retry_until_available(partial(self._next, channel, position))
                if found:
                    position = found[-1].position
                    yield Part(position, found)
                elif position >= channel.head:
                    yield Part(position)
                    await moved.wait()

    async def _next(self, channel: Channel, position: int) -> Sequence[Row | Gap]:
        if position > channel.head:
            return await self._ahead(channel, position)
        if channel.head - position > MOST_BEHIND:
            return [Gap(channel.head, "too far behind to catch up one by one: refetch, then resume from here")]
        at_hand = channel.after(position)
        if at_hand is not None:
            return at_hand
        read = await self._older(channel, position)
        if not read or read[0].position != position + 1:
            return [Gap(channel.head, "the position asked for is no longer kept: refetch, then resume from here")]
        return read

    async def _older(self, channel: Channel, position: int) -> Sequence[Row]:
        """Entries after a position that the channel no longer has at hand: many clients come back with theirs at once."""
        begin = position - position % BATCH
        # The last batch of a log grows: it is another one with each entry.
        key = (channel.config_id, begin, min(begin + BATCH, channel.head))
        batch = await self._batches.call(key, partial(log.read, self._database, channel.config_id, begin, BATCH))
        return [entry for entry in batch if entry.position > position]

    async def _ahead(self, channel: Channel, position: int) -> Sequence[Gap]:
        # Another process may have told the client of a commit that this one has not heard of yet.
        head = (await self._heads([channel.config_id])).get(channel.config_id, 0)
        if position <= head:
            channel.stirred.set()
            return ()
        return [Gap(channel.head, "the position asked for lies ahead of the log: refetch, then resume from here")]

    @asynccontextmanager
    async def _followed(self, config_id: str) -> AsyncIterator[Channel]:
        async with self._opening:
            channel = self._channels.get(config_id) or await self._open(config_id)
            channel.listeners += 1
        try:
            yield channel
        finally:
            channel.listeners -= 1
            if not channel.listeners:
                self._close(config_id)

    async def _open(self, config_id: str) -> Channel:
        head = (await self._heads([config_id])).get(config_id, 0)
        channel = self._channels[config_id] = Channel(config_id, head)
        self._followers[config_id] = for_all(self._follow(channel))
        # What moved while the head was read was told to nobody: look once more.
        channel.stirred.set()
        return channel

    def _close(self, config_id: str) -> None:
        self._channels.pop(config_id, None)
        follower = self._followers.pop(config_id, None)
        if follower is not None:
            follower.cancel()

    async def _follow(self, channel: Channel) -> None:
        """Read what is new whenever the channel is stirred. Stirred while reading, it reads once more: no wake-up is wasted."""
        while True:
            await channel.stirred.wait()
            channel.stirred.clear()
            try:
                while read := await self._read_in_time(log.read(self._database, channel.config_id, channel.head, BATCH)):
                    channel.take(read)
                    self._seen.entries += len(read)
                    self._seen.position = channel.head
            except Exception as error:
                # Whatever it is: a reader that ends would leave its listeners in silence.
                unknown = None if isinstance(error, FAILURES) else error
                logger.warning(
                    "the log of store %s could not be read; trying again at the next poll", channel.config_id, exc_info=unknown
                )

    async def _read_in_time(self, reading: Awaitable[T]) -> T:
        """Read within two poll intervals, or raise TimedOut; longer each time, so that a slow database is not asked in vain."""
        try:
            async with asyncio.timeout(self._patience):
                read = await reading
        except TimeoutError:
            self._seen.restarts += 1
            self._patience = min(2 * self._patience, LONGEST_PATIENCE)
            raise TimedOut("reading a log took too long") from None
        self._patience = self._shortest_patience
        return read

    async def _poll(self) -> None:
        """The net below the wake-ups."""
        while True:
            await asyncio.sleep(self._poll_interval)
            # Those that are opened while the positions are read were not asked about.
            asked = list(self._channels.values())
            try:
                heads = await self._read_in_time(self._heads([channel.config_id for channel in asked])) if asked else {}
            except Exception as error:
                if not isinstance(error, FAILURES):
                    logger.exception("the positions of the followed stores could not be read; trying again")
                continue
            self._seen.polls += 1
            self._seen.behind = max((heads.get(one.config_id, 0) - one.head for one in asked), default=0)
            for channel in asked:
                if heads.get(channel.config_id, channel.head) > channel.head:
                    self._seen.late += 1
                    channel.stirred.set()
                elif channel.head and channel.config_id not in heads:
                    channel.gone = True
                    channel.moved.set()

    async def _heads(self, config_ids: list[str]) -> dict[str, int]:
        return {row.config_id: row.position for row in await self._database.fetch(_heads(), {"ids": config_ids})}


@cache
def _heads() -> Statement:
    wanted = positions.c.config_id == any_(bindparam("ids", type_=ARRAY(UUID)))
    return compiled(select(positions).where(wanted))
