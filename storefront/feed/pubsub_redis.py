"""Wake-ups through Redis: the library's backends, mended where they are broken. Needs the extra `redis`."""

import asyncio
from contextlib import suppress
from typing import Any

from broadcaster._backends import redis

# A stream keeps what it was told until it is trimmed. Nobody goes back to old wake-ups.
MAX_STREAM_ENTRIES = 1_000
# Seconds that a reader is given to notice that it is no longer wanted.
READER_STOP_TIMEOUT_SECONDS = 1.0


class RedisBackend(redis.RedisBackend):
    """Publish and subscribe."""

    async def subscribe(self, channel: str) -> None:
        """Hear of a channel from now on. The library starts to read before it has subscribed, and then reads nothing ever."""
        await self._pubsub.subscribe(channel)
        self._ready.set()

    async def disconnect(self) -> None:
        """Stop reading, then close everything. The library closes first, and stops there when that fails."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener}, timeout=READER_STOP_TIMEOUT_SECONDS)
            if self._listener.done() and not self._listener.cancelled():
                # Looked at, so that nobody is told of an exception that was expected.
                self._listener.exception()
        for close in (self._pubsub.aclose, self._conn.aclose):
            with suppress(Exception):
                await close()


class RedisStreamBackend(redis.RedisStreamBackend):
    """Streams. The library's grow without end."""

    async def publish(self, channel: str, message: Any) -> None:
        """Wake the others."""
        await self._producer.xadd(channel, {"message": message}, maxlen=MAX_STREAM_ENTRIES, approximate=True)

    async def disconnect(self) -> None:
        """Close both connections, whatever becomes of the first."""
        for close in (self._producer.aclose, self._consumer.aclose):
            with suppress(Exception):
                await close()
