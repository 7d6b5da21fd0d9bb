"""The supervisor of several workers: it notices at once what happens while it waits for a worker to answer a health check."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.feed.processes import Server, running

# Far below the timeout of a health check, which is a minute.
SECONDS = 20.0


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def stop_worker(server: Server) -> int:
    """Stop a worker, which answers no health check from now on, and wait until one has been sent."""
    worker = server.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    # Two of the intervals in which the supervisor checks its workers.
    time.sleep(1)
    return worker


def test_worker_that_dies_during_a_health_check_is_replaced(empty_url: str, tmp_path: Path) -> None:
    with running(empty_url, tmp_path, workers=2) as server:
        worker = stop_worker(server)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker not in server.workers() and len(server.workers()) == 2)


def test_signal_during_a_health_check_stops_the_server(empty_url: str, tmp_path: Path) -> None:
    with running(empty_url, tmp_path, workers=2) as server:
        worker, (other,) = stop_worker(server), server.workers()[1:]
        server.process.send_signal(signal.SIGTERM)
        try:
            # The other one ends, and waits for its parent (a zombie), although the first still does not answer.
            wait_until(lambda: Path(f"/proc/{other}/stat").read_text().rpartition(") ")[2].startswith("Z"))
        finally:
            os.kill(worker, signal.SIGCONT)
        assert server.process.wait(SECONDS) == 0
