"""The supervisor of worker processes: Uvicorn's, extended to reject connections while its workers drain (graceful shutdown).

Workers share the listening socket of this process. It stays open while they finish, so without this, new connections would wait
in its backlog and be reset in the end.

It also notices at once that a worker has died, or that it gets a signal itself, while it waits for the worker to answer a health
check. Uvicorn's waits for the whole timeout: until then it neither replaced the worker nor stopped.
"""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from storefront.core.ids import new_id
from storefront.serving.protection.load_shedding import render_overload_response

log = logging.getLogger("storefront")

# How long a client may take to send its request before it is rejected anyway, and how often the stop event is polled. In seconds.
REQUEST_TIMEOUT_SECONDS, POLL_INTERVAL_SECONDS = 1.0, 0.2


class WorkerSupervisor(Multiprocess):
    """Starts workers, restarts those that die, and stops all on a signal. `delay_seconds`: how long they still serve after it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], delay_seconds: float) -> None:
        super().__init__(config, sockets)
        self._delay_seconds = delay_seconds

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have died, or that do not answer the health check in time. Signals come first."""
        for index, worker in enumerate(self.processes):
            is_alive = self._check_health(worker)
            if self._is_signalled():
                return
            if not is_alive:
                self._replace_worker(index)

    def _is_signalled(self) -> bool:
        return bool(self.signal_queue) or self.should_exit.is_set()

    def _check_health(self, worker: Process) -> bool:
        """Whether a worker answers. Returns early if it dies, and if this process gets a signal."""
        deadline = time.monotonic() + self.config.timeout_worker_healthcheck
        answers = worker.parent_conn
        with suppress(OSError, EOFError):
            # An answer that came after a signal.
            while answers.poll():
                answers.recv()
            answers.send(b"ping")
            while worker.process.is_alive() and not self._is_signalled() and time.monotonic() < deadline:
                if answers in wait([answers, worker.process.sentinel], POLL_INTERVAL_SECONDS):
                    answers.recv()
                    return True
        return False

    def _replace_worker(self, index: int) -> None:
        worker = self.processes[index]
        # If it hangs.
        worker.kill()
        worker.join()
        if worker.exitcode == STARTUP_FAILURE:
            # It would fail in the same way again.
            log.error("worker %s failed to start: the server stops", worker.pid)
            self.should_exit.set()
            return
        log.warning("worker %s ended with exit code %s, and is replaced", worker.pid, worker.exitcode)
        self.processes[index] = Process(self.config, self.sockets)
        self.processes[index].start()

    def join_all(self) -> None:
        """Wait for the workers, and reject new connections meanwhile."""
        with _refusing_connections(self.sockets, self._delay_seconds):
            super().join_all()


@contextmanager
def _refusing_connections(sockets: list[socket.socket], delay_seconds: float) -> Iterator[None]:
    stop_event = threading.Event()
    refusing = _refuse_until_stopped(sockets, stop_event, delay_seconds)
    refusals = threading.Thread(target=asyncio.run, args=[refusing], daemon=True)
    refusals.start()
    try:
        yield
    finally:
        stop_event.set()
        refusals.join()


async def _refuse_until_stopped(sockets: list[socket.socket], stop_event: threading.Event, delay_seconds: float) -> None:
    await asyncio.to_thread(stop_event.wait, delay_seconds)
    # All of them at the same time: a silent client must not delay the others.
    listeners = [await asyncio.start_server(_refuse_connection, sock=listener) for listener in sockets]
    await asyncio.to_thread(stop_event.wait)
    for listener in listeners:
        listener.close()


async def _refuse_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, EOFError):
        # Closing a socket with unread bytes resets the connection, and the client would not see the response.
        with suppress(TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
        writer.write(render_overload_response(new_id(), keep_alive=False))
    writer.close()
