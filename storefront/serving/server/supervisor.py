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
from storefront.serving.protection.load_shedding import refusal

# Seconds that a client has to send its request before it is refused all the same, and between two looks whether that is over.
REQUEST_SECONDS, LOOK_SECONDS = 1.0, 0.2


class WorkerSupervisor(Multiprocess):
    """Starts workers, starts those again that die, and stops all on a signal. `delay`: seconds that they go on serving then."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], delay: float) -> None:
        super().__init__(config, sockets)
        self._delay = delay

    def join_all(self) -> None:
        """Wait for the workers, and refuse who comes meanwhile."""
        with _refusing(self.sockets, self._delay):
            super().join_all()


@contextmanager
def _refusing(sockets: list[socket.socket], delay: float) -> Iterator[None]:
    over = threading.Event()
    threads = [threading.Thread(target=_refuse_all, args=(listening, over, delay), daemon=True) for listening in sockets]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _refuse_all(listening: socket.socket, over: threading.Event, delay: float) -> None:
    over.wait(delay)
    listening.settimeout(LOOK_SECONDS)
    while not over.is_set():
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                _refuse(connection)


def _refuse(connection: socket.socket) -> None:
    # What is closed with unread bytes is reset, and the client never sees the answer.
    end = time.monotonic() + REQUEST_SECONDS
    connection.settimeout(REQUEST_SECONDS)
    head = b""
    while b"\r\n\r\n" not in head and time.monotonic() < end and (more := connection.recv(65_536)):
        head += more
    connection.sendall(refusal(new_id(), keeps_open=False))
    connection.shutdown(socket.SHUT_WR)
