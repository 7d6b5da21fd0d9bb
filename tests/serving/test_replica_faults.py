"""Replicas that are killed, paused, behind, or not there at the start: reads are served, and writes do not notice."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from storefront.core.db import replicas as replication
from storefront.core.db.database import Database
from storefront.core.db.migrations import migrate
from storefront.core.db.replicas import split_hosts
from storefront.serving.observability import health
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.replicas import PostgresServer, replicated

TITLE = "query($i: ID!) { product(by: {id: $i}) { title } }"
UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { userErrors { message } } }"
POOL_TIMEOUT = 5.0

Servers = tuple[PostgresServer, list[PostgresServer]]


@pytest.fixture(scope="module")
def servers(postgres: str) -> Iterator[Servers]:
    # `postgres` has made the account that runs servers of Postgres.
    with replicated(2) as running:
        migrate(running[0].url)
        yield running


@pytest.fixture(autouse=True)
def probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PROBE_INTERVAL_SECONDS", 0.1)
    monkeypatch.setattr(replication, "PROBE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(health, "CACHE_SECONDS", 0.0)


@pytest.fixture
def restored(servers: Servers) -> Iterator[Servers]:
    """The servers, with all replicas running and following the primary again at the end."""
    yield servers
    for replica in servers[1]:
        replica.kill()
        replica.start()


class Shop:
    """A product, its owner who writes, and a shopper who reads from the replicas."""

    def __init__(self, shopper: Client, owner: Client, product: str) -> None:
        self.shopper, self._owner, self._product = shopper, owner, product

    async def read(self) -> str:
        """The title that shoppers see; within the timeout of the pool."""
        began = monotonic()
        title = (await self.shopper.ask(TITLE, i=self._product))["product"]["title"]
        assert monotonic() - began < POOL_TIMEOUT
        return str(title)

    async def write(self, title: str) -> None:
        began = monotonic()
        result = await self._owner.ask(UPDATE, i={"id": self._product, "title": title})
        assert result["updateProduct"]["userErrors"] == [] and monotonic() - began < POOL_TIMEOUT

    async def wait_for_replicas(self, state: str) -> None:
        """Wait until `/readyz` describes the replicas so. It stays ready in every state."""
        async with asyncio.timeout(30):
            while True:
                response = await self.shopper.http.get("/readyz")
                assert response.status_code == 200
                if state in response.json()["parts"]["replica"]:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def opened(servers: Servers, folder: Path, *, lag: float = 0.0, cache_bytes: int = 0) -> AsyncIterator[Shop]:
    primary, replicas = servers
    url = f"postgresql://postgres@{','.join(f'127.0.0.1:{one.port}' for one in replicas)}/postgres?load_balance_hosts=random"
    async with Database(primary.url) as database:
        owner = await make_user(database)
        product = await make_product(database, await make_store(database, user_id=owner), title="0")
    options: dict[str, Any] = {"pool_timeout": POOL_TIMEOUT, "max_replica_lag": lag, "response_cache_bytes": cache_bytes}
    async with serving(primary.url, folder, database_read_url=SecretStr(url), **options) as shopper:
        yield Shop(shopper, shopper.signed_in(owner), product)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  it is asked of a server
            await asyncio.sleep(0.02)


async def expect_reads_from_replicas(shop: Shop, servers: Servers, before: str, after: str) -> None:
    """Replicas that stand still show what was before the last write."""

    async def has_arrived() -> bool:
        return [await shop.read() for _ in servers[1]] == [before] * len(servers[1])

    await until(has_arrived)
    for replica in servers[1]:
        replica.execute("SELECT pg_wal_replay_pause()")
    await shop.write(after)
    assert [await shop.read() for _ in range(4)] == [before] * 4


def resume(servers: Servers) -> None:
    for replica in servers[1]:
        replica.execute("SELECT pg_wal_replay_resume()")


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_reads_go_to_primary_while_all_replicas_are_lost(restored: Servers, tmp_path: Path, how: str) -> None:
    async with opened(restored, tmp_path) as shop:
        await shop.wait_for_replicas("ok")
        await expect_reads_from_replicas(shop, restored, "0", "1")
        for replica in restored[1]:
            replica.kill() if how == "killed" else replica.send_signal(signal.SIGSTOP)
        # Those that are under way while they are lost as well.
        assert await asyncio.gather(*(shop.read() for _ in range(40))) == ["1"] * 40
        await shop.wait_for_replicas("does not answer")
        began = monotonic()
        for number in range(2, 7):
            await shop.write(str(number))
            assert await shop.read() == str(number)
        assert monotonic() - began < POOL_TIMEOUT
        for replica in restored[1]:
            replica.start() if how == "killed" else replica.send_signal(signal.SIGCONT)
        resume(restored)
        await shop.wait_for_replicas("ok")
        await expect_reads_from_replicas(shop, restored, "6", "7")


async def test_server_starts_without_replicas_and_uses_them_later(restored: Servers, tmp_path: Path) -> None:
    for replica in restored[1]:
        replica.kill()
    async with opened(restored, tmp_path) as shop:
        await shop.write("1")
        assert await shop.read() == "1"
        for replica in restored[1]:
            replica.start()
        await shop.wait_for_replicas("ok")
        await expect_reads_from_replicas(shop, restored, "1", "2")


async def test_other_replicas_serve_the_reads_of_a_lost_one(restored: Servers, tmp_path: Path) -> None:
    async with opened(restored, tmp_path) as shop:
        await shop.wait_for_replicas("ok")
        await expect_reads_from_replicas(shop, restored, "0", "1")
        restored[1][0].kill()
        await shop.wait_for_replicas("does not answer")
        assert [await shop.read() for _ in range(6)] == ["0"] * 6


async def test_replica_far_behind_is_not_used_until_it_catches_up(restored: Servers, tmp_path: Path) -> None:
    async with opened(restored, tmp_path, lag=0.3) as shop:
        await shop.wait_for_replicas("ok")
        await expect_reads_from_replicas(shop, restored, "0", "1")
        await shop.wait_for_replicas("behind")

        async def is_new() -> bool:
            return await shop.read() == "1"

        await until(is_new)
        resume(restored)
        await shop.wait_for_replicas("ok")


async def test_responses_of_a_replica_behind_are_never_cached_as_those_of_another(restored: Servers, tmp_path: Path) -> None:
    async with opened(restored, tmp_path, cache_bytes=1_000_000) as shop:
        await shop.wait_for_replicas("ok")
        await expect_reads_from_replicas(shop, restored, "0", "1")
        # One of the two has the change, and the other one has not.
        restored[1][0].execute("SELECT pg_wal_replay_resume()")

        async def has_one_changed() -> bool:
            return {await shop.read() for _ in range(4)} != {"0"}

        await until(has_one_changed)
        # Once the other one has it as well, no response is from before.
        resume(restored)

        async def have_all_changed() -> bool:
            return {await shop.read() for _ in range(8)} == {"1"}

        await until(have_all_changed)
        assert {await shop.read() for _ in range(20)} == {"1"}


@pytest.mark.parametrize(
    ("url", "hosts", "is_balanced"),
    [
        ("postgresql://u:p@one:1,two:2/d?load_balance_hosts=random", [("one", "1"), ("two", "2")], True),
        ("postgresql://u@one,two/d?application_name=a", [("one", None), ("two", None)], False),
        ("host=one,two port=7 dbname=d", [("one", "7"), ("two", "7")], False),
        ("postgresql:///d?host=/run/postgresql", [("/run/postgresql", None)], False),
    ],
)
def test_split_hosts_keeps_all_other_options(url: str, hosts: list[tuple[str, str | None]], is_balanced: bool) -> None:
    found, found_balanced = split_hosts(url)
    parts = [conninfo_to_dict(conninfo) for _, conninfo in found]
    assert [(part["host"], part.get("port")) for part in parts] == hosts and found_balanced is is_balanced
    rest = {name: value for name, value in conninfo_to_dict(url).items() if name not in ("host", "port", "load_balance_hosts")}
    assert all({name: part[name] for name in rest} == rest for part in parts)


TITLED = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"
CREATED = """mutation($i: CreateProductInput!) { createProduct(input: $i) {
  position product { id handle config { id slug } variants(first: 1) { nodes { id } } } userErrors { message } } }"""
READS = {
    "product by id": 'query($a: Position) { product(by: {id: "%(id)s"}, atLeast: $a) { title } }',
    "product by handle": 'query($a: Position) { product(by: {handle: {configId: "%(store)s", handle: "%(handle)s"}}, '
    "atLeast: $a) { title } }",
    "variant": 'query($a: Position) { variant(by: {id: "%(variant)s"}, atLeast: $a) { product { title } } }',
    "products": 'query($a: Position) { products(configId: "%(store)s", atLeast: $a) { nodes { title } } }',
    "config by id": 'query($a: Position) { config(by: {id: "%(store)s"}, atLeast: $a) { products { nodes { title } } } }',
    "config by slug": 'query($a: Position) { config(by: {slug: "%(slug)s"}, atLeast: $a) { products { nodes { title } } } }',
    "after another field": 'query($a: Position) { stale: product(by: {id: "%(id)s"}) { title } '
    'fresh: product(by: {id: "%(id)s"}, atLeast: $a) { title } }',
}


@pytest.mark.parametrize("cache_bytes", [0, 1_000_000])
async def test_reads_at_least_at_a_position_include_its_change(restored: Servers, tmp_path: Path, cache_bytes: int) -> None:
    async with opened(restored, tmp_path, cache_bytes=cache_bytes) as shop:
        await shop.wait_for_replicas("ok")
        owner, shopper = shop._owner, shop.shopper
        store = (await owner.ask("query($i: ID!) { product(by: {id: $i}) { config { id } } }", i=shop._product))["product"][
            "config"
        ]
        for replica in restored[1]:
            replica.execute("SELECT pg_wal_replay_pause()")
        given = {"configId": store["id"], "title": "First", "price": "1"}
        created = (await owner.ask(CREATED, i=given))["createProduct"]
        product = created["product"]
        names = {
            "id": product["id"],
            "handle": product["handle"],
            "store": store["id"],
            "slug": product["config"]["slug"],
            "variant": product["variants"]["nodes"][0]["id"],
        }
        # The replicas know neither the product nor the change: the primary answers.
        for name, document in READS.items():
            assert "First" in str(await shopper.ask(document % names, a=created["position"])), name
        assert (await shopper.ask(READS["product by id"] % names))["product"] is None
        for replica in restored[1]:
            replica.execute("SELECT pg_wal_replay_resume()")
        # It waits for a replica that is behind: each of these is read as soon as it is there.
        for number in range(10):
            renamed = (await owner.ask(TITLED, i={"id": product["id"], "title": f"Title {number}"}))["updateProduct"]
            for name, document in READS.items():
                assert f"Title {number}" in str(await shopper.ask(document % names, a=renamed["position"])), name


async def test_a_position_that_no_change_has_is_not_waited_for_long(restored: Servers, tmp_path: Path) -> None:
    async with opened(restored, tmp_path) as shop:
        await shop.wait_for_replicas("ok")
        document = 'query($i: ID!) { product(by: {id: $i}, atLeast: "999999") { title } }'
        began = monotonic()
        assert (await shop.shopper.ask(document, i=shop._product))["product"] == {"title": "0"}
        assert monotonic() - began < POOL_TIMEOUT


def delay_replicas(servers: Servers, delay: str) -> None:
    """Let the replicas apply each commit so much later; all at once again for "0"."""
    for replica in servers[1]:
        replica.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'")
        replica.execute("SELECT pg_reload_conf()")


@pytest.mark.parametrize("reads", [300, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_reads_at_least_at_a_position_are_never_stale(restored: Servers, tmp_path: Path, reads: int) -> None:
    written: list[tuple[str, int]] = []
    remaining, stale = reads, 0
    try:
        async with opened(restored, tmp_path, cache_bytes=1_000_000) as shop:
            await shop.wait_for_replicas("ok")
            document, random = READS["product by id"] % {"id": shop._product}, Random(1)

            async def have_product() -> bool:
                return all([(await shop.shopper.ask(document))["product"] for _ in range(8)])

            await until(have_product)
            delay_replicas(restored, "2s")

            async def has_written() -> bool:
                return bool(written)

            async def write() -> None:
                while remaining > 0:
                    given = {"id": shop._product, "title": str(len(written) + 1)}
                    updated = (await shop._owner.ask(TITLED, i=given))["updateProduct"]
                    written.append((updated["position"], len(written) + 1))
                    await asyncio.sleep(0.02)

            async def read() -> None:
                nonlocal remaining, stale
                while remaining > 0:
                    remaining -= 1
                    # Newer than the replica, and as old as what it has.
                    position, number = random.choice(written[-random.choice((1, 1, 20, 150)) :])
                    assert int((await shop.shopper.ask(document, a=position))["product"]["title"]) >= number
                    newest = written[-1][1]
                    stale += int((await shop.shopper.ask(document))["product"]["title"]) < newest

            writing = asyncio.create_task(write())
            await until(has_written)
            await asyncio.gather(*(read() for _ in range(40)))
            await writing
        # The replicas were behind, and are what reads without a position go to.
        # Fewer than all: what the primary has answered is cached.
        assert stale
    finally:
        delay_replicas(restored, "0")
