"""Fault injection in workers and pub/sub under eight writers and twenty listeners: delivery exactly once and in order."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import httpx
import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.core.net.tls import load_tls_context
from tests.client import token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import Follower, Server, running
from tests.feed.redis import redis_server

UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"
WRITERS, LISTENERS = 8, 20
# The number of changes at least: there are more until the faults have happened.
CHANGES = [400, pytest.param(5_000, marks=pytest.mark.soak)]

Fault = Callable[[], Awaitable[None]]


async def write(server: Server, token: str, product: str, changes: int, enough: asyncio.Event) -> None:
    """Update a product `changes` times and until it is enough; retry each until a response: one without may have succeeded."""
    async with httpx.AsyncClient(
        base_url=server.address, timeout=20, verify=load_tls_context(), headers={"authorization": f"Bearer {token}"}
    ) as http:
        for n in count():
            if n >= changes and enough.is_set():
                return
            for attempt in count():
                assert attempt < 100, "no worker answers"
                try:
                    body = {"query": UPDATE, "variables": {"i": {"id": product, "title": f"Title {n}"}}}
                    answer = (await http.post("/graphql", json=body)).json()
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                assert "errors" not in answer and not answer["data"]["updateProduct"]["userErrors"], answer
                break


async def repeat_fault(fault: Fault, seconds: float, times: list[float]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await fault()
        times.append(time.monotonic())


async def survive(server: Server, database: Database, changes: int, fault: Fault, every: float) -> None:
    """Write and listen while the fault repeats and one worker is killed; then compare what each listener received."""
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    products = [await make_product(database, store) for _ in range(WRITERS)]
    followers = [Follower(server.socket_address, store) for _ in range(LISTENERS)]
    following = [asyncio.create_task(follower.follow()) for follower in followers]
    enough, times = asyncio.Event(), list[float]()
    faults = asyncio.create_task(repeat_fault(fault, every, times))
    try:
        await until(lambda: all(follower.connections for follower in followers))
        share = changes // WRITERS
        writing = asyncio.gather(*(write(server, token_of(user), product, share, enough) for product in products))
        before = len(times)
        await until(lambda: len(times) > before or faults.done())
        assert not writing.done()
        # The kernel may give all connections to one worker: kill the one with the most.
        os.kill(max(server.workers(), key=server.sockets), signal.SIGKILL)
        await until(lambda: len(times) > before + 2 or faults.done())
        enough.set()
        await writing
        head = await position(database, store)
        assert head >= changes
        await until(lambda: min(len(follower.seen) for follower in followers) >= head)
        assert not faults.done(), faults.exception()
    finally:
        for task in (faults, *following):
            task.cancel()
        await asyncio.gather(faults, *following, return_exceptions=True)
    for follower in followers:
        assert follower.seen == list(range(1, head + 1))
        assert follower.others == []
    assert sum(follower.connections for follower in followers) > LISTENERS, (
        "no listener lost its connection: the fault had no effect"
    )


async def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "timed out"
        await asyncio.sleep(0.05)


async def position(database: Database, store: str) -> int:
    async with database.transaction() as connection:
        rows = await connection.raw.execute("SELECT position FROM store_positions WHERE config_id = %s", [store])
        [(head,)] = await rows.fetchall()
    return int(head)


@pytest.mark.parametrize("changes", CHANGES)
async def test_feed_survives_lost_notify_connections_and_killed_worker(
    changes: int, empty_url: str, database: Database, tmp_path: Path
) -> None:
    ended: list[int] = []

    async def end_lines() -> None:
        statement = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()
            AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%') AND pid <> pg_backend_pid()"""
        async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as connection:
            [(count_,)] = await (await connection.execute(statement)).fetchall()
        ended.append(count_)

    with running(empty_url, tmp_path, workers=2) as server:
        await survive(server, database, changes, end_lines, every=2)
    assert sum(ended) >= 4


@pytest.mark.parametrize("changes", CHANGES)
async def test_feed_survives_redis_restarts_and_killed_worker(
    changes: int, empty_url: str, database: Database, tmp_path: Path
) -> None:
    with redis_server() as redis, running(empty_url, tmp_path, workers=2, BROADCAST_URL=f"redis://{redis.address}") as server:
        await survive(server, database, changes, redis.restart, every=2)
