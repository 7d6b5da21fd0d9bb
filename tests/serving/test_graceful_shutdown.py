"""Graceful shutdown on SIGTERM, whatever state the clients are in."""

import asyncio
import json
import signal
import socket
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.core.net.tls import load_tls_context
from storefront.feed.log import LogEntry, append_entries
from storefront.serving.server.graceful_shutdown import drain_on_signal
from tests.client import token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running
from tests.feed.test_limits import close_code, hear, opened, subscribe
from tests.postgres_proxy import ANSWERS, REQUESTS, postgres_proxy
from tests.serving.raw_http import HANDSHAKE, connection

POST = b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
STREAM = (
    b"GET /graphql?query=subscription%%7BproductFeed%%28configId%%3A%%22%b%%22%%29%%7B__typename%%7D%%7D HTTP/1.1\r\nhost: x\r\n"
)
CREATE = 'mutation { createConfig(input: {storeName: "Slow", slug: "slow"}) { config { id } userErrors { message } } }'

UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"

HANGING = {
    "nothing": b"",
    "half a head": POST[:-10],
    "half a second head": b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /he",
    "half a body": POST + b"content-length: 100\r\n\r\n{",
    "half a chunk": POST + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
    "half a handshake": HANDSHAKE,
    "handshake with a body": HANDSHAKE + b"content-length: 4\r\n\r\n",
    "handshake with half a body": HANDSHAKE + b"transfer-encoding: chunked\r\n\r\n5\r\na",
    "handshake with a long line": HANDSHAKE + b"x: " + b"x" * 10_000 + b"\r\n\r\n",
    "socket without a word": HANDSHAKE + b"\r\n",
    "h2c": POST + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 100\r\n\r\n{",
    "garbage": b"\x16\x03\x01",
}


# Milliseconds that the mutation waits for its lock: less than the server grants to what is under way, and much more than silent
# clients have.
LOCK_TIMEOUT = "8000"


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_closes_silent_connections_and_waits_for_mutation(
    workers: int, empty_url: str, database: Database, tmp_path: Path
) -> None:
    store = await make_store(database)
    log = tmp_path / "log"
    with log.open("wb") as written, running(empty_url, tmp_path, workers, written, LOCK_TIMEOUT=LOCK_TIMEOUT) as server:
        async with AsyncExitStack() as stack:

            async def open_one(sent: bytes) -> asyncio.StreamReader:
                reader, writer = await stack.enter_async_context(connection(server.port))
                writer.write(sent)
                await writer.drain()
                return reader

            async def open_until_refused() -> list[asyncio.StreamReader]:
                opened_meanwhile: list[asyncio.StreamReader] = []
                with suppress(ConnectionError):
                    # Some are accepted in the moment in which the server closes its listening socket.
                    while len(opened_meanwhile) < 1_000:
                        opened_meanwhile.append(await open_one(b""))
                        await asyncio.sleep(0.001)
                return opened_meanwhile

            accepts = [b"text/event-stream", b"multipart/mixed;subscriptionSpec=1.0"]
            streams = [STREAM % store.encode() + b"accept: %b\r\n\r\n" % accept for accept in accepts]
            hanging = [await open_one(sent) for sent in [*HANGING.values(), *streams] for _ in range(2 * workers)]
            listening = await stack.enter_async_context(opened(server.socket_address))
            await subscribe(listening, "1", "subscription($c: ID!) { productFeed(configId: $c) { position } }", c=store)
            # A mutation that waits for a lock is under way when the signal comes.
            blocker = await stack.enter_async_context(await psycopg.AsyncConnection.connect(_plain(empty_url)))
            await blocker.execute("LOCK TABLE configs IN ACCESS EXCLUSIVE MODE")
            body = json.dumps({"query": CREATE}).encode()
            token = token_of("owner", email="owner@example.com").encode()
            mutation = POST + b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (token, len(body), body)
            reader = await open_one(mutation)
            await until_blocked(database)
            opening = asyncio.create_task(open_until_refused())
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(40):
                # Silent clients do not keep the server: they are all gone before the mutation, which is waited for.
                assert await hear(listening) == {"id": "1", "type": "complete"}
                assert await close_code(listening) == 1001
                answers = await asyncio.gather(*(_read(one) for one in [*hanging, *await opening]))
                await blocker.rollback()
                head = await reader.readuntil(b"\r\n\r\n")
                answer = await reader.read()
                assert head.startswith(b"HTTP/1.1 200 "), (head, answer)
                assert json.loads(answer)["data"]["createConfig"]["config"]["id"]
            code = await asyncio.to_thread(server.process.wait, 20)
    text = log.read_text()
    assert code == 0, text
    assert "Traceback" not in text and "AssertionError" not in text and "exceeded" not in text, text
    assert [answer for answer in answers if b"HTTP/1.1 500" in answer] == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_refuses_new_connections(workers: int, empty_url: str, database: Database, tmp_path: Path) -> None:
    token = token_of("owner", email="owner@example.com")
    with running(empty_url, tmp_path, workers, LOCK_TIMEOUT="0") as server:
        async with (
            await psycopg.AsyncConnection.connect(_plain(empty_url)) as blocker,
            httpx.AsyncClient(base_url=server.address, timeout=60) as http,
        ):
            await blocker.execute("LOCK TABLE configs IN ACCESS EXCLUSIVE MODE")
            headers = {"authorization": f"Bearer {token}"}
            writing = asyncio.create_task(http.post("/graphql", json={"query": CREATE}, headers=headers))
            await until_blocked(database)
            server.process.send_signal(signal.SIGTERM)
            refusals = 0
            async with asyncio.timeout(40):
                while refusals < 5:
                    # Each is answered or refused at once, while the server waits for the mutation.
                    refusals += await _is_refused(server.port)
                    await asyncio.sleep(0.05)
            assert not writing.done()
            await blocker.rollback()
            assert (await writing).json()["data"]["createConfig"]["config"]["id"]
        assert await asyncio.to_thread(server.process.wait, 20) == 0


@pytest.mark.parametrize("is_released", [True, False], ids=["finishes", "too long"])
async def test_sigterm_answers_mutation_on_websocket(
    is_released: bool, empty_url: str, database: Database, tmp_path: Path
) -> None:
    token = token_of("owner", email="owner@example.com")
    with running(empty_url, tmp_path, LOCK_TIMEOUT="0") as server:
        async with (
            await psycopg.AsyncConnection.connect(_plain(empty_url)) as blocker,
            opened(server.socket_address, token) as client,
        ):
            await blocker.execute("LOCK TABLE configs IN ACCESS EXCLUSIVE MODE")
            await subscribe(client, "1", CREATE)
            await until_blocked(database)
            server.process.send_signal(signal.SIGTERM)
            if is_released:
                await blocker.rollback()
            answer = await hear(client)
            if is_released:
                assert answer["type"] == "next" and answer["payload"]["data"]["createConfig"]["config"]["id"]
                assert await hear(client) == {"id": "1", "type": "complete"}
            else:
                [error] = answer["payload"]
                assert (answer["type"], error["extensions"]["code"]) == ("error", "SERVICE_UNAVAILABLE")
                assert "idempotencyKey" in error["message"]
            assert await close_code(client) == 1001


async def test_failed_drain_does_not_prevent_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    received = asyncio.Queue[int]()
    original = signal.signal(signal.SIGTERM, lambda number, _: received.put_nowait(number))

    async def fail() -> None:
        raise ValueError("a bug")

    try:
        with drain_on_signal(fail):
            signal.raise_signal(signal.SIGTERM)
            assert await asyncio.wait_for(received.get(), 5) == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, original)
    assert [record.getMessage() for record in caplog.records] == ["connections could not be drained"]


async def _is_refused(port: int) -> bool:
    async with asyncio.timeout(5):
        try:
            async with connection(port) as (reader, writer):
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = await reader.read()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            # It waited in the kernel to be accepted when the listening socket was closed.
            return False
    # A worker that is just closing its idle connections says nothing.
    assert answer[:12] in (b"HTTP/1.1 200", b"HTTP/1.1 503", b""), answer
    return answer.startswith(b"HTTP/1.1 503")


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


async def until_blocked(database: Database) -> None:
    async with asyncio.timeout(20):
        while True:
            async with database.transaction() as open_:
                rows = await (await open_.raw.execute("SELECT 1 FROM pg_locks WHERE NOT granted")).fetchall()
            if rows:
                return
            await asyncio.sleep(0.02)


async def test_sigterm_does_not_wait_for_unread_responses(empty_url: str, database: Database, tmp_path: Path) -> None:
    store = await make_store(database)
    product = await make_product(database, store, description="long " * 4_000)
    async with database.transaction() as writes:
        await append_entries(
            writes, store, [LogEntry("product_updated", product, product, was_visible=True, is_visible=True)] * 100
        )
    fields = "... on ProductUpdated { product { description } }"
    query = f'subscription {{ productFeed(configId: "{store}", after: "1") {{ {fields} }} }}'
    request = b"GET /graphql?query=%b HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n" % quote(query).encode()
    log = tmp_path / "log"
    with log.open("wb") as written, running(empty_url, tmp_path, 1, written) as server, socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await asyncio.to_thread(silent.connect, ("127.0.0.1", server.port))
        silent.sendall(request)
        assert silent.recv(12) == b"HTTP/1.1 200"
        await asyncio.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(server.process.wait, 20)
    text = log.read_text()
    assert code == 0 and "Traceback" not in text and "graceful shutdown exceeded" not in text, text


@pytest.mark.soak
async def test_sigterm_ends_in_time_with_half_open_database(empty_url: str, database: Database, tmp_path: Path) -> None:
    owner = await make_user(database)
    store = await make_store(database, user_id=owner)
    product = await make_product(database, store)
    body = {"query": UPDATE, "variables": {"i": {"id": product, "title": "New"}}}
    headers = {"authorization": f"Bearer {token_of(owner)}"}
    with postgres_proxy(_plain(empty_url)) as proxy, running(proxy.url(), tmp_path, POOL_SIZE="20", POOL_TIMEOUT="5") as server:
        async with (
            opened(server.socket_address, token_of(owner)) as client,
            httpx.AsyncClient(base_url=server.address, timeout=60, verify=load_tls_context()) as http,
        ):
            await subscribe(client, "1", "subscription($c: ID!) { productFeed(configId: $c) { position } }", c=store)
            assert (await http.post("/graphql", json=body, headers=headers)).status_code == 200
            proxy.lose(REQUESTS, ANSWERS)
            writing = asyncio.create_task(http.post("/graphql", json=body, headers=headers))
            # By now the polls of all services wait for Postgres as well.
            await asyncio.sleep(3)
            server.process.send_signal(signal.SIGTERM)
            signalled_at = time.monotonic()
            assert (await writing).status_code == 503
            code = await asyncio.to_thread(server.process.wait, 60)
        assert code == 0 and time.monotonic() - signalled_at < 1 + 10 + 5
