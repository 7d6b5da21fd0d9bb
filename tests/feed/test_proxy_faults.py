"""A whole server whose way to Postgres is slow, silent or cut off: each answer is right or says why not, and in time.

Readers, a writer and listeners go on through every fault. An answer is that of its own request or a typed error, what is written
is written once, every listener has every position once and in order, and soon after the fault all is as it was before.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from storefront.analytics import rollups
from storefront.core.db import database as databases
from storefront.core.db import pipeline
from storefront.core.db.database import Database
from storefront.feed import pubsub
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import PatientFollower, StreamFollower
from tests.feed.test_faults import position, until
from tests.lag import Lag, measured_lag
from tests.postgres_proxy import ANSWERS, REQUESTS, PostgresProxy, postgres_proxy

READ = "query($id: ID!) { product(by: { id: $id }) { id title } }"
LIST = "query($c: ID!) { config(by: { id: $c }) { id products(first: 20) { nodes { id title } } } }"
UPDATE = """mutation($i: UpdateProductInput!) { updateProduct(input: $i) {
  product { id title } clientMutationId userErrors { message } } }"""
# What may be said of a request that could not be answered, with the status of an answer that is nothing else.
REFUSALS = {"SERVICE_UNAVAILABLE": 503, "TIMEOUT": 504}

POOL_SIZE, POOL_SECONDS, STATEMENT_SECONDS, REQUEST_SECONDS = 4, 0.4, 0.4, 1.0
GRACE, TIMEOUT_SECONDS, IDLE_IN_TRANSACTION_MS = 0.1, 0.2, 300
# Who asks is looked up first, in one statement on a connection that is waited for. Then the operation has its time, and what it
# was at when that was over has to stop.
LONGEST_ANSWER = POOL_SECONDS + STATEMENT_SECONDS + GRACE + REQUEST_SECONDS + TIMEOUT_SECONDS
# Seconds after the end of a fault within which everything works again.
RECOVERY = 2.0
SOAK = [0.05, 0.3, 0.7, 1.5, 4.0] * 6
# A server of this test: its pool, and the two that wake it.
MOST_CONNECTIONS = POOL_SIZE + 2


@dataclass(slots=True)
class Shop:
    """A server behind the proxy, and those who use it. `read` are products by store; `direct` is the database itself."""

    shopper: Client
    owner: Client
    proxy: PostgresProxy
    direct: Database
    lag: Lag
    read: dict[str, dict[str, str]]
    written: str
    followers: list[Any] = field(default_factory=list)
    writes: int = 0
    refused: int = 0
    longest: float = 0.0
    is_busy: bool = False

    @property
    def store(self) -> str:
        """The one that is written and listened to."""
        return next(iter(self.read))

    async def ask(self, client: Client, query: str, **variables: Any) -> Any:
        """The data, or None where the answer is a refusal. Each answer is one of the two, and comes in time."""
        began, lag = time.monotonic(), self.lag.seconds
        answer = await client.post(query, **variables)
        took = time.monotonic() - began - (self.lag.seconds - lag)
        assert took < LONGEST_ANSWER, (took, answer.text)
        self.longest = max(self.longest, took)
        received = answer.json()
        if "errors" not in received:
            assert answer.status_code == 200, answer.text
            return received["data"]
        codes = {error["extensions"]["code"] for error in received["errors"]}
        assert codes <= REFUSALS.keys(), answer.text
        assert "data" in received or answer.status_code == REFUSALS[codes.pop()], answer.text
        self.refused += 1
        return None

    async def read_once(self, number: int) -> bool:
        """Read a product, or those of a store; whether there was an answer."""
        store = [*self.read][number % 2]
        products = self.read[store]
        if number % 3 == 0:
            received = await self.ask(self.shopper, LIST, c=store)
            if received is not None:
                assert received["config"]["id"] == store
                titles = {node["id"]: node["title"] for node in received["config"]["products"]["nodes"]}
                assert bool(titles.pop(self.written, "")) == (store == self.store)
                assert titles == products
        else:
            id_ = [*products][number % len(products)]
            received = await self.ask(self.shopper, READ, id=id_)
            assert received is None or received["product"] == {"id": id_, "title": products[id_]}
        return received is not None

    async def write(self) -> None:
        """Write once, sent under one key until it is answered with success."""
        self.writes += 1
        number = self.writes
        while not await self.write_once(number):  # noqa: ASYNC110  it is asked of a server
            await asyncio.sleep(0.02)

    async def write_once(self, number: int) -> bool:
        """Send a write; whether it is known to be done."""
        title = f"Written {number}"
        given = {"id": self.written, "title": title, "idempotencyKey": f"key {number}", "clientMutationId": str(number)}
        received = await self.ask(self.owner, UPDATE, i=given)
        if received is None:
            return False
        payload = {"product": {"id": self.written, "title": title}, "clientMutationId": str(number), "userErrors": []}
        assert received["updateProduct"] == payload
        return True

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[list[int]]:
        """Read and write all the while: how many reads and writes were answered so far. What is on its way is waited for."""
        done = [0, 0]

        async def read(number: int) -> None:
            while self.is_busy:
                done[0] += await self.read_once(number)
                number += 1
                await asyncio.sleep(0.01)

        async def write() -> None:
            while self.is_busy:
                await self.write()
                done[1] += 1
                await asyncio.sleep(0.02)

        self.is_busy = True
        going_on = asyncio.gather(read(0), read(1), write())
        try:
            yield done
        finally:
            self.is_busy = False
            await asyncio.wait_for(going_on, 30)

    async def expect_recovery(self) -> dict[str, float]:
        """Soon from now reads and writes succeed, and every listener hears of a write that came later. Seconds until they do."""
        began, lag = time.monotonic(), self.lag.seconds
        took: dict[str, float] = {}
        head = await position(self.direct, self.store)

        async def until_true(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
            while not await holds():  # noqa: ASYNC110  likewise
                await asyncio.sleep(0.02)
            took[what] = time.monotonic() - began

        async def write() -> bool:
            await self.write()
            return True

        async def hear(follower: Any) -> bool:
            return bool(follower.seen) and follower.seen[-1] > head

        works = [until_true("read", lambda: self.read_once(1)), until_true("write", write)]
        works += [until_true(type(one).__name__, lambda one=one: hear(one)) for one in self.followers]  # type: ignore[misc]
        async with asyncio.timeout(30):
            await asyncio.gather(*works)
        lagged = self.lag.seconds - lag
        assert max(took.values()) < RECOVERY + lagged, (took, lagged)
        return took

    async def expect_order(self) -> None:
        """Every write was done once, every listener heard of each once and in order, and no connection is left over."""
        async with self.direct.transaction() as connection:
            rows = await connection.raw.execute("SELECT client_mutation_id FROM changes ORDER BY position")
            received = [int(number) for (number,) in await rows.fetchall()]
        assert sorted(received) == list(range(1, self.writes + 1))
        head = await position(self.direct, self.store)
        assert head == self.writes
        await until(lambda: all(follower.seen[-1:] == [head] for follower in self.followers))
        for follower in self.followers:
            assert follower.seen == list(range(1, head + 1))
        self.proxy.close_lost()
        counted = self.shopper.database.get_pool_stats
        await until(lambda: counted().connections == counted().free <= POOL_SIZE and not counted().waiting, 5)
        end = time.monotonic() + 5
        while (connections := await self.count_connections()) > MOST_CONNECTIONS:
            assert time.monotonic() < end, connections
            await asyncio.sleep(0.1)

    async def count_connections(self) -> int:
        """How many connections of the server Postgres knows."""
        async with self.direct.transaction() as connection:
            rows = await connection.raw.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'proxied'")
            [(count,)] = await rows.fetchall()
        return int(count)


@pytest.fixture
async def shop(
    postgres: str, empty_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    monkeypatch.setattr(pipeline, "BATCH_GRACE_SECONDS", GRACE)
    monkeypatch.setattr(pipeline, "CANCEL_TIMEOUT_SECONDS", TIMEOUT_SECONDS)
    # After a minute the maintenance of partitions and the roll-up of events run.
    for name in ("LONG_STATEMENT_MS", "PARTITIONS_TIMEOUT_MS"):
        monkeypatch.setattr(rollups, name, int(1_000 * STATEMENT_SECONDS))
    monkeypatch.setattr(databases, "IDLE_IN_TRANSACTION_MS", IDLE_IN_TRANSACTION_MS)
    monkeypatch.setattr(pubsub, "PROBE_INTERVAL_SECONDS", 0.5)
    monkeypatch.setattr(pubsub, "PROBE_TIMEOUT_SECONDS", 0.5)
    user = await make_user(database)
    stores = [await make_store(database, user_id=user) for _ in range(2)]
    read = {}
    for store in stores:
        titles = [f"Product {number} of {store}" for number in range(4)]
        read[store] = {await make_product(database, store, title=title): title for title in titles}
    written = await make_product(database, stores[0], title="Not yet")
    with postgres_proxy(empty_url) as proxy:
        url = f"{proxy.url()}&application_name=proxied"
        # Kept answers are judged by what the database says of the logs, so that these looks meet the faults as well.
        options: dict[str, Any] = {
            "broadcast_url": url,
            "pool_size": POOL_SIZE,
            "pool_timeout": POOL_SECONDS,
            "statement_timeout": int(1_000 * STATEMENT_SECONDS),
            "lock_timeout": 200,
            "request_timeout": REQUEST_SECONDS,
            "poll_interval": 0.2,
            "response_cache_bytes": 1_000_000,
        }
        async with measured_lag() as lag, serving(url, tmp_path, **options) as shopper:
            made = Shop(shopper, shopper.signed_in(user), proxy, database, lag, read, written)
            address = str(shopper.http.base_url).rstrip("/")
            made.followers = [
                PatientFollower(f"{address.replace('http', 'ws', 1)}/graphql", made.store),
                StreamFollower(address, made.store),
            ]
            following = [asyncio.create_task(follower.follow()) for follower in made.followers]
            try:
                await made.write()
                await until(lambda: all(follower.seen for follower in made.followers))
                yield made
            finally:
                proxy.heal()
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)


async def test_late_answers_are_right_ones(shop: Shop) -> None:
    async with shop.busy() as done:
        await asyncio.sleep(0.3)
        # A write takes five round trips, which have the time of a request together.
        shop.proxy.delay = 0.15
        await asyncio.sleep(0.3)
        before = [*done]
        await asyncio.sleep(2)
        assert done[0] > before[0] and done[1] > before[1]
        shop.proxy.heal()
        await shop.expect_recovery()
    await shop.expect_order()


@pytest.mark.parametrize(
    ("lost", "seconds"),
    # After the shorter ones most of what is on its way still waits, after the longer ones it was answered long ago.
    [
        ([REQUESTS], [1.5]),
        ([ANSWERS], [0.3]),
        ([REQUESTS, ANSWERS], [0.3, 1.5]),
        *(pytest.param(lost, SOAK, marks=pytest.mark.soak) for lost in ([REQUESTS], [ANSWERS], [REQUESTS, ANSWERS])),
    ],
)
async def test_half_open_connections_leave_no_request_waiting(shop: Shop, lost: list[str], seconds: Iterable[float]) -> None:
    for length in seconds:
        async with shop.busy():
            await asyncio.sleep(0.2)
            shop.proxy.lose(*lost)
            await asyncio.sleep(length)
            assert length < 1 or shop.refused
            shop.proxy.heal()
            await shop.expect_recovery()
        await shop.expect_order()


async def meet_cut(shop: Shop, number: int) -> None:
    """Two readers and a writer meet a cut at the same time; the write is sent again until it is done."""
    cuts = shop.proxy.cuts
    await asyncio.gather(shop.read_once(2 * number), shop.read_once(2 * number + 1), shop.write())
    shop.proxy.heal()
    if shop.proxy.cuts > cuts:
        await asyncio.gather(shop.read_once(0), shop.read_once(1))


@pytest.mark.parametrize("numbers", [range(0, 60, 4), pytest.param(range(400), marks=pytest.mark.soak)])
async def test_connection_cut_at_any_message(shop: Shop, numbers: Iterable[int]) -> None:
    for number in numbers:
        shop.proxy.cuts_once, shop.proxy.carried, shop.proxy.cut_after = True, 0, number
        await meet_cut(shop, number)
    assert shop.proxy.cuts
    await shop.expect_recovery()
    await shop.expect_order()


@pytest.mark.parametrize("direction", [REQUESTS, ANSWERS])
@pytest.mark.parametrize("places", [range(1, 4_000, 331), pytest.param(range(0, 8_000, 13), marks=pytest.mark.soak)])
async def test_connection_cut_at_any_byte(shop: Shop, direction: str, places: Iterable[int]) -> None:
    for number, place in enumerate(places):
        shop.proxy.cuts_once, shop.proxy.cut_at = True, (direction, place)
        await meet_cut(shop, number)
    assert shop.proxy.cuts
    await shop.expect_recovery()
    await shop.expect_order()


@pytest.mark.parametrize("numbers", [range(3, 40, 12), pytest.param(range(200), marks=pytest.mark.soak)])
async def test_database_that_goes_away_at_any_message(shop: Shop, numbers: Iterable[int]) -> None:
    for number in numbers:
        async with shop.busy():
            shop.proxy.carried, shop.proxy.cut_after = 0, number
            await asyncio.sleep(0.7)
            shop.proxy.heal()
            await shop.expect_recovery()
        await shop.expect_order()
