"""Delivery of webhook messages: contents, order, retries, replay, and misbehaving receivers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from standardwebhooks import Webhook, WebhookVerificationError

from storefront.feed.log import delete_old_entries
from tests.client import Client
from tests.conftest import fresh
from tests.webhooks import receiver as receiving
from tests.webhooks.hooks import (
    PRODUCTS,
    REMOVE,
    REPLAY,
    RESEND,
    ROTATE,
    TEST,
    UPDATE,
    add_product,
    change_product,
    create_webhook,
    delivering,
    list_errors,
    load_webhook,
    owner_with_store,
    run_mutation,
)
from tests.webhooks.receiver import Behaviour, Received, Receiver, Writer, status


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server that delivers webhooks. Each test has a store of its own."""
    async with delivering(fresh(postgres, template), tmp_path_factory.mktemp("hooks")) as client:
        yield client


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().running() as opened:
        yield opened


@pytest.fixture
async def stocked(shop: Client) -> tuple[Client, str]:
    return await owner_with_store(shop)


async def wait_until_settled(owner: Client, webhook: str, **expected: Any) -> dict[str, Any]:
    """Wait until the webhook has the expected fields."""
    async with asyncio.timeout(15):
        while True:
            hook = await load_webhook(owner, webhook)
            if all(hook[name] == value for name, value in expected.items()) and await _is_level(owner, hook, expected):
                return hook
            await asyncio.sleep(0.05)


async def _is_level(owner: Client, hook: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether the whole log was read, if no pending deliveries are expected."""
    store = await owner.ask("query($i: ID!) { config(by: {id: $i}) { position } }", i=hook["config"]["id"])
    return expected.get("pendingCount") != 0 or hook["position"] == store["config"]["position"]


# --------------------------------------------------------------------------------------------- what is sent


async def test_message_contains_data_selected_by_query(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    product = await add_product(owner, store, title="Mug", clientMutationId="mine")
    [message] = await receiver.wait(1)
    assert message.target == "/hooks?from=us" and message.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert message.headers["content-type"] == "application/json"
    about = message.json
    assert about.pop("timestamp").endswith("Z")
    assert about == {
        "type": "product.created", "configId": store, "position": "1", "productId": product, "changedFields": [],
        "clientMutationId": "mine", "data": {"product": {"id": product, "title": "Mug", "price": "10.00"}},
    }  # fmt: skip
    assert Webhook(hook["secret"]).verify(message.body, message.headers) == message.json
    await change_product(owner, product, title="Cup")
    await run_mutation(owner, REMOVE, id=product)
    _, changed, gone = await receiver.wait(3)
    assert (changed.json["type"], changed.json["changedFields"]) == ("product.updated", ["title"])
    assert (gone.json["type"], gone.json["productId"], gone.json["data"]) == ("product.deleted", product, {"product": None})
    hook = await wait_until_settled(owner, hook["id"], pendingCount=0)
    [last, *_] = hook["deliveries"]["nodes"]
    assert (hook["position"], last["status"], last["attempts"][0]["statusCode"], last["attempts"][0]["error"]) == (
        "3", "DELIVERED", 200, None,
    )  # fmt: skip
    assert last["id"] == gone.headers["webhook-id"]


async def test_signature_matches_body_and_secret_only(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    await add_product(owner, store)
    [message] = await receiver.wait(1)
    for secret, body in ((hook["secret"], message.body + b" "), ("whsec_" + "A" * 43 + "=", message.body)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, message.headers)
    rotated = (await run_mutation(owner, ROTATE, id=hook["id"]))["secret"]
    await add_product(owner, store)
    second = (await receiver.wait(2))[1]
    for secret in (hook["secret"], rotated):
        Webhook(secret).verify(second.body, second.headers)
    assert rotated != hook["secret"]


async def test_topics_and_reader_filter_messages(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    everything = [*PRODUCTS, "CONFIG_UPDATED", "CONFIG_PUBLISHED", "CONFIG_UNPUBLISHED"]
    await create_webhook(
        owner,
        store,
        receiver.url,
        topics=["PRODUCT_CREATED"],
        query="query($configId: ID!) { config(by: {id: $configId}) { slug } }",
    )
    await create_webhook(owner, store, receiver.url + "&owner", topics=everything, query=None, readAs="OWNER")
    await create_webhook(owner, store, receiver.url + "&shopper", topics=everything, query=None)
    hidden = await add_product(owner, store, status="INACTIVE")
    await change_product(owner, hidden, status="ACTIVE")
    # Visibility of a store is evaluated when its log is read.
    await receiver.wait(4)
    await owner.ask("mutation($i: ID!) { unpublishConfig(input: {id: $i}) { position } }", i=store)
    await change_product(owner, hidden, title="New")
    await receiver.wait(7)
    await asyncio.sleep(0.3)

    def types(sign: str) -> list[str]:
        return [message.json["type"] for message in receiver.received if message.target.endswith(sign)]

    assert sorted(types("&owner")) == ["config.unpublished", "product.created", "product.updated", "product.updated"]
    # The update made it visible, and unpublishing the store hid it.
    assert sorted(types("&shopper")) == ["config.unpublished", "product.created"]
    assert types("us") == ["product.created"]


async def test_query_with_product_id_skips_store_messages(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    await create_webhook(owner, store, receiver.url, topics=[*PRODUCTS, "CONFIG_UNPUBLISHED"], readAs="OWNER")
    product = await add_product(owner, store)
    await owner.ask("mutation($i: ID!) { unpublishConfig(input: {id: $i}) { position } }", i=store)
    data = {message.json["type"]: message.json["data"] for message in await receiver.wait(2)}
    assert data["product.created"]["product"]["id"] == product and data["config.unpublished"] is None


async def test_webhook_sees_only_its_own_store(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    other = await owner.ask('mutation { createConfig(input: {storeName: "Other", slug: "the-other-one"}) { config { id } } }')
    query = f"""query($configId: ID!) {{ one: config(by: {{id: $configId}}) {{ integrations {{ shopify {{ domain }} }} }}
      other: config(by: {{id: "{other["createConfig"]["config"]["id"]}"}}) {{ id }} }}"""
    for reader in ("OWNER", "SHOPPER"):
        await create_webhook(owner, store, f"{receiver.url}&{reader}", query=query, readAs=reader)
    shop = {"shopify": {"domain": "my-shop.myshopify.com", "accessToken": "shpat_0123456789"}}
    update = "mutation($i: UpdateConfigInput!) { updateConfig(input: $i) { position } }"
    await owner.ask(update, i={"id": store, "integrations": shop})
    await add_product(owner, store)
    data = {message.target.rpartition("&")[2]: message.json["data"] for message in await receiver.wait(2)}
    assert data["OWNER"] == {"one": {"integrations": {"shopify": {"domain": "my-shop.myshopify.com"}}}, "other": None}
    assert data["SHOPPER"] == {"one": {"integrations": {"shopify": None}}, "other": None}


async def test_oversized_message_reports_limit_exceeded(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    await create_webhook(
        owner, store, receiver.url, query="query($productId: ID!) { product(by: {id: $productId}) { description } }"
    )
    await add_product(owner, store, description="long words " * 500)
    [message] = await receiver.wait(1)
    [error] = message.json["errors"]
    assert message.json["data"] is None and error["extensions"]["code"] == "LIMIT_EXCEEDED" and "Select less" in error["message"]
    assert len(message.body) < 1_000


async def test_query_errors_are_sent_in_message(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    await create_webhook(owner, store, receiver.url, query='query { product(by: {id: "nothing"}) { id } }')
    await add_product(owner, store)
    [message] = await receiver.wait(1)
    assert message.json["data"] == {"product": None}
    assert message.json["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


# ------------------------------------------------------------------------------- receivers as they come


@pytest.mark.parametrize(
    ("behave", "code", "error"),
    [
        (status(500), 500, "answered with status 500"),
        (status(404), 404, "answered with status 404"),
        (status(302, "location: http://127.0.0.1:1/"), 302, "answered with status 302: redirects are not followed"),
        (receiving.silence, None, "no answer within 2 s"),
        (receiving.drip, None, "no answer within 2 s"),
        (receiving.endless_head, None, "the connection ended before an answer came"),
        (receiving.hang_up, None, "the connection ended before an answer came"),
    ],
    ids=["500", "404", "redirect", "silence", "drip", "endless head", "hang up"],
)
async def test_failed_delivery_is_retried(
    stocked: tuple[Client, str], receiver: Receiver, behave: Behaviour, code: int | None, error: str
) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    receiver.behave = behave
    await add_product(owner, store)
    await receiver.wait(1)
    async with asyncio.timeout(15):
        # There may have been several attempts by now.
        while not (failing := await load_webhook(owner, hook["id"]))["failingSince"]:  # noqa: ASYNC110  it is asked over HTTP
            await asyncio.sleep(0.05)
    [delivery] = failing["deliveries"]["nodes"]
    assert delivery["status"] == "PENDING" and delivery["nextAttemptAt"] and failing["failingSince"]
    receiver.behave = receiving.OK
    well = await wait_until_settled(owner, hook["id"], pendingCount=0, consecutiveFailures=0, failingSince=None)
    [delivery] = well["deliveries"]["nodes"]
    first, *_, last = delivery["attempts"]
    assert (first["statusCode"], first["error"]) == (code, error)
    assert (delivery["status"], last["statusCode"], last["error"]) == ("DELIVERED", 200, None)
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 1


async def test_endless_response_body_is_not_read(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    receiver.behave = receiving.endless
    await add_product(owner, store)
    well = await wait_until_settled(owner, hook["id"], pendingCount=0)
    [delivery] = well["deliveries"]["nodes"]
    assert (delivery["status"], delivery["attemptCount"]) == ("DELIVERED", 1)
    assert delivery["attempts"][0]["durationMs"] < 2_000


async def test_lanes_are_ordered_and_independent(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    bad, good = await add_product(owner, store), await add_product(owner, store)
    hook = await create_webhook(owner, store, receiver.url, query=None)
    is_corrected = False

    async def behave(request: Received, writer: Writer) -> None:
        if request.json["productId"] == bad and not is_corrected:
            await receiving.silence(request, writer)
        await receiving.OK(request, writer)

    receiver.behave = behave
    for number in range(5):
        await change_product(owner, bad, title=f"Bad {number}")
        await change_product(owner, good, title=f"Good {number}")
    number = 1
    while len(_of(receiver, good)) < 5:
        number = len(await receiver.wait(number, 5)) + 1
    assert set(_of(receiver, bad)) == {3}
    waiting = (await load_webhook(owner, hook["id"]))["deliveries"]["nodes"]
    # Only the first pending delivery of a lane has a next attempt.
    assert [d["nextAttemptAt"] is not None for d in waiting if d["productId"] == bad][:4] == [False] * 4
    is_corrected = True
    await wait_until_settled(owner, hook["id"], pendingCount=0)
    assert _of(receiver, good) == [4, 6, 8, 10, 12]
    tried = _of(receiver, bad)
    assert sorted(set(tried)) == [3, 5, 7, 9, 11] and tried == sorted(tried)


def _of(receiver: Receiver, product: str) -> list[int]:
    return [request.position for request in receiver.received if request.json["productId"] == product]


async def test_dead_letter_unblocks_its_lane(empty_url: str, tmp_path: Any, receiver: Receiver) -> None:
    async with delivering(empty_url, tmp_path, webhook_attempts=2) as shop:
        owner, store = await owner_with_store(shop)
        hook = await create_webhook(owner, store, receiver.url, query=None)
        receiver.behave = status(503)
        product = await add_product(owner, store)
        given_up = await wait_until_settled(owner, hook["id"], pendingCount=0)
        [delivery] = given_up["deliveries"]["nodes"]
        assert (delivery["status"], delivery["attemptCount"], delivery["nextAttemptAt"]) == ("FAILED", 2, None)
        receiver.behave = receiving.OK
        await change_product(owner, product, title="Next")
        assert (await receiver.wait(3))[2].position == 2
        again = await run_mutation(owner, RESEND, id=delivery["id"])
        assert again["delivery"]["status"] == "PENDING" and again["delivery"]["nextAttemptAt"]
        resent = (await receiver.wait(4))[3]
        assert (resent.position, resent.headers["webhook-id"]) == (1, delivery["id"])
        assert (await wait_until_settled(owner, hook["id"], pendingCount=0))["deliveries"]["nodes"][1]["status"] == "DELIVERED"


async def test_failing_webhook_is_disabled_and_reenabled(empty_url: str, tmp_path: Any, receiver: Receiver) -> None:
    async with delivering(empty_url, tmp_path, webhook_disable_hours=0.0) as shop:
        owner, store = await owner_with_store(shop)
        hook = await create_webhook(owner, store, receiver.url, query=None)
        receiver.behave = status(500)
        product = await add_product(owner, store)
        disabled = await wait_until_settled(owner, hook["id"], isEnabled=False)
        assert disabled["disabledAt"] and disabled["disabledReason"].startswith("Nothing has got through since ")
        assert disabled["disabledReason"].endswith("Last: answered with status 500")
        number = len(receiver.received)
        await change_product(owner, product, title="Meanwhile")
        refused = await run_mutation(owner, RESEND, id=disabled["deliveries"]["nodes"][0]["id"])
        assert list_errors(refused) == [("INVALID_STATE", "id")]
        await asyncio.sleep(0.5)
        assert len(receiver.received) == number
        receiver.behave = receiving.OK
        enabled = (await run_mutation(owner, UPDATE, id=hook["id"], isEnabled=True))["webhook"]
        assert (enabled["isEnabled"], enabled["disabledReason"], enabled["consecutiveFailures"]) == (True, None, 0)
        await wait_until_settled(owner, hook["id"], pendingCount=0, position="2")
        assert receiver.positions[-2:] == [1, 2]


async def test_status_410_disables_webhook(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    receiver.behave = status(410)
    await add_product(owner, store)
    disabled = await wait_until_settled(owner, hook["id"], isEnabled=False)
    assert disabled["disabledReason"] == "The address answered 410 Gone."
    assert len(receiver.received) == 1


async def test_webhook_down_gets_one_message_at_a_time(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url, query=None)
    receiver.behave = status(500)
    for _ in range(8):
        await add_product(owner, store)
    resting = await wait_until_settled(owner, hook["id"], pendingCount=8)
    async with asyncio.timeout(10):
        while resting["suspendedUntil"] is None:
            resting = await load_webhook(owner, hook["id"])
    receiver.behave = receiving.OK
    await wait_until_settled(owner, hook["id"], pendingCount=0, suspendedUntil=None)
    assert set(receiver.positions) == set(range(1, 9))


async def test_changed_url_is_tried_at_once(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    receiver.behave = status(503, "retry-after: 3000")
    await add_product(owner, store)
    await wait_until_settled(owner, hook["id"], consecutiveFailures=1)
    receiver.behave = receiving.OK
    changed = (await run_mutation(owner, UPDATE, id=hook["id"], url=receiver.url + "&mended"))["webhook"]
    assert (changed["consecutiveFailures"], changed["failingSince"]) == (0, None)
    assert (await receiver.wait(2))[1].target.endswith("&mended")
    await wait_until_settled(owner, hook["id"], pendingCount=0)


async def test_retry_after_header_is_respected(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url)
    receiver.behave = status(429, "retry-after: 3000")
    await add_product(owner, store)
    [delivery] = (await wait_until_settled(owner, hook["id"], consecutiveFailures=1))["deliveries"]["nodes"]
    assert delivery["nextAttemptAt"] > delivery["attempts"][0]["startedAt"]
    await asyncio.sleep(0.5)
    assert len(receiver.received) == 1


# ------------------------------------------------------------------------------------ replaying, sweeping


async def test_replay_sends_events_after_position(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    product = await add_product(owner, store)
    hook = await create_webhook(owner, store, receiver.url, query=None)
    for number in range(3):
        await change_product(owner, product, title=f"Mug {number}")
    await wait_until_settled(owner, hook["id"], pendingCount=0, position="4")
    assert receiver.positions == [2, 3, 4]
    # The delivery before it was recreated as well.
    assert (await run_mutation(owner, REPLAY, id=hook["id"], after="0"))["webhook"]["position"] == "0"
    await receiver.wait(7)
    assert receiver.positions == [2, 3, 4, 1, 2, 3, 4]
    assert len({request.headers["webhook-id"] for request in receiver.received}) == 7
    assert list_errors(await run_mutation(owner, REPLAY, id=hook["id"], after="5")) == [("INVALID_INPUT", "after")]


async def test_replay_keeps_pending_resends(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url, query=None)
    product = await add_product(owner, store)
    [first] = (await wait_until_settled(owner, hook["id"], pendingCount=0, position="1"))["deliveries"]["nodes"]
    receiver.behave = status(503, "retry-after: 3000")
    await change_product(owner, product, title="Later")
    await wait_until_settled(owner, hook["id"], consecutiveFailures=1)
    # It waits for the other delivery, which is then replayed.
    assert (await run_mutation(owner, RESEND, id=first["id"]))["delivery"]["nextAttemptAt"] is None
    receiver.behave = receiving.OK
    await run_mutation(owner, REPLAY, id=hook["id"], after="1")
    await wait_until_settled(owner, hook["id"], pendingCount=0, position="2")
    assert receiver.positions == [1, 2, 1, 2]


async def test_log_gap_sends_reset_message(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, receiver.url, query=None)
    await run_mutation(owner, UPDATE, id=hook["id"], isEnabled=False)
    product = await add_product(owner, store)
    for number in range(3):
        await change_product(owner, product, title=f"Mug {number}")
    async with owner.database.transaction() as connection:
        await connection.raw.execute(
            "UPDATE changes SET occurred_at = now() - interval '9 days' WHERE config_id = %s AND position < 4", [store]
        )
    assert await delete_old_entries(owner.database, days=7) >= 3
    refused = await run_mutation(owner, REPLAY, id=hook["id"], after="1")
    assert "which begins after 3" in refused["userErrors"][0]["message"]
    await run_mutation(owner, UPDATE, id=hook["id"], isEnabled=True)
    reset, last = sorted(await receiver.wait(2), key=lambda message: message.position)
    assert (reset.json["type"], reset.json["position"], reset.json["reason"]) == (
        "log.reset", "3", "part of the log was deleted: refetch the store, then continue from this position",
    )  # fmt: skip
    assert (last.json["type"], last.position) == ("product.updated", 4)


async def test_webhook_returns_delivery_result(stocked: tuple[Client, str], receiver: Receiver) -> None:
    owner, store = stocked
    product = await add_product(owner, store, title="Newest")
    hook = await create_webhook(owner, store, receiver.url)
    tested = await run_mutation(owner, TEST, id=hook["id"])
    [message] = receiver.received
    assert tested["userErrors"] == [] and tested["body"].encode() == message.body
    assert (message.json["type"], message.json["data"]["product"]["title"]) == ("webhook.test", "Newest")
    assert message.json["timestamp"].endswith("Z")
    assert Webhook(hook["secret"]).verify(message.body, message.headers)
    delivery = tested["delivery"]
    assert (delivery["id"], delivery["status"], delivery["productId"]) == (message.headers["webhook-id"], "DELIVERED", product)
    assert delivery["webhook"] == {"id": hook["id"]}
    too_soon = await run_mutation(owner, TEST, id=hook["id"])
    assert list_errors(too_soon) == [("INVALID_STATE", "id")] and len(receiver.received) == 1


async def test_webhook_reports_unreachable_endpoint(stocked: tuple[Client, str]) -> None:
    owner, store = stocked
    hook = await create_webhook(owner, store, "http://127.0.0.1:1025/nobody")
    delivery = (await run_mutation(owner, TEST, id=hook["id"]))["delivery"]
    assert (delivery["status"], delivery["attempts"][0]["error"]) == ("FAILED", "the connection was refused")
