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

CHANNEL = "storefront"
# Seconds between the words that a process sends to itself, and how long it waits for one before it takes the line for dead.
PROBE_EVERY, PROBE_WITHIN = 5.0, 3.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
# How often, and for how many seconds each time, a task is asked to stop.
TRIES, PATIENCE = 5, 0.3


def broadcast_to(url: str) -> Broadcast:
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
async def _connected(url: str) -> AsyncIterator[Broadcast]:
    broadcast = broadcast_to(url)
    try:
        async with broadcast:
            yield broadcast
    finally:
        # The library leaves its backend's connections open when its listener has failed.
        with suppress(Exception):
            await broadcast._backend.disconnect()


class WakeUps:
    """This process's line to the others: one subscription, kept alive.

    A broadcaster's listener may die without a word. A process therefore sends itself a word now and then, and makes the line
    anew when it does not come back.
    """

    def __init__(self, url: str, *listeners: Callable[[str], None]) -> None:
        self._url, self._listeners = url, listeners
        self._pending: set[str] = set()
        self._stirred = asyncio.Event()
        self._probe, self._answered = f"probe {token_hex(8)}", asyncio.Event()
        self._pause = SHORTEST_PAUSE
        self._leaving = False

    def listen(self, listener: Callable[[str], None]) -> None:
        """Tell one more."""
        self._listeners = (*self._listeners, listener)

    def publish(self, config_id: str) -> None:
        """Wake everyone for a store, soon: never waits, and a store that moves often is told once."""
        self._tell(config_id)
        self._pending.add(config_id)
        self._stirred.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen and speak while this lasts."""
        self._leaving = False
        task = asyncio.create_task(self._keep_alive())
        try:
            yield
        finally:
            self._leaving = True
            await _stopped({task})

    async def _keep_alive(self) -> None:
        while not self._leaving:
            try:
                async with _connected(self._url) as broadcast:
                    await self._converse(broadcast)
            except (Exception, asyncio.CancelledError) as error:
                if self._leaving:
                    return
                # Whatever the line is made of, it is made again; meanwhile the hub looks by itself.
                log.warning("wake-ups interrupted (%s); the line is made anew in %.1f s", type(error).__name__, self._pause)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    async def _converse(self, broadcast: Broadcast) -> None:
        async with broadcast.subscribe(CHANNEL) as events:
            tasks = {asyncio.create_task(work) for work in (self._speak(broadcast), self._check(broadcast), self._hear(events))}
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                await _stopped(tasks)

    async def _hear(self, events: Any) -> None:
        while True:
            self._take((await events.get()).message)

    def _take(self, message: str) -> None:
        if message == self._probe:
            # Only now is the line known to work: some connect, and fail at the first word.
            self._answered.set()
            self._pause = SHORTEST_PAUSE
        elif not message.startswith("probe"):
            self._tell(message)

    def _tell(self, config_id: str) -> None:
        for listener in self._listeners:
            listener(config_id)

    async def _speak(self, broadcast: Broadcast) -> None:
        while True:
            self._stirred.clear()
            # First what was left when the last line broke.
            while self._pending:
                await broadcast.publish(CHANNEL, self._pending.pop())
            await self._stirred.wait()

    async def _check(self, broadcast: Broadcast) -> None:
        while True:
            self._answered.clear()
            await broadcast.publish(CHANNEL, self._probe)
            async with asyncio.timeout(PROBE_WITHIN):
                await self._answered.wait()
            await asyncio.sleep(PROBE_EVERY)


async def _stopped(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel until it takes: clients of brokers have been seen to swallow a cancellation. What still runs then is left."""
    for _ in range(TRIES):
        for task in tasks:
            task.cancel()
        _, running = await asyncio.wait(tasks, timeout=PATIENCE)
        if not running:
            break
    for task in tasks:
        if task.done() and not task.cancelled():
            # Looked at, so that nobody is told of an exception that was expected.
            task.exception()
