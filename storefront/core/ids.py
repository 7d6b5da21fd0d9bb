"""Keys: UUID version 7 (RFC 9562), so that a later row has a greater key and an index grows at its end."""

import os
import re
import secrets
import threading
import time
from uuid import UUID

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# `UUID` itself accepts digits of all scripts, underscores and spaces.
_NON_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")


class _MonotonicClock:
    """A strictly monotonic clock in ticks of 1/4096 milliseconds since 1970: keys sort in the order of their creation."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_tick = 0

    def next_tick(self) -> int:
        now = time.time_ns() * 4096 // 1_000_000
        with self._lock:
            self._last_tick = max(now, self._last_tick + 1)
            return self._last_tick


_clock = _MonotonicClock()


def uuid7() -> UUID:
    """A new key, greater than all keys that this process has created before."""
    return uuid7_at(_clock.next_tick(), secrets.randbits(62))


def new_id() -> str:
    """A new key as text."""
    milliseconds, fraction = divmod(_clock.next_tick(), 4096)
    digits = f"{milliseconds:012x}7{fraction:03x}{2 << 62 | int.from_bytes(os.urandom(8)) >> 2:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def uuid7_at(ticks: int, random_bits: int) -> UUID:
    """The key for a moment, in 1/4096 milliseconds since 1970, with 62 random bits."""
    milliseconds, fraction = divmod(ticks, 4096)
    return UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random_bits)


def parse_id(text: str) -> str | None:
    """The canonical form of a key; None where the text is not a UUID."""
    if _CANONICAL_UUID.fullmatch(text):
        return text
    return str(UUID(text)) if _NON_CANONICAL_UUID.fullmatch(text) else None
