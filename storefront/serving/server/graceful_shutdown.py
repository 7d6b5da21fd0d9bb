"""Graceful shutdown: on SIGTERM or SIGINT connections are drained, so that clients resume elsewhere, before the server stops."""

import asyncio
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("storefront")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# The timeout of draining in seconds. Clients that do not read must not delay the others.
DRAIN_TIMEOUT_SECONDS = 1.0


class GracefulShutdown:
    """Runs a shutdown sequence on a signal, and then the previous signal handler.

    The sequence: `announce` (report not ready), a delay during which requests are still served, and `drain`.
    """

    def __init__(self, drain: Callable[[], Awaitable[None]], announce: Callable[[], None], delay_seconds: float) -> None:
        self._announce, self._delay_seconds = announce, delay_seconds
        self._drain, self._loop = drain, asyncio.get_running_loop()
        self._previous_handlers = {signal_number: signal.getsignal(signal_number) for signal_number in SIGNALS}
        self._task: asyncio.Task[None] | None = None

    def install_handlers(self) -> None:
        """Install the signal handlers."""
        for signal_number in SIGNALS:
            signal.signal(signal_number, self._on_signal)

    def restore_handlers(self) -> None:
        """Restore the previous signal handlers."""
        for signal_number, handler in self._previous_handlers.items():
            signal.signal(signal_number, handler)

    def _on_signal(self, signal_number: int, _: FrameType | None) -> None:
        if self._task is not None:
            # A second signal stops the server at once.
            self._call_previous_handler(signal_number)
        else:
            self._loop.call_soon_threadsafe(self._start_shutdown, signal_number)

    def _start_shutdown(self, signal_number: int) -> None:
        self._task = self._task or self._loop.create_task(self._shut_down(signal_number))

    async def _shut_down(self, signal_number: int) -> None:
        self._announce()
        await asyncio.sleep(self._delay_seconds)
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
                await self._drain()
        except TimeoutError:
            log.info("connections are left to the server: they were not drained in %g s", DRAIN_TIMEOUT_SECONDS)
        except Exception:
            # Any error: the server has to stop.
            log.exception("connections could not be drained")
        self._call_previous_handler(signal_number)

    def _call_previous_handler(self, signal_number: int) -> None:
        handler = self._previous_handlers[signal.Signals(signal_number)]
        if callable(handler):
            handler(signal_number, None)


@contextmanager
def drain_on_signal(
    drain: Callable[[], Awaitable[None]], announce: Callable[[], None] = lambda: None, delay_seconds: float = 0.0
) -> Iterator[None]:
    """Install graceful shutdown for the duration of the context. Does nothing outside the main thread, which gets the signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    shutdown = GracefulShutdown(drain, announce, delay_seconds)
    shutdown.install_handlers()
    try:
        yield
    finally:
        shutdown.restore_handlers()
