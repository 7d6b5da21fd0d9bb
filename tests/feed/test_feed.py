"""The product feed over WebSockets: delivery per audience, order, catch-up, resets and shared executions."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import storefront.background
from storefront.core.db.database import Database
from storefront.core.ids import uuid7
from storefront.serving.server import websocket_protocol
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_product, make_review, make_store, make_user, make_variant

FEED = """subscription($c: ID!, $after: Position, $filter: ProductFilterInput) {
  productFeed(configId: $c, after: $after, filter: $filter) {
  __typename position
  ... on ProductCreated { clientMutationId product { title } }
  ... on ProductUpdated { changedFields product { title price } }
  ... on ProductDeleted { productId deletedReason }
  ... on FeedReset { reason }
  ... on FeedHeartbeat { sentAt } } }"""
DETAILS = """subscription($c: ID!) { productFeed(configId: $c) {
  ... on ProductUpdated { product { variants(availableOnly: false) { totalCount } reviews { nodes { id } } } } } }"""
REVIEWERS = """subscription($c: ID!) { productFeed(configId: $c) {
  ... on ProductUpdated { product { reviews { nodes { user { id email } } } } } } }"""
CREATE = """mutation($input: CreateProductInput!) {
  createProduct(input: $input) { product { id } position userErrors { message } } }"""
UPDATE = """mutation($input: UpdateProductInput!) { updateProduct(input: $input) { position userErrors { message } } }"""
DELETE = """mutation($input: DeleteProductInput!) { deleteProduct(input: $input) { position userErrors { message } } }"""
PUBLISH = "mutation($input: PublishConfigInput!) { publishConfig(input: $input) { position userErrors { message } } }"
UNPUBLISH = "mutation($input: UnpublishConfigInput!) { unpublishConfig(input: $input) { position userErrors { message } } }"


class Listener:
    """A subscription on its own socket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def message(self) -> Any:
        async with asyncio.timeout(5):
            return json.loads(await self.socket.recv())

    async def event(self) -> Any:
        message = await self.message()
        assert message["type"] == "next", message
        return message["payload"]["data"]["productFeed"]

    async def silence(self, seconds: float = 0.3) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.socket.recv()
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def socket(client: Client, **payload: Any) -> AsyncIterator[ClientConnection]:
    address = str(client.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
    async with connect(address, subprotocols=["graphql-transport-ws"]) as opened:  # type: ignore[list-item]
        said = {"authorization": f"Bearer {client.token}"} if client.token else {}
        await opened.send(json.dumps({"type": "connection_init", "payload": {**said, **payload}}))
        yield opened


@asynccontextmanager
async def listening(client: Client, store: str, document: str = FEED, **variables: Any) -> AsyncIterator[Listener]:
    async with socket(client) as opened:
        listener = Listener(opened)
        assert (await listener.message())["type"] == "connection_ack"
        payload = {"query": document, "variables": {"c": store, **variables}}
        await opened.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        await asyncio.sleep(0.25)
        yield listener


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


@pytest.fixture
async def store(owner: Client) -> str:
    me = (await owner.ask("{ me { id } }"))["me"]["id"]
    return await make_store(owner.database, user_id=me)


async def create(owner: Client, store: str, **values: Any) -> str:
    given = {"configId": store, "title": "Mug", "price": "5", **values}
    return str((await owner.ask(CREATE, input=given))["createProduct"]["product"]["id"])


async def test_changes_are_sent_as_they_happen(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store) as listener:
        product = await create(owner, store, clientMutationId="m1")
        created = await listener.event()
        assert created == {"__typename": "ProductCreated", "position": "1", "clientMutationId": "m1", "product": {"title": "Mug"}}
        await owner.ask(UPDATE, input={"id": product, "price": "6"})
        updated = await listener.event()
        assert (updated["position"], updated["changedFields"], updated["product"]["price"]) == ("2", ["price"], "6.00")
        await owner.ask(DELETE, input={"id": product})
        deleted = {"__typename": "ProductDeleted", "position": "3", "productId": product, "deletedReason": "REMOVED"}
        assert await listener.event() == deleted


@pytest.mark.parametrize("deflate", [True, False])
@pytest.mark.parametrize("protocol", ["websockets-sansio", websocket_protocol.UVICORN_OPTIONS["ws"]])
async def test_sockets_without_direct_writes_receive_the_same(
    protocol: str, deflate: bool, empty_url: str, tmp_path: Path
) -> None:
    async with serving(empty_url, tmp_path, {"ws": protocol, "ws_per_message_deflate": deflate}) as shopper:
        owner = shopper.signed_in(await make_user(shopper.database))
        store = await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])
        async with AsyncExitStack() as stack:
            listeners = [await stack.enter_async_context(listening(shopper, store)) for _ in range(3)]
            for n in range(3):
                # One of each length that a frame has a head of its own for.
                await create(owner, store, title=f"Mug {n}", clientMutationId="m" * n * 120)
            for listener in listeners:
                assert [(await listener.event())["position"] for _ in range(3)] == ["1", "2", "3"]


async def test_messages_of_every_length_arrive_whole(shopper: Client, owner: Client, store: str) -> None:
    document = "subscription($c: ID!) { productFeed(configId: $c) { ... on ProductUpdated { product { description } } } }"
    product = await make_product(owner.database, store, description="at first")
    async with listening(shopper, store, document) as listener:
        for length in (0, 1, 30, 31, 32, 33, 34, 60, 90, 100, 125, 126, 127, 5_000, *range(65_410, 65_440), 65_536):
            await owner.ask(UPDATE, input={"id": product, "description": "d" * length or None})
            assert (await listener.event())["product"]["description"] == ("d" * length or None)


async def test_missed_entries_are_sent_first(shopper: Client, owner: Client, store: str) -> None:
    for n in range(5):
        await create(owner, store, title=f"Mug {n}")
    async with listening(shopper, store, after="2") as listener:
        await create(owner, store, title="Live")
        assert [(await listener.event())["position"] for _ in range(4)] == ["3", "4", "5", "6"]


async def test_rejected_write_sends_nothing(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store) as listener:
        await owner.ask(CREATE, input={"configId": store, "title": "", "price": "5"})
        assert await listener.silence()


async def test_shoppers_receive_products_entering_and_leaving_view(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    async with listening(shopper, store) as shoppers, listening(owner, store) as owners:
        for status in ("INACTIVE", "ARCHIVED", "ACTIVE"):
            await owner.ask(UPDATE, input={"id": product, "status": status})
        assert [(e["__typename"], e["position"]) for e in [await shoppers.event() for _ in range(2)]] == [
            ("ProductDeleted", "1"),
            ("ProductCreated", "3"),
        ]
        assert [(await owners.event())["__typename"] for _ in range(3)] == ["ProductUpdated"] * 3


async def test_unpublishing_and_publishing_resets_shoppers(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store) as listener:
        await owner.ask(UNPUBLISH, input={"id": store})
        closed = await listener.event()
        assert (closed["__typename"], closed["reason"]) == ("FeedReset", "VISIBILITY_CHANGED")
        await create(owner, store)
        assert await listener.silence(), "what happens in a closed store is no shopper's affair"
        await owner.ask(PUBLISH, input={"id": store})
        opened = await listener.event()
        assert (opened["position"], opened["__typename"]) == ("3", "FeedReset")


async def test_expired_position_is_a_reset(shopper: Client, owner: Client, store: str) -> None:
    for _ in range(3):
        await create(owner, store)
    async with owner.database.transaction() as connection:
        await connection.raw.execute("DELETE FROM changes WHERE config_id = %s AND position <= 2", [store])
    async with listening(shopper, store, after="0") as listener:
        reset = await listener.event()
        assert reset == {"__typename": "FeedReset", "position": "3", "reason": "LOG_EXPIRED"}
    query = """query($c: ID!, $after: Position!) { productChanges(configId: $c, after: $after) {
      position changes { __typename position ... on FeedReset { reason } } } }"""
    for after, reason in (("0", "LOG_EXPIRED"), ("99", "DATA_REPLACED")):
        page = await shopper.ask(query, c=store, after=after)
        expected = {"__typename": "FeedReset", "position": "3", "reason": reason}
        assert page["productChanges"] == {"position": "3", "changes": [expected]}


async def test_each_change_for_shoppers_and_the_owner(shopper: Client, owner: Client, store: str) -> None:
    heard: dict[str, list[tuple[str, str]]] = {"shopper": [], "owner": []}
    async with listening(shopper, store) as shoppers, listening(owner, store) as owners:

        async def hear_until(shopper_last: str, owner_last: str) -> None:
            for name, listener, last in (("shopper", shoppers, shopper_last), ("owner", owners, owner_last)):
                while not heard[name] or heard[name][-1][0] != last:
                    event = await listener.event()
                    heard[name].append((event["position"], event["__typename"].removeprefix("Product")))

        product = await create(owner, store, status="INACTIVE")
        for shopper_last, owner_last, change in (
            ("2", "2", {"status": "ACTIVE"}),
            ("3", "3", {"title": "Cup"}),
            ("4", "4", {"status": "INACTIVE"}),
            ("4", "5", {"title": "Bowl"}),
            ("6", "6", {"status": "ACTIVE"}),
        ):
            await owner.ask(UPDATE, input={"id": product, **change})
            # A change is sent as the product is then: before the next one.
            await hear_until(shopper_last, owner_last)
        await owner.ask(UNPUBLISH, input={"id": store})
        await owner.ask(UPDATE, input={"id": product, "title": "Vase"})
        other = await create(owner, store, title="Made while closed")
        await hear_until("7", "9")
        await owner.ask(DELETE, input={"id": other})
        await hear_until("7", "10")
        await owner.ask(PUBLISH, input={"id": store})
        await owner.ask(DELETE, input={"id": product})
        await hear_until("12", "12")
        assert await shoppers.silence() and await owners.silence()
    assert heard["shopper"] == [
        ("2", "Created"),
        ("3", "Updated"),
        ("4", "Deleted"),
        ("6", "Created"),
        ("7", "FeedReset"),
        ("11", "FeedReset"),
        ("12", "Deleted"),
    ]
    assert heard["owner"] == [
        ("1", "Created"),
        *((str(n), "Updated") for n in range(2, 7)),
        ("8", "Updated"),
        ("9", "Created"),
        ("10", "Deleted"),
        ("12", "Deleted"),
    ]


async def test_lost_wakeups_delay_changes_by_one_poll(empty_url: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"poll_interval": 0.5, "broadcast_url": SecretStr("redis://127.0.0.1:1")}
    async with serving(empty_url, tmp_path, **options) as here, serving(empty_url, tmp_path, **options) as there:
        owner = here.signed_in(await make_user(here.database))
        store = await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])
        async with listening(there, store) as listener:
            for _ in range(3):
                await create(owner, store)
                begin = time.monotonic()
                await listener.event()
                assert time.monotonic() - begin < 0.5 + 2


async def test_server_deletes_entries_beyond_log_retention(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storefront.background, "SWEEP_INTERVAL_SECONDS", 0.3)
    async with serving(empty_url, tmp_path, log_retention_days=2) as shopper:
        owner = shopper.signed_in(await make_user(shopper.database))
        store = await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])
        for _ in range(4):
            await create(owner, store)
        async with owner.database.transaction() as connection:
            aged = "UPDATE changes SET occurred_at = now() - make_interval(hours => 60 - 10 * position::int)"
            await connection.raw.execute(aged)
        await asyncio.sleep(1)
        # 50 and 40 hours old, 30 and 20: what is left begins with the second.
        async with listening(shopper, store, after="1") as kept, listening(shopper, store, after="0") as lost:
            assert [(await kept.event())["position"] for _ in range(3)] == ["2", "3", "4"]
            reset = await lost.event()
            assert (reset["__typename"], reset["position"]) == ("FeedReset", "4")


async def test_filter_sends_products_that_leave_it(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store, filter={"maxPrice": "10"}) as listener:
        product = await create(owner, store, price="5")
        assert (await listener.event())["__typename"] == "ProductCreated"
        await owner.ask(UPDATE, input={"id": product, "price": "20"})
        left = await listener.event()
        assert (left["__typename"], left["deletedReason"]) == ("ProductDeleted", "FILTERED")
        await owner.ask(UPDATE, input={"id": product, "title": "Cup"})
        assert await listener.silence()
        await owner.ask(DELETE, input={"id": product})
        gone = await listener.event()
        assert (gone["productId"], gone["deletedReason"]) == (product, "REMOVED")


async def test_heartbeat_moves_position_of_idle_listeners(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, feed_heartbeat_seconds=0.25) as shopper:
        owner = shopper.signed_in(await make_user(shopper.database))
        store = await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])
        async with (
            listening(shopper, store, filter={"maxPrice": "10"}) as idle,
            listening(shopper, store, filter={"maxPrice": "10"}) as same,
            listening(shopper, store) as busy,
        ):
            await create(owner, store, price="20")
            for listener in (idle, same):
                heartbeat = await listener.event()
                assert (heartbeat["__typename"], heartbeat["position"]) == ("FeedHeartbeat", "1")
                assert heartbeat["sentAt"].endswith("Z")
            assert (await busy.event())["__typename"] == "ProductCreated"
            # Whoever knows the position receives none, nor does anybody while nothing changes.
            assert await busy.silence(0.7) and await idle.silence(0.1)
            await owner.ask(UNPUBLISH, input={"id": store})
            assert (await idle.event())["__typename"] == "FeedReset"
            await create(owner, store, price="20")
            assert await idle.silence(0.7), "what happens in a closed store is no shopper's affair"


async def test_equal_subscriptions_share_one_execution(shopper: Client, owner: Client, store: str) -> None:
    statements: list[str] = []
    async with listening(shopper, store) as one, listening(shopper, store) as two, listening(shopper, store, after="0") as three:
        await create(owner, store)
        await asyncio.gather(one.event(), two.event(), three.event())
        shopper.database.observers.append(statements.append)
        await create(owner, store)
        await asyncio.gather(one.event(), two.event(), three.event())
        shopper.database.observers.remove(statements.append)
    assert len([sql for sql in statements if "SELECT page" in sql]) == 1


async def received(listeners: list[Listener]) -> list[Any]:
    return [await listener.event() for listener in listeners]


async def executions(database: Database, cause: Awaitable[Any], listeners: list[Listener]) -> tuple[int, list[Any]]:
    """The number of review queries for the listeners' events, and the events."""
    statements: list[str] = []
    database.observers.append(statements.append)
    await cause
    events = await received(listeners)
    database.observers.remove(statements.append)
    # Without the look-up of ids, which is in all tables.
    return len([sql for sql in statements if "FROM reviews" in sql and "UNION ALL" not in sql]), events


async def test_shoppers_share_an_execution_without_the_owner(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    await make_variant(owner.database, product, is_available=False)
    people = [shopper, *[shopper.signed_in(await make_user(shopper.database)) for _ in range(3)], owner, owner]
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(listening(one, store, DETAILS)) for one in people]
        count, events = await executions(owner.database, owner.ask(UPDATE, input={"id": product, "price": "6"}), listeners)
    assert [event["product"]["variants"]["totalCount"] for event in events] == [0, 0, 0, 0, 1, 1]
    assert count == 2


async def test_personal_fields_are_executed_per_viewer(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    users = [await make_user(owner.database, email=f"{uuid7().hex}@example.com") for _ in range(2)]
    for user in users:
        await make_review(owner.database, product, user_id=user)
    people = [shopper.signed_in(user) for user in (*users, users[0])] + [shopper]
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(listening(one, store, REVIEWERS)) for one in people]
        count, events = await executions(owner.database, owner.ask(UPDATE, input={"id": product, "price": "6"}), listeners)
    reviewers = [[review["user"] for review in event["product"]["reviews"]["nodes"]] for event in events]
    assert [[user["id"] for user in seen if user["email"]] for seen in reviewers] == [[users[0]], [users[1]], [users[0]], []]
    assert count == 3


async def test_unknown_store_ends_only_its_operation(shopper: Client) -> None:
    async with socket(shopper) as opened:
        listener = Listener(opened)
        await listener.message()
        payload = {"query": FEED, "variables": {"c": "018f0000-0000-7000-8000-000000000000"}}
        await opened.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        refused = await listener.message()
        assert refused["type"] == "error" and refused["payload"][0]["extensions"]["code"] == "NOT_FOUND"
        await opened.send(json.dumps({"id": "2", "type": "subscribe", "payload": {"query": "{ __typename }"}}))
        assert (await listener.message())["payload"] == {"data": {"__typename": "Query"}}
        assert await listener.message() == {"id": "2", "type": "complete"}


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["not json"], 4400),
        (["[]"], 4400),
        (['{"type":"hello"}'], 4400),
        (['{"type":"subscribe","id":"1","payload":{"query":"{ me { id } }"}}'], 4401),
        (['{"type":"connection_init"}', '{"type":"connection_init"}'], 4429),
        (['{"type":"connection_init","payload":{"authorization":"Bearer nonsense"}}'], 4401),
        (['{"type":"connection_init"}', '{"type":"subscribe","id":"1","payload":{"query":1}}'], 4400),
        (["x" * 300_000], 4400),
    ],
)
async def test_protocol_violation_closes_the_socket(shopper: Client, messages: list[str], code: int) -> None:
    address = str(shopper.http.base_url).replace("http", "ws").rstrip("/") + "/graphql"
    async with connect(address, subprotocols=["graphql-transport-ws"]) as opened:  # type: ignore[list-item]
        for message in messages:
            await opened.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(until_closed(opened), 5)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == code


async def until_closed(opened: ClientConnection) -> None:
    while True:
        await opened.recv()


async def test_feed_over_server_sent_events(shopper: Client, owner: Client, store: str) -> None:
    await create(owner, store, title="Missed")
    body = {"query": FEED, "variables": {"c": store, "after": "0"}}
    async with shopper.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        found = [line async for line in take_data(lines, 1)]
        await create(owner, store, title="Live")
        found += [line async for line in take_data(lines, 1)]
    titles = [json.loads(line)["data"]["productFeed"]["product"]["title"] for line in found]
    assert titles == ["Missed", "Live"]


async def take_data(lines: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    async for line in lines:
        if line.startswith("data: "):
            yield line.removeprefix("data: ")
            count -= 1
        if not count:
            return
