"""Servers that are killed while they deliver: no message is lost, and lanes stay in order."""

import asyncio
import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from storefront.core.db.database import Database
from storefront.core.encryption import generate_key
from tests.client import Client, token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running
from tests.webhooks.changes import append_changes
from tests.webhooks.hooks import create_webhook
from tests.webhooks.receiver import Received, Receiver, Writer, status

OPTIONS: dict[str, Any] = {
    "ENCRYPTION_KEYS": generate_key(),
    "WEBHOOK_INTERVAL": "0.2",
    "WEBHOOK_HTTP": "true",
    "WEBHOOK_NETWORKS": "127.0.0.1/32",
    "WEBHOOK_TIMEOUT": "0.5",
    "WEBHOOK_RETRY": "0.1",
}


class Slow:
    """A slow receiver that rejects one in so many requests, so that there are always messages in flight."""

    def __init__(self, one_in: int) -> None:
        self._one_in, self._count = one_in, 0

    async def __call__(self, request: Received, writer: Writer) -> None:
        self._count += 1
        await asyncio.sleep(0.03)
        await status(200 if self._count % self._one_in else 503)(request, writer)


def in_order(received: list[Received]) -> dict[tuple[str, str], list[int]]:
    """First arrivals of positions by webhook and product."""
    messages: dict[tuple[str, str], list[int]] = defaultdict(list)
    for request in received:
        lane = request.target, request.json["productId"]
        if request.position not in messages[lane]:
            messages[lane].append(request.position)
    return messages


async def wait_until_settled(database: Database, position: int, seconds: float) -> None:
    """Wait until no deliveries are pending."""
    async with asyncio.timeout(seconds):
        while True:
            async with database.transaction() as connection:
                behind = "SELECT count(*) FROM webhooks WHERE position <> %s"
                waiting = "SELECT count(*) FROM webhook_deliveries WHERE state = 'pending'"
                cursor = await connection.raw.execute(f"SELECT ({behind}) + ({waiting})".encode(), [position])
                if await cursor.fetchone() == (0,):
                    return
            await asyncio.sleep(0.2)


async def test_killed_server_loses_no_messages(empty_url: str, tmp_path: Path, database: Database) -> None:
    await kill_and_go_on(empty_url, tmp_path, database, processes=1, products=3, rounds=6, kills=1)


@pytest.mark.soak
async def test_repeatedly_killed_servers_lose_no_messages(empty_url: str, tmp_path: Path, database: Database) -> None:
    await kill_and_go_on(empty_url, tmp_path, database, processes=3, products=8, rounds=10, kills=8)


async def kill_and_go_on(
    url: str, folder: Path, database: Database, *, processes: int, products: int, rounds: int, kills: int
) -> None:
    """Servers share the work; each in turn is killed in the middle of it, and restarted."""
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    ids = [await make_product(database, store) for _ in range(products)]
    servers: list[Any] = []
    async with Receiver(behave=Slow(7)).running() as receiver:
        try:
            addresses = [await _started(servers, url, folder) for _ in range(processes)]
            async with httpx.AsyncClient(base_url=addresses[0], timeout=30) as http:
                owner = Client(http, database, token_of(user))
                targets = [f"{receiver.url}&{number}" for number in range(processes)]
                for target in targets:
                    await create_webhook(owner, store, target)
            for _ in range(kills):
                for _ in range(rounds):
                    await append_changes(database, store, *ids)
                await receiver.wait(len(receiver.received) + 3, 60)
                _, server = servers[-processes]
                os.kill(server.process.pid, signal.SIGKILL)
                server.process.wait()
                await _started(servers, url, folder)
            await wait_until_settled(database, products * rounds * kills, 60 + 30 * kills)
        finally:
            for server, _ in servers:
                await asyncio.to_thread(server.__exit__, None, None, None)
    count = products * rounds * kills
    paths = [target.partition(str(receiver.port))[2] for target in targets]
    lanes = {(path, id_): list(range(1 + n, count + 1, products)) for path in paths for n, id_ in enumerate(ids)}
    assert in_order(receiver.received) == lanes
    assert len({request.headers["webhook-id"] for request in receiver.received}) == count * len(targets)
    # Messages that were in flight at a kill, or were rejected, were sent again.
    assert len(receiver.received) > count * len(targets)


async def _started(servers: list[Any], url: str, folder: Path) -> str:
    server = running(url, folder, **OPTIONS)
    # In a thread: waiting must not block the receiver.
    entered = await asyncio.to_thread(server.__enter__)
    servers.append((server, entered))
    return entered.address
