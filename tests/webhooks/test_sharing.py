"""Deliverers that share the work, and what becomes of it when the database breaks off in the middle."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from psycopg import OperationalError

from storefront.core.db.database import Database, Row, Statement
from storefront.feed.log import POSITION_LEAP, advance_positions
from storefront.webhooks import commands, dispatcher
from storefront.webhooks.queue import DeliveryQueue, RetryPolicy
from storefront.webhooks.sending import MAX_RETRY_SECONDS, compute_retry_delay
from storefront.writes.transaction import Command, MutationRequest, execute_mutation
from tests.factories import make_product, make_store, make_user
from tests.webhooks.changes import changed
from tests.webhooks.deliverers import Thin, at_work, deliverer, hooked
from tests.webhooks.receiver import Received, Receiver, Writer, silence, status


async def told_all(receiver: Receiver, positions: set[int], hooks: set[str], seconds: float = 30) -> None:
    """Wait until each of the webhooks has been told of each position."""
    number = 1
    while {(r.json["webhook"], r.position) for r in receiver.received} < {(hook, p) for hook in hooks for p in positions}:
        number = len(await receiver.wait(number, seconds)) + 1


async def test_a_webhook_is_one_process_s_at_a_time(database: Database, empty_url: str) -> None:
    store = await make_store(database)
    products = [await make_product(database, store) for _ in range(3)]
    under_way: Counter[tuple[str, str]] = Counter()
    most: list[int] = []

    async def behave(request: Received, writer: Writer) -> None:
        lane = request.json["webhook"], request.json["productId"]
        under_way[lane] += 1
        most.append(under_way[lane])
        await asyncio.sleep(0.01)
        under_way[lane] -= 1
        await status(200)(request, writer)

    async with Receiver(behave=behave).running() as receiver, Database(empty_url) as other, Database(empty_url) as third:
        hooks = {await hooked(database, store, receiver.url) for _ in range(5)}
        several = [deliverer(one, slots=2) for one in (database, other, third)]
        async with at_work(*several):
            for _ in range(10):
                await changed(database, store, *products)
                several[0].notify_log_moved(store)
            await told_all(receiver, set(range(1, 31)), hooks)
    assert len(receiver.received) == 30 * len(hooks) and set(most) == {1}
    assert sum(one.stats.delivered for one in several) == 30 * len(hooks)
    # All of them had some of it to do.
    assert all(one.stats.delivered for one in several)
    for hook in hooks:
        for n, product in enumerate(products):
            told = [r.position for r in receiver.received if (r.json["webhook"], r.json["productId"]) == (hook, product)]
            assert told == list(range(1 + n, 31, 3))


async def test_who_does_not_come_back_is_replaced(database: Database) -> None:
    store = await make_store(database)
    product = await make_product(database, store)
    async with Receiver().running() as receiver:
        hook = await hooked(database, store, receiver.url)
        await changed(database, store, product)
        lost, next_ = DeliveryQueue(database, RetryPolicy()), DeliveryQueue(database, RetryPolicy())
        assert [row.id for row in await lost.claim_webhooks(5, 0.5)] == [hook]
        assert await next_.claim_webhooks(5, 0.5) == []
        [claimed] = await lost.load_due(hook, [], 4)
        async with at_work(deliverer(database)):
            await receiver.wait(1)
        # By now it is not theirs any more: what they know of it counts for nothing.
        assert not await lost.renew_lease(hook, 10) and await lost.load_due(hook, [], 4) == []
        assert not await lost.enqueue(claimed, 1, [])
    assert receiver.positions == [1]


async def test_a_log_that_leaps_after_a_restore_is_told_to_be_lost(database: Database) -> None:
    store = await make_store(database)
    product = await make_product(database, store)
    async with Receiver().running() as receiver:
        await hooked(database, store, receiver.url)
        await changed(database, store, product)
        await advance_positions(database)
        async with at_work(deliverer(database)):
            await receiver.wait(2)
            await changed(database, store, product)
            await receiver.wait(3)
    # What is kept is told as ever, and that there may be more of it.
    assert sorted(receiver.positions) == [1, POSITION_LEAP + 1, POSITION_LEAP + 2]
    assert next(r for r in receiver.received if r.position == POSITION_LEAP + 1).json["productId"] == "None"


async def test_who_leaves_lets_others_have_the_rest(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "SHUTDOWN_TIMEOUT_SECONDS", 0.2)
    store = await make_store(database)
    product = await make_product(database, store)
    async with Receiver(behave=silence).running() as receiver:
        hook = await hooked(database, store, receiver.url)
        await changed(database, store, product)
        async with at_work(deliverer(database)):
            await receiver.wait(1)
        # What was under way was cut off, and is for whoever comes next.
        next_ = DeliveryQueue(database, RetryPolicy())
        assert [row.id for row in await next_.claim_webhooks(5, 10)] == [hook]
        assert [row.position for row in await next_.load_due(hook, [], 4)] == [1]


async def test_whatever_owners_do_meanwhile_nothing_is_stuck_or_told_side_by_side(database: Database, empty_url: str) -> None:
    chance, user = Random(20261126), await make_user(database)
    store = await make_store(database, user_id=user)
    products = [await make_product(database, store) for _ in range(4)]
    under_way: Counter[str] = Counter()
    most: list[int] = []

    async def behave(request: Received, writer: Writer) -> None:
        lane = request.json["productId"]
        under_way[lane] += 1
        most.append(under_way[lane])
        await asyncio.sleep(0.005)
        under_way[lane] -= 1
        await status(200 if chance.random() < 0.8 else 503)(request, writer)

    async def do(command: Command, **values: Any) -> None:
        await execute_mutation(database, MutationRequest(user, "any", values), command)

    async with Receiver(behave=behave).running() as receiver, Database(empty_url) as other:
        hook = await hooked(database, store, receiver.url)
        ways: list[Callable[[int, str], Awaitable[None]]] = [
            lambda _, __: changed(database, store, *chance.sample(products, 3)),
            lambda head, _: do(commands.replay_webhook, id=hook, after=chance.randint(0, head)),
            lambda _, id_: do(commands.resend_webhook_delivery, id=id_),
            lambda _, __: do(partial(commands.update_webhook, problems=()), id=hook, isEnabled=chance.random() < 0.5),
        ]
        async with at_work(deliverer(database), deliverer(other)):
            for _ in range(80):
                [(head, id_)] = await database.fetch(SOME, {"id": hook, "store": store, "chance": chance.random()})
                await chance.choices(ways, [5, 1, 4, 1])[0](head, id_ or hook)
                await asyncio.sleep(0.01)
            await do(partial(commands.update_webhook, problems=()), id=hook, isEnabled=True)
            await _settled(database, hook)
    told = {request.position for request in receiver.received}
    [(head, _)] = await database.fetch(SOME, {"id": hook, "store": store, "chance": 0.0})
    assert told == set(range(1, head + 1)) and set(most) == {1}


SOME = Statement(
    """SELECT coalesce((SELECT position FROM store_positions WHERE config_id = %(store)s), 0) AS head,
      (SELECT id FROM webhook_deliveries WHERE webhook_id = %(id)s ORDER BY id
       OFFSET floor(%(chance)s * (SELECT count(*) FROM webhook_deliveries WHERE webhook_id = %(id)s)) LIMIT 1) AS delivery""",
    {},
)


async def test_a_fault_of_ours_in_one_message_holds_up_no_other_product(database: Database) -> None:
    store = await make_store(database)
    bad, good = await make_product(database, store), await make_product(database, store)

    class Faulty(Thin):
        async def render_body(self, hook: Row, *, is_last: bool = False) -> bytes:
            if hook.product_id == bad:
                raise RuntimeError("a fault of ours")
            return await super().render_body(hook, is_last=is_last)

    async with Receiver().running() as receiver:
        await hooked(database, store, receiver.url)
        await changed(database, store, bad, good, bad, good)
        one = deliverer(database)
        async with at_work(replace(one, dependencies=replace(one.dependencies, renderer=Faulty()))):
            await receiver.wait(2)
    assert receiver.positions == [2, 4]


@contextmanager
def failing_at(database: Database, number: int) -> Iterator[list[str]]:
    """The database is lost at the statement of this number, once."""
    seen: list[str] = []

    def observe(sql: str) -> None:
        seen.append(sql)
        if len(seen) == number:
            raise OperationalError("lost")

    database.observers.append(observe)
    try:
        yield seen
    finally:
        database.observers.remove(observe)


@pytest.mark.parametrize("number", range(1, 13))
async def test_a_database_that_is_lost_at_any_statement_loses_nothing(
    database: Database, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Leases end soon.
    monkeypatch.setattr(dispatcher, "LEASE_SLACK_SECONDS", 0.3)
    monkeypatch.setattr(dispatcher, "LEASE_MARGIN_SECONDS", 0.1)
    store = await make_store(database)
    products = [await make_product(database, store) for _ in range(2)]
    async with Receiver().running() as receiver:
        hook = await hooked(database, store, receiver.url)
        await changed(database, store, *products, *products)
        with failing_at(database, number) as seen:
            async with at_work(deliverer(database)):
                await told_all(receiver, {1, 2, 3, 4}, {hook})
                await _settled(database, hook)
    assert len(seen) > number
    for product in products:
        told = [r.position for r in receiver.received if r.json["productId"] == product]
        assert told == sorted(told) and len(set(told)) == 2


async def _settled(database: Database, hook: str) -> None:
    async with asyncio.timeout(20):
        while True:
            async with database.transaction() as connection:
                waiting = "SELECT count(*) FROM webhook_deliveries WHERE webhook_id = %s AND state = 'pending'"
                behind = """SELECT count(*) FROM webhooks JOIN store_positions p USING (config_id)
                  WHERE id = %s AND p.position <> webhooks.position"""
                cursor = await connection.raw.execute(f"SELECT ({waiting}) + ({behind})".encode(), [hook, hook])
                if await cursor.fetchone() == (0,):
                    return
            await asyncio.sleep(0.05)


def test_what_is_tried_again_waits_longer_each_time() -> None:
    waits = [compute_retry_delay(RetryPolicy(first_retry_seconds=5), attempts) for attempts in range(1, 40)]
    assert 3.75 <= waits[0] <= 6.25 and 11.25 <= waits[1] <= 18.75 and waits[-1] <= MAX_RETRY_SECONDS * 1.25
