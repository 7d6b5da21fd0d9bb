"""Connections without a request are closed by the client or its proxy, not by the server while a request is on its way."""

import socket
import time
from pathlib import Path

import pytest

from storefront.core.settings import Settings
from tests.feed.processes import running

REQUEST = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
# How long nginx keeps idle connections to its upstreams, and httpx its own.
PROXY_SECONDS, CLIENT_SECONDS = 60, 5


def test_default_is_longer_than_clients_and_proxies_wait() -> None:
    assert Settings().keep_alive_timeout > PROXY_SECONDS > CLIENT_SECONDS


def ask(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    received = b""
    while not received.endswith(b"}"):
        part = connection.recv(65_536)
        assert part
        received += part
    assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("workers", [1, 2])
def test_idle_connection_is_closed_after_the_timeout(empty_url: str, tmp_path: Path, workers: int) -> None:
    with (
        running(empty_url, tmp_path, workers=workers, KEEP_ALIVE_TIMEOUT="1") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
    ):
        for _ in range(2):
            ask(connection)
        began = time.monotonic()
        assert connection.recv(1) == b""
        assert time.monotonic() - began > 0.5


def test_connection_is_used_again_after_clients_would_have_closed_it(empty_url: str, tmp_path: Path) -> None:
    with running(empty_url, tmp_path) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        ask(connection)
        time.sleep(CLIENT_SECONDS + 0.5)
        ask(connection)
