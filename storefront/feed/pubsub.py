"""Tells the processes of one shop that a log has moved. Every wake-up may be lost: whoever listens also looks by itself."""

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
# Seconds between the words that a process sends to itself, and how long it waits for one before it takes the line for dead.
PROBE_INTERVAL_SECONDS, PROBE_TIMEOUT_SECONDS = 5.0, 3.0
# Seconds between two tries to make the line anew: it is back about as soon as the database is.
MIN_RECONNECT_DELAY_SECONDS, MAX_RECONNECT_DELAY_SECONDS = 0.1, 1.0
# How often, and for how many seconds each time, a task is asked to stop.
MAX_CANCEL_ATTEMPTS, CANCEL_TIMEOUT_SECONDS = 5, 0.3


def create_broadcast(url: str) -> Broadcast:
    """The broadcaster that a URL names. Postgres is our own backend: the library's needs another driver."""
    scheme = url.partition(":")[0]
    if scheme in ("postgres", "postgresql"):
        return Broadcast(backend=PostgresBackend(url))
    if scheme in ("redis", "rediss", "redis-stream"):
        # Imported here because the client of Redis is an extra.
        from storefront.feed.pubsub_redis import RedisBackend, RedisStreamBackend  # noqa: PLC0415

        return Broadcast(backend=(RedisStreamBackend if scheme == "redis-stream" else RedisBackend)(url))
    return Broadcast(url)


@asynccontextmanager
async def _broadcast_connection(url: str) -> AsyncIterator[Broadcast]:
    broadcast = create_broadcast(url)
    try:
        async with broadcast:
            yield broadcast
    finally:
        # The library leaves its backend's connections open when its listener has failed.
        with suppress(Exception):
            await broadcast._backend.disconnect()


class PubSub:
    """This process's line to the others: one subscription, kept alive.

    A broadcaster's listener may die without a word. A process therefore sends itself a word now and then, and makes the line
    anew when it does not come back.
    """

    def __init__(self, url: str, *listeners: Callable[[str], None]) -> None:
        self._url, self._listeners = url, listeners
        self._pending_keys: set[str] = set()
        self._publish_requested = asyncio.Event()
        self._probe_message, self._probe_received = f"probe {token_hex(8)}", asyncio.Event()
        self._reconnect_delay = MIN_RECONNECT_DELAY_SECONDS
        self._is_stopping = False

    def add_listener(self, listener: Callable[[str], None]) -> None:
        """Tell one more."""
        self._listeners = (*self._listeners, listener)

    def publish(self, key: str) -> None:
        """Wake everyone for a store, soon: never waits, and a store that moves often is told once."""
        self._notify_listeners(key)
        self._pending_keys.add(key)
        self._publish_requested.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen and speak while this lasts."""
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
                # Whatever the line is made of, it is made again; meanwhile the hub looks by itself.
                log.warning(
                    "wake-ups interrupted (%s); the line is made anew in %.1f s", type(error).__name__, self._reconnect_delay
                )
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
            # Only now is the line known to work: some connect, and fail at the first word.
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
            # First what was left when the last line broke.
            while self._pending_keys:
                await broadcast.publish(CHANNEL_NAME, self._pending_keys.pop())
            await self._publish_requested.wait()

    async def _probe_connection(self, broadcast: Broadcast) -> None:
        while True:
            self._probe_received.clear()
            # To speak may take for ever as well, where the line is gone without a word.
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await broadcast.publish(CHANNEL_NAME, self._probe_message)
                await self._probe_received.wait()
            await asyncio.sleep(PROBE_INTERVAL_SECONDS)


async def _cancel_tasks(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel until it takes: clients of brokers have been seen to swallow a cancellation. What still runs then is left."""
    for _ in range(MAX_CANCEL_ATTEMPTS):
        for task in tasks:
            task.cancel()
        _, unfinished = await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_SECONDS)
        if not unfinished:
            break
    for task in tasks:
        if task.done() and not task.cancelled():
            # Looked at, so that nobody is told of an exception that was expected.
            task.exception()
