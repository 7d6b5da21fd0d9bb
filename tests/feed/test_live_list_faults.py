"""Live lists while workers are killed and connections are cut: at each quiet point every list equals a fresh query."""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.core.net.tls import load_tls_context
from storefront.feed import log
from storefront.feed.log import LogEntry
from tests.client import Client, token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import Server, running
from tests.feed.test_faults import position, until
from tests.feed.test_feed import DELETE, PUBLISH, UNPUBLISH
from tests.feed.test_filtered_feed import FilteredWalk
from tests.feed.test_live_lists import LIST, LiveList, Row, fetch_lists, list_variables

# Changes between two quiet points, by so many writers at a time.
ROUND_WRITES, WRITERS = 40, 4
# A store with more products has some deleted, so that the windows of lists have a border.
MOST_PRODUCTS = 30
# What may be said of a request whose connection to the database was cut.
REFUSALS = {"SERVICE_UNAVAILABLE", "TIMEOUT"}
LOST = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, EOFError)


class PatientClient(Client):
    """A client that sends a request again until a worker has answered it. A write may be done twice."""

    async def post(self, query: str, **variables: Any) -> httpx.Response:
        for _ in range(200):
            with suppress(httpx.TransportError):
                response = await super().post(query, **variables)
                codes = {error["extensions"]["code"] for error in response.json().get("errors", ())}
                if not codes or not codes <= REFUSALS:
                    return response
            await asyncio.sleep(0.05)
        raise AssertionError("no worker answers")


class FollowedList:
    """A client's list that begins again, with a snapshot, whenever its connection is lost or the server ends it."""

    def __init__(self, address: str, token: str | None, store: str, variables: Row) -> None:
        self.variables, self.seen, self.connections = variables, Counter[str](), 0
        self._address, self._token, self._store = address, token, store
        self._list: LiveList | None = None
        self._socket: ClientConnection | None = None

    def is_equal_to(self, fresh: Row) -> bool:
        """Whether the list is that of a query."""
        return self._list is not None and (self._list.products, self._list.total) == (fresh["nodes"], fresh["totalCount"])

    def describe(self) -> str:
        """The list and its last events."""
        return f"{self.variables}: {self._list and (self._list.products, self._list.total, self._list.events[-5:])}"

    def cut(self) -> None:
        """Lose the connection, without a word to the server."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def follow(self) -> None:
        """Follow the list until cancelled."""
        while True:
            with suppress(*LOST):
                await self._listen()
            self._list = self._socket = None
            await asyncio.sleep(0.05)

    async def _listen(self) -> None:
        protocols: Any = ["graphql-transport-ws"]
        async with connect(self._address, subprotocols=protocols, compression=None) as socket:
            self._socket = socket
            payload = {"authorization": f"Bearer {self._token}"} if self._token else {}
            await socket.send(json.dumps({"type": "connection_init", "payload": payload}))
            await socket.recv()
            variables = {"c": self._store, **self.variables}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": LIST, "variables": variables}}))
            self.connections += 1
            live_list = LiveList(None, self.variables)  # type: ignore[arg-type]  # it does not listen by itself
            async for text in socket:
                message = json.loads(text)
                if message["type"] != "next" or "errors" in message["payload"]:
                    # The store is unpublished at the moment, or the database is not available.
                    raise EOFError
                event = message["payload"]["data"]["productList"]
                name = event["__typename"].removeprefix("ProductList")
                assert live_list.events or name == "Snapshot"
                live_list.apply(event)
                del live_list.events[:-10]
                self._list = live_list
                self.seen[name] += 1


class FaultyWalk(FilteredWalk):
    """Random writes of every kind, several at a time: what they are about may be gone."""

    async def delete_product(self) -> bool:
        return await self.mutate(DELETE.replace("$input", "$i"), id=self.pick_products(1)[0])

    async def reopen_store(self) -> bool:
        for document in (UNPUBLISH, PUBLISH):
            await self.mutate(document.replace("$input", "$i"), id=self.store)
        return True

    async def shuffle_popularity(self) -> bool:
        entry = LogEntry(kind="popularity_refreshed", entity_id=str(uuid7()), changed_fields=["popularity"])
        statement = "UPDATE products SET popularity = floor(random() * 5) WHERE config_id = %s"
        while True:
            # It locks the products in any order, while other writers lock some of them.
            with suppress(psycopg.errors.DeadlockDetected):
                async with self.owner.database.transaction() as connection:
                    await connection.raw.execute(statement, [self.store])
                    await log.append_entries(connection, self.store, [entry])
                return True

    async def write(self) -> None:
        """One of the writes, or a deletion if there are too many products."""
        kinds: tuple[Callable[[], Awaitable[bool]], ...] = (
            *(self.create_product, self.create_product, self.update_product, self.bulk_update_products),
            *(self.update_product_prices, self.create_variant, self.update_variant, self.update_variant, self.delete_variant),
            *(self.adjust_inventory, self.adjust_inventory, self.import_file, self.update_details, self.update_details),
            *(self.rename_options, self.set_variants, self.review, self.update_review, self.moderate_review),
            *(self.delete_review, self.delete_product, self.reopen_store, self.shuffle_popularity),
        )
        is_full = len(self.products) > MOST_PRODUCTS and self.random.random() < 0.2
        await (self.delete_product if is_full else self.random.choice(kinds))()


class Faults:
    """The faults, each of which interrupts some of the lists."""

    def __init__(self, server: Server, url: str, lists: list[FollowedList], random: Random) -> None:
        self.counts, self._calls = Counter[str](), 0
        self._server, self._url, self._lists, self._random = server, url, lists, random

    async def inject(self) -> None:
        """One fault, or none. Those of the first four times are all that there are."""
        kinds = (self._cut_lists, self._kill_worker, self._cut_database, self._cut_wake_ups)
        self._calls += 1
        kind = kinds[self._calls - 1] if self._calls <= len(kinds) else self._random.choice((*kinds, self._cut_lists, None, None))
        if kind is not None:
            await kind()
            self.counts[kind.__name__] += 1

    async def _cut_lists(self) -> None:
        for one in self._random.sample(self._lists, self._random.randint(1, len(self._lists))):
            one.cut()

    async def _kill_worker(self) -> None:
        # Never the last one, so that the kernel does not hold connections that nobody accepts.
        if len(workers := self._server.workers()) > 1:
            os.kill(max(workers, key=self._server.sockets), signal.SIGKILL)

    async def _cut_database(self) -> None:
        await self._terminate("query NOT LIKE 'LISTEN%'")

    async def _cut_wake_ups(self) -> None:
        await self._terminate("(query LIKE 'LISTEN%' OR query LIKE '%pg_notify%')")

    async def _terminate(self, condition: str) -> None:
        # Connections of the server only: those of this process have another name.
        statement = f"""SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
          WHERE datname = current_database() AND application_name = 'lists' AND {condition}"""
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            await connection.execute(statement.encode())


@asynccontextmanager
async def following_all(lists: list[FollowedList]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Follow the lists."""
    tasks = [asyncio.create_task(one.follow()) for one in lists]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Numbers of changes: 50,000 in the long ones.
CASES = [(0, 200), *(pytest.param(seed, 2_500, marks=pytest.mark.soak) for seed in range(1, 21))]


@pytest.mark.parametrize(("seed", "changes"), CASES)
async def test_lists_equal_fresh_queries_whatever_is_cut(
    seed: int, changes: int, empty_url: str, database: Database, tmp_path: Path
) -> None:
    user, random = await make_user(database), Random(seed)
    store = await make_store(database, user_id=user)
    for _ in range(8):
        await make_product(database, store)
    separator = "&" if "?" in empty_url else "?"
    url = f"{empty_url}{separator}application_name=lists"
    # Whatever a process has cached is no fresh query.
    with running(url, tmp_path, workers=2, POLL_INTERVAL="0.2", RESPONSE_CACHE_BYTES="0") as server:
        async with httpx.AsyncClient(base_url=server.address, timeout=30, verify=load_tls_context()) as http:
            shopper = PatientClient(http, database)
            owner, *reviewers = (
                PatientClient(http, database, token_of(one, seconds=86_400))
                for one in (user, *[await make_user(database) for _ in range(3)])
            )
            walk = FaultyWalk(owner, [*reviewers], store, random)
            lists = {
                client: [FollowedList(server.socket_address, client.token, store, one) for one in variables]
                for client, variables in zip((shopper, owner), list_variables(random), strict=True)
            }
            every = [one for found in lists.values() for one in found]
            faults = Faults(server, empty_url, every, random)

            async def write(count: int) -> None:
                for _ in range(count):
                    await walk.write()

            async def expect_equality() -> None:
                for client, followed in lists.items():
                    expected = await fetch_lists(client, store, [one.variables for one in followed])
                    for one, fresh in zip(followed, expected, strict=True):
                        try:
                            await until(lambda one=one, fresh=fresh: one.is_equal_to(fresh))  # type: ignore[misc]
                        except AssertionError:
                            raise AssertionError(f"{one.describe()} is not {fresh}") from None

            async with following_all(every) as tasks:
                await expect_equality()
                head = 0
                while head < changes:
                    walk.products = await walk.load_products()
                    writers = [write(ROUND_WRITES // WRITERS) for _ in range(WRITERS)]
                    await asyncio.gather(*writers, faults.inject())
                    await expect_equality()
                    assert not any(task.done() for task in tasks)
                    head = await position(database, store)
    seen = sum((one.seen for one in every), Counter[str]())
    assert seen.keys() >= {"Snapshot", "Enter", "Leave", "Move", "Update", "Heartbeat"}
    if changes > 1_000:
        # Each of the four kinds occurred, and each list has begun again many times.
        assert len(faults.counts) == 4 and all(one.connections > 5 for one in every)
    assert sum(one.connections for one in every) > len(every), "no list lost its connection: the faults had no effect"
