"""SKUs that several variants have: a lookup of one is an error that names their products, and a list has them all."""

from typing import Any

import pytest

from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

PRODUCT = "query($s: ID!, $sku: String!) { product(by: {sku: {configId: $s, sku: $sku}}) { handle } }"
VARIANT = "query($s: ID!, $sku: String!) { variant(by: {sku: {configId: $s, sku: $sku}}) { name } }"
IN_CONFIG = "query($s: ID!, $sku: String!) { config(by: {id: $s}) { product(by: {sku: $sku}) { handle } } }"
LIST = "query($s: ID!, $sku: String!) { config(by: {id: $s}) { variants(sku: $sku) { name product { handle } } } }"


@pytest.fixture
async def shop(shopper: Client) -> tuple[Client, str]:
    """The owner of a store in which mugs share the SKU M, one has it twice, and one of those with T is unavailable."""
    database, user = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=user)
    for n in range(7):
        mug = await make_product(database, store, handle=f"mug-{n}")
        await make_variant(database, mug, sku="M", name=f"{n}", created_at=f"2026-01-0{7 - n}")
    await make_variant(database, mug, sku="TWICE", name="first")
    await make_variant(database, mug, sku="TWICE", name="second")
    await make_variant(database, mug, sku="T", name="shown")
    hidden = await make_product(database, store, handle="hidden", status="inactive")
    await make_variant(database, hidden, sku="T", name="unseen")
    return shopper.signed_in(user), store


@pytest.mark.parametrize("query", [PRODUCT, VARIANT, IN_CONFIG])
async def test_lookup_by_ambiguous_sku_names_the_products(shopper: Client, shop: tuple[Client, str], query: str) -> None:
    _, store = shop
    error = await shopper.refusal(query, s=store, sku="M")
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "by.sku")
    assert "mug-0, mug-1, mug-2, mug-3, mug-4:" in error["message"] and "mug-5" not in error["message"]


async def test_product_with_several_variants_of_a_sku_is_found(shopper: Client, shop: tuple[Client, str]) -> None:
    _, store = shop
    assert (await shopper.ask(PRODUCT, s=store, sku="TWICE"))["product"] == {"handle": "mug-6"}
    assert (await shopper.ask(IN_CONFIG, s=store, sku="TWICE"))["config"]["product"] == {"handle": "mug-6"}
    assert "mug-6" in (await shopper.refusal(VARIANT, s=store, sku="TWICE"))["message"]


async def test_hidden_variants_are_neither_named_nor_ambiguous_to_shoppers(shopper: Client, shop: tuple[Client, str]) -> None:
    owner, store = shop
    assert (await shopper.ask(VARIANT, s=store, sku="T"))["variant"] == {"name": "shown"}
    assert (await shopper.ask(PRODUCT, s=store, sku="T"))["product"] == {"handle": "mug-6"}
    for query in (VARIANT, PRODUCT):
        assert "hidden, mug-6" in (await owner.refusal(query, s=store, sku="T"))["message"]


async def test_ambiguous_sku_of_one_store_is_no_error_in_another(shopper: Client, shop: tuple[Client, str]) -> None:
    _, store = shop
    other = await make_store(shopper.database)
    await make_variant(shopper.database, await make_product(shopper.database, other, handle="only"), sku="M")
    query = '{ configs(first: 50) { nodes { id product(by: {sku: "M"}) { handle } } } }'
    response = (await shopper.post(query)).json()
    products = {node["id"]: node["product"] for node in response["data"]["configs"]["nodes"]}
    assert (products[store], products[other]) == (None, {"handle": "only"})
    assert "mug-0, mug-1" in "".join(error["message"] for error in response["errors"])


async def test_store_lists_the_variants_of_a_sku_oldest_first(shopper: Client, shop: tuple[Client, str]) -> None:
    owner, store = shop

    async def load_names(client: Client, sku: str) -> list[Any]:
        return [node["name"] for node in (await client.ask(LIST, s=store, sku=sku))["config"]["variants"]]

    assert await load_names(shopper, "M") == ["6", "5", "4", "3", "2", "1", "0"]
    assert await load_names(shopper, "T") == ["shown"] and await load_names(owner, "T") == ["shown", "unseen"]
    assert await load_names(shopper, "none") == []


async def test_list_has_at_most_50_variants(shopper: Client) -> None:
    store = await make_store(shopper.database)
    product = await make_product(shopper.database, store)
    for _ in range(51):
        await make_variant(shopper.database, product, sku="M")
    assert len((await shopper.ask(LIST, s=store, sku="M"))["config"]["variants"]) == 50


async def test_variants_of_many_stores_are_one_statement(shopper: Client) -> None:
    query = '{ configs(first: 50) { nodes { variants(sku: "M") { name } } } }'
    counts = []
    for _ in range(2):
        store = await make_store(shopper.database)
        await make_variant(shopper.database, await make_product(shopper.database, store), sku="M")
        with count_statements(shopper.database) as statements:
            await shopper.ask(query)
        counts.append(len(statements))
    assert counts == [2, 2]
