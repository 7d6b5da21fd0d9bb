"""Memory of a serving process: tuning of the garbage collector, and returning free memory to the operating system."""

import ctypes
import gc
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Collect no cycles meanwhile: modules allocate what stays, and traversing it again and again is a fifth of an import."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def tune_garbage_collection() -> None:
    """Tune the collector for a server. Call it once everything long-lived is loaded.

    Objects that exist now are frozen: a full collection would traverse them and pause all requests for a third of a second.
    The thresholds are raised: a request allocates thousands of objects and leaves no cycles, and collecting after every 700
    objects takes as long as the request itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def return_free_memory() -> None:
    """Collect cycles, then return free memory to the operating system (malloc_trim), where the C library can.

    glibc retains free memory between allocations. Cycles, such as tasks and tracebacks of aborted connections, are collected
    first: with the raised thresholds the collector would free them much later.
    """
    gc.collect()
    if trim := _load_malloc_trim():
        trim(0)


def compact_bytes(content: bytes) -> bytes:
    """A copy without spare capacity, for long-lived bytes: orjson over-allocates its output, 240 kB for 20 kB."""
    return bytes(memoryview(content))


def get_resident_bytes() -> int:
    """The resident set size (RSS) of this process in bytes; 0 where the system does not report it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


@cache
def _load_malloc_trim() -> Any:
    # None where the C library lacks the function, such as musl and macOS.
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
