"""How the memory of a serving process is managed: garbage collection, and what is returned to the operating system."""

import ctypes
import gc
import mmap
from functools import cache
from typing import Any


def tune_garbage_collection() -> None:
    """Call once everything that stays is loaded.

    What is there by now stays: the collector need not look at it ever again, which would keep everybody waiting for a third of a
    second now and then. A request makes thousands of objects and leaves no cycles: looking for some after every 700 objects takes
    as long as answering does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def return_free_memory() -> None:
    """Return free memory to the operating system, where the C library can: glibc keeps what lies between memory in use.

    First what only cycles hold is freed, as the tasks and tracebacks that aborted connections leave: the collector would come to
    them much later.
    """
    gc.collect()
    if trim := _load_malloc_trim():
        trim(0)


def compact_bytes(content: bytes) -> bytes:
    """A copy of exactly its size, for what is kept: orjson leaves the room behind its output allocated, 240 kB after 20 kB."""
    return bytes(memoryview(content))


def get_resident_bytes() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


@cache
def _load_malloc_trim() -> Any:
    # None where the C library has no such function, as musl and macOS.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
