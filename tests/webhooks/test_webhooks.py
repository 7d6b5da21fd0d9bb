"""Webhook mutations and queries: validation, secrets, access control, and pagination."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from storefront.core.ids import uuid7
from storefront.queries.webhooks import MAX_WEBHOOKS_PER_STORE
from storefront.webhooks.commands import sweep_deliveries
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import insert, make_user
from tests.webhooks.hooks import (
    CREATE,
    DELETE,
    FIND,
    LIST,
    PRODUCT,
    PRODUCTS,
    QUICK,
    ROTATE,
    TEST,
    UPDATE,
    create_webhook,
    list_errors,
    owner_with_store,
    run_mutation,
)

URL = "http://127.0.0.1:1025/hooks"


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server that does not deliver."""
    options = {**QUICK, "webhook_interval": 0}
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("webhooks"), **options) as client:
        yield client


@pytest.fixture
async def owned(shop: Client) -> tuple[Client, str]:
    return await owner_with_store(shop)


async def rows(client: Client, webhook: str) -> Any:
    async with client.database.transaction() as connection:
        cursor = await connection.raw.execute("SELECT secret, previous_secret FROM webhooks WHERE id = %s", [webhook])
        return await cursor.fetchone()


async def test_webhook_crud(owned: tuple[Client, str]) -> None:
    owner, store = owned
    hook = await create_webhook(owner, store, URL, topics=["PRODUCT_UPDATED"])
    assert hook["secret"].startswith("whsec_") and len(hook["secret"]) == 50
    assert (hook["url"], hook["topics"], hook["query"], hook["readAs"]) == (URL, ["PRODUCT_UPDATED"], PRODUCT, "SHOPPER")
    assert (hook["position"], hook["isEnabled"], hook["consecutiveFailures"], hook["pendingCount"], hook["version"]) == (
        "0",
        True,
        0,
        0,
        1,
    )
    listed = (await owner.ask(LIST, i=store))["config"]["webhooks"]
    assert [one["id"] for one in listed] == [hook["id"]] and "whsec" not in str(listed)
    changed = await run_mutation(owner, UPDATE, id=hook["id"], expectedVersion=1, topics=PRODUCTS, query=None, readAs="OWNER")
    assert (changed["webhook"]["topics"], changed["webhook"]["query"], changed["webhook"]["readAs"]) == (PRODUCTS, None, "OWNER")
    assert list_errors(await run_mutation(owner, UPDATE, id=hook["id"], expectedVersion=1)) == [
        ("STALE_VERSION", "expectedVersion")
    ]
    assert (await run_mutation(owner, DELETE, id=hook["id"]))["deletedId"] == hook["id"]
    assert (await owner.ask(FIND, i=hook["id"]))["webhook"] is None
    assert list_errors(await run_mutation(owner, UPDATE, id=hook["id"])) == [("NOT_FOUND", "id")]


async def test_updates_of_different_fields_are_merged(owned: tuple[Client, str]) -> None:
    owner, store = owned
    hook = (await run_mutation(owner, CREATE, configId=store, url=URL, topics=PRODUCTS))["webhook"]
    merge = {"id": hook["id"], "onConflict": "MERGE_DISJOINT"}
    current: dict[str, Any] = {"version": 1, "topics": PRODUCTS, "readAs": "SHOPPER", "isEnabled": True, "query": None}
    changed_by: dict[str, int] = {}
    for expected, values in (
        (1, {"topics": ["CONFIG_UPDATED"]}),
        (1, {"readAs": "OWNER"}),
        (1, {"topics": PRODUCTS}),
        # The value of the field is not compared: it was changed by somebody else.
        (2, {"readAs": "OWNER"}),
        (2, {"topics": PRODUCTS, "isEnabled": False}),
        (3, {"query": '{ products(configId: "x") { totalCount } }', "isEnabled": True}),
        # Nothing changes, so there is no new version.
        (4, {"topics": PRODUCTS}),
        # Versions that the webhook never had.
        (0, {"query": None}),
        (99, {"query": None}),
    ):
        changed_since = sorted(name for name, version in changed_by.items() if version > expected)
        payload = await run_mutation(owner, UPDATE, **merge, expectedVersion=expected, **values)
        if expected not in range(1, current["version"] + 1) or not values.keys().isdisjoint(changed_since):
            [error] = payload["userErrors"]
            assert (error["code"], error["path"]) == ("STALE_VERSION", ["expectedVersion"])
            assert (error["currentVersion"], error["changedFields"]) == (current["version"], changed_since)
        else:
            differing = [name for name, value in values.items() if current[name] != value]
            current |= {**values, "version": current["version"] + bool(differing)}
            changed_by |= dict.fromkeys(differing, current["version"])
            assert (payload["webhook"]["version"], payload["userErrors"]) == (current["version"], [])
        found = (await owner.ask(FIND, i=hook["id"]))["webhook"]
        assert {name: found[name] for name in current} == current
    assert current["version"] == 4
    # Rotating the secret is a version too, and disjoint from all fields of the input.
    await run_mutation(owner, ROTATE, id=hook["id"])
    [error] = (await run_mutation(owner, UPDATE, id=hook["id"], expectedVersion=4, query=None))["userErrors"]
    assert error["changedFields"] == ["secret"]
    payload = await run_mutation(owner, UPDATE, **merge, expectedVersion=4, readAs="SHOPPER")
    assert (payload["userErrors"], payload["webhook"]["version"]) == ([], 6)


async def test_secret_is_returned_once_and_stored_encrypted(owned: tuple[Client, str]) -> None:
    owner, store = owned
    given = {"configId": store, "url": URL, "topics": PRODUCTS, "idempotencyKey": "lost answer"}
    first, again = [await run_mutation(owner, CREATE, **given) for _ in range(2)]
    # A replay with the same idempotency key returns the secret.
    assert (first["secret"], again["replayed"]) == (again["secret"], True)
    kept, before = await rows(owner, first["webhook"]["id"])
    assert first["secret"] not in kept and before is None
    rotated = await run_mutation(owner, ROTATE, id=first["webhook"]["id"])
    assert rotated["secret"] != first["secret"] and rotated["webhook"]["previousSecretExpiresAt"]
    newer, before = await rows(owner, first["webhook"]["id"])
    assert before == kept and rotated["secret"] not in newer
    async with owner.database.transaction() as connection:
        kept_outcome = await (await connection.raw.execute("SELECT result::text FROM idempotency_keys")).fetchall()
    assert "whsec_" not in str(kept_outcome)


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"url": "http://127.0.0.2:1025/"}, "url", "public addresses only"),
        ({"url": "https://nowhere.invalid/"}, "url", "public addresses only"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "url", "public addresses only"),
        ({"url": "https://user:secret@example.com/"}, "url", "user or password"),
        ({"url": "gopher://example.com"}, "url", "https://example.com/hooks"),
        ({"url": "https://example.com:25/"}, "url", "port"),
        ({"topics": []}, "topics", "at least one"),
        ({"query": "{ nothing }"}, "query", "Cannot query field"),
        ({"query": "{ me { id"}, "query", "Syntax Error"),
        ({"query": "{ me { id } }"}, "query", "personal fields"),
        ({"query": "mutation { signOutEverywhere { clientMutationId } }"}, "query", ""),
        ({"query": 'mutation { deleteConfig(input: {id: "x"}) { deletedId } }'}, "query", "must be a query"),
        (
            {"query": "subscription($configId: ID!) { productFeed(configId: $configId) { __typename } }"},
            "query",
            "must be a query",
        ),
        ({"query": "query A { configs { nodes { id } } } query B { configs { nodes { id } } }"}, "query", "one operation"),
        ({"query": "query($other: ID!) { product(by: {id: $other}) { id } }"}, "query", "$other"),
        (
            {"query": "query($productId: String!) { products(configId: 1, search: $productId) { totalCount } }"},
            "query",
            "$productId as ID!",
        ),
        ({"query": "{ configs(first: 100) { nodes { products(first: 100) { nodes { id } } } } }"}, "query", "are allowed"),
        ({"query": "{" + "x" * 10_001 + "}"}, "query", "10,000"),
        ({"query": "{ " + " ".join(f"a{n}: configs {{ nodes {{ id }} }}" for n in range(60)) + " }"}, "query", "at most"),
    ],
)
async def test_invalid_webhook_input_is_rejected(
    owned: tuple[Client, str], given: dict[str, Any], field: str, words: str
) -> None:
    owner, store = owned
    answer = await run_mutation(owner, CREATE, **{"configId": store, "url": URL, "topics": PRODUCTS, **given})
    assert answer["webhook"] is None and answer["secret"] is None
    [error] = answer["userErrors"]
    assert (error["code"], error["path"]) == ("INVALID_INPUT", [field]) and words in error["message"], error
    hook = await create_webhook(owner, store, URL)
    assert list_errors(await run_mutation(owner, UPDATE, id=hook["id"], **given)) == [("INVALID_INPUT", field)]


async def test_all_input_errors_are_reported_together(owned: tuple[Client, str]) -> None:
    owner, store = owned
    answer = await run_mutation(owner, CREATE, configId=store, url="ftp://x", topics=[], query="{ nothing }")
    assert {path for _, path in list_errors(answer)} == {"url", "query", "topics"}


async def test_other_users_cannot_access_webhooks(shop: Client, owned: tuple[Client, str]) -> None:
    owner, store = owned
    hook = await create_webhook(owner, store, URL)
    stranger = shop.signed_in(await make_user(shop.database))
    for document, given in (
        (CREATE, {"configId": store, "url": "ftp://not-looked-at", "topics": PRODUCTS}),
        (UPDATE, {"id": hook["id"], "url": "ftp://not-looked-at"}),
        (ROTATE, {"id": hook["id"]}),
        (DELETE, {"id": hook["id"]}),
        (TEST, {"id": hook["id"]}),
    ):
        assert (await stranger.refusal(document, i=given))["extensions"]["code"] == "FORBIDDEN"
        assert (await shop.refusal(document, i=given))["extensions"]["code"] == "UNAUTHENTICATED"
    assert [await client.ask(LIST, i=store) for client in (stranger, shop)] == [{"config": {"webhooks": None}}] * 2
    assert (await stranger.ask(FIND, i=hook["id"]))["webhook"] is None


async def test_webhooks_per_store_are_limited(owned: tuple[Client, str]) -> None:
    owner, store = owned
    made_ = await asyncio.gather(
        *(run_mutation(owner, CREATE, configId=store, url=URL, topics=PRODUCTS) for _ in range(MAX_WEBHOOKS_PER_STORE + 3))
    )
    assert sum(one["webhook"] is not None for one in made_) == MAX_WEBHOOKS_PER_STORE
    assert {fault for one in made_ for fault in list_errors(one)} == {("LIMIT_REACHED", "configId")}


@pytest.mark.parametrize("number", [0, 1, 10])
async def test_deliveries_are_paginated(owned: tuple[Client, str], number: int) -> None:
    owner, store = owned
    hook = await create_webhook(owner, store, URL)
    about = {"config_id": store, "webhook_id": hook["id"], "type": "product.updated", "lane": store}
    states = ["delivered" if n % 2 else "pending" for n in range(number)]
    for n, state in enumerate(states):
        await insert(owner.database, "webhook_deliveries", **about, position=n, state=state)
    query = """query($i: ID!, $s: WebhookDeliveryStatus, $a: String) { webhook(id: $i) { pendingCount
      deliveries(first: 4, status: $s, after: $a) { nodes { position } totalCount pageInfo { hasNextPage endCursor } } } }"""
    seen: list[int] = []
    after = None
    while True:
        page = (await owner.ask(query, i=hook["id"], a=after))["webhook"]
        seen += [int(node["position"]) for node in page["deliveries"]["nodes"]]
        after = page["deliveries"]["pageInfo"]["endCursor"]
        if not page["deliveries"]["pageInfo"]["hasNextPage"]:
            break
    assert seen == list(reversed(range(number))) and page["deliveries"]["totalCount"] == number
    assert page["pendingCount"] == states.count("pending")
    delivered = (await owner.ask(query, i=hook["id"], s="DELIVERED"))["webhook"]["deliveries"]
    assert delivered["totalCount"] == states.count("delivered")


async def test_sweep_deletes_finished_deliveries_only(owned: tuple[Client, str]) -> None:
    owner, store = owned
    hook = await create_webhook(owner, store, URL)
    about = {"config_id": store, "webhook_id": hook["id"], "type": "product.updated", "lane": store}
    about |= {"created_at": "2026-01-01T00:00:00Z"}
    await insert(owner.database, "webhook_deliveries", **about, position=1, state="delivered", finished_at="2026-01-01T00:00:00Z")
    waiting = await insert(owner.database, "webhook_deliveries", **about, position=2)
    assert await sweep_deliveries(owner.database, days=7) == 1
    left = (await owner.ask(FIND, i=hook["id"]))["webhook"]["deliveries"]["nodes"]
    assert [one["id"] for one in left] == [waiting]


async def test_webhook_requires_product_of_store(owned: tuple[Client, str]) -> None:
    owner, store = owned
    hook = await create_webhook(owner, store, URL)
    assert list_errors(await run_mutation(owner, TEST, id=hook["id"], productId=str(uuid7()))) == [("NOT_FOUND", "productId")]
