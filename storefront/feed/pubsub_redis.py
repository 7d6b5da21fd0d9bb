"""Redis pub/sub: the backend of the library broadcaster, with fixes. Needs the extra `redis`."""

import asyncio
from contextlib import suppress

from broadcaster._backends import redis

from storefront.core.tasks import retrieve_exception

# Seconds to wait for a cancelled reader.
READER_STOP_TIMEOUT_SECONDS = 1.0


class RedisBackend(redis.RedisBackend):
    """Redis pub/sub."""

    async def subscribe(self, channel: str) -> None:
        """Subscribe to a channel. The library starts to read before it has subscribed, and then never reads anything."""
        await self._pubsub.subscribe(channel)
        self._ready.set()

    async def disconnect(self) -> None:
        """Stop reading, then close all connections. The library closes first, and stops at the first error."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener}, timeout=READER_STOP_TIMEOUT_SECONDS)
            if self._listener.done():
                retrieve_exception(self._listener)
        for close in (self._pubsub.aclose, self._conn.aclose):
            with suppress(Exception):
                await close()
