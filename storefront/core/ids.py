"""Keys: UUID version 7 (RFC 9562), so that a later row has a greater key and an index grows at its end."""

import secrets
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """A new key, greater than every key this process made before."""
    global _last
    # 48 bits of milliseconds and 12 bits of their fraction: keys of one batch keep the order in which they were made.
    now = time.time_ns() * 4096 // 1_000_000
    with _lock:
        _last = max(now, _last + 1)
        ticks = _last
    return uuid7_at(ticks, secrets.randbits(62))


def uuid7_at(ticks: int, randomness: int) -> UUID:
    """The key for a moment, in 1/4096 milliseconds since 1970, with 62 bits to tell it from others of that moment."""
    milliseconds, fraction = divmod(ticks, 4096)
    return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | randomness)


def parse_id(text: str) -> str | None:
    """The canonical form of a key, or None where the text is not one."""
    try:
        return str(UUID(text)) if len(text) in (32, 36) else None
    except ValueError:
        return None
