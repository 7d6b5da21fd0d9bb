"""Framing of streamed results with any content."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Hashable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from storefront.serving.http.stream_formats import EVENT_STREAM
from storefront.serving.http.streams import Streams, _add_heartbeats
from storefront.serving.protection.revocations import Revocations
from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant

FEED = """subscription($c: ID!) { productFeed(configId: $c, after: "0") {
  ... on ProductUpdated { product { title variants { nodes { attributes { name value } } } } } } }"""
LIST = """query($c: ID!) { products(configId: $c) { nodes { title variants { nodes { attributes { name value } } } } } }"""
UPDATE = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
ATTRIBUTES = {"size": "large", "note": "two\nlines\r\nand \u2028more"}
EXPECTED = [{"name": name, "value": value} for name, value in ATTRIBUTES.items()]


async def test_stream_ends_with_its_connection() -> None:
    async def find_none_revoked(_: Collection[Hashable]) -> Collection[Hashable]:
        return ()

    async def iterate_results() -> AsyncGenerator[bytes, None]:
        yield b"{}"
        await asyncio.Event().wait()

    is_blocked = asyncio.Event()

    async def receive() -> dict[str, str]:
        await is_blocked.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        # The client does not read: the first frame waits (backpressure).
        if message["type"] == "http.response.body":
            is_blocked.set()
            await asyncio.Event().wait()

    streams, anonymous = (
        Streams(Revocations(find_none_revoked, 60.0), max_streams=1),
        SimpleNamespace(credentials=None, expires=None),
    )
    response = streams.create_response(EVENT_STREAM, iterate_results(), anonymous, "request")
    # The frames are referenced elsewhere, as by a traceback, and so not freed with the response.
    _frames = response.body_iterator
    await response({"type": "http"}, receive, send)
    assert streams.count == 0


async def test_cancellation_while_a_stream_ends_is_kept() -> None:
    is_ending, closing = asyncio.Event(), asyncio.Event()

    async def iterate_slowly() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
        finally:
            # Its statement is being cancelled, for example.
            is_ending.set()
            await asyncio.sleep(5)
        yield b""

    async def read() -> None:
        closing_task = asyncio.create_task(closing.wait())
        async for _ in _add_heartbeats(iterate_slowly(), closing_task, None):
            pass

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    closing.set()
    await is_ending.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(reading, 2)


async def events(response: httpx.Response) -> AsyncIterator[str]:
    """The events of a stream, as its specification has them: an empty line ends one, and each line of one says what it is."""
    body = ""
    async for chunk in response.aiter_text():
        body += chunk
        *whole, body = body.split("\n\n")
        for event in whole:
            assert all(line.startswith(("event: ", "data:", ":")) for line in event.split("\n")), event
            if "data: " in event:
                yield event.partition("data: ")[2]


@pytest.mark.parametrize("document", [FEED, LIST])
async def test_event_is_one_line_of_json(shopper: Client, document: str) -> None:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    product = await make_product(shopper.database, store)
    await make_variant(shopper.database, product, attributes=json.dumps(ATTRIBUTES))
    headers = {"accept": "text/event-stream"}
    body = {"query": document, "variables": {"c": store}}
    async with asyncio.timeout(10), shopper.http.stream("POST", "/graphql", json=body, headers=headers) as response:
        if document is FEED:
            await shopper.signed_in(user).ask(UPDATE, input={"id": product, "title": "Two\nlines"})
        received = json.loads(await anext(events(response)))["data"]
        found = received["productFeed"]["product"] if document is FEED else received["products"]["nodes"][0]
        assert found["variants"]["nodes"][0]["attributes"] == EXPECTED
