"""Webhook dispatcher: delivers the log of a store at least once, and in order per lane (one product, or the store itself).

Each serving process leases webhooks with work to do, for a while each, and sends a few messages of each in parallel. State that
another process needs is committed to Postgres before it takes effect, so a process may be killed at any point.
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
from storefront.core.leases import LeaseLost
from storefront.core.net.safe_http import HttpSession
from storefront.core.request_context import create_detached_task
from storefront.core.tasks import cancel_and_wait
from storefront.feed import log as store_log
from storefront.models.row_keys import RowKey
from storefront.models.rows import ChangeRow
from storefront.webhooks.queue import FREE_SLOTS_PER_SLOT, MAX_PENDING_DELIVERIES, DeliveryAttempt, DeliveryQueue
from storefront.webhooks.sending import DeliveryDependencies, WebhookMessage, render_message, send_message, utc_now_iso
from storefront.webhooks.topics import AUDIENCE_BY_READER, RESET_MESSAGE_TYPE, find_topic

log = logging.getLogger("storefront")

# In-flight messages of one webhook, each on another lane.
MAX_PARALLEL_MESSAGES = 4
# Batch sizes: log entries, and due deliveries, that are read at a time.
LOG_BATCH_ENTRIES, MAX_PREFETCHED_DELIVERIES = 500, 32
# Seconds that a lease lasts beyond the deadline of one message, and the safety margin that is part of this deadline.
LEASE_SLACK_SECONDS, LEASE_MARGIN_SECONDS = 10.0, 3.0
# Seconds after which a webhook and its due deliveries are read again: prefetched rows go stale.
REFRESH_INTERVAL_SECONDS = 1.0
# Seconds after which a session ends if other webhooks wait for its slot.
MAX_SESSION_SECONDS = 20.0
# Messages of one owner that are rendered at a time: rendering takes CPU, and would delay the messages of other owners.
MAX_OWNER_RENDERS = 4
# Seconds between two polls at least; seconds that in-flight messages have to finish when the server shuts down.
MIN_POLL_INTERVAL_SECONDS, SHUTDOWN_TIMEOUT_SECONDS = 0.05, 3.0

LOG_GAP_REASON = "part of the log was deleted: refetch the store, then continue from this position"


@dataclass(slots=True)
class DeliveryStats:
    """Counters of this process since it started."""

    delivered: int = 0
    failed: int = 0
    dead_lettered: int = 0
    resets: int = 0
    disabled: int = 0
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Dispatcher:
    """The dispatcher of this process: `slots` webhooks at a time. Polls for work at an interval, and when notified by pub/sub."""

    database: Database
    dependencies: DeliveryDependencies
    poll_interval_seconds: float
    slots: int = 64
    stats: DeliveryStats = field(default_factory=DeliveryStats)
    _sessions: "dict[RowKey, DeliverySession]" = field(default_factory=dict)
    _wake_event: asyncio.Event = field(default_factory=asyncio.Event)
    _render_semaphores: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)

    @property
    def active_webhooks(self) -> int:
        """Webhooks that this process has leased."""
        return len(self._sessions)

    @property
    def in_flight(self) -> int:
        """Messages that are being rendered or sent."""
        return sum(len(session.active_lanes) for session in self._sessions.values())

    def notify_log_moved(self, config_id: str) -> None:
        """Wake up: pub/sub says that the log of a store has new entries."""
        self._wake_event.set()
        for session in self._sessions.values():
            if session.webhook.config_id == config_id:
                session.wake_event.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver while this lasts. Does nothing if the poll interval is 0."""
        if not self.poll_interval_seconds:
            yield
            return
        queue = DeliveryQueue(self.database, self.dependencies.retry_policy)
        poll_task = create_detached_task(self._poll_queue(queue))
        try:
            yield
        finally:
            await cancel_and_wait([poll_task])
            await self._shut_down(queue)

    async def _shut_down(self, queue: DeliveryQueue) -> None:
        """Graceful shutdown: wait a while for in-flight messages, then cancel them, and release all leases."""
        sessions = dict(self._sessions)
        for session in sessions.values():
            session.should_stop = True
            session.wake_event.set()
        tasks = [session.task for session in sessions.values() if session.task]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT_SECONDS)
            await cancel_and_wait(unfinished)
            with suppress(*DATABASE_ERRORS):
                await queue.release_webhooks(list(sessions))

    async def _poll_queue(self, queue: DeliveryQueue) -> None:
        while True:
            self._wake_event.clear()
            try:
                await self._claim_webhooks(queue)
            except DATABASE_ERRORS:
                log.warning("webhooks: the poll failed; the next one is in %s s", self.poll_interval_seconds, exc_info=True)
            except Exception:
                # No error may end the poll loop.
                log.exception("webhooks: the poll failed; the next one is in %s s", self.poll_interval_seconds)
            await asyncio.sleep(MIN_POLL_INTERVAL_SECONDS)
            try:
                async with asyncio.timeout(self.poll_interval_seconds):
                    await self._wake_event.wait()
            except TimeoutError:
                continue

    async def _claim_webhooks(self, queue: DeliveryQueue) -> None:
        await self._start_sessions(queue, self.slots - len(self._sessions), is_down=False)
        # Webhooks that are down occupy a slot until their timeout: half of the slots are reserved for healthy ones.
        down_slots = self.slots // 2 - sum(session.is_down for session in self._sessions.values())
        await self._start_sessions(queue, min(self.slots - len(self._sessions), down_slots), is_down=True)

    async def _start_sessions(self, queue: DeliveryQueue, free_slots: int, *, is_down: bool) -> None:
        # Taken before the claim: by this clock the lease expires earlier than by the clock of Postgres.
        lease_ends_at = monotonic() + self.lease_seconds()
        for hook in await queue.claim_webhooks(free_slots, self.lease_seconds(), is_down=is_down):
            key = RowKey(hook.config_id, hook.id)
            session = self._sessions[key] = DeliverySession(self, queue, key, hook.owner_id, is_down, lease_ends_at)
            session.task = create_detached_task(session.run())
            session.task.add_done_callback(partial(self._on_session_end, key))

    def _on_session_end(self, webhook: RowKey, _: object) -> None:
        del self._sessions[webhook]
        self._wake_event.set()

    def lease_seconds(self) -> float:
        """Seconds of a lease."""
        return self.max_message_seconds() + LEASE_SLACK_SECONDS

    def max_message_seconds(self) -> float:
        """Deadline of one message in seconds: rendering, sending, and a safety margin."""
        return self.dependencies.render_timeout_seconds + self.dependencies.http_client.timeout + LEASE_MARGIN_SECONDS

    def get_render_semaphore(self, owner_id: str) -> asyncio.Semaphore:
        """The semaphore that limits how many messages of an owner are rendered at a time."""
        return self._render_semaphores.setdefault(owner_id, asyncio.Semaphore(MAX_OWNER_RENDERS))

    def is_slot_wanted(self, owner_id: str) -> bool:
        """Whether an owner holds as many slots as it may, so that another of its webhooks may wait for one."""
        free_slots = self.slots - len(self._sessions)
        return sum(session.owner_id == owner_id for session in self._sessions.values()) * FREE_SLOTS_PER_SLOT >= free_slots


@dataclass(slots=True, eq=False)
class DeliverySession:
    """One webhook while its lease is held: its due deliveries, and the in-flight message of each lane."""

    dispatcher: Dispatcher
    queue: DeliveryQueue
    webhook: RowKey
    owner_id: str
    is_down: bool
    # When the lease expires, by the monotonic clock of this process.
    lease_ends_at: float
    task: asyncio.Task[None] | None = None
    should_stop: bool = False
    has_failed: bool = False
    # How many messages may be in flight, and the prefetched deliveries, as of `refreshed_at`.
    max_parallel: int = MAX_PARALLEL_MESSAGES
    due_deliveries: deque[Row] = field(default_factory=deque)
    refreshed_at: float = 0.0
    # In-flight deliveries by lane.
    active_lanes: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    wake_event: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Deliver what is due, then release the lease."""
        started_at = monotonic()
        try:
            async with self.dispatcher.dependencies.http_client.session(MAX_PARALLEL_MESSAGES, self.owner_id) as http_session:
                try:
                    while not self.should_stop and await self._run_iteration(http_session):
                        await self._extend_lease(started_at)
                    await asyncio.gather(*self.active_lanes.values(), return_exceptions=True)
                finally:
                    await cancel_and_wait(self.active_lanes.values())
            # After an error the lease is left to expire, as a backoff: an immediate retry would fail again.
            if not self.has_failed:
                await self.queue.release_webhooks([self.webhook])
        except DATABASE_ERRORS:
            log.warning("webhook %s: the session failed; its lease is left to expire", self.webhook.id, exc_info=True)
        except Exception:
            log.exception("webhook %s: the session failed; its lease is left to expire", self.webhook.id)

    async def _extend_lease(self, started_at: float) -> None:
        """Heartbeat, in time for one more message; or end the session, if it has lasted long enough and its slot is wanted.

        Between messages, not in the background: a session that hangs has to lose its lease.
        """
        current_time = monotonic()
        if current_time - started_at > MAX_SESSION_SECONDS and self.dispatcher.is_slot_wanted(self.owner_id):
            self.should_stop = True
        elif self.lease_ends_at - current_time < self.dispatcher.max_message_seconds() + LEASE_SLACK_SECONDS / 2:
            try:
                await self.queue.extend_lease(self.webhook, self.dispatcher.lease_seconds())
            except LeaseLost:
                self.should_stop = True
            self.lease_ends_at = current_time + self.dispatcher.lease_seconds()

    async def _run_iteration(self, http_session: HttpSession) -> bool:
        """Start the deliveries that can start, and wait for an event; False when nothing is left to do."""
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
        """Prefetch due deliveries, from the log if none is queued; False if there is no work, or the lease was lost."""
        rows = await self.queue.load_due(self.webhook, self.active_lanes, MAX_PREFETCHED_DELIVERIES)
        if not rows:
            return False
        self.max_parallel, self.refreshed_at = 1 if rows[0].is_down else MAX_PARALLEL_MESSAGES, monotonic()
        self.due_deliveries.extend(row for row in rows if row.id is not None)
        if not self.due_deliveries and rows[0].read_to != rows[0].head and await self._enqueue_log_entries(rows[0]):
            # New deliveries may be due at once: load them in the next iteration.
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
            # The delivery stays due: the next session retries it.
            self.should_stop = self.has_failed = True
        if error:
            log.warning("webhook %s: the result of an attempt could not be recorded", self.webhook.id, exc_info=error)

    async def _wait_for_event(self) -> None:
        try:
            async with asyncio.timeout(min(self.dispatcher.poll_interval_seconds, 1.0)):
                await self.wake_event.wait()
        except TimeoutError:
            return

    # ------------------------------------------------------------------------------------- from log to queue

    async def _enqueue_log_entries(self, hook: Row) -> bool:
        """Turn the next entries of the log into deliveries; False under backpressure, or if `hook` is out of date."""
        if await self.queue.count_pending(self.webhook) >= MAX_PENDING_DELIVERIES:
            return False
        read_to, rows = await self._read_next_entries(hook)
        return await self.queue.enqueue(hook, read_to, rows)

    async def _read_next_entries(self, hook: Row) -> tuple[int, list[dict[str, Any]]]:
        entries = await store_log.read_entries(self.dispatcher.database, hook.config_id, hook.read_to, LOG_BATCH_ENTRIES)
        if not entries or entries[0].position != hook.read_to + 1:
            # A gap: the next entry was deleted. It is not just uncommitted, because `head` was read before.
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
            # The wait may have been long, and a delivery has to end within the lease. Without an attempt it stays due.
            if self.lease_ends_at - monotonic() < self.dispatcher.max_message_seconds():
                return
            started_at = utc_now_iso()
            message = await render_message(dependencies, row)
        attempt = await send_message(dependencies, http_session, row, message) if isinstance(message, WebhookMessage) else message
        self._count_attempt(attempt)
        if attempt.error is not None:
            # The failure decides what is due next: prefetched deliveries are stale.
            self.due_deliveries.clear()
        disabled_reason = await self.queue.finish_attempt(self.webhook, row.id, attempt, started_at)
        if disabled_reason:
            self.dispatcher.stats.disabled += 1
            log.warning("webhook %s of store %s is disabled: %s", row.webhook_id, row.config_id, disabled_reason)

    def _count_attempt(self, attempt: DeliveryAttempt) -> None:
        stats = self.dispatcher.stats
        stats.delivered += attempt.state == "delivered"
        stats.failed += attempt.error is not None
        stats.dead_lettered += attempt.state == "failed"
        stats.seconds += attempt.milliseconds / 1000


def _build_deliveries(hook: Row, entries: Sequence[ChangeRow]) -> list[dict[str, Any]]:
    audience = AUDIENCE_BY_READER[hook.read_as]
    entry_topics = ((entry, find_topic(entry, audience, is_published=hook.is_open)) for entry in entries)
    return [
        _build_delivery(
            str(topic.value),
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
