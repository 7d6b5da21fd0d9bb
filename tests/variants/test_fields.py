"""Barcode, weight, cost, inventory policy, image and the other columns of a variant: writes, reads, and who may see the cost."""

from typing import Any

import pytest

from storefront.feed import log
from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant

FIELDS = """barcode weight { value unit __typename } taxable requiresShipping cost inventoryPolicy inventory inStock
  image { url } currency createdAt updatedAt version"""
ERRORS = "userErrors { code path message }"
CREATE = f"mutation($i: CreateVariantInput!) {{ createVariant(input: $i) {{ variant {{ id name {FIELDS} }} {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateVariantInput!) {{ updateVariant(input: $i) {{ variant {{ id name {FIELDS} }} {ERRORS} }} }}"
SIZE = [{"name": "Size", "value": "S"}]
IMAGES = ["https://x.example/1.jpg", "https://x.example/2.jpg"]
GIVEN: dict[str, Any] = {
    "barcode": "4006381333931", "weight": {"value": "1.5", "unit": "KILOGRAM"}, "taxable": False, "requiresShipping": False,
    "cost": "3.2", "inventoryPolicy": "CONTINUE", "inventory": -2, "image": IMAGES[1],
}  # fmt: skip
STORED: dict[str, Any] = {
    "barcode": "4006381333931", "weight": {"value": "1.500", "unit": "KILOGRAM", "__typename": "Weight"}, "taxable": False,
    "requiresShipping": False, "cost": "3.20", "inventoryPolicy": "CONTINUE", "inventory": -2, "inStock": True,
    "image": {"url": IMAGES[1]}, "currency": "CHF",
}  # fmt: skip


@pytest.fixture
async def owned(shopper: Client) -> tuple[Client, str, str]:
    """The owner of a product with two images, its store, and the product."""
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user, currency="CHF")
    product = await make_product(shopper.database, store, images=IMAGES, category="Cups")
    return shopper.signed_in(user), store, product


async def mutate(client: Client, document: str, **input_: Any) -> dict[str, Any]:
    [payload] = (await client.ask(document, i=input_)).values()
    return dict(payload)


def get_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def test_fields_are_written_logged_and_cleared(owned: tuple[Client, str, str]) -> None:
    owner, store, product = owned
    created = (await mutate(owner, CREATE, productId=product, price="5", attributes=SIZE, **GIVEN))["variant"]
    assert {name: created[name] for name in STORED} == STORED and created["name"] == "S"
    cleared: dict[str, Any] = {"barcode": None, "weight": None, "cost": None, "image": None, "taxable": True}
    updated = (await mutate(owner, UPDATE, id=created["id"], **cleared))["variant"]
    assert {name: updated[name] for name in cleared} == cleared
    assert updated["version"] == 2 and updated["updatedAt"] > updated["createdAt"] == created["updatedAt"]
    entry = (await log.read_entries(owner.database, store, 0, 10))[-1]
    assert sorted(entry.changed_fields) == [f"variants.{name}" for name in sorted(cleared)]


async def test_defaults_are_those_of_a_shipped_and_taxed_good(owned: tuple[Client, str, str]) -> None:
    owner, _, product = owned
    attributes = [{"name": "Size", "value": "S"}, {"name": "Colour", "value": "Red"}]
    created = (await mutate(owner, CREATE, productId=product, price="5", attributes=attributes))["variant"]
    assert created["name"] == "S / Red"
    assert [created[name] for name in ("barcode", "weight", "cost", "image")] == [None] * 4
    assert (created["taxable"], created["requiresShipping"], created["inventoryPolicy"]) == (True, True, "DENY")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"weight": {"value": "-1", "unit": "GRAM"}}, "weight.value"),
        ({"weight": {"value": "1.0005", "unit": "GRAM"}}, "weight.value"),
        ({"weight": {"value": "10000000", "unit": "GRAM"}}, "weight.value"),
        ({"cost": "-1"}, "cost"),
        ({"barcode": "x" * 256}, "barcode"),
        ({"inventory": -1}, "inventory"),
        ({"image": "https://x.example/3.jpg"}, "image"),
        ({"image": "nothing"}, "image"),
        ({"taxable": None}, "taxable"),
        ({"inventoryPolicy": None}, "inventoryPolicy"),
    ],
    ids=str,
)
async def test_invalid_values_are_rejected(owned: tuple[Client, str, str], given: dict[str, Any], path: str) -> None:
    owner, _, product = owned
    variant = await make_variant(owner.database, product)
    assert get_errors(await mutate(owner, UPDATE, id=variant, **given)) == [("INVALID_INPUT", path)]
    if None not in given.values():
        assert get_errors(await mutate(owner, CREATE, productId=product, price="1", attributes=SIZE, **given)) == [
            ("INVALID_INPUT", path)
        ]


async def test_product_is_created_with_images_of_variants(owned: tuple[Client, str, str]) -> None:
    owner, store, _ = owned
    create = f"""mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{
      product {{ inStock variants {{ nodes {{ {FIELDS} }} }} }} {ERRORS} }} }}"""
    form = {"price": "1", **GIVEN}
    payload = await mutate(owner, create, configId=store, title="Mug", price="1", images=IMAGES, variants=[form])
    [variant] = payload["product"]["variants"]["nodes"]
    assert payload["product"]["inStock"] and {name: variant[name] for name in STORED} == STORED
    payload = await mutate(owner, create, configId=store, title="Mug", price="1", images=IMAGES[:1], variants=[form])
    assert get_errors(payload) == [("INVALID_INPUT", "variants.0.image")]


async def test_image_that_the_product_no_longer_has_is_not_shown(owned: tuple[Client, str, str]) -> None:
    owner, _, product = owned
    await make_variant(owner.database, product, image=IMAGES[1])
    update = f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ {ERRORS} }} }}"
    await mutate(owner, update, id=product, images=IMAGES[:1])
    query = "query($id: ID!) { product(by: {id: $id}) { variants { nodes { image { url } } } } }"
    assert (await owner.ask(query, id=product))["product"]["variants"]["nodes"] == [{"image": None}]


# ------------------------------------------------------------------------------------------------ stock


@pytest.mark.parametrize(("policy", "in_stock"), [("deny", False), ("continue", True)])
async def test_policy_decides_about_sold_out_variants(shopper: Client, policy: str, in_stock: bool) -> None:
    store = await make_store(shopper.database)
    product = await make_product(shopper.database, store)
    await make_variant(shopper.database, product, inventory=0, inventory_policy=policy)
    query = """query($c: ID!, $in: Boolean!) { products(configId: $c, filter: {inStock: $in}) {
      nodes { inStock variants { nodes { inStock } } } edges { node { variants { edges { node { inStock } } } } } } }"""
    found = (await shopper.ask(query, c=store, **{"in": in_stock}))["products"]
    assert found["nodes"] == [{"inStock": in_stock, "variants": {"nodes": [{"inStock": in_stock}]}}]
    assert found["edges"][0]["node"]["variants"]["edges"] == [{"node": {"inStock": in_stock}}]
    assert (await shopper.ask(query, c=store, **{"in": not in_stock}))["products"]["nodes"] == []


# ------------------------------------------------------------------------------------------- who sees what

# Every way to a variant: as rows and as JSON documents.
READS = [
    "product(by: {id: $product}) { variants { nodes { cost } } }",
    "product(by: {id: $product}) { variants { edges { node { cost } } } }",
    "product(by: {id: $product}) { variants(availableOnly: false) { nodes { cost product { variants { nodes { cost } } } } } }",
    "product(by: {sku: {configId: $store, sku: $sku}}) { variants { nodes { price: cost } } }",
    "product(by: {id: $product}) { variant(by: {sku: $sku}) { cost } }",
    "product(by: {id: $product}) { related { variants { nodes { cost } } } }",
    "products(configId: $store) { nodes { variants { nodes { cost } } } }",
    "products(configId: $store) { nodes { related { variants { nodes { cost } } } } }",
    "products(configId: $store) { edges { node { variants { edges { node { cost } } } } } }",
    "config(by: {id: $store}) { products { nodes { variants { nodes { cost } } } } }",
    "config(by: {id: $store}) { product(by: {id: $product}) { variants { nodes { cost } } } }",
    "searchProducts(input: {configId: $store}) { products { variants { nodes { cost } } } }",
    "variant(by: {id: $variant}) { cost }",
    "variant(by: {sku: {configId: $store, sku: $sku}}) { cost }",
    "node(id: $variant) { ... on ProductVariant { cost } }",
    "nodes(ids: [$variant]) { ... on ProductVariant { cost } }",
    """productChanges(configId: $store, after: "0") {
      changes { ... on ProductUpdated { product { variants { nodes { cost } } } } } }""",
]


@pytest.mark.parametrize("read", READS)
async def test_only_the_owner_sees_costs(shopper: Client, owned: tuple[Client, str, str], read: str) -> None:
    owner, store, product = owned
    made = await mutate(owner, CREATE, productId=product, price="5", attributes=SIZE, sku="A-1", cost="77.77")
    other = await make_product(owner.database, store, title="Other", category="Cups")
    await make_variant(owner.database, other, sku="A-2", cost="77.77")
    stranger_id = await make_user(shopper.database)
    # Somebody who owns another store reads rows, as owners do.
    await make_product(shopper.database, await make_store(shopper.database, user_id=stranger_id))
    given = {"product": product, "store": store, "variant": made["variant"]["id"], "sku": "A-1"}
    types = {"product": "ID!", "store": "ID!", "variant": "ID!", "sku": "String!"}
    names = [name for name in given if f"${name}" in read]
    document = f"query({', '.join(f'${name}: {types[name]}' for name in names)}) {{ {read} }}"
    variables = {name: given[name] for name in names}
    # The owner's response is not the one that shoppers get from the cache, whoever comes first.
    for client, is_seen in ((owner, True), (shopper, False), (shopper.signed_in(stranger_id), False), (owner, True)):
        response = (await client.post(document, **variables)).text
        assert "errors" not in response
        assert ("77.77" in response) is is_seen
        assert ("null" in response) is not is_seen
