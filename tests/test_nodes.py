"""`node`, `nodes` and `variant`: objects by their ids alone, as visible as everywhere else."""

from typing import Any

import pytest
import pytest_asyncio

from storefront.core.ids import uuid7
from tests.client import Client
from tests.factories import count_statements, insert, make_job, make_product, make_review, make_store, make_user, make_variant

NODES = """query($ids: [ID!]!) { nodes(ids: $ids) {
  __typename id
  ... on User { name email } ... on Config { slug } ... on Product { title config { slug } }
  ... on ProductVariant { sku product { title } } ... on Review { rating product { title } }
} }"""
NODE = "query($id: ID!) { node(id: $id) { __typename id } }"
VARIANT = "query($by: ProductVariantByInput!) { variant(by: $by) { id sku price product { handle } } }"
TYPES = ("User", "Config", "Product", "ProductVariant", "Review")


class Shop:
    """A store with one object of each type, published or not."""

    def __init__(self, client: Client, owner: str, ids: dict[str, str]) -> None:
        self.client, self.owner, self.ids = client, client.signed_in(owner), ids


async def make_shop(client: Client, **store_fields: Any) -> Shop:
    owner = await make_user(client.database, name="Ada")
    store = await make_store(client.database, user_id=owner, **store_fields)
    product = await make_product(client.database, store, title="Copper mug")
    variant = await make_variant(client.database, product, sku="MUG-1")
    review = await make_review(client.database, product, rating=4)
    return Shop(client, owner, dict(zip(TYPES, (owner, store, product, variant, review), strict=True)))


@pytest_asyncio.fixture
async def shop(shopper: Client) -> Shop:
    return await make_shop(shopper)


async def test_nodes_are_returned_in_the_order_of_their_ids(shop: Shop) -> None:
    keys = [*shop.ids.values(), str(uuid7()), shop.ids["Product"]]
    nodes = (await shop.client.ask(NODES, ids=keys))["nodes"]
    assert [node and node["__typename"] for node in nodes] == [*TYPES, None, "Product"]
    assert [node and node["id"] for node in nodes] == [*keys[:5], None, keys[-1]]
    assert nodes[0]["email"] is None
    assert nodes[3] == {
        "__typename": "ProductVariant",
        "id": shop.ids["ProductVariant"],
        "sku": "MUG-1",
        "product": {"title": "Copper mug"},
    }
    assert (await shop.client.ask(NODES, ids=[]))["nodes"] == []


@pytest.mark.parametrize("type_", TYPES)
async def test_node_is_the_object_of_its_type(shop: Shop, type_: str) -> None:
    node = (await shop.client.ask(NODE, id=shop.ids[type_]))["node"]
    assert node == {"__typename": type_, "id": shop.ids[type_]}


async def test_hidden_nodes_are_null_for_all_but_their_owner(shopper: Client) -> None:
    hidden = await make_shop(shopper, is_published=False)
    keys = [hidden.ids[type_] for type_ in TYPES[1:]]
    assert (await shopper.ask(NODES, ids=keys))["nodes"] == [None] * 4
    assert [node["id"] for node in (await hidden.owner.ask(NODES, ids=keys))["nodes"]] == keys
    for type_ in TYPES[1:]:
        assert (await shopper.ask(NODE, id=hidden.ids[type_]))["node"] is None


async def test_webhooks_deliveries_and_jobs_are_nodes_of_their_owner(shop: Shop) -> None:
    database, store = shop.client.database, shop.ids["Config"]
    hook = await insert(database, "webhooks", config_id=store, url="https://example.com", read_as="owner", secret="-", position=0)
    about = {"config_id": store, "webhook_id": hook, "type": "product.updated", "position": 0, "lane": store}
    delivery = await insert(database, "webhook_deliveries", **about)
    owner = (await shop.owner.ask("{ me { id } }"))["me"]["id"]
    jobs = [await make_job(database, store, owner, kind, status="failed") for kind in ("import", "export")]
    upload = await make_job(database, store, owner, "import", status="uploading")
    keys = [hook, delivery, *jobs, upload]
    query = "query($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"
    expected = ["Webhook", "WebhookDelivery", "ImportJob", "ExportJob"]
    found = (await shop.owner.ask(query, ids=keys))["nodes"]
    assert [node and (node["__typename"], node["id"]) for node in found] == [*zip(expected, keys[:4], strict=True), None]
    stranger = shop.client.signed_in(await make_user(database))
    for client in (shop.client, stranger):
        assert (await client.ask(query, ids=keys))["nodes"] == [None] * 5


async def test_unavailable_variant_is_hidden_from_shoppers(shop: Shop) -> None:
    hidden = await make_variant(shop.client.database, shop.ids["Product"], sku="OLD", is_available=False)
    for by in ({"id": hidden}, {"sku": {"configId": shop.ids["Config"], "sku": "OLD"}}):
        assert (await shop.client.ask(VARIANT, by=by))["variant"] is None
        assert (await shop.owner.ask(VARIANT, by=by))["variant"]["id"] == hidden
    assert (await shop.client.ask(NODE, id=hidden))["node"] is None


async def test_variant_is_found_by_id_and_by_sku_in_its_store(shop: Shop) -> None:
    other = await make_store(shop.client.database)
    assert (await shop.client.ask(VARIANT, by={"id": shop.ids["ProductVariant"]}))["variant"]["sku"] == "MUG-1"
    in_store = {"sku": {"configId": shop.ids["Config"], "sku": "MUG-1"}}
    assert (await shop.client.ask(VARIANT, by=in_store))["variant"]["id"] == shop.ids["ProductVariant"]
    assert (await shop.client.ask(VARIANT, by={"sku": {"configId": other, "sku": "MUG-1"}}))["variant"] is None


async def test_number_of_statements_does_not_depend_on_the_number_of_nodes(shop: Shop) -> None:
    many = [await make_product(shop.client.database, shop.ids["Config"]) for _ in range(20)]
    counts = []
    for keys in (many[:1], many):
        with count_statements(shop.client.database) as statements:
            assert None not in (await shop.client.ask("query($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=keys))["nodes"]
        counts.append(len(statements))
    assert counts == [2, 2]


async def test_malformed_or_too_many_ids_are_rejected(shop: Shop) -> None:
    error = await shop.client.refusal(NODES, ids=[shop.ids["User"], "1"])
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "ids.1")
    error = await shop.client.refusal(NODES, ids=[shop.ids["User"]] * 101)
    assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "ids")


async def test_product_of_a_store_is_found_by_each_key(shopper: Client) -> None:
    query = """query($slug: String!, $by: ProductInConfigByInput!) {
      config(by: {slug: $slug}) { product(by: $by) { id title variants { nodes { sku } } } } }"""
    shop = await make_shop(shopper, slug="pottery")
    product = (await shop.client.ask("query($id: ID!) { node(id: $id) { ... on Product { handle } } }", id=shop.ids["Product"]))[
        "node"
    ]
    for by in ({"id": shop.ids["Product"]}, {"handle": product["handle"]}, {"sku": "MUG-1"}):
        for client in (shop.client, shop.owner):
            found = (await client.ask(query, slug="pottery", by=by))["config"]["product"]
            assert found == {"id": shop.ids["Product"], "title": "Copper mug", "variants": {"nodes": [{"sku": "MUG-1"}]}}
    other = await make_shop(shopper)
    for by in ({"id": other.ids["Product"]}, {"handle": "nothing"}, {"sku": "MUG-2"}):
        assert (await shop.client.ask(query, slug="pottery", by=by))["config"]["product"] is None


async def test_products_of_many_stores_are_one_statement(shopper: Client) -> None:
    query = '{ configs(first: 50) { nodes { product(by: {sku: "MUG-1"}) { title } } } }'
    counts = []
    for _ in range(2):
        await make_shop(shopper)
        with count_statements(shopper.database) as statements:
            stores = (await shopper.ask(query))["configs"]["nodes"]
        assert {"title": "Copper mug"} in [store["product"] for store in stores]
        counts.append(len(statements))
    assert counts[0] == counts[1]


async def test_position_of_a_list_is_not_newer_than_the_list(shop: Shop) -> None:
    query = "query($c: ID!) { products(configId: $c) { position nodes { id } } config(by: {id: $c}) { position } }"
    empty = await make_store(shop.client.database)
    for store in (shop.ids["Config"], empty):
        data = await shop.client.ask(query, c=store)
        assert data["products"]["position"] == data["config"]["position"]
    created = (
        """mutation($i: CreateProductInput!) { createProduct(input: $i) { position product { id } userErrors { message } } }"""
    )
    payload = (await shop.owner.ask(created, i={"configId": shop.ids["Config"], "title": "Plate", "price": "5"}))["createProduct"]
    page = (await shop.client.ask(query, c=shop.ids["Config"]))["products"]
    assert page["position"] == payload["position"]
    assert page["nodes"][0]["id"] == payload["product"]["id"]
