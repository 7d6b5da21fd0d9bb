"""Reads from the replica: two databases with different contents show which one was used."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from storefront.core.db.database import Database
from tests.conftest import fresh, serving
from tests.factories import make_product, make_store, make_user

STORE = "018f0000-0000-7000-8000-00000000000a"
OWNER = "018f0000-0000-7000-8000-00000000000b"
TITLES = "query($c: ID!) { products(configId: $c) { totalCount nodes { title } } }"
CREATE = """mutation($c: ID!) { createProduct(input: {configId: $c, title: "New", price: "1.00"}) {
  product { title config { products { nodes { title } } } } } }"""
FEED = "subscription($c: ID!) { productFeed(configId: $c) { ... on ProductCreated { product { title } } } }"


async def shelf(url: str, title: str) -> None:
    async with Database(url) as database:
        await make_user(database, id=OWNER, subject=OWNER)
        await make_store(database, id=STORE, user_id=OWNER)
        await make_product(database, STORE, title=title)


def titles(page: Any) -> list[str]:
    return [node["title"] for node in page["products"]["nodes"]]


async def test_shoppers_read_replica_and_writers_read_primary(postgres: str, template: str, tmp_path: Path) -> None:
    primary, replica = fresh(postgres, template), fresh(postgres, template)
    await shelf(primary, "Of the primary")
    await shelf(replica, "Of the replica")
    async with serving(primary, tmp_path, database_read_url=SecretStr(replica)) as shopper:
        owner = shopper.signed_in(OWNER)
        assert titles(await shopper.ask(TITLES, c=STORE)) == ["Of the replica"]
        assert titles(await owner.ask(TITLES, c=STORE)) == ["Of the primary"]
        received = asyncio.create_task(first_event(shopper.http, FEED, c=STORE))
        await asyncio.sleep(1)
        made = (await owner.ask(CREATE, c=STORE))["createProduct"]["product"]
        assert titles({"products": made["config"]["products"]}) == ["New", "Of the primary"]
        assert "New" in await asyncio.wait_for(received, 10)
        assert titles(await shopper.ask(TITLES, c=STORE)) == ["Of the replica"]


async def first_event(http: httpx.AsyncClient, query: str, **variables: Any) -> str:
    body, accept = {"query": query, "variables": variables}, {"accept": "text/event-stream"}
    async with http.stream("POST", "/graphql", json=body, headers=accept) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:") and "product" in line:
                return line
    raise AssertionError("the stream ended")
