"""Idempotency keys: one result per key and user, across retries, failures, races and later changes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.errors import DeadlockDetected

from storefront.core.db.database import Database
from storefront.core.errors import Unavailable
from storefront.products.commands import create_product
from storefront.writes import transaction
from storefront.writes.field_errors import UserErrorCode
from storefront.writes.transaction import MutationRequest, MutationResult, UnitOfWork, delete_expired_keys, execute_mutation
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user

ERRORS = "userErrors { code message path ... on StaleVersionError { currentVersion changedFields } }"
CREATE = f"""mutation($input: CreateProductInput!) {{ createProduct(input: $input) {{
  product {{ id title handle price version createdAt }} position clientMutationId replayed {ERRORS} }} }}"""
UPDATE = f"""mutation($input: UpdateProductInput!) {{ updateProduct(input: $input) {{
  product {{ id title version }} position clientMutationId replayed {ERRORS} }} }}"""
DELETE = f"mutation($input: DeleteProductInput!) {{ deleteProduct(input: $input) {{ deletedId position replayed {ERRORS} }} }}"
BULK = f"""mutation($input: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $input) {{
  results {{ index product {{ id price }} userErrors {{ code }} }} position replayed {ERRORS} }} }}"""


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


async def own_store(owner: Client) -> str:
    me = (await owner.ask("{ me { id } }"))["me"]["id"]
    return await make_store(owner.database, user_id=me)


async def received(client: Client, document: str, **input_: Any) -> dict[str, Any]:
    """The payload of a mutation."""
    [payload] = (await client.ask(document, input=input_)).values()
    return dict(payload)


def again(first: Mapping[str, Any]) -> dict[str, Any]:
    return {**first, "replayed": True}


async def rows(database: Database, sql: str, *values: Any) -> list[Any]:
    async with database.transaction() as connection:
        return list(await (await connection.raw.execute(sql.encode(), values)).fetchall())


# -------------------------------------------------------------------------------------------- same request


async def test_replay_returns_first_result_after_later_changes(owner: Client) -> None:
    store = await own_store(owner)
    first = await received(owner, CREATE, configId=store, title="Once", price="1", idempotencyKey="k")
    assert first["replayed"] is False and first["position"] == "1"
    id_ = first["product"]["id"]
    await received(owner, UPDATE, id=id_, title="Changed")
    assert await received(owner, CREATE, configId=store, title="Once", price="1", idempotencyKey="k") == again(first)
    await received(owner, DELETE, id=id_)
    assert await received(owner, CREATE, configId=store, title="Once", price="1", idempotencyKey="k") == again(first)
    assert await rows(owner.database, "SELECT id FROM products WHERE config_id = %s", store) == []


async def test_deletion_is_replayed(owner: Client) -> None:
    product = await make_product(owner.database, await own_store(owner))
    first = await received(owner, DELETE, id=product, idempotencyKey="k")
    assert first["deletedId"] == product
    assert await received(owner, DELETE, id=product, idempotencyKey="k") == again(first)
    assert [e["code"] for e in (await received(owner, DELETE, id=product))["userErrors"]] == ["NOT_FOUND"]


async def test_rejection_is_replayed(owner: Client) -> None:
    product = await make_product(owner.database, await own_store(owner), version=3)
    first = await received(owner, UPDATE, id=product, title="New", expectedVersion=2, idempotencyKey="k")
    assert [e["code"] for e in first["userErrors"]] == ["STALE_VERSION"] and first["product"] is None
    await rows(owner.database, "UPDATE products SET version = 2 WHERE id = %s RETURNING 1", product)
    assert await received(owner, UPDATE, id=product, title="New", expectedVersion=2, idempotencyKey="k") == again(first)


@pytest.mark.parametrize("faulty", [{"title": " "}, {"handle": "taken"}])
async def test_every_rejection_is_stored_without_its_writes(owner: Client, faulty: dict[str, str]) -> None:
    store = await own_store(owner)
    product = await make_product(owner.database, store, handle="taken")
    given = {"configId": store, "title": "New", "price": "1", **faulty, "idempotencyKey": "k"}
    first = await received(owner, CREATE, **given)
    assert len(first["userErrors"]) == 1
    await rows(owner.database, "UPDATE products SET handle = 'free' WHERE id = %s RETURNING 1", product)
    assert await received(owner, CREATE, **given) == again(first)
    assert await rows(owner.database, "SELECT count(*) FROM products WHERE config_id = %s", store) == [(1,)]


async def test_every_row_of_a_bulk_is_replayed(owner: Client) -> None:
    store = await own_store(owner)
    good, bad = [await make_product(owner.database, store) for _ in range(2)]
    given = {"rows": [{"id": bad, "price": "-1"}, {"id": good, "price": "2"}], "errorPolicy": "VALID_ROWS"}
    first = await received(owner, BULK, **given, idempotencyKey="k")
    assert [r["product"] is None for r in first["results"]] == [True, False]
    assert [[e["code"] for e in r["userErrors"]] for r in first["results"]] == [["INVALID_INPUT"], []]
    assert await received(owner, BULK, **given, idempotencyKey="k") == again(first)


async def test_retry_may_change_its_client_mutation_id(owner: Client) -> None:
    store = await own_store(owner)
    given = {"configId": store, "title": "Once", "price": "1", "idempotencyKey": "k"}
    first = await received(owner, CREATE, **given, clientMutationId="a")
    second = await received(owner, CREATE, **given, clientMutationId="b")
    assert second == {**again(first), "clientMutationId": "b"}


async def test_dry_run_stores_no_key(owner: Client) -> None:
    product = await make_product(owner.database, await own_store(owner))
    given: dict[str, Any] = {"rows": [{"id": product, "price": "2"}], "idempotencyKey": "k"}
    dry = await received(owner, BULK, **given, dryRun=True)
    assert dry["results"][0]["product"]["price"] == "2.00" and dry["position"] is None
    wet = await received(owner, BULK, **given)
    assert wet["replayed"] is False and wet["position"] == "1"


# ------------------------------------------------------------------------------------------- other request


async def test_key_reuse_with_other_input_is_rejected(owner: Client) -> None:
    store = await own_store(owner)
    given = {"configId": store, "title": "Once", "price": "1", "idempotencyKey": "k"}
    first = await received(owner, CREATE, **given)
    for other in ({"title": "Other"}, {"price": "2"}, {"tags": ["new"]}, {"compareAtPrice": "3"}):
        answer = await received(owner, CREATE, **{**given, **other})
        assert [(e["code"], e["path"]) for e in answer["userErrors"]] == [("IDEMPOTENCY_CONFLICT", ["idempotencyKey"])]
        assert answer["product"] is None and answer["replayed"] is False
    assert await received(owner, CREATE, **given) == again(first)


async def test_absent_and_null_are_different_inputs(owner: Client) -> None:
    product = await make_product(owner.database, await own_store(owner))
    await received(owner, UPDATE, id=product, title="New", idempotencyKey="k")
    answer = await received(owner, UPDATE, id=product, title="New", category=None, idempotencyKey="k")
    assert [e["code"] for e in answer["userErrors"]] == ["IDEMPOTENCY_CONFLICT"]


async def test_key_reuse_with_other_mutation_is_rejected(owner: Client) -> None:
    product = await make_product(owner.database, await own_store(owner))
    await received(owner, DELETE, id=product, expectedVersion=9, idempotencyKey="k")
    answer = await received(owner, UPDATE, id=product, expectedVersion=9, idempotencyKey="k")
    assert [e["code"] for e in answer["userErrors"]] == ["IDEMPOTENCY_CONFLICT"]


async def test_keys_are_scoped_to_the_user(owner: Client, shopper: Client) -> None:
    other = shopper.signed_in(await make_user(shopper.database))
    mine = await received(owner, CREATE, configId=await own_store(owner), title="Mine", price="1", idempotencyKey="k")
    theirs = await received(other, CREATE, configId=await own_store(other), title="Theirs", price="2", idempotencyKey="k")
    assert (mine["replayed"], theirs["replayed"]) == (False, False)
    assert (mine["product"]["title"], theirs["product"]["title"]) == ("Mine", "Theirs")


async def test_key_length_is_limited_to_255_characters(owner: Client) -> None:
    given = {"configId": await own_store(owner), "title": "Once", "price": "1"}
    assert (await received(owner, CREATE, **given, idempotencyKey="k" * 255))["userErrors"] == []
    for key in ("k" * 256, "k\x00"):
        error = await owner.refusal(CREATE, input={**given, "idempotencyKey": key})
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "input.idempotencyKey")


@pytest.mark.parametrize("key", ["", None])
async def test_empty_key_counts_as_no_key(owner: Client, key: str | None) -> None:
    given = {"configId": await own_store(owner), "title": "Twice", "price": "1", "idempotencyKey": key}
    answers = [await received(owner, CREATE, **given) for _ in range(2)]
    assert [a["replayed"] for a in answers] == [False, False]
    assert answers[0]["product"]["id"] != answers[1]["product"]["id"]


# --------------------------------------------------------------------------------------------- at one time


async def order_of(database: Database) -> MutationRequest:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    return MutationRequest(
        user, "createProduct", {"configId": store, "title": "Once", "price": Decimal(1), "handle": "once"}, idempotency_key="k"
    )


async def test_second_request_runs_if_the_first_fails(database: Database) -> None:
    order, entered = await order_of(database), asyncio.Event()

    async def fails(unit_: UnitOfWork, values: Mapping[str, Any]) -> list[Any]:
        await create_product(unit_, values)
        entered.set()
        await asyncio.sleep(0.2)
        raise RuntimeError

    first = asyncio.create_task(execute_mutation(database, order, fails))
    await entered.wait()
    second = await execute_mutation(database, order, create_product)
    with pytest.raises(RuntimeError):
        await first
    assert second.is_replayed is False and second.position == 1
    assert await rows(database, "SELECT count(*) FROM products") == [(1,)]


async def test_second_request_waits_for_the_first_result(database: Database) -> None:
    order, entered = await order_of(database), asyncio.Event()

    async def slow(unit_: UnitOfWork, values: Mapping[str, Any]) -> Any:
        done = await create_product(unit_, values)
        entered.set()
        await asyncio.sleep(0.2)
        return done

    first = asyncio.create_task(execute_mutation(database, order, slow))
    await entered.wait()
    second = await execute_mutation(database, order, create_product)
    assert second.is_replayed is True and second.rows[0].id == (await first).rows[0].id


async def test_deadlock_is_retried_under_its_key(database: Database) -> None:
    order, attempts = await order_of(database), 0

    async def unlucky(unit_: UnitOfWork, values: Mapping[str, Any]) -> Any:
        nonlocal attempts
        attempts += 1
        done = await create_product(unit_, values)
        if attempts < transaction.MAX_TRANSACTION_ATTEMPTS:
            raise DeadlockDetected
        return done

    outcome = await execute_mutation(database, order, unlucky)
    assert (attempts, outcome.position, outcome.is_replayed) == (transaction.MAX_TRANSACTION_ATTEMPTS, 1, False)
    assert await rows(database, "SELECT count(*) FROM products") == [(1,)]


async def test_mutation_that_always_conflicts_may_be_retried(database: Database) -> None:
    attempts = 0

    async def conflict(unit_: UnitOfWork, values: Mapping[str, Any]) -> Any:
        nonlocal attempts
        attempts += 1
        await create_product(unit_, values)
        raise DeadlockDetected

    with pytest.raises(Unavailable, match="Nothing was done"):
        await execute_mutation(database, await order_of(database), conflict)
    assert attempts == transaction.MAX_TRANSACTION_ATTEMPTS
    assert await rows(database, "SELECT count(*) FROM products") == [(0,)]


async def test_key_is_stored_in_the_same_transaction(database: Database) -> None:
    order = await order_of(database)

    def fail(sql: str) -> None:
        if sql.startswith("UPDATE idempotency_keys"):
            raise RuntimeError

    observer: Callable[[str], None] = fail
    database.observers.append(observer)
    with pytest.raises(RuntimeError):
        await execute_mutation(database, order, create_product)
    database.observers.remove(observer)
    for table in ("products", "changes", "idempotency_keys"):
        assert await rows(database, f"SELECT count(*) FROM {table}") == [(0,)]


async def test_a_replay_takes_two_statements(database: Database) -> None:
    order = await order_of(database)
    await execute_mutation(database, order, create_product)
    with count_statements(database) as seen:
        outcome = await execute_mutation(database, order, create_product)
    assert outcome.is_replayed is True and len(seen) == 2


# -------------------------------------------------------------------------------------------- the day after


async def test_keys_expire_after_a_day(database: Database) -> None:
    order = await order_of(database)
    await execute_mutation(database, order, create_product)
    old = replace(order, idempotency_key="old", input_values={**order.input_values, "handle": "old"})
    await execute_mutation(database, old, create_product)
    await rows(
        database, "UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second' WHERE key = 'old' RETURNING 1"
    )
    await rows(
        database, "UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes' WHERE key = 'k' RETURNING 1"
    )
    assert await delete_expired_keys(database) == 1
    assert (await execute_mutation(database, order, create_product)).is_replayed is True
    fresh = await execute_mutation(
        database, replace(order, idempotency_key="old", input_values={**order.input_values, "handle": "new"}), create_product
    )
    assert isinstance(fresh, MutationResult) and fresh.is_replayed is False and not fresh.field_errors
    assert await delete_expired_keys(database) == 0


async def test_key_that_expires_during_lookup_is_claimed_again(database: Database, empty_url: str) -> None:
    order = await order_of(database)
    await execute_mutation(database, order, create_product)
    forgotten: list[str] = []

    def forget(sql: str) -> None:
        if sql.startswith("SELECT idempotency_keys.digest") and not forgotten:
            forgotten.append(sql)
            with psycopg.connect(empty_url, autocommit=True) as connection:
                connection.execute("DELETE FROM idempotency_keys")

    observer: Callable[[str], None] = forget
    database.observers.append(observer)
    outcome = await execute_mutation(database, order, create_product)
    database.observers.remove(observer)
    # The work is done again, and finds what the first time made.
    assert forgotten and outcome.is_replayed is False
    assert [failure.code for failure in outcome.field_errors] == [UserErrorCode.ALREADY_EXISTS]
    assert (await execute_mutation(database, order, create_product)).is_replayed is True


# -------------------------------------------------------------------------- what became of its surroundings


async def test_replay_reports_a_deleted_store(owner: Client) -> None:
    store = await own_store(owner)
    document = CREATE.replace(
        "createdAt", "createdAt config { id } variants { nodes { id } } related { id } reviews { totalCount }"
    )
    given = {"configId": store, "title": "Once", "price": "1", "idempotencyKey": "k"}
    await received(owner, document, **given)
    await owner.ask("mutation($i: ID!) { deleteConfig(input: {id: $i}) { deletedId } }", i=store)
    body = (await owner.post(document, input=given)).json()
    assert [(e["extensions"]["code"], e["path"]) for e in body["errors"]] == [
        ("NOT_FOUND", ["createProduct", "product", "config"])
    ]
