"""The server behind a real nginx, configured as docs/deploying.md has it."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.client import Client, token_of
from tests.ports import free_port
from tests.serving.raw_http import exchange

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
EXAMPLE = Path(__file__).parents[2] / "docs" / "deploying.md"
# What passes every upgrade on, as many proxies are set up to.
PASSES_ALL = [("$websocket;", "$http_upgrade;"), ("map $websocket $connection_upgrade", "map $http_upgrade $connection_upgrade")]

pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx")


@contextmanager
def nginx(folder: Path, upstream: int, *changes: tuple[str, str]) -> Iterator[int]:
    """The example of the documentation on a free port, without TLS; the port it listens on."""
    port = free_port()
    [example] = re.findall(r"```nginx\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    of_this_machine = [
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{upstream};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
    ]
    for old, new in [*of_this_machine, *changes]:
        assert old in example
        example = example.replace(old, new)
    example = re.sub(r"^    (http2|ssl_certificate\S*) .*\n", "", example, flags=re.MULTILINE)
    if "default ''; websocket upgrade;" in example and changes:
        example = example.replace("default ''; websocket upgrade;", "default upgrade; '' '';")
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{paths}\n{example} }}\n"
    )
    process = subprocess.Popen([str(NGINX), "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")])
    try:
        _wait_until_listening(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert process.poll() is None, "nginx ended by itself"
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.02)
    raise AssertionError("nginx does not listen")


def port_of(client: Client) -> int:
    port = client.http.base_url.port
    assert port is not None
    return port


@pytest.mark.parametrize("changes", [[], PASSES_ALL], ids=["as documented", "passes every upgrade on"])
async def test_upgrade_body_is_never_answered_to_another_client(
    shopper: Client, tmp_path: Path, changes: list[tuple[str, str]]
) -> None:
    body = b"GET /graphql?query=%7Bsmuggled%7D HTTP/1.1\r\nhost: x\r\nx-swallow: "
    attack = (
        b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: upgrade\r\nupgrade: %b\r\n"
        b"content-length: %d\r\n\r\n"
    )
    last = b"GET /graphql?query=%7B__typename%7D HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with nginx(tmp_path, port_of(shopper), *changes) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as visitor:
            for upgrade in (b"h2c", b"websocket, h2c", b"websocket", b"TLS/1.0"):
                for at in (len(body), 10, 0):
                    sent = attack % (upgrade, len(body))
                    attacker, own = await exchange(port, sent + body[:at], body[at:] + last)
                    assert attacker.status == 400 and own.status == 200
                    headers = {"authorization": f"Bearer {token_of('visitor', email='visitor@example.com')}"}
                    answer = await visitor.get("/graphql", params={"query": "{ me { id } }"}, headers=headers)
                    assert answer.status_code == 200 and answer.json()["data"]["me"]["id"]


async def test_websocket_with_body_is_refused(shopper: Client, tmp_path: Path) -> None:
    request = (
        b"GET /graphql HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\ncontent-length: 4\r\n\r\nabcd"
    )
    with nginx(tmp_path, port_of(shopper)) as port:
        first, *_ = await exchange(port, request, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert first.status == 400


async def test_websocket_and_keep_alive_work(shopper: Client, tmp_path: Path) -> None:
    with nginx(tmp_path, port_of(shopper)) as port:
        address = f"ws://127.0.0.1:{port}/graphql"
        async with asyncio.timeout(30), connect(address, subprotocols=["graphql-transport-ws"]) as socket_:  # type: ignore[list-item]
            await socket_.send('{"type": "connection_init"}')
            assert json.loads(await socket_.recv()) == {"type": "connection_ack"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, http2=False) as http:
            for _ in range(3):
                answer = await http.post("/graphql", json={"query": "{ __typename }"})
                assert answer.json() == {"data": {"__typename": "Query"}}
