"""A store with locked rows: its writers receive an error, and other stores do not wait (bulkhead)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from tests.client import Client
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user

UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"
READ = "query($id: ID!) { product(by: {id: $id}) { id title } }"


@pytest.fixture
async def shop(empty_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(empty_url, tmp_path, pool_size=6, pool_timeout=2, lock_timeout=1_000) as client:
        yield client


@pytest.mark.parametrize("reviewers", [False, True], ids=["of its owner", "of many users"])
async def test_locked_store_leaves_other_stores_alone(shop: Client, empty_url: str, reviewers: bool) -> None:
    user = await make_user(shop.database)
    owner = shop.signed_in(user)
    locked, other = [await make_store(shop.database, user_id=user) for _ in range(2)]
    products = [await make_product(shop.database, locked) for _ in range(20)]
    theirs = [await make_product(shop.database, other) for _ in range(4)]
    # A store's log has a row once something was written.
    await owner.ask(UPDATE, i={"id": products[0], "title": "First"})
    review = "mutation($i: CreateReviewInput!) { createReview(input: $i) { position userErrors { message } } }"
    users = [shop.signed_in(await make_user(shop.database)) for _ in products]
    async with await psycopg.AsyncConnection.connect(empty_url) as locker:
        await locker.execute("SELECT 1 FROM store_positions WHERE config_id = %s FOR UPDATE", [locked])
        if reviewers:
            writes = [user.post(review, i={"productId": id_, "rating": 4}) for user, id_ in zip(users, products, strict=True)]
        else:
            writes = [owner.post(UPDATE, i={"id": id_, "title": "Late"}) for id_ in products]
        waiting = asyncio.gather(*writes)
        for n in range(12):
            # While the others wait, and are refused: each of these is answered.
            id_ = theirs[n % len(theirs)]
            assert (await owner.ask(UPDATE, i={"id": id_, "title": f"Title {n}"}))["updateProduct"]["userErrors"] == []
            assert (await shop.ask(READ, id=id_))["product"]["title"] == f"Title {n}"
            assert (await shop.ask(READ, id=products[0]))["product"]["title"] == "First"
        answers = await waiting
    for answer in answers:
        assert answer.status_code == 503 and answer.headers["retry-after"]
        [error] = answer.json()["errors"]
        assert error["extensions"]["code"] == "SERVICE_UNAVAILABLE" and "Nothing was done" in error["message"]
    assert (await owner.ask(UPDATE, i={"id": products[1], "title": "Now"}))["updateProduct"]["position"] == "2"


async def test_several_locked_stores_leave_reads_and_other_writers_their_connections(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, pool_size=9, pool_timeout=5, lock_timeout=1_000) as shop:
        user = await make_user(shop.database)
        owner = shop.signed_in(user)
        stores = [await make_store(shop.database, user_id=user) for _ in range(4)]
        products = [await make_product(shop.database, store) for store in stores]
        for product in products:
            await owner.ask(UPDATE, i={"id": product, "title": "First"})
        async with await psycopg.AsyncConnection.connect(empty_url) as locker:
            await locker.execute("SELECT 1 FROM store_positions WHERE config_id = ANY(%s) FOR UPDATE", [stores[:3]])
            writes = [owner.post(UPDATE, i={"id": id_, "title": "Late"}) for id_ in products[:3] for _ in range(8)]
            waiting = asyncio.gather(*writes)
            await asyncio.sleep(0.3)
            waiters = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            async with await psycopg.AsyncConnection.connect(empty_url, autocommit=True) as watcher:
                for n in range(6):
                    [(blocked,)] = await (await watcher.execute(waiters)).fetchall()
                    assert blocked <= 6
                    assert (await shop.ask(READ, id=products[0]))["product"]["title"] == "First"
                    written = await owner.ask(UPDATE, i={"id": products[3], "title": f"Title {n}"})
                    assert written["updateProduct"]["userErrors"] == []
            answers = await waiting
        assert {answer.status_code for answer in answers} == {503}


# More locked stores than the share of writers, and than all connections.
@pytest.mark.parametrize(("locked_count", "writers"), [(6, 10), (24, 5)])
async def test_any_number_of_locked_stores_costs_no_other_store_an_answer(
    locked_count: int, writers: int, empty_url: str, tmp_path: Path
) -> None:
    # The defaults of servers.
    async with serving(empty_url, tmp_path, pool_timeout=5, lock_timeout=3_000) as shop:
        user = await make_user(shop.database)
        owner = shop.signed_in(user)
        stores = [await make_store(shop.database, user_id=user) for _ in range(locked_count + 4)]
        products = [await make_product(shop.database, store) for store in stores]
        await asyncio.gather(*(owner.ask(UPDATE, i={"id": product, "title": "First"}) for product in products))
        async with await psycopg.AsyncConnection.connect(empty_url) as locker:
            locked, others = products[:locked_count], products[locked_count:]
            await locker.execute("SELECT 1 FROM store_positions WHERE config_id = ANY(%s) FOR UPDATE", [stores[:locked_count]])
            waiting = [
                asyncio.create_task(owner.post(UPDATE, i={"id": id_, "title": "Late"})) for _ in range(writers) for id_ in locked
            ]
            rounds = 0
            # From the first moment until the last writer of a locked store is refused.
            while not all(task.done() for task in waiting):
                for id_ in others:
                    written = owner.ask(UPDATE, i={"id": id_, "title": f"Title {rounds}"})
                    received, read = await asyncio.gather(written, shop.ask(READ, id=locked[rounds % locked_count]))
                    assert received["updateProduct"]["userErrors"] == [] and read["product"]["title"] == "First"
                rounds += 1
            answers = [task.result() for task in waiting]
        assert rounds
        codes = [[error["extensions"]["code"] for error in answer.json()["errors"]] for answer in answers]
        assert codes == [["SERVICE_UNAVAILABLE"]] * len(answers)
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
        # What is released is written again, at once.
        released = await asyncio.gather(*(owner.ask(UPDATE, i={"id": id_, "title": "Released"}) for id_ in locked))
        assert [received["updateProduct"]["userErrors"] for received in released] == [[]] * locked_count


async def test_exhausted_pool_answers_reads_and_writes_alike(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, pool_size=1, pool_timeout=1) as shop:
        user = await make_user(shop.database)
        product = await make_product(shop.database, await make_store(shop.database, user_id=user))
        owner = shop.signed_in(user)
        await owner.ask(UPDATE, i={"id": product, "title": "Known"})
        async with shop.database.transaction():
            answers = [
                await owner.post(UPDATE, i={"id": product, "title": "Title"}),
                await owner.post(READ, id=product),
                await shop.post(READ, id=product),
            ]
        for answer in answers:
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1", answer.text
            assert [error["extensions"]["code"] for error in answer.json()["errors"]] == ["SERVICE_UNAVAILABLE"]
        assert (await shop.ask(READ, id=product))["product"]["title"] == "Known"
