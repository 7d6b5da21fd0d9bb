"""Postgres is killed under writers and listeners: each listener has every position once and in order, each write a response."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_database_url, create_database, embedded_server
from storefront.core.db.migrations import migrate
from storefront.core.net.tls import load_tls_context
from tests.client import token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import PatientFollower, Server, StreamFollower, running
from tests.feed.test_faults import UPDATE, position, until
from tests.lag import Lag, measured_lag

# The modes in which Postgres shuts down: it ends its connections, or crashes by intent.
FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT
WRITERS, LISTENERS, CHANGES = 4, 6, 80
# Seconds after Postgres accepts connections again, within which everything works again.
RECOVERY = 2.0


async def write(server: Server, token: str, product: str, turn: int, written: list[int]) -> None:
    """One write after the other, each sent under its key until it is answered with success. None goes without an answer."""
    async with httpx.AsyncClient(
        base_url=server.address, timeout=30, verify=load_tls_context(), headers={"authorization": f"Bearer {token}"}
    ) as http:
        for n in range(CHANGES):
            given = {"id": product, "title": f"Title {turn} {n}", "idempotencyKey": f"{product}-{turn}-{n}"}
            body = {"query": UPDATE, "variables": {"i": given}}
            while True:
                with suppress(httpx.RemoteProtocolError, httpx.ConnectError, httpx.ReadError):
                    answer = await http.post("/graphql", json=body)
                    if answer.status_code == 200 and "errors" not in answer.json():
                        assert answer.json()["data"]["updateProduct"]["userErrors"] == [], answer.text
                        written.append(n)
                        break
                    codes = {error["extensions"]["code"] for error in answer.json()["errors"]}
                    assert codes == {"SERVICE_UNAVAILABLE"} and answer.status_code == 503 and answer.headers["retry-after"]
                await asyncio.sleep(0.1)


async def kill_postgres(folder: Path, url: str, servers: ExitStack, how: signal.Signals) -> "asyncio.Task[str]":
    """Kill the postmaster, and start Postgres again over what it left. Returns at the moment when it accepts connections."""
    os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), how)
    await asyncio.sleep(0.3)
    # Another user of the same server: it starts one where there is none.
    starting = asyncio.create_task(asyncio.to_thread(servers.enter_context, embedded_server(folder)))
    await until_accepting(url)
    return starting


async def until_accepting(url: str) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            await (await psycopg.AsyncConnection.connect(url)).close()
        except psycopg.OperationalError:
            assert time.monotonic() < end, "Postgres does not come back"
            await asyncio.sleep(0.01)
        else:
            return


async def expect_recovery(server: Server, followers: Sequence[Any], written: list[int], lag: Lag) -> None:
    """Soon from now a read is answered, a write is, and every listener hears of something new."""
    began, lagged, took = time.monotonic(), lag.seconds, dict[str, float]()
    heard, writes = [len(follower.seen) for follower in followers], len(written)

    async def note(what: str, happened: Callable[[], Awaitable[bool]]) -> None:
        while not await happened():  # noqa: ASYNC110  it is asked of a server
            await asyncio.sleep(0.02)
        took[what] = time.monotonic() - began

    async def read() -> bool:
        with suppress(httpx.TransportError):
            return "errors" not in (await http.post("/graphql", json={"query": "{ configs(first: 1) { nodes { id } } }"})).json()
        return False

    async def write() -> bool:
        return len(written) > writes

    async def hear(number: int) -> bool:
        return len(followers[number].seen) > heard[number]

    async with httpx.AsyncClient(base_url=server.address, timeout=20, verify=load_tls_context()) as http, asyncio.timeout(60):
        listening = [note(f"listener {number}", partial(hear, number)) for number in range(len(followers))]
        await asyncio.gather(note("read", read), note("write", write), *listening)
    # The server and Postgres wait for their turns on a busy machine as this process does, and it for both of them.
    allowed = RECOVERY + 3 * (lag.seconds - lagged)
    assert max(took.values()) < allowed, (took, allowed)


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        (2, [signal.SIGKILL]),
        (1, [IMMEDIATE]),
        (1, [FAST]),
        *(pytest.param(workers, [signal.SIGKILL] * 20, marks=pytest.mark.soak) for workers in (1, 2, 4)),
        *(pytest.param(workers, [FAST, IMMEDIATE] * 10, marks=pytest.mark.soak) for workers in (1, 2, 4)),
    ],
    ids=lambda value: value if isinstance(value, int) else f"{len(value)} {'+'.join(dict.fromkeys(how.name for how in value))}",
)
async def test_killed_postgres_loses_and_silences_nothing(tmp_path: Path, workers: int, kills: list[signal.Signals]) -> None:
    folder = tmp_path / "postgres"
    with ExitStack() as servers:
        uri = servers.enter_context(embedded_server(folder))
        create_database(uri, "killed")
        url = build_database_url(uri, "killed")
        migrate(url)
        async with Database(url) as database:
            user = await make_user(database)
            store = await make_store(database, user_id=user)
            products = [await make_product(database, store) for _ in range(WRITERS)]
            with running(url, tmp_path, workers=workers, POOL_TIMEOUT="5") as server:
                followers: list[Any] = [PatientFollower(server.socket_address, store) for _ in range(LISTENERS)]
                followers += [StreamFollower(server.address, store) for _ in range(LISTENERS)]
                following = [asyncio.create_task(follower.follow()) for follower in followers]
                written: list[int] = []
                try:
                    for turn, how in enumerate(kills):
                        head = await position(database, store) if followers[0].seen else 0
                        writing = asyncio.gather(*(write(server, token_of(user), product, turn, written) for product in products))
                        while not writing.done() and len(followers[0].seen) < head + 10:  # noqa: ASYNC110  it is heard of
                            await asyncio.sleep(0.02)
                        assert not writing.done()
                        async with measured_lag() as lag:
                            starting = await kill_postgres(folder, url, servers, how)
                            await expect_recovery(server, followers, written, lag)
                            await starting
                        await asyncio.wait_for(writing, 120)
                    head = await position(database, store)
                    await until(lambda: min(len(follower.seen) for follower in followers) >= head, 60)
                finally:
                    for task in following:
                        task.cancel()
                    await asyncio.gather(*following, return_exceptions=True)
        for follower in followers:
            assert follower.seen == list(range(1, head + 1))
