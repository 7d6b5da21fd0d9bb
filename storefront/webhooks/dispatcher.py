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

from storefront.core.db.database import DATABASE_ERRORS, Database, Row
from storefront.core.ids import new_id
from storefront.core.net.safe_http import HttpSession
from storefront.core.request_context import create_detached_task
from storefront.feed import log as store_log
from storefront.webhooks.queue import FREE_SLOTS_PER_SLOT, MAX_PENDING_DELIVERIES, DeliveryAttempt, DeliveryQueue
from storefront.webhooks.sending import DeliveryDependencies, WebhookMessage, render_message, send_message, utc_now_iso
from storefront.webhooks.topics import AUDIENCE_BY_READER, RESET_MESSAGE_TYPE, find_topic

log = logging.getLogger("storefront")

# Messages of one webhook that are under way at a time, each about another product.
MAX_PARALLEL_MESSAGES = 4
# Entries of a log that are read at a time, and deliveries that are.
LOG_BATCH_ENTRIES, MAX_PREFETCHED_DELIVERIES = 500, 32
# Seconds that a lease lasts beyond what one message may take, and those that it must have left when one is begun.
LEASE_SLACK_SECONDS, LEASE_MARGIN_SECONDS = 10.0, 3.0
# Seconds for which a webhook is taken for what it was: then it is read again, with what there is to tell.
REFRESH_INTERVAL_SECONDS = 1.0
# Seconds after which a webhook gives way to others that wait.
MAX_SESSION_SECONDS = 20.0
# Messages of one owner that are rendered at a time: it is what takes CPU, and what others' messages would wait for.
MAX_OWNER_RENDERS = 4
# Seconds between two looks at least, and what is under way has to come to its end when the server stops.
MIN_POLL_INTERVAL_SECONDS, SHUTDOWN_TIMEOUT_SECONDS = 0.05, 3.0

LOG_GAP_REASON = "a part of the log is no longer kept: refetch, then go on from here"


@dataclass(slots=True)
class DeliveryStats:
    """What this process has told so far."""

    delivered: int = 0
    failed: int = 0
    dead_lettered: int = 0
    resets: int = 0
    disabled: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Dispatcher:
    """Delivers for this process: `slots` webhooks at a time, looking for work every `interval` seconds and when woken."""

    database: Database
    dependencies: DeliveryDependencies
    poll_interval_seconds: float
    slots: int = 64
    stats: DeliveryStats = field(default_factory=DeliveryStats)
    _sessions: "dict[str, DeliverySession]" = field(default_factory=dict)
    _wake_event: asyncio.Event = field(default_factory=asyncio.Event)
    _render_semaphores: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    @property
    def active_webhooks(self) -> int:
        """How many webhooks this process is at."""
        return len(self._sessions)

    @property
    def in_flight(self) -> int:
        """How many messages it is sending."""
        return sum(len(session.active_lanes) for session in self._sessions.values())

    def notify_log_moved(self, config_id: str) -> None:
        """A store's log has moved, somebody says."""
        self._wake_event.set()
        for session in self._sessions.values():
            if session.config_id == config_id:
                session.wake_event.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver while this lasts."""
        if not self.poll_interval_seconds:
            yield
            return
        queue = DeliveryQueue(self.database, self.dependencies.retry_policy)
        poll_task = create_detached_task(self._poll_queue(queue))
        try:
            yield
        finally:
            await _cancel_tasks([poll_task])
            await self._shut_down(queue)

    async def _shut_down(self, queue: DeliveryQueue) -> None:
        """Let what is under way come to its end, for a while, and others have the rest."""
        sessions = dict(self._sessions)
        for session in sessions.values():
            session.should_stop = True
            session.wake_event.set()
        tasks = [session.task for session in sessions.values() if session.task]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT_SECONDS)
            await _cancel_tasks(unfinished)
            with suppress(*DATABASE_ERRORS):
                await queue.release_webhooks(list(sessions))

    async def _poll_queue(self, queue: DeliveryQueue) -> None:
        while True:
            self._wake_event.clear()
            try:
                await self._claim_webhooks(queue)
            except DATABASE_ERRORS:
                log.warning("webhooks: the next look for work is in %s s", self.poll_interval_seconds, exc_info=True)
            except Exception:
                # Whatever it was, it must not end all that is to be told.
                log.exception("webhooks: the next look for work is in %s s", self.poll_interval_seconds)
            await asyncio.sleep(MIN_POLL_INTERVAL_SECONDS)
            try:
                async with asyncio.timeout(self.poll_interval_seconds):
                    await self._wake_event.wait()
            except TimeoutError:
                continue

    async def _claim_webhooks(self, queue: DeliveryQueue) -> None:
        await self._start_sessions(queue, self.slots - len(self._sessions), is_down=False)
        # Those where nothing gets through take their time: half of the slots are for the others.
        down_slots = self.slots // 2 - sum(session.is_down for session in self._sessions.values())
        await self._start_sessions(queue, min(self.slots - len(self._sessions), down_slots), is_down=True)

    async def _start_sessions(self, queue: DeliveryQueue, free_slots: int, *, is_down: bool) -> None:
        # By our clock the lease is over before it is by that of Postgres.
        lease_ends_at = monotonic() + self.lease_seconds()
        for hook in await queue.claim_webhooks(free_slots, self.lease_seconds(), is_down=is_down):
            session = self._sessions[hook.id] = DeliverySession(
                self, queue, hook.id, hook.config_id, hook.owner_id, is_down, lease_ends_at
            )
            session.task = create_detached_task(session.run())
            session.task.add_done_callback(partial(self._on_session_end, hook.id))

    def _on_session_end(self, webhook_id: str, _: object) -> None:
        del self._sessions[webhook_id]
        self._wake_event.set()

    def lease_seconds(self) -> float:
        """Seconds for which a webhook is taken at a time."""
        return self.max_message_seconds() + LEASE_SLACK_SECONDS

    def max_message_seconds(self) -> float:
        """Seconds that one message takes at most, from its making to its answer."""
        return self.dependencies.render_timeout_seconds + self.dependencies.http_client.timeout + LEASE_MARGIN_SECONDS

    def get_render_semaphore(self, owner_id: str) -> asyncio.Semaphore:
        """What a message of this owner's is rendered under."""
        return self._render_semaphores.setdefault(owner_id, asyncio.Semaphore(MAX_OWNER_RENDERS))

    def is_slot_wanted(self, owner_id: str) -> bool:
        """Whether another webhook may be waiting for a slot of this owner's: it holds as many as it may have."""
        free_slots = self.slots - len(self._sessions)
        return sum(session.owner_id == owner_id for session in self._sessions.values()) * FREE_SLOTS_PER_SLOT >= free_slots


@dataclass(slots=True, eq=False)
class DeliverySession:
    """One webhook while it is ours."""

    dispatcher: Dispatcher
    queue: DeliveryQueue
    webhook_id: str
    config_id: str
    owner_id: str
    is_down: bool
    # When the lease ends, by our clock.
    lease_ends_at: float
    task: asyncio.Task[None] | None = None
    should_stop: bool = False
    has_failed: bool = False
    # How many messages may be under way, and those that are next, as they were at a moment.
    max_parallel: int = MAX_PARALLEL_MESSAGES
    due_deliveries: deque[Row] = field(default_factory=deque)
    refreshed_at: float = 0.0
    # What is under way, by lane.
    active_lanes: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    wake_event: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Tell what there is to tell, then let go."""
        started_at = monotonic()
        try:
            async with self.dispatcher.dependencies.http_client.session(MAX_PARALLEL_MESSAGES, self.owner_id) as http_session:
                try:
                    while not self.should_stop and await self._run_iteration(http_session):
                        await self._renew_lease(started_at)
                    await asyncio.gather(*self.active_lanes.values(), return_exceptions=True)
                finally:
                    await _cancel_tasks(self.active_lanes.values())
            # Where something went wrong it is nobody's until the lease ends: what is done again at once fails again at once.
            if not self.has_failed:
                await self.queue.release_webhooks([self.webhook_id])
        except DATABASE_ERRORS:
            log.warning("webhook %s is left for now", self.webhook_id, exc_info=True)
        except Exception:
            log.exception("webhook %s is left for now", self.webhook_id)

    async def _renew_lease(self, started_at: float) -> None:
        """Keep the lease, in good time."""
        current_time = monotonic()
        if current_time - started_at > MAX_SESSION_SECONDS and self.dispatcher.is_slot_wanted(self.owner_id):
            self.should_stop = True
        elif self.lease_ends_at - current_time < self.dispatcher.max_message_seconds() + LEASE_SLACK_SECONDS / 2:
            self.should_stop = not await self.queue.renew_lease(self.webhook_id, self.dispatcher.lease_seconds())
            self.lease_ends_at = current_time + self.dispatcher.lease_seconds()

    async def _run_iteration(self, http_session: HttpSession) -> bool:
        """Begin what can be begun, and wait for something to happen; False when there is nothing to do here."""
        self.wake_event.clear()
        if monotonic() - self.refreshed_at > REFRESH_INTERVAL_SECONDS:
            self.due_deliveries.clear()
        if not self.due_deliveries and len(self.active_lanes) < self.max_parallel and not await self._load_due():
            return False
        if self.lease_ends_at - monotonic() < self.dispatcher.max_message_seconds():
            return False
        while self.due_deliveries and len(self.active_lanes) < self.max_parallel:
            self._start_delivery(self.due_deliveries.popleft(), http_session)
        if self.active_lanes:
            await self._wait_for_event()
        return True

    async def _load_due(self) -> bool:
        """Read what is due next, from the log where need be; False where there is nothing to do, or somebody else is at it."""
        rows = await self.queue.load_due(self.webhook_id, self.active_lanes, MAX_PREFETCHED_DELIVERIES)
        if not rows:
            return False
        self.max_parallel, self.refreshed_at = 1 if rows[0].is_down else MAX_PARALLEL_MESSAGES, monotonic()
        self.due_deliveries.extend(row for row in rows if row.id is not None)
        if not self.due_deliveries and rows[0].read_to != rows[0].head and await self._enqueue_log_entries(rows[0]):
            # What was read may be due at once.
            self.wake_event.set()
        return bool(self.due_deliveries or self.active_lanes or self.wake_event.is_set())

    def _start_delivery(self, row: Row, http_session: HttpSession) -> None:
        task = self.active_lanes[row.lane] = asyncio.create_task(self._deliver(row, http_session))
        task.add_done_callback(lambda _: self._on_delivery_done(row.lane))

    def _on_delivery_done(self, lane: str) -> None:
        task = self.active_lanes.pop(lane)
        self.wake_event.set()
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error:
            # It is tried again: by whoever is at this webhook next.
            self.should_stop = self.has_failed = True
        if error:
            log.warning("webhook %s: what came of a message could not be noted", self.webhook_id, exc_info=error)

    async def _wait_for_event(self) -> None:
        try:
            async with asyncio.timeout(min(self.dispatcher.poll_interval_seconds, 1.0)):
                await self.wake_event.wait()
        except TimeoutError:
            return

    # ------------------------------------------------------------------------------------- from log to queue

    async def _enqueue_log_entries(self, hook: Row) -> bool:
        """Make deliveries of the next entries of the log; whether there were any entries."""
        if await self.queue.count_pending(hook.webhook_id) >= MAX_PENDING_DELIVERIES:
            return False
        read_to, rows = await self._read_next_entries(hook)
        return await self.queue.enqueue(hook, read_to, rows)

    async def _read_next_entries(self, hook: Row) -> tuple[int, list[dict[str, Any]]]:
        entries = await store_log.read_entries(self.dispatcher.database, hook.config_id, hook.read_to, LOG_BATCH_ENTRIES)
        if not entries or entries[0].position != hook.read_to + 1:
            # What was to come next is gone: `head` was read before, so that it is not merely on its way.
            self.dispatcher.stats.resets += 1
            reset_position = entries[0].position - 1 if entries else hook.head
            return reset_position, [
                _build_delivery(
                    RESET_MESSAGE_TYPE, reset_position, hook.config_id, None, reason=LOG_GAP_REASON, occurred_at=utc_now_iso()
                )
            ]
        return entries[-1].position, _build_deliveries(hook, entries)

    # ------------------------------------------------------------------------------------- from queue to wire

    async def _deliver(self, row: Row, http_session: HttpSession) -> None:
        dependencies = self.dispatcher.dependencies
        async with self.dispatcher.get_render_semaphore(self.owner_id):
            # The wait may have been long, and what is begun has to end within the lease. Nothing was tried: it stays due.
            if self.lease_ends_at - monotonic() < self.dispatcher.max_message_seconds():
                return
            started_at = utc_now_iso()
            message = await render_message(dependencies, row)
        attempt = await send_message(dependencies, http_session, row, message) if isinstance(message, WebhookMessage) else message
        self._count_attempt(attempt)
        if attempt.error is not None:
            # What comes next depends on it.
            self.due_deliveries.clear()
        disabled_reason = await self.queue.finish_attempt(row.webhook_id, row.id, attempt, started_at)
        if disabled_reason:
            self.dispatcher.stats.disabled += 1
            log.warning("webhook %s of store %s is disabled: %s", row.webhook_id, row.config_id, disabled_reason)

    def _count_attempt(self, attempt: DeliveryAttempt) -> None:
        stats = self.dispatcher.stats
        stats.delivered += attempt.state == "delivered"
        stats.failed += attempt.error is not None
        stats.dead_lettered += attempt.state == "failed"
        stats.seconds += attempt.milliseconds / 1000


def _build_deliveries(hook: Row, entries: Sequence[Row]) -> list[dict[str, Any]]:
    audience = AUDIENCE_BY_READER[hook.read_as]
    entry_topics = ((entry, find_topic(entry, audience, is_published=hook.is_open)) for entry in entries)
    return [
        _build_delivery(
            topic.value,
            entry.position,
            hook.config_id,
            entry.product_id,
            changed_fields=entry.changed_fields,
            client_mutation_id=entry.client_mutation_id,
            occurred_at=entry.occurred_at,
        )
        for entry, topic in entry_topics
        if topic is not None and topic.value in hook.topics
    ]


def _build_delivery(type_: str, position: int, config_id: str, product_id: str | None, **extra: Any) -> dict[str, Any]:
    lane = product_id or config_id
    columns = {"id": new_id(), "type": type_, "position": position, "lane": lane, "product_id": product_id}
    return {**columns, "changed_fields": [], "client_mutation_id": None, "reason": None, **extra}


async def _cancel_tasks(tasks: Any) -> None:
    pending = list(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
