"""What an operation reads and returns is bounded before it is there: rows while they arrive, values before they are encoded."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.client import Client
from tests.conftest import serving
from tests.factories import make_product, make_review, make_store, make_user

MAX_RESPONSE_BYTES = 1_000_000
HTML = "<p>" + "long " * 12_000 + "</p>"
PRODUCTS = 20
REPEATED = " ".join(f"{name}: descriptionHtml" for name in "abcde")


@pytest_asyncio.fixture
async def client(empty_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(empty_url, tmp_path, max_response=MAX_RESPONSE_BYTES) as opened:
        yield opened


async def make_long_store(client: Client, html: str = HTML, count: int = PRODUCTS) -> str:
    store = await make_store(client.database, user_id=await make_user(client.database, subject="owner"))
    for _ in range(count):
        await make_product(client.database, store, description_html=html, category="A > B")
    return store


async def refuse(client: Client, limit: str, query: str, **variables: Any) -> None:
    error = await client.refusal(query, **variables)
    expected = {"code": "LIMIT_EXCEEDED", "limit": limit, "maximum": MAX_RESPONSE_BYTES}
    assert expected.items() <= error["extensions"].items(), error
    # Not known, because nothing was encoded.
    assert "found" not in error["extensions"]


@pytest.mark.parametrize("is_owner", [False, True])
@pytest.mark.parametrize(
    "selection",
    [
        "products(first: 100) { nodes { descriptionHtml } }",
        "products(first: 100) { nodes { descriptionHtml variants { pageInfo { hasNextPage } } } }",
        'products(first: 100, search: "product") { nodes { descriptionHtml } }',
        'category(by: {path: "A > B"}) { products(first: 100) { nodes { descriptionHtml } } }',
        "a: products(first: 8) { nodes { descriptionHtml } } b: products(last: 9) { nodes { descriptionHtml } }",
        "products(first: 1) { nodes { related(first: 50) { descriptionHtml } } }",
        "products(first: 1) { nodes { related(first: 50) { descriptionHtml breadcrumbs { name } } } }",
    ],
)
async def test_rows_beyond_the_limit_are_refused(client: Client, selection: str, *, is_owner: bool) -> None:
    store = await make_long_store(client)
    viewer = client.signed_in("owner") if is_owner else client
    await refuse(viewer, "rowBytes", f"query($c: ID!) {{ config(by: {{id: $c}}) {{ {selection} }} }}", c=store)
    # The next operation has a budget of its own.
    assert await viewer.ask("query($c: ID!) { products(configId: $c, first: 9) { nodes { descriptionHtml } } }", c=store)


@pytest.mark.parametrize(
    "selection",
    [
        # Each product once, under five names.
        f"products(first: 5) {{ nodes {{ {REPEATED} variants {{ pageInfo {{ hasNextPage }} }} }} }}",
        # The same page for each product.
        "products(first: 20) { nodes { config { products(first: 5) { nodes { descriptionHtml } } } } }",
        "products(first: 20) { nodes { config { products(first: 5) { nodes { descriptionHtml breadcrumbs { name } } } } } }",
    ],
)
async def test_repeated_values_are_refused_before_encoding(client: Client, selection: str) -> None:
    store = await make_long_store(client)
    await refuse(client, "responseBytes", f"query($c: ID!) {{ config(by: {{id: $c}}) {{ {selection} }} }}", c=store)


async def test_response_with_an_error_is_refused(client: Client) -> None:
    # Completed by graphql-core, which reads anew.
    store = await make_long_store(client)
    page = "products(first: 5) { nodes { descriptionHtml } }"
    selection = f'products(first: 20) {{ nodes {{ variants(after: "x") {{ nodes {{ id }} }} config {{ {page} }} }} }}'
    error = await client.refusal(f"query($c: ID!) {{ config(by: {{id: $c}}) {{ {selection} }} }}", c=store)
    assert error["extensions"]["limit"] in {"rowBytes", "responseBytes"}


@pytest.mark.parametrize("html", ['"' * 30_000, "\U0001f600" * 15_000])
async def test_repeated_values_are_counted_in_bytes(client: Client, html: str) -> None:
    store = await make_long_store(client, html, 5)
    selection = f"products(first: 5) {{ nodes {{ {REPEATED} variants {{ pageInfo {{ hasNextPage }} }} }} }}"
    await refuse(client, "responseBytes", f"query($c: ID!) {{ config(by: {{id: $c}}) {{ {selection} }} }}", c=store)


async def test_responses_below_the_limit_are_complete(client: Client) -> None:
    # One row more than the page is read.
    store = await make_long_store(client)
    query = f"query($c: ID!) {{ products(configId: $c, first: 2) {{ nodes {{ {REPEATED} }} }} }}"
    assert [list(node.values()) for node in (await client.ask(query, c=store))["products"]["nodes"]] == [[HTML] * 5] * 2


async def test_reviews_beyond_the_limit_are_refused(client: Client) -> None:
    store = await make_store(client.database)
    product = await make_product(client.database, store)
    for _ in range(40):
        await make_review(client.database, product, body="bad " * 2_500, title="T")
    fields = " ".join(f"{name}: body" for name in "abc")
    for cursor in ("", "pageInfo { hasNextPage }"):
        query = f"query($p: ID!) {{ product(by: {{id: $p}}) {{ reviews(first: 100) {{ {cursor} nodes {{ {fields} }} }} }} }}"
        error = await client.refusal(query, p=product)
        assert error["extensions"]["limit"] in {"rowBytes", "responseBytes"}


async def test_mutation_is_done_although_its_payload_is_refused(client: Client) -> None:
    store = await make_long_store(client)
    owner = client.signed_in("owner")
    selection = "config { products(first: 100) { nodes { config { products(first: 5) { nodes { descriptionHtml } } } } } }"
    query = f"""mutation($c: ID!) {{ updateConfig(input: {{id: $c, storeName: "New"}}) {{ {selection} }} }}"""
    error = await owner.refusal(query, c=store)
    assert error["extensions"]["limit"] == "responseBytes" and "The mutation is done." in error["message"]
    assert (await owner.ask("query($c: ID!) { config(by: {id: $c}) { storeName } }", c=store))["config"]["storeName"] == "New"
    # Of two mutations both are done.
    both = query.replace("updateConfig", "a: updateConfig").replace("New", "Newer").removesuffix("}")
    both += """ b: updateConfig(input: {id: $c, description: "D"}) { config { id } } }"""
    await owner.refusal(both, c=store)
    assert await owner.ask("query($c: ID!) { config(by: {id: $c}) { storeName description } }", c=store) == {
        "config": {"storeName": "Newer", "description": "D"}
    }
