"""Live lists under hostile clients: what they open is bounded and ends with them, and no listener is silent for good."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

import storefront.services
from storefront.core.db.database import Database
from storefront.feed import log
from storefront.feed.hub import Hub
from storefront.feed.log import LogEntry
from storefront.graph.context import Feed
from storefront.products import live_lists
from storefront.products.live_lists import LiveList
from storefront.products.store_lists import StoreLists
from tests.client import Client, token_of
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running
from tests.feed.test_feed import DELETE, UNPUBLISH, UPDATE, listening
from tests.feed.test_limits import address_of, close_code, hear, opened, say, subscribe, until
from tests.feed.test_live_lists import LIST, Row, following
from tests.writes.test_concurrency import buyer

DELETE_STORE = "mutation($input: DeleteConfigInput!) { deleteConfig(input: $input) { userErrors { message } } }"
LONG_LIST = """subscription($c: ID!) { productList(configId: $c, first: 100) { __typename position
  ... on ProductListSnapshot { products { description } } ... on ProductListUpdate { product { description } } } }"""
MAX_LISTS = 40


@dataclass
class Scene:
    """A server, its feed, and a store with products whose owner is signed in."""

    shopper: Client
    owner: Client
    store: str
    products: list[str]
    feed: Feed

    def is_idle(self) -> bool:
        """Whether no list is open."""
        hub: Hub = self.feed.hub
        return not len(self.feed.live_lists) and not len(self.feed.store_lists) and not hub._channels and not hub._follower_tasks


@pytest.fixture
def options() -> Row:
    """The settings of the server."""
    return {"max_live_lists": MAX_LISTS}


@pytest.fixture
async def scene(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Row) -> AsyncIterator[Scene]:
    feeds: list[Feed] = []

    def note(*arguments: Any, **named: Any) -> Feed:
        feeds.append(Feed(*arguments, **named))
        return feeds[-1]

    monkeypatch.setattr(storefront.services, "Feed", note)
    async with serving(empty_url, tmp_path, **options) as shopper:
        user = await make_user(shopper.database)
        store = await make_store(shopper.database, user_id=user)
        products = [await make_product(shopper.database, store, title=f"Mug {n}", description="long " * 50) for n in range(8)]
        yield Scene(shopper, shopper.signed_in(user), store, products, feeds[0])


def pick_expensive_list(random: Random) -> Row:
    """A list with as many filters as there are, of which no two are equal."""
    values = [f"{random.random()}" for _ in range(50)]
    return {
        "first": 100,
        "sort": {"key": random.choice(("PRICE", "NAME", "RATING", "POPULARITY", "UPDATED_AT"))},
        "search": random.choice((None, "mug", "long mug")),
        "filter": {
            "attributes": [{"name": f"n{n}", "values": values[n : n + 5]} for n in range(random.randrange(10))],
            "tags": random.choice((None, values)),
            "minPrice": f"{random.randrange(500) / 100:.2f}",
            "maxPrice": f"{random.randrange(2_000, 90_000) / 100:.2f}",
            "minRating": random.choice((None, 0)),
        },
    }


def count_lists() -> int:
    gc.collect()
    return sum(isinstance(one, LiveList | StoreLists) for one in gc.get_objects())


async def open_many_lists(scene: Scene, random: Random) -> Counter[str]:
    """Subscribe to lists on several sockets as fast as possible, end some, and vanish. The first messages by type."""
    received = Counter[str]()

    async def subscribe_many(socket: Any) -> None:
        for number in range(30):
            given = {name: value for name, value in pick_expensive_list(random).items() if value is not None}
            await subscribe(socket, str(number), LIST, c=scene.store, **given)
            if random.random() < 0.3:
                await say(socket, "complete", id=str(random.randrange(number + 1)))
        first = set[str]()
        with suppress(TimeoutError):
            while True:
                # A busy machine may take long until the first one.
                message = await hear(socket, 1 if first else 15)
                if message["id"] not in first:
                    received[message["type"]] += 1
                first.add(message["id"])
                if message["type"] == "error":
                    assert message["payload"][0]["extensions"]["code"] == "SERVICE_UNAVAILABLE", message
        if random.random() < 0.5:
            socket.transport.abort()

    async def write() -> None:
        for number in range(20):
            given = {"id": random.choice(scene.products), "price": f"{random.randrange(1, 9)}", "title": f"Mug {number}"}
            await scene.owner.ask(UPDATE, input=given)

    async with AsyncExitStack() as stack:
        address = address_of(scene.shopper)
        sockets = [await stack.enter_async_context(opened(address, close_timeout=0.1)) for _ in range(5)]
        await asyncio.gather(*map(subscribe_many, sockets), write())
        assert len(scene.feed.live_lists) <= MAX_LISTS
    return received


async def test_storms_of_lists_are_bounded_and_leave_nothing(scene: Scene) -> None:
    random, count_before = Random(1), count_lists()
    for _ in range(3):
        received = await open_many_lists(scene, random)
        assert received["next"] and received["error"], received
        await until(scene.is_idle, 60)
        # What one storm has opened is no obstacle for anybody else.
        async with following(scene.shopper, scene.store, first=3) as live_list:
            await scene.owner.ask(UPDATE, input={"id": scene.products[-1], "title": f"{random.random()}"})
            assert (await live_list.next())["__typename"] in ("ProductListUpdate", "ProductListHeartbeat")
        await until(scene.is_idle)
    # What ended last may still be referred to by a task that ends.
    await until(lambda: count_lists() <= count_before, 30)


async def test_lists_of_a_deleted_store_are_complete(scene: Scene) -> None:
    """Also of a store whose log is empty, as this one's is."""
    async with listening(scene.shopper, scene.store, LIST) as one, listening(scene.owner, scene.store, LIST) as own:
        for listener in (one, own):
            assert (await listener.message())["type"] == "next"
        payload = await scene.owner.ask(DELETE_STORE, input={"id": scene.store})
        assert payload["deleteConfig"]["userErrors"] == []
        for listener in (one, own):
            while (message := await listener.message())["type"] == "next":
                pass
            assert message["type"] == "complete"
        await until(scene.is_idle)
        async with listening(scene.shopper, scene.store, LIST) as late:
            message = await late.message()
            assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "NOT_FOUND")


async def test_unpublished_store_says_nothing_to_new_listeners(scene: Scene) -> None:
    await scene.owner.ask(UNPUBLISH, input={"id": scene.store})
    async with listening(scene.shopper, scene.store, LIST) as late:
        message = await late.message()
        assert (message["type"], message["payload"][0]["extensions"]["code"]) == ("error", "NOT_FOUND")
    await until(scene.is_idle)


async def test_expired_token_ends_the_list_of_its_owner_only(scene: Scene) -> None:
    me = (await scene.owner.ask("{ me { id } }"))["me"]["id"]
    address = address_of(scene.shopper)
    async with following(scene.shopper, scene.store) as live_list, following(scene.owner, scene.store) as own:
        async with opened(address, token_of(me, seconds=2)) as socket:
            await subscribe(socket, "1", LIST, c=scene.store)
            assert (await hear(socket))["type"] == "next"
            assert await close_code(socket) == 4403
        await scene.owner.ask(DELETE, input={"id": scene.products[0]})
        for one in (live_list, own):
            assert (await one.next())["reason"] == "REMOVED"
    await until(scene.is_idle)


@pytest.mark.parametrize("options", [{"statement_timeout": 200, "lock_timeout": 100, "max_live_lists": MAX_LISTS}])
async def test_list_that_cannot_be_read_for_long_ends(
    scene: Scene, empty_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_lists, "MAX_RETRY_SECONDS", 1.0)
    product = scene.products[0]
    entry = LogEntry(
        kind="product_updated",
        entity_id=product,
        product_id=product,
        was_visible=True,
        is_visible=True,
        changed_fields=["price"],
    )
    async with listening(scene.shopper, scene.store, LIST) as listener:
        assert (await listener.message())["type"] == "next"
        async with await psycopg.AsyncConnection.connect(empty_url) as connection:
            # The log can be read, the products cannot.
            await connection.execute("LOCK products IN ACCESS EXCLUSIVE MODE")
            async with database.transaction() as other:
                await log.append_entries(other, scene.store, [entry])
            assert (await listener.message())["type"] == "complete"
            await connection.rollback()
        await until(scene.is_idle)
    async with following(scene.shopper, scene.store) as live_list:
        assert len(live_list.products) == len(scene.products)


@pytest.mark.soak
async def test_memory_of_clients_that_do_not_read_lists_is_bounded(empty_url: str, database: Database, tmp_path: Path) -> None:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    product = await make_product(database, store, description="long " * 4_000)
    with running(empty_url, tmp_path) as server:
        async with AsyncExitStack() as stack:
            owner = await stack.enter_async_context(buyer(server.port, database, user))
            for _ in range(20):
                stalled = await stack.enter_async_context(opened(server.socket_address, max_queue=1, compression=None))
                await subscribe(stalled, "1", LONG_LIST, c=store)
                # So that the end of the test need not wait for them.
                stack.callback(stalled.transport.abort)
            reader = await stack.enter_async_context(opened(server.socket_address, compression=None))
            await subscribe(reader, "1", LONG_LIST, c=store)
            assert "products" in (await hear(reader, 20))["payload"]["data"]["productList"]
            before, updates = server.memory(), 0
            for number in range(400):
                payload = (await owner.ask(UPDATE, input={"id": product, "title": f"Title {number}"}))["updateProduct"]
                position = 0
                while position < int(payload["position"]):
                    event = (await hear(reader, 20))["payload"]["data"]["productList"]
                    position, updates = int(event["position"]), updates + ("product" in event)
            growth = server.memory() - before
    # All that twenty have not read would be 160 MB.
    assert updates > 300 and growth < 50e6, f"{growth / 1e6:.0f} MB"
