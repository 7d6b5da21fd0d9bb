"""Wake-ups through Redis: the library's backends, mended in two places. Needs the extra `redis`."""

from typing import Any

from broadcaster._backends import redis

# A stream keeps what it was told until it is trimmed. Nobody goes back to old wake-ups.
MOST_KEPT = 1_000


class RedisBackend(redis.RedisBackend):
    """Publish and subscribe."""

    async def subscribe(self, channel: str) -> None:
        """Hear of a channel from now on. The library starts to read before it has subscribed, and then reads nothing ever."""
        await self._pubsub.subscribe(channel)
        self._ready.set()


class RedisStreamBackend(redis.RedisStreamBackend):
    """Streams. The library's grow without end."""

    async def publish(self, channel: str, message: Any) -> None:
        """Wake the others."""
        await self._producer.xadd(channel, {"message": message}, maxlen=MOST_KEPT, approximate=True)
