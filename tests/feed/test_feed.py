"""The live feed over real sockets: what is told, to whom, in which order, and what a listener that comes back gets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.client import Client
from tests.factories import make_product, make_store, make_user

FEED = """subscription($c: ID!, $after: Position, $filter: ProductFilter) {
  productFeed(configId: $c, after: $after, filter: $filter) {
  __typename
  ... on ProductCreated { position clientMutationId product { title } }
  ... on ProductUpdated { position changedFields product { title price } }
  ... on ProductDeleted { position productId }
  ... on FeedReset { position reason } } }"""
CREATE = """mutation($input: CreateProductInput!) {
  createProduct(input: $input) { product { id } position userErrors { message } } }"""
UPDATE = """mutation($input: UpdateProductInput!) { updateProduct(input: $input) { position userErrors { message } } }"""
DELETE = """mutation($input: DeleteProductInput!) { deleteProduct(input: $input) { position userErrors { message } } }"""
PUBLISH = """mutation($input: PublishConfigInput!) { publishConfig(input: $input) { position userErrors { message } } }"""


class Listener:
    """One subscription on a socket of its own."""

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
async def listening(client: Client, store: str, **variables: Any) -> AsyncIterator[Listener]:
    async with socket(client) as opened:
        listener = Listener(opened)
        assert (await listener.message())["type"] == "connection_ack"
        payload = {"query": FEED, "variables": {"c": store, **variables}}
        await opened.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        await asyncio.sleep(0.1)
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


async def test_changes_are_told_as_they_happen(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store) as listener:
        product = await create(owner, store, clientMutationId="m1")
        created = await listener.event()
        assert created == {"__typename": "ProductCreated", "position": "1", "clientMutationId": "m1", "product": {"title": "Mug"}}
        await owner.ask(UPDATE, input={"id": product, "price": "6"})
        updated = await listener.event()
        assert (updated["position"], updated["changedFields"], updated["product"]["price"]) == ("2", ["price"], "6.00")
        await owner.ask(DELETE, input={"id": product})
        assert await listener.event() == {"__typename": "ProductDeleted", "position": "3", "productId": product}


async def test_what_was_missed_is_told_first(shopper: Client, owner: Client, store: str) -> None:
    for n in range(5):
        await create(owner, store, title=f"Mug {n}")
    async with listening(shopper, store, after="2") as listener:
        await create(owner, store, title="Live")
        assert [(await listener.event())["position"] for _ in range(4)] == ["3", "4", "5", "6"]


async def test_a_refused_write_is_silence(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store) as listener:
        await owner.ask(CREATE, input={"configId": store, "title": "", "price": "5"})
        assert await listener.silence()


async def test_shoppers_see_what_leaves_and_enters_view(shopper: Client, owner: Client, store: str) -> None:
    product = await make_product(owner.database, store)
    async with listening(shopper, store) as shoppers, listening(owner, store) as owners:
        for status in ("INACTIVE", "ARCHIVED", "ACTIVE"):
            await owner.ask(UPDATE, input={"id": product, "status": status})
        assert [(e["__typename"], e["position"]) for e in [await shoppers.event() for _ in range(2)]] == [
            ("ProductDeleted", "1"),
            ("ProductCreated", "3"),
        ]
        assert [(await owners.event())["__typename"] for _ in range(3)] == ["ProductUpdated"] * 3


async def test_closing_and_opening_the_store_resets_shoppers(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store) as listener:
        await owner.ask(PUBLISH, input={"id": store, "isPublished": False})
        assert (await listener.event())["__typename"] == "FeedReset"
        await create(owner, store)
        await owner.ask(PUBLISH, input={"id": store, "isPublished": True})
        told = [await listener.event() for _ in range(2)]
        assert [e["position"] for e in told] == ["2", "3"] and told[1]["__typename"] == "FeedReset"


async def test_a_position_that_is_no_longer_kept_is_a_reset(shopper: Client, owner: Client, store: str) -> None:
    for _ in range(3):
        await create(owner, store)
    async with owner.database.transaction() as connection:
        await connection.raw.execute("DELETE FROM changes WHERE config_id = %s AND position <= 2", [store])
    async with listening(shopper, store, after="0") as listener:
        reset = await listener.event()
        assert (reset["__typename"], reset["position"]) == ("FeedReset", "3")
    page = await shopper.ask(
        'query($c: ID!) { productChanges(configId: $c, after: "0") { position changes { __typename } } }', c=store
    )
    assert page["productChanges"] == {"position": "3", "changes": [{"__typename": "FeedReset"}]}


async def test_a_filter_tells_what_leaves_it(shopper: Client, owner: Client, store: str) -> None:
    async with listening(shopper, store, filter={"maxPrice": "10"}) as listener:
        product = await create(owner, store, price="5")
        assert (await listener.event())["__typename"] == "ProductCreated"
        await owner.ask(UPDATE, input={"id": product, "price": "20"})
        assert (await listener.event())["__typename"] == "ProductDeleted"
        await owner.ask(UPDATE, input={"id": product, "title": "Cup"})
        assert await listener.silence()


async def test_listeners_alike_cost_one_execution(shopper: Client, owner: Client, store: str) -> None:
    statements: list[str] = []
    async with listening(shopper, store) as one, listening(shopper, store) as two, listening(shopper, store, after="0") as three:
        await create(owner, store)
        await asyncio.gather(one.event(), two.event(), three.event())
        shopper.database.observers.append(statements.append)
        await create(owner, store)
        await asyncio.gather(one.event(), two.event(), three.event())
        shopper.database.observers.remove(statements.append)
    assert len([sql for sql in statements if "SELECT page" in sql]) == 1


async def test_an_unknown_store_is_an_error_and_another_operation_still_runs(shopper: Client) -> None:
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
async def test_what_is_not_the_protocol_closes_the_socket(shopper: Client, messages: list[str], code: int) -> None:
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


async def test_the_feed_over_server_sent_events(shopper: Client, owner: Client, store: str) -> None:
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
