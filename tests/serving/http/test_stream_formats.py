"""Framing of streamed results with any content."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant

FEED = """subscription($c: ID!) { productFeed(configId: $c, after: "0") {
  ... on ProductUpdated { product { title variants { nodes { attributes { name value } } } } } } }"""
LIST = """query($c: ID!) { products(configId: $c) { nodes { title variants { nodes { attributes { name value } } } } } }"""
UPDATE = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
ATTRIBUTES = {"size": "large", "note": "two\nlines\r\nand \u2028more"}
EXPECTED = [{"name": name, "value": value} for name, value in sorted(ATTRIBUTES.items(), key=lambda one: (len(one[0]), one[0]))]


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
