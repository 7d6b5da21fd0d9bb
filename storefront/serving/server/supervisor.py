"""The parent of worker processes: Uvicorn's, which refuses connections while its workers drain.

Workers share a listening socket. It is open as long as this process has it, so that connections which come while the workers
finish would wait for nobody and be reset in the end.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from storefront.core.ids import new_id
from storefront.serving.protection.load_shedding import render_overload_response

# Seconds that a client has to send its request before it is refused all the same, and between two looks whether that is over.
REQUEST_TIMEOUT_SECONDS, POLL_INTERVAL_SECONDS = 1.0, 0.2


class WorkerSupervisor(Multiprocess):
    """Starts workers, starts those again that die, and stops all on a signal. `delay`: seconds that they go on serving then."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], delay_seconds: float) -> None:
        super().__init__(config, sockets)
        self._delay_seconds = delay_seconds

    def join_all(self) -> None:
        """Wait for the workers, and refuse who comes meanwhile."""
        with _refusing_connections(self.sockets, self._delay_seconds):
            super().join_all()


@contextmanager
def _refusing_connections(sockets: list[socket.socket], delay_seconds: float) -> Iterator[None]:
    stop_event = threading.Event()
    threads = [
        threading.Thread(target=_refuse_until_stopped, args=(listener, stop_event, delay_seconds), daemon=True)
        for listener in sockets
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop_event.set()
        for thread in threads:
            thread.join()


def _refuse_until_stopped(listener: socket.socket, stop_event: threading.Event, delay_seconds: float) -> None:
    stop_event.wait(delay_seconds)
    listener.settimeout(POLL_INTERVAL_SECONDS)
    while not stop_event.is_set():
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                _refuse_connection(connection)


def _refuse_connection(connection: socket.socket) -> None:
    # What is closed with unread bytes is reset, and the client never sees the answer.
    deadline = time.monotonic() + REQUEST_TIMEOUT_SECONDS
    connection.settimeout(REQUEST_TIMEOUT_SECONDS)
    request_head = b""
    while b"\r\n\r\n" not in request_head and time.monotonic() < deadline and (chunk := connection.recv(65_536)):
        request_head += chunk
    connection.sendall(render_overload_response(new_id(), keep_alive=False))
    connection.shutdown(socket.SHUT_WR)
