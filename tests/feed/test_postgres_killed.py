"""Postgres dies under writers and listeners: every listener has every position once and in order, and every write its answer."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_database_url, create_database, embedded_server
from storefront.core.db.migrations import migrate
from tests.client import token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import FEED, Follower, Server, running
from tests.feed.test_faults import UPDATE, position, until

WRITERS, LISTENERS, CHANGES = 4, 6, 80


@dataclass(slots=True)
class StreamFollower:
    """A listener over server-sent events that connects again after what it saw last, whenever its stream ends."""

    server: Server
    store: str
    seen: list[int] = field(default_factory=list)

    async def follow(self) -> None:
        while True:
            with suppress(httpx.TransportError):
                async for event in self._events():
                    self.seen.append(int(event["position"]))
            await asyncio.sleep(0.1)

    async def _events(self) -> AsyncIterator[Any]:
        body = {"query": FEED, "variables": {"c": self.store, "after": str(self.seen[-1] if self.seen else 0)}}
        async with httpx.AsyncClient(timeout=httpx.Timeout(20, read=60)) as http:
            headers = {"accept": "text/event-stream"}
            async with http.stream("POST", f"{self.server.address}/graphql", json=body, headers=headers) as answer:
                if answer.status_code != 200:
                    return
                async for line in answer.aiter_lines():
                    found = json.loads(line[5:]) if line.startswith("data:") and line[5:].strip() else {}
                    if event := (found.get("data") or {}).get("productFeed"):
                        yield event
                    elif found.get("errors"):
                        return


class PatientFollower(Follower):
    """A listener on a WebSocket that connects again when its subscription ends, for whatever reason."""

    def _take(self, message: Any) -> None:
        if message["type"] in ("error", "complete"):
            raise EOFError
        super()._take(message)


async def write(server: Server, token: str, product: str, turn: int) -> None:
    """One write after the other, each sent under its key until it is answered with success. None goes without an answer."""
    async with httpx.AsyncClient(base_url=server.address, timeout=30, headers={"authorization": f"Bearer {token}"}) as http:
        for n in range(CHANGES):
            given = {"id": product, "title": f"Title {turn} {n}", "idempotencyKey": f"{product}-{turn}-{n}"}
            body = {"query": UPDATE, "variables": {"i": given}}
            while True:
                with suppress(httpx.RemoteProtocolError, httpx.ConnectError, httpx.ReadError):
                    answer = await http.post("/graphql", json=body)
                    if answer.status_code == 200 and "errors" not in answer.json():
                        assert answer.json()["data"]["updateProduct"]["userErrors"] == [], answer.text
                        break
                    codes = {error["extensions"]["code"] for error in answer.json()["errors"]}
                    assert codes == {"SERVICE_UNAVAILABLE"} and answer.status_code == 503 and answer.headers["retry-after"]
                await asyncio.sleep(0.1)


async def kill_postgres(folder: Path, servers: ExitStack, how: signal.Signals) -> None:
    """Kill the postmaster, and start Postgres again over what it left."""
    os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), how)
    await asyncio.sleep(0.3)
    # Another user of the same server: it starts one where there is none.
    await asyncio.to_thread(servers.enter_context, embedded_server(folder))


@pytest.mark.parametrize(
    ("workers", "how", "kills"),
    [
        (2, signal.SIGKILL, 1),
        (1, signal.SIGQUIT, 1),
        (1, signal.SIGINT, 1),
        pytest.param(1, signal.SIGKILL, 20, marks=pytest.mark.soak),
        pytest.param(2, signal.SIGKILL, 20, marks=pytest.mark.soak),
        pytest.param(4, signal.SIGKILL, 20, marks=pytest.mark.soak),
    ],
)
async def test_killed_postgres_loses_and_silences_nothing(tmp_path: Path, workers: int, how: signal.Signals, kills: int) -> None:
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
                followers += [StreamFollower(server, store) for _ in range(LISTENERS)]
                following = [asyncio.create_task(follower.follow()) for follower in followers]
                try:
                    for turn in range(kills):
                        head = await position(database, store) if followers[0].seen else 0
                        writing = asyncio.gather(*(write(server, token_of(user), product, turn) for product in products))
                        while not writing.done() and len(followers[0].seen) < head + 10:  # noqa: ASYNC110  it is heard of
                            await asyncio.sleep(0.02)
                        assert not writing.done()
                        await kill_postgres(folder, servers, how)
                        await asyncio.wait_for(writing, 120)
                    head = await position(database, store)
                    await until(lambda: min(len(follower.seen) for follower in followers) >= head, 60)
                finally:
                    for task in following:
                        task.cancel()
                    await asyncio.gather(*following, return_exceptions=True)
        for follower in followers:
            assert follower.seen == list(range(1, head + 1))
