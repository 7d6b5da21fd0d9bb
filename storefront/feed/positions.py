"""How far the logs of stores have come, as this process knows: what a kept answer is judged by.

An answer may be kept under a position that was read before its rows: at worst the log has moved on meanwhile, and the answer is
not used. Under one that was read after them it may be of an older state than the position says. All here is about that order.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.sql.expression import any_

from storefront.core.cache_dependencies import WITHIN, Found, Named, Reads
from storefront.core.db.database import FAILURES, Database, Row, Statement, compiled
from storefront.models import configs, positions

# The position of a store that is not there.
ABSENT = -1
# Stores whose positions are known at a time, and the seconds after which one that nobody asks about is looked after no longer.
MOST, IDLE = 10_000, 60.0
# Seconds for which an answer waits that is kept, for word whether it holds.
PATIENCE = 2.0
# How often rows are read again because a store was found that nothing was known of, or that moves all the time.
TRIES = 3


@dataclass(slots=True)
class Head:
    """A position, the look at which it was learned, and when it was last seen to be so and last asked for."""

    position: int
    since: int
    seen: float
    used: float


class Heads:
    """The positions of the stores that are asked about, looked at again in less than `max_age` seconds and at every wake-up.

    `strict`: none is taken on trust, each time it is read anew.
    """

    def __init__(self, database: Database, max_age: float, *, strict: bool = False) -> None:
        self._database, self._max_age, self._strict = database, max_age, strict
        self._heads: dict[str, Head] = {}
        self.looks = 0
        self._wanted: set[str] = set()
        self._coming: asyncio.Task[None] | None = None
        self._current: asyncio.Task[None] | None = None
        # Of what moves while it is looked at, the look may tell how it was before.
        self._moved: set[str] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look by itself while this lasts, wake-ups or not."""
        poll = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            tasks = [task for task in (poll, self._current, self._coming) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def heard(self, config_id: str) -> None:
        """A store's log has moved, somebody says."""
        self._heads.pop(config_id, None)
        if self._current is not None:
            self._moved.add(config_id)

    def stands(self, touched: Mapping[str, int]) -> bool | None:
        """Whether the logs are at these positions still; None where that has to be asked."""
        answer, now = None if self._strict and touched else True, monotonic()
        for config_id, position in touched.items():
            head = self._heads.get(config_id)
            if head is None or head.position < position or now - head.seen > self._max_age:
                answer = None
            elif head.position > position:
                return False
            else:
                head.used = now
        return answer

    async def confirmed(self, touched: Mapping[str, int]) -> bool:
        """The same, asked. Where there is no word soon they do not: what is asked for is then read, or fails as reading does."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.look(touched)
        except (*FAILURES, TimeoutError):
            return False
        return all(self.position(config_id) == position for config_id, position in touched.items())

    def position(self, config_id: str, look: int | None = None) -> int | None:
        """The position that is known, or was by the end of a look."""
        head = self._heads.get(config_id)
        if head is None or (look is not None and head.since > look):
            return None
        head.used = monotonic()
        return head.position

    async def look(self, config_ids: Iterable[str]) -> None:
        """Read positions anew, in one statement with all others that are asked for before it begins."""
        self._wanted.update(config_ids)
        if self._coming is None:
            self._coming = asyncio.create_task(self._look(self._current))
            self._coming.add_done_callback(_heeded)
        # Who no longer waits must not take it from the others.
        await asyncio.shield(self._coming)

    async def _look(self, last: "asyncio.Task[None] | None") -> None:
        if last is not None:
            await asyncio.wait([last])
        config_ids, self._wanted = self._wanted, set()
        self._current, self._coming = self._coming, None
        self._moved.clear()
        now = monotonic()
        try:
            rows = await self._database.fetch(_positions(), {"ids": list(config_ids)})
            self._take(config_ids - self._moved, {row.config_id: row.position for row in rows}, now)
        finally:
            self._current = None

    def _take(self, config_ids: set[str], found: Mapping[str, int], now: float) -> None:
        self.looks += 1
        for config_id in config_ids:
            position, head = found.get(config_id, ABSENT), self._heads.get(config_id)
            if head is not None and head.position == position:
                head.seen = now
            else:
                self._heads[config_id] = Head(position, self.looks, now, now)
        while len(self._heads) > MOST:
            del self._heads[next(iter(self._heads))]

    async def _poll(self) -> None:
        while True:
            # Twice as often as need be: what is looked at takes a while, and in between nobody should have to ask.
            await asyncio.sleep(self._max_age / 2)
            busy = monotonic() - IDLE
            self._heads = {config_id: head for config_id, head in self._heads.items() if head.used > busy}
            try:
                if self._heads:
                    await self.look(self._heads)
            except FAILURES:
                # What is known grows old, and is asked for again.
                continue


class Record:
    """Which stores an execution read, each with a position that its log had reached before: a `core.scopes.Recorder`."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._positions: dict[str, int] = {}
        self._is_whole = True

    @property
    def touched(self) -> Mapping[str, int] | None:
        """The stores with their positions; None where something was read that changes with no store's log."""
        return self._positions if self._is_whole else None

    def unrecorded(self) -> None:
        """Something was read that does not change with a log."""
        self._is_whole = False

    async def read(
        self, reads: Reads | None, parameters: Mapping[str, Any], run: Callable[[], Awaitable[list[Row]]]
    ) -> list[Row]:
        """What `run` reads, with the positions of its stores noted."""
        if reads is None or (reads is WITHIN and not self._positions):
            # Rows below others change with these: without any above they change with nothing that is known.
            self.unrecorded()
        elif isinstance(reads, Found) and self._is_whole:
            return await self._found(reads, parameters, run)
        elif isinstance(reads, Named) and self._is_whole:
            await self._named(reads.scopes(parameters))
        return await run()

    async def _named(self, config_ids: set[str]) -> None:
        for _ in range(TRIES):
            if self._noted(config_ids, self._heads.looks):
                return
            await self._looked(config_ids)
        self.unrecorded()

    async def _found(self, reads: Found, parameters: Mapping[str, Any], run: Callable[[], Awaitable[list[Row]]]) -> list[Row]:
        """Rows of stores that are known by them alone, read again where the position of one of these was not known before."""
        for _ in range(TRIES):
            look, rows = self._heads.looks, await run()
            config_ids = reads.scopes(parameters, rows)
            if config_ids is None:
                break
            if self._noted(config_ids, look):
                return rows
            await self._looked(config_ids)
        self.unrecorded()
        return rows

    def _noted(self, config_ids: set[str], look: int) -> bool:
        """Note the positions known by the end of a look; whether they all were. Of a store the first one counts."""
        for config_id in config_ids - self._positions.keys():
            position = self._heads.position(config_id, look)
            if position is None:
                return False
            self._positions[config_id] = position
        return True

    async def _looked(self, config_ids: set[str]) -> None:
        try:
            await self._heads.look(config_ids - self._positions.keys())
        except FAILURES:
            self.unrecorded()


def _heeded(task: "asyncio.Task[None]") -> None:
    # Those who waited have been told; a look that nobody waits for any more may fail in silence.
    if not task.cancelled():
        task.exception()


@cache
def _positions() -> Statement:
    joined = configs.join(positions, positions.c.config_id == configs.c.id, isouter=True)
    position = func.coalesce(positions.c.position, 0).label("position")
    wanted = configs.c.id == any_(bindparam("ids", type_=ARRAY(UUID)))
    return compiled(select(configs.c.id.label("config_id"), position).select_from(joined).where(wanted))
