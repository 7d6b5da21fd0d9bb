"""Taking leave: on SIGTERM or Ctrl-C clients are told to go on elsewhere; only then does the server close their connections."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds that clients have to take their leave. Those that do not read do not keep the others.
WITHIN = 1.0


class Leave:
    """What a signal starts, in front of what it did before."""

    def __init__(self, drain: Callable[[], Awaitable[None]], announce: Callable[[], None], delay: float) -> None:
        self._announce, self._delay = announce, delay
        self._drain, self._loop = drain, asyncio.get_running_loop()
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self._task: asyncio.Task[None] | None = None

    def install(self) -> None:
        """Listen for the signals."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def remove(self) -> None:
        """Leave the signals to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self._task is not None:
            # A second one is meant: no more waiting.
            self._go_on(number)
        else:
            self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        self._task = self._task or self._loop.create_task(self._leave(number))

    async def _leave(self, number: int) -> None:
        self._announce()
        await asyncio.sleep(self._delay)
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHIN):
                await self._drain()
        self._go_on(number)

    def _go_on(self, number: int) -> None:
        handler = self._before[signal.Signals(number)]
        if callable(handler):
            handler(number, None)


@contextmanager
def drained_on_signal(
    drain: Callable[[], Awaitable[None]], announce: Callable[[], None] = lambda: None, delay: float = 0.0
) -> Iterator[None]:
    """While this lasts, signals to stop come after `announce`, `delay` seconds and `drain`. Only the main thread hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    leave = Leave(drain, announce, delay)
    leave.install()
    try:
        yield
    finally:
        leave.remove()
