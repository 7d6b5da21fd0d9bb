"""Pub/sub between processes: wake-ups say that a store's log has advanced. They are lossy; listeners also poll."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any

from broadcaster import Broadcast

from storefront.feed.pubsub_postgres import PostgresBackend

log = logging.getLogger("storefront")

CHANNEL_NAME = "storefront"
SUPPORTED_SCHEMES = ("memory", "postgresql", "postgres", "redis", "rediss")
# Seconds between the probes that a process sends to itself, and its timeout for one before it reconnects.
PROBE_INTERVAL_SECONDS, PROBE_TIMEOUT_SECONDS = 5.0, 3.0
# Delays between attempts to reconnect: pub/sub is back about as soon as the database is.
MIN_RECONNECT_DELAY_SECONDS, MAX_RECONNECT_DELAY_SECONDS = 0.1, 1.0
# Attempts to cancel a task, and seconds to wait after each.
MAX_CANCEL_ATTEMPTS, CANCEL_TIMEOUT_SECONDS = 5, 0.3


def create_broadcast(url: str) -> Broadcast:
    """The pub/sub backend of a URL: Postgres LISTEN/NOTIFY, Redis pub/sub or, within one process, memory.

    Raises ValueError for other schemes. Postgres has a backend of ours: the library's needs another driver.
    """
    scheme = _get_scheme(url)
    if scheme in ("postgres", "postgresql"):
        return Broadcast(backend=PostgresBackend(url))
    if scheme in ("redis", "rediss"):
        # Imported here because the client of Redis is an extra.
        from storefront.feed.pubsub_redis import RedisBackend  # noqa: PLC0415

        return Broadcast(backend=RedisBackend(url))
    return Broadcast(url)


def _get_scheme(url: str) -> str:
    scheme = url.partition(":")[0]
    if scheme not in SUPPORTED_SCHEMES:
        raise ValueError(f"STOREFRONT_BROADCAST_URL: {scheme}:// is not supported. Use one of {', '.join(SUPPORTED_SCHEMES)}.")
    return scheme


@asynccontextmanager
async def _broadcast_connection(url: str) -> AsyncIterator[Broadcast]:
    broadcast = create_broadcast(url)
    try:
        async with broadcast:
            yield broadcast
    finally:
        # The library leaves its backend's connections open after its listener failed.
        with suppress(Exception):
            await broadcast._backend.disconnect()


class PubSub:
    """The pub/sub connection of this process: one subscription that reconnects.

    A broadcaster's listener may die silently. The process therefore sends probes to itself, and reconnects when one does not
    come back. Raises ValueError for a URL with an unsupported scheme.
    """

    def __init__(self, url: str, *listeners: Callable[[str], None]) -> None:
        _get_scheme(url)
        self._url, self._listeners = url, listeners
        self._pending_keys: set[str] = set()
        self._publish_requested = asyncio.Event()
        self._probe_message, self._probe_received = f"probe {token_hex(8)}", asyncio.Event()
        self._reconnect_delay = MIN_RECONNECT_DELAY_SECONDS
        self._is_stopping = False

    def add_listener(self, listener: Callable[[str], None]) -> None:
        """Add a listener of keys."""
        self._listeners = (*self._listeners, listener)

    def publish(self, key: str) -> None:
        """Publish a key soon, without waiting. Repeated keys are coalesced; listeners of this process are called at once."""
        self._notify_listeners(key)
        self._pending_keys.add(key)
        self._publish_requested.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Subscribe and publish while this lasts."""
        self._is_stopping = False
        task = asyncio.create_task(self._maintain_connection())
        try:
            yield
        finally:
            self._is_stopping = True
            await _cancel_tasks({task})

    async def _maintain_connection(self) -> None:
        while not self._is_stopping:
            try:
                async with _broadcast_connection(self._url) as broadcast:
                    await self._run_connection(broadcast)
            except (Exception, asyncio.CancelledError) as error:
                if self._is_stopping:
                    return
                # Any error of any backend: reconnect. Meanwhile the hub polls.
                log.warning("pub/sub connection lost (%s); reconnecting in %.1f s", type(error).__name__, self._reconnect_delay)
            await asyncio.sleep(self._reconnect_delay)
            self._reconnect_delay = min(self._reconnect_delay * 2, MAX_RECONNECT_DELAY_SECONDS)

    async def _run_connection(self, broadcast: Broadcast) -> None:
        async with broadcast.subscribe(CHANNEL_NAME) as events:
            tasks = {
                asyncio.create_task(coroutine)
                for coroutine in (
                    self._publish_pending(broadcast),
                    self._probe_connection(broadcast),
                    self._receive_messages(events),
                )
            }
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await _cancel_tasks(tasks)

    async def _receive_messages(self, events: Any) -> None:
        while True:
            self._handle_message((await events.get()).message)

    def _handle_message(self, message: str) -> None:
        if message == self._probe_message:
            # Only now is the connection known to work: some connect, and fail at the first message.
            self._probe_received.set()
            self._reconnect_delay = MIN_RECONNECT_DELAY_SECONDS
        elif not message.startswith("probe"):
            self._notify_listeners(message)

    def _notify_listeners(self, key: str) -> None:
        for listener in self._listeners:
            listener(key)

    async def _publish_pending(self, broadcast: Broadcast) -> None:
        while True:
            self._publish_requested.clear()
            # First the keys left over from the last connection.
            while self._pending_keys:
                key = self._pending_keys.pop()
                try:
                    await broadcast.publish(CHANNEL_NAME, key)
                except BaseException:
                    self._pending_keys.add(key)
                    raise
            await self._publish_requested.wait()

    async def _probe_connection(self, broadcast: Broadcast) -> None:
        while True:
            self._probe_received.clear()
            # Publishing is part of the timeout: on a half-open connection it may hang as well.
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await broadcast.publish(CHANNEL_NAME, self._probe_message)
                await self._probe_received.wait()
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)


async def _cancel_tasks(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel repeatedly: clients of brokers have been seen to swallow a cancellation. Tasks that still run then are left."""
    for _ in range(MAX_CANCEL_ATTEMPTS):
        for task in tasks:
            task.cancel()
        _, unfinished = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_SECONDS)
        if not unfinished:
            break
    for task in tasks:
        if task.done() and not task.cancelled():
            # Retrieve the exception, so that asyncio does not log it.
            task.exception()
