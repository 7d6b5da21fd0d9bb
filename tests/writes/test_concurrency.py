"""Concurrent writers: no overselling, no deadlocks, and a gapless log."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from storefront.core.db.database import Database
from storefront.feed import log
from tests.client import Client, token_of
from tests.factories import make_product, make_review, make_store, make_user, make_variant
from tests.feed.processes import running

ERRORS = "userErrors { __typename code message ... on InsufficientStockError { available } }"
ADJUST = f"mutation($i: AdjustInventoryInput!) {{ adjustInventory(input: $i) {{ position {ERRORS} }} }}"
BULK = f"mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{ position {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ position {ERRORS} }} }}"
DELETE = f"mutation($i: DeleteProductInput!) {{ deleteProduct(input: $i) {{ position {ERRORS} }} }}"
VARIANT = f"mutation($i: CreateVariantInput!) {{ createVariant(input: $i) {{ position {ERRORS} }} }}"
REVIEW = f"mutation($i: CreateReviewInput!) {{ createReview(input: $i) {{ position {ERRORS} }} }}"
REVISE = f"mutation($i: UpdateReviewInput!) {{ updateReview(input: $i) {{ position {ERRORS} }} }}"
CLOSE = f"mutation($i: DeleteConfigInput!) {{ deleteConfig(input: $i) {{ deletedId {ERRORS} }} }}"
REVARY = f"mutation($i: UpdateVariantInput!) {{ updateVariant(input: $i) {{ position {ERRORS} }} }}"


@pytest.fixture
async def owner(client: Client) -> Client:
    return client.signed_in(await make_user(client.database))


async def own_store(owner: Client) -> str:
    me = (await owner.ask("{ me { id } }"))["me"]["id"]
    return await make_store(owner.database, user_id=me)


async def outcome(client: Client, document: str, **input_: Any) -> str:
    """The error code, or ok; fails on an internal error."""
    body = (await client.post(document, i=input_)).json()
    for error in body.get("errors", ()):
        assert error["extensions"]["code"] != "INTERNAL_SERVER_ERROR", error
        return str(error["extensions"]["code"])
    [payload] = body["data"].values()
    return str(payload["userErrors"][0]["code"]) if payload["userErrors"] else "ok"


async def positions(database: Database, store: str) -> list[int]:
    return [row.position for row in await log.read_entries(database, store, 0, 100_000)]


# ------------------------------------------------------------------------------------------- four processes


@contextmanager
def processes(url: str, folder: Path, workers: int) -> Iterator[int]:
    """The port of a server started by the CLI. Stops it afterwards, and checks that it exited."""
    with running(url, folder, workers) as server:
        yield server.port
    assert server.process.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/graphql", params={"query": "{ __typename }"})


@asynccontextmanager
async def buyer(port: int, database: Database, user: str) -> AsyncIterator[Client]:
    # Without keep-alive: each request may reach another process.
    limits = httpx.Limits(max_connections=40, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as http:
        yield Client(http, database, token_of(user))


async def test_concurrent_processes_never_oversell(empty_url: str, database: Database, tmp_path: Path) -> None:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    product = await make_product(database, store, inventory=50)
    with processes(empty_url, tmp_path, workers=4) as port:
        async with buyer(port, database, user) as client:
            orders = (client.ask(ADJUST, i={"changes": [{"id": product, "delta": -1}]}) for _ in range(200))
            answers = [answer["adjustInventory"] for answer in await asyncio.gather(*orders)]
    refused = [e for a in answers for e in a["userErrors"]]
    assert Counter((e["__typename"], e["available"]) for e in refused) == {("InsufficientStockError", 0): 150}
    assert sorted(int(a["position"]) for a in answers if not a["userErrors"]) == list(range(1, 51))
    assert await positions(database, store) == list(range(1, 51))
    async with database.transaction() as connection:
        statement = """SELECT products.inventory, v.inventory, v.version
          FROM products JOIN product_variants AS v ON v.product_id = products.id WHERE products.id = %s"""
        assert await (await connection.raw.execute(statement, [product])).fetchall() == [(0, 0, 51)]


# ---------------------------------------------------------------------------------------------- one process


async def test_bulk_updates_in_opposite_orders_do_not_deadlock(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store) for _ in range(60)]
    lists = [products, products[::-1], random.Random(1).sample(products, 60)] * 4
    bulks = [[{"id": id_, "price": str(n + 11)} for id_ in ids] for n, ids in enumerate(lists)]
    async with owner.database.transaction() as connection:
        before = await deadlocks(connection)
    found = await asyncio.gather(*(outcome(owner, BULK, rows=rows) for rows in bulks))
    assert set(found) == {"ok"}
    assert await positions(owner.database, store) == list(range(1, 12 * 60 + 1))
    async with owner.database.transaction() as connection:
        assert await deadlocks(connection) == before


async def deadlocks(connection: Any) -> int:
    await connection.raw.execute("SELECT pg_stat_force_next_flush()")
    [(count,)] = await (
        await connection.raw.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    ).fetchall()
    return int(count)


async def test_reviews_and_product_deletion_do_not_deadlock(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store) for _ in range(4)]
    users = [await make_user(owner.database) for _ in range(6)]
    found = [(user, await make_review(owner.database, product, user_id=user)) for product in products for user in users]
    async with owner.database.transaction() as connection:
        before = await deadlocks(connection)
    writes = [outcome(owner.signed_in(user), REVISE, id=review, rating=1 + n % 4) for n, (user, review) in enumerate(found)]
    for n, product in enumerate(products):
        writes.insert(7 * n + 3, outcome(owner, DELETE, id=product))
    assert set(await asyncio.gather(*writes)) <= {"ok", "NOT_FOUND"}
    async with owner.database.transaction() as connection:
        assert await deadlocks(connection) == before


async def test_mixed_concurrent_writes_all_complete(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store) for _ in range(6)]
    variants = [await make_variant(owner.database, id_) for id_ in products]
    users = [await make_user(owner.database) for _ in range(6)]
    reviews = [await make_review(owner.database, id_, user_id=user) for id_ in products for user in users]
    reviewers = [owner.signed_in(user) for user in users]
    dice, tasks = random.Random(7), []
    for n in range(240):
        product, which = dice.choice(products), dice.randrange(len(reviews))
        choices: list[tuple[Client, str, dict[str, Any]]] = [
            (owner, VARIANT, {"productId": product, "price": "1", "attributes": [{"name": "number", "value": f"V{n}"}]}),
            (owner, UPDATE, {"id": product, "title": f"T{n}"}),
            (owner, ADJUST, {"changes": [{"id": id_, "delta": 1} for id_ in dice.sample(variants, 2)]}),
            (owner, REVARY, {"id": variants[n % 6], "price": str(n)}),
            (reviewers[n % 6], REVIEW, {"productId": product, "rating": 3}),
            (reviewers[which % 6], REVISE, {"id": reviews[which], "rating": 1 + n % 5}),
        ]
        # Deletions come seldom, so that there is something left to meet about.
        client, document, given = (owner, DELETE, {"id": products[n // 40]}) if n % 40 == 39 else dice.choice(choices)
        tasks.append(outcome(client, document, **given))
    found = Counter(await asyncio.gather(*tasks))
    assert set(found) <= {"ok", "NOT_FOUND", "ALREADY_EXISTS"} and found["ok"] > 60
    logged = await positions(owner.database, store)
    assert logged == list(range(1, len(logged) + 1)) and len(logged) >= found["ok"] - 60


async def test_store_deletion_succeeds_during_writes(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store) for _ in range(8)]
    writes = [outcome(owner, UPDATE, id=id_, title=f"T{n}") for n in range(6) for id_ in products]
    async with owner.database.transaction() as connection:
        before = await deadlocks(connection)
    writes.insert(8, outcome(owner, CLOSE, id=store))
    found = Counter(await asyncio.gather(*writes))
    assert set(found) <= {"ok", "NOT_FOUND"}
    async with owner.database.transaction() as connection:
        left = await connection.raw.execute("SELECT count(*) FROM products")
        assert await left.fetchone() == (0,)
        assert await deadlocks(connection) == before
    assert await positions(owner.database, store) == []


async def test_readers_see_positions_in_order_during_writes(owner: Client) -> None:
    store = await own_store(owner)
    products = [await make_product(owner.database, store) for _ in range(8)]
    done = asyncio.Event()

    async def write(product: str) -> None:
        for n in range(20):
            assert await outcome(owner, UPDATE, id=product, title=f"T{n}") == "ok"

    async def read() -> list[int]:
        seen: list[int] = []
        while not (done.is_set() and len(seen) == 160):
            new = [row.position for row in await log.read_entries(owner.database, store, seen[-1] if seen else 0, 500)]
            # What was read is followed by what comes next: a position that came late would be missing here.
            assert new == list(range(len(seen) + 1, len(seen) + len(new) + 1))
            seen += new
            await asyncio.sleep(0)
        return seen

    readers = [asyncio.create_task(read()) for _ in range(3)]
    await asyncio.gather(*(write(product) for product in products))
    done.set()
    assert await asyncio.wait_for(asyncio.gather(*readers), 20) == [list(range(1, 161))] * 3
