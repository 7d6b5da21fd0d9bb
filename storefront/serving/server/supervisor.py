"""The supervisor of worker processes: Uvicorn's, extended to reject connections while its workers drain (graceful shutdown).

Workers share the listening socket of this process. It stays open while they finish, so without this, new connections would wait
in its backlog and be reset in the end.
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

# How long a client may take to send its request before it is rejected anyway, and how often the stop event is polled. In seconds.
REQUEST_TIMEOUT_SECONDS, POLL_INTERVAL_SECONDS = 1.0, 0.2


class WorkerSupervisor(Multiprocess):
    """Starts workers, restarts those that die, and stops all on a signal. `delay_seconds`: how long they still serve after it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], delay_seconds: float) -> None:
        super().__init__(config, sockets)
        self._delay_seconds = delay_seconds

    def join_all(self) -> None:
        """Wait for the workers, and reject new connections meanwhile."""
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
    # Closing a socket with unread bytes resets the connection, and the client would not see the response.
    deadline = time.monotonic() + REQUEST_TIMEOUT_SECONDS
    connection.settimeout(REQUEST_TIMEOUT_SECONDS)
    request_head = b""
    while b"\r\n\r\n" not in request_head and time.monotonic() < deadline and (chunk := connection.recv(65_536)):
        request_head += chunk
    connection.sendall(render_overload_response(new_id(), keep_alive=False))
    connection.shutdown(socket.SHUT_WR)
