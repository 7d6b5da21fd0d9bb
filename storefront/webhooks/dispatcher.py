"""Tells webhooks what their stores' logs say: at least once, and what is about one product in order.

Each process that serves takes webhooks with something to do, for a while each, and sends a few messages of each at a time. What
it knows that another one would need stands in Postgres before it counts: it may end anywhere.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any
from weakref import WeakValueDictionary

from storefront.core.db.database import FAILURES, Database, Row
from storefront.core.ids import new_id
from storefront.core.net.safe_http import Session
from storefront.core.request_context import for_all
from storefront.feed import log as store_log
from storefront.webhooks.queue import FREE_SLOTS_PER_SLOT, MOST_PENDING, Attempt, Queue
from storefront.webhooks.sending import Means, Message, now, render, send
from storefront.webhooks.topics import AUDIENCES, RESET, topic_of

log = logging.getLogger("storefront")

# Messages of one webhook that are under way at a time, each about another product.
PARALLEL = 4
# Entries of a log that are read at a time, and deliveries that are.
BATCH, AHEAD = 500, 32
# Seconds that a lease lasts beyond what one message may take, and those that it must have left when one is begun.
SLACK, MARGIN = 10.0, 3.0
# Seconds for which a webhook is taken for what it was: then it is read again, with what there is to tell.
FRESH = 1.0
# Seconds after which a webhook gives way to others that wait.
TURN = 20.0
# Messages of one owner that are rendered at a time: it is what takes CPU, and what others' messages would wait for.
MAX_OWNER_RENDERS = 4
# Seconds between two looks at least, and what is under way has to come to its end when the server stops.
GAP, LEAVING = 0.05, 3.0

LOST = "a part of the log is no longer kept: refetch, then go on from here"


@dataclass(slots=True)
class Told:
    """What this process has told so far."""

    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    resets: int = 0
    disabled: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Deliverer:
    """Delivers for this process: `slots` webhooks at a time, looking for work every `interval` seconds and when woken."""

    database: Database
    means: Means
    interval: float
    slots: int = 64
    told: Told = field(default_factory=Told)
    _turns: "dict[str, Turn]" = field(default_factory=dict)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)
    _render_slots: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    @property
    def at_work(self) -> int:
        """How many webhooks this process is at."""
        return len(self._turns)

    @property
    def under_way(self) -> int:
        """How many messages it is sending."""
        return sum(len(turn.busy) for turn in self._turns.values())

    def heard(self, config_id: str) -> None:
        """A store's log has moved, somebody says."""
        self._stirred.set()
        for turn in self._turns.values():
            if turn.config_id == config_id:
                turn.moved.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver while this lasts."""
        if not self.interval:
            yield
            return
        queue = Queue(self.database, self.means.patience)
        looking = for_all(self._look(queue))
        try:
            yield
        finally:
            await _cancelled([looking])
            await self._leave(queue)

    async def _leave(self, queue: Queue) -> None:
        """Let what is under way come to its end, for a while, and others have the rest."""
        turns = dict(self._turns)
        for turn in turns.values():
            turn.is_over = True
            turn.moved.set()
        tasks = [turn.task for turn in turns.values() if turn.task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=LEAVING)
            await _cancelled(late)
            with suppress(*FAILURES):
                await queue.release(list(turns))

    async def _look(self, queue: Queue) -> None:
        while True:
            self._stirred.clear()
            try:
                await self._claim(queue)
            except FAILURES:
                log.warning("webhooks: the next look for work is in %s s", self.interval, exc_info=True)
            except Exception:
                # Whatever it was, it must not end all that is to be told.
                log.exception("webhooks: the next look for work is in %s s", self.interval)
            await asyncio.sleep(GAP)
            try:
                async with asyncio.timeout(self.interval):
                    await self._stirred.wait()
            except TimeoutError:
                continue

    async def _claim(self, queue: Queue) -> None:
        await self._take(queue, self.slots - len(self._turns), is_down=False)
        # Those where nothing gets through take their time: half of the slots are for the others.
        down = self.slots // 2 - sum(turn.is_down for turn in self._turns.values())
        await self._take(queue, min(self.slots - len(self._turns), down), is_down=True)

    async def _take(self, queue: Queue, free: int, *, is_down: bool) -> None:
        # By our clock the lease is over before it is by that of Postgres.
        ends = monotonic() + self.lease()
        for hook in await queue.claim(free, self.lease(), down=is_down):
            turn = self._turns[hook.id] = Turn(self, queue, hook.id, hook.config_id, hook.owner_id, is_down, ends)
            turn.task = for_all(turn.run())
            turn.task.add_done_callback(partial(self._end, hook.id))

    def _end(self, webhook_id: str, _: object) -> None:
        del self._turns[webhook_id]
        self._stirred.set()

    def lease(self) -> float:
        """Seconds for which a webhook is taken at a time."""
        return self.longest() + SLACK

    def longest(self) -> float:
        """Seconds that one message takes at most, from its making to its answer."""
        return self.means.making + self.means.outgoing.timeout + MARGIN

    def render_slots(self, owner_id: str) -> asyncio.Semaphore:
        """What a message of this owner's is rendered under."""
        return self._render_slots.setdefault(owner_id, asyncio.Semaphore(MAX_OWNER_RENDERS))

    def is_slot_wanted(self, owner_id: str) -> bool:
        """Whether another webhook may be waiting for a slot of this owner's: it holds as many as it may have."""
        free = self.slots - len(self._turns)
        return sum(turn.owner_id == owner_id for turn in self._turns.values()) * FREE_SLOTS_PER_SLOT >= free


@dataclass(slots=True, eq=False)
class Turn:
    """One webhook while it is ours."""

    deliverer: Deliverer
    queue: Queue
    webhook_id: str
    config_id: str
    owner_id: str
    is_down: bool
    # When the lease ends, by our clock.
    ends: float
    task: asyncio.Task[None] | None = None
    is_over: bool = False
    has_failed: bool = False
    # How many messages may be under way, and those that are next, as they were at a moment.
    most: int = PARALLEL
    ready: deque[Row] = field(default_factory=deque)
    read_at: float = 0.0
    # What is under way, by lane.
    busy: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Tell what there is to tell, then let go."""
        began = monotonic()
        try:
            async with self.deliverer.means.outgoing.session(PARALLEL, self.owner_id) as session:
                try:
                    while not self.is_over and await self._round(session):
                        await self._hold(began)
                    await asyncio.gather(*self.busy.values(), return_exceptions=True)
                finally:
                    await _cancelled(self.busy.values())
            # Where something went wrong it is nobody's until the lease ends: what is done again at once fails again at once.
            if not self.has_failed:
                await self.queue.release([self.webhook_id])
        except FAILURES:
            log.warning("webhook %s is left for now", self.webhook_id, exc_info=True)
        except Exception:
            log.exception("webhook %s is left for now", self.webhook_id)

    async def _hold(self, began: float) -> None:
        """Keep the lease, in good time."""
        moment = monotonic()
        if moment - began > TURN and self.deliverer.is_slot_wanted(self.owner_id):
            self.is_over = True
        elif self.ends - moment < self.deliverer.longest() + SLACK / 2:
            self.is_over = not await self.queue.renew(self.webhook_id, self.deliverer.lease())
            self.ends = moment + self.deliverer.lease()

    async def _round(self, session: Session) -> bool:
        """Begin what can be begun, and wait for something to happen; False when there is nothing to do here."""
        self.moved.clear()
        if monotonic() - self.read_at > FRESH:
            self.ready.clear()
        if not self.ready and len(self.busy) < self.most and not await self._fill():
            return False
        if self.ends - monotonic() < self.deliverer.longest():
            return False
        while self.ready and len(self.busy) < self.most:
            self._start(self.ready.popleft(), session)
        if self.busy:
            await self._waited()
        return True

    async def _fill(self) -> bool:
        """Read what is due next, from the log where need be; False where there is nothing to do, or somebody else is at it."""
        rows = await self.queue.due(self.webhook_id, self.busy, AHEAD)
        if not rows:
            return False
        self.most, self.read_at = 1 if rows[0].is_down else PARALLEL, monotonic()
        self.ready.extend(row for row in rows if row.id is not None)
        if not self.ready and rows[0].read_to != rows[0].head and await self._read_log(rows[0]):
            # What was read may be due at once.
            self.moved.set()
        return bool(self.ready or self.busy or self.moved.is_set())

    def _start(self, row: Row, session: Session) -> None:
        task = self.busy[row.lane] = asyncio.create_task(self._deliver(row, session))
        task.add_done_callback(lambda _: self._done(row.lane))

    def _done(self, lane: str) -> None:
        task = self.busy.pop(lane)
        self.moved.set()
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error:
            # It is tried again: by whoever is at this webhook next.
            self.is_over = self.has_failed = True
        if error:
            log.warning("webhook %s: what came of a message could not be noted", self.webhook_id, exc_info=error)

    async def _waited(self) -> None:
        try:
            async with asyncio.timeout(min(self.deliverer.interval, 1.0)):
                await self.moved.wait()
        except TimeoutError:
            return

    # ------------------------------------------------------------------------------------- from log to queue

    async def _read_log(self, hook: Row) -> bool:
        """Make deliveries of the next entries of the log; whether there were any entries."""
        if await self.queue.waiting(hook.webhook_id) >= MOST_PENDING:
            return False
        read_to, rows = await self._next(hook)
        return await self.queue.add(hook, read_to, rows)

    async def _next(self, hook: Row) -> tuple[int, list[dict[str, Any]]]:
        entries = await store_log.read(self.deliverer.database, hook.config_id, hook.read_to, BATCH)
        if not entries or entries[0].position != hook.read_to + 1:
            # What was to come next is gone: `head` was read before, so that it is not merely on its way.
            self.deliverer.told.resets += 1
            to = entries[0].position - 1 if entries else hook.head
            return to, [_row(RESET, to, hook.config_id, None, reason=LOST, occurred_at=now())]
        return entries[-1].position, _rows(hook, entries)

    # ------------------------------------------------------------------------------------- from queue to wire

    async def _deliver(self, row: Row, session: Session) -> None:
        means = self.deliverer.means
        async with self.deliverer.render_slots(self.owner_id):
            # The wait may have been long, and what is begun has to end within the lease. Nothing was tried: it stays due.
            if self.ends - monotonic() < self.deliverer.longest():
                return
            at = now()
            made = await render(means, row)
        attempt = await send(means, session, row, made) if isinstance(made, Message) else made
        self._count(attempt)
        if attempt.error is not None:
            # What comes next depends on it.
            self.ready.clear()
        disabled = await self.queue.finish(row.webhook_id, row.id, attempt, at)
        if disabled:
            self.deliverer.told.disabled += 1
            log.warning("webhook %s of store %s is disabled: %s", row.webhook_id, row.config_id, disabled)

    def _count(self, attempt: Attempt) -> None:
        told = self.deliverer.told
        told.delivered += attempt.state == "delivered"
        told.failed += attempt.error is not None
        told.given_up += attempt.state == "failed"
        told.seconds += attempt.milliseconds / 1000


def _rows(hook: Row, entries: Sequence[Row]) -> list[dict[str, Any]]:
    audience = AUDIENCES[hook.read_as]
    told = ((entry, topic_of(entry, audience, is_open=hook.is_open)) for entry in entries)
    return [
        _row(
            topic.value,
            entry.position,
            hook.config_id,
            entry.product_id,
            changed_fields=entry.changed_fields,
            client_mutation_id=entry.client_mutation_id,
            occurred_at=entry.occurred_at,
        )
        for entry, topic in told
        if topic is not None and topic.value in hook.topics
    ]


def _row(type_: str, position: int, config_id: str, product_id: str | None, **more: Any) -> dict[str, Any]:
    lane = product_id or config_id
    about = {"id": new_id(), "type": type_, "position": position, "lane": lane, "product_id": product_id}
    return {**about, "changed_fields": [], "client_mutation_id": None, "reason": None, **more}


async def _cancelled(tasks: Any) -> None:
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
