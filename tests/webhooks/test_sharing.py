"""Dispatchers that share webhooks: leases, concurrent mutations, and database failures."""

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
from storefront.core.leases import LeaseLost
from storefront.feed.log import POSITION_LEAP, advance_positions
from storefront.models.row_keys import RowKey
from storefront.webhooks import commands, dispatcher
from storefront.webhooks.queue import DeliveryQueue, RetryPolicy
from storefront.webhooks.sending import MAX_RETRY_SECONDS, compute_retry_delay
from storefront.writes.transaction import Command, MutationRequest, execute_mutation
from tests.factories import make_product, make_store, make_user
from tests.webhooks.changes import append_changes
from tests.webhooks.dispatchers import MinimalRenderer, insert_webhook, make_dispatcher, running_dispatchers
from tests.webhooks.receiver import Received, Receiver, Writer, silence, status


async def wait_until_delivered(receiver: Receiver, positions: set[int], hooks: set[str], seconds: float = 30) -> None:
    """Wait until each webhook has received each position."""
    number = 1
    while {(r.json["webhook"], r.position) for r in receiver.received} < {(hook, p) for hook in hooks for p in positions}:
        number = len(await receiver.wait(number, seconds)) + 1


async def test_one_process_leases_a_webhook_at_a_time(database: Database, empty_url: str) -> None:
    store = await make_store(database)
    products = [await make_product(database, store) for _ in range(3)]
    in_flight: Counter[tuple[str, str]] = Counter()
    most: list[int] = []

    async def behave(request: Received, writer: Writer) -> None:
        lane = request.json["webhook"], request.json["productId"]
        in_flight[lane] += 1
        most.append(in_flight[lane])
        await asyncio.sleep(0.01)
        in_flight[lane] -= 1
        await status(200)(request, writer)

    async with Receiver(behave=behave).running() as receiver, Database(empty_url) as other, Database(empty_url) as third:
        hooks = {await insert_webhook(database, store, receiver.url) for _ in range(5)}
        dispatchers = [make_dispatcher(one, slots=2) for one in (database, other, third)]
        async with running_dispatchers(*dispatchers):
            for _ in range(10):
                await append_changes(database, store, *products)
                dispatchers[0].notify_log_moved(store)
            await wait_until_delivered(receiver, set(range(1, 31)), hooks)
    assert len(receiver.received) == 30 * len(hooks) and set(most) == {1}
    assert sum(one.stats.delivered for one in dispatchers) == 30 * len(hooks)
    # Each of them has delivered something.
    assert all(one.stats.delivered for one in dispatchers)
    for hook in hooks:
        for n, product in enumerate(products):
            messages = [r.position for r in receiver.received if (r.json["webhook"], r.json["productId"]) == (hook, product)]
            assert messages == list(range(1 + n, 31, 3))


async def test_expired_lease_is_taken_over(database: Database) -> None:
    store = await make_store(database)
    product = await make_product(database, store)
    async with Receiver().running() as receiver:
        hook = await insert_webhook(database, store, receiver.url)
        await append_changes(database, store, product)
        lost, next_ = DeliveryQueue(database, RetryPolicy()), DeliveryQueue(database, RetryPolicy())
        assert [row.id for row in await lost.claim_webhooks(5, 0.5)] == [hook]
        assert await next_.claim_webhooks(5, 0.5) == []
        [claimed] = await lost.load_due(RowKey(store, hook), [], 4)
        async with running_dispatchers(make_dispatcher(database)):
            await receiver.wait(1)
        # The lease was lost: nothing that this worker still writes counts.
        with pytest.raises(LeaseLost):
            await lost.extend_lease(RowKey(store, hook), 10)
        assert await lost.load_due(RowKey(store, hook), [], 4) == []
        assert not await lost.enqueue(claimed, 1, [])
    assert receiver.positions == [1]


async def test_position_leap_after_restore_sends_reset(database: Database) -> None:
    store = await make_store(database)
    product = await make_product(database, store)
    async with Receiver().running() as receiver:
        await insert_webhook(database, store, receiver.url)
        await append_changes(database, store, product)
        await advance_positions(database)
        async with running_dispatchers(make_dispatcher(database)):
            await receiver.wait(2)
            await append_changes(database, store, product)
            await receiver.wait(3)
    # Retained entries are delivered, and a reset reports the gap.
    assert sorted(receiver.positions) == [1, POSITION_LEAP + 1, POSITION_LEAP + 2]
    assert next(r for r in receiver.received if r.position == POSITION_LEAP + 1).json["productId"] == "None"


async def test_shutdown_releases_leases(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "SHUTDOWN_TIMEOUT_SECONDS", 0.2)
    store = await make_store(database)
    product = await make_product(database, store)
    async with Receiver(behave=silence).running() as receiver:
        hook = await insert_webhook(database, store, receiver.url)
        await append_changes(database, store, product)
        async with running_dispatchers(make_dispatcher(database)):
            await receiver.wait(1)
        # The in-flight message was cancelled, and is due for the next worker.
        next_ = DeliveryQueue(database, RetryPolicy())
        assert [row.id for row in await next_.claim_webhooks(5, 10)] == [hook]
        assert [row.position for row in await next_.load_due(RowKey(store, hook), [], 4)] == [1]


async def test_concurrent_mutations_keep_lanes_serial_and_complete(database: Database, empty_url: str) -> None:
    chance, user = Random(20261126), await make_user(database)
    store = await make_store(database, user_id=user)
    products = [await make_product(database, store) for _ in range(4)]
    in_flight: Counter[str] = Counter()
    most: list[int] = []

    async def behave(request: Received, writer: Writer) -> None:
        lane = request.json["productId"]
        in_flight[lane] += 1
        most.append(in_flight[lane])
        await asyncio.sleep(0.005)
        in_flight[lane] -= 1
        await status(200 if chance.random() < 0.8 else 503)(request, writer)

    async def do(command: Command, **values: Any) -> None:
        await execute_mutation(database, MutationRequest(user, "any", values), command)

    async with Receiver(behave=behave).running() as receiver, Database(empty_url) as other:
        hook = await insert_webhook(database, store, receiver.url)
        ways: list[Callable[[int, str], Awaitable[None]]] = [
            lambda _, __: append_changes(database, store, *chance.sample(products, 3)),
            lambda head, _: do(commands.replay_webhook, id=hook, after=chance.randint(0, head)),
            lambda _, id_: do(commands.resend_webhook_delivery, id=id_),
            lambda _, __: do(partial(commands.update_webhook, problems=()), id=hook, isEnabled=chance.random() < 0.5),
        ]
        async with running_dispatchers(make_dispatcher(database), make_dispatcher(other)):
            for _ in range(80):
                [(head, id_)] = await database.fetch(SOME, {"id": hook, "store": store, "chance": chance.random()})
                await chance.choices(ways, [5, 1, 4, 1])[0](head, id_ or hook)
                await asyncio.sleep(0.01)
            await do(partial(commands.update_webhook, problems=()), id=hook, isEnabled=True)
            await _wait_until_settled(database, hook)
    messages = {request.position for request in receiver.received}
    [(head, _)] = await database.fetch(SOME, {"id": hook, "store": store, "chance": 0.0})
    assert messages == set(range(1, head + 1)) and set(most) == {1}


SOME = Statement(
    """SELECT coalesce((SELECT position FROM store_positions WHERE config_id = %(store)s), 0) AS head,
      (SELECT id FROM webhook_deliveries WHERE webhook_id = %(id)s ORDER BY id
       OFFSET floor(%(chance)s * (SELECT count(*) FROM webhook_deliveries WHERE webhook_id = %(id)s)) LIMIT 1) AS delivery""",
    {},
)


async def test_render_error_delays_no_other_lane(database: Database) -> None:
    store = await make_store(database)
    bad, good = await make_product(database, store), await make_product(database, store)

    class Faulty(MinimalRenderer):
        async def render_body(self, hook: Row, *, is_last: bool = False) -> bytes:
            if hook.product_id == bad:
                raise RuntimeError("a fault of ours")
            return await super().render_body(hook, is_last=is_last)

    async with Receiver().running() as receiver:
        await insert_webhook(database, store, receiver.url)
        await append_changes(database, store, bad, good, bad, good)
        one = make_dispatcher(database)
        async with running_dispatchers(replace(one, dependencies=replace(one.dependencies, renderer=Faulty()))):
            await receiver.wait(2)
    assert receiver.positions == [2, 4]


@contextmanager
def failing_at(database: Database, number: int) -> Iterator[list[str]]:
    """Let the statement of this number fail with a lost connection, once."""
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
async def test_database_failure_at_any_statement_loses_nothing(
    database: Database, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short leases.
    monkeypatch.setattr(dispatcher, "LEASE_SLACK_SECONDS", 0.3)
    monkeypatch.setattr(dispatcher, "LEASE_MARGIN_SECONDS", 0.1)
    store = await make_store(database)
    products = [await make_product(database, store) for _ in range(2)]
    async with Receiver().running() as receiver:
        hook = await insert_webhook(database, store, receiver.url)
        await append_changes(database, store, *products, *products)
        with failing_at(database, number) as seen:
            async with running_dispatchers(make_dispatcher(database)):
                await wait_until_delivered(receiver, {1, 2, 3, 4}, {hook})
                await _wait_until_settled(database, hook)
    assert len(seen) > number
    for product in products:
        messages = [r.position for r in receiver.received if r.json["productId"] == product]
        assert messages == sorted(messages) and len(set(messages)) == 2


async def _wait_until_settled(database: Database, hook: str) -> None:
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


def test_retry_delay_grows_exponentially() -> None:
    waits = [compute_retry_delay(RetryPolicy(first_retry_seconds=5), attempts) for attempts in range(1, 40)]
    assert 3.75 <= waits[0] <= 6.25 and 11.25 <= waits[1] <= 18.75 and waits[-1] <= MAX_RETRY_SECONDS * 1.25
