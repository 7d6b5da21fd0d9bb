"""Subscriptions over multipart, with Apollo's protocol: every byte of a stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from storefront.serving.http import streams
from tests.client import Client
from tests.factories import make_product, make_store, make_user

FEED = 'subscription($c: ID!) { productFeed(configId: $c, after: "0") { ... on ProductUpdated { position } } }'
UPDATE = "mutation($input: UpdateProductInput!) { updateProduct(input: $input) { userErrors { message } } }"
ACCEPT = "multipart/mixed;boundary=graphql;subscriptionSpec=1.0,application/graphql-response+json,application/json;q=0.9"
HEAD = b"content-type: application/json; charset=utf-8\r\n\r\n"


@asynccontextmanager
async def subscribed(client: Client, query: str = FEED, **variables: Any) -> AsyncIterator[httpx.Response]:
    headers = {"accept": ACCEPT} | ({"authorization": f"Bearer {client.token}"} if client.token else {})
    body = {"query": query, "variables": variables}
    async with client.http.stream("POST", "/graphql", json=body, headers=headers) as response:
        yield response


async def parts(response: httpx.Response) -> AsyncIterator[Any]:
    """The parts of a body, each as soon as what ends it is there."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        *whole, body = body.split(b"\r\n---")
        for part in whole:
            if part:
                assert part.startswith(b"\r\n" + HEAD)
                yield json.loads(part.removeprefix(b"\r\n" + HEAD))
        if body.startswith(b"--"):
            assert body == b"--\r\n"
            return


async def test_multipart_results_have_envelopes(shopper: Client) -> None:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    product = await make_product(shopper.database, store)
    owner = shopper.signed_in(user)
    async with asyncio.timeout(10), subscribed(owner, c=store) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == 'multipart/mixed; boundary="-"; subscriptionSpec=1.0'
        received = parts(response)
        assert await anext(received) == {}
        for position in ("1", "2"):
            await owner.ask(UPDATE, input={"id": product, "title": f"Title {position}"})
            assert await anext(received) == {"payload": {"data": {"productFeed": {"position": position}}}}


async def test_multipart_sends_heartbeats(shopper: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_INTERVAL_SECONDS", 0.1)
    store = await make_store(shopper.database)
    async with asyncio.timeout(10), subscribed(shopper, c=store) as response:
        received = parts(response)
        assert [await anext(received) for _ in range(3)] == [{}] * 3


async def test_multipart_subscription_error_ends_the_stream(shopper: Client) -> None:
    async with asyncio.timeout(10), subscribed(shopper, c=["x"]) as response:
        heartbeat, refusal = [part async for part in parts(response)]
        assert heartbeat == {}
        assert refusal["payload"]["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_multipart_stream_ends_on_sign_out(shopper: Client) -> None:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user)
    owner = shopper.signed_in(user)
    async with asyncio.timeout(10), subscribed(owner, c=store) as response:
        received = parts(response)
        assert await anext(received) == {}
        await owner.ask("mutation { signOutEverywhere(input: {}) { userErrors { message } } }")
        assert [part async for part in received if part] == []
