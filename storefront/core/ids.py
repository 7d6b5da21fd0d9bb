"""Keys: UUID version 7 (RFC 9562), so that a later row has a greater key and an index grows at its end."""

import os
import re
import struct
import threading
import time
from uuid import UUID

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# `UUID` itself accepts digits of all scripts, underscores and spaces.
_NON_CANONICAL_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")


# Random numbers that are read from the system at a time: a call of it takes longer than the rest of a key.
_RANDOM_NUMBERS = 256


class _KeySource:
    """The parts of keys: ticks of a strictly monotonic clock, of 1/4096 milliseconds since 1970, and 62 random bits.

    Keys sort in the order of their creation.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._last_tick = 0
        self._random_numbers: list[int] = []

    def next_parts(self) -> tuple[int, int]:
        now = time.time_ns() * 4096 // 1_000_000
        with self._lock:
            self._last_tick = tick = max(now, self._last_tick + 1)
            if not self._random_numbers:
                self._random_numbers = [*struct.unpack(f"{_RANDOM_NUMBERS}Q", os.urandom(8 * _RANDOM_NUMBERS))]
            return tick, self._random_numbers.pop() >> 2


_source = _KeySource()
# With the numbers of its parent a forked process would make the same keys.
os.register_at_fork(after_in_child=_source.reset)


def uuid7() -> UUID:
    """A new key, greater than all keys that this process has created before."""
    return uuid7_at(*_source.next_parts())


def new_id() -> str:
    """A new key as text."""
    tick, random_bits = _source.next_parts()
    digits = f"{tick >> 12:012x}7{tick & 4095:03x}{2 << 62 | random_bits:016x}"
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
