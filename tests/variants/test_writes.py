"""Variant mutations over GraphQL: stored rows, payloads, log entries and the product's derived columns."""

from typing import Any

import pytest

from storefront.core.ids import uuid7
from storefront.feed import log
from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant

ERRORS = "userErrors { __typename code message path ... on StaleVersionError { currentVersion changedFields } }"
VARIANT = """{ id name price compareAtPrice inventory sku isAvailable inStock version attributes { name value }
  product { id version variants(availableOnly: false) { totalCount } priceRange { min max } inStock } }"""
CREATE = f"""mutation($i: CreateVariantInput!) {{ createVariant(input: $i) {{
  variant {VARIANT} position clientMutationId replayed {ERRORS} }} }}"""
UPDATE = f"""mutation($i: UpdateVariantInput!) {{ updateVariant(input: $i) {{
  variant {VARIANT} position clientMutationId replayed {ERRORS} }} }}"""
DELETE = f"""mutation($i: DeleteVariantInput!) {{ deleteVariant(input: $i) {{
  deletedId position product {{ variants {{ totalCount }} priceRange {{ min max }} }} {ERRORS} }} }}"""
PRODUCT = """query($i: ID!) { product(by: {id: $i}) {
  inStock priceRange { min max } variants(availableOnly: false) { totalCount nodes { name } } } }"""


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


async def own_product(owner: Client, **values: Any) -> tuple[str, str]:
    """A product of the owner's, and its store."""
    me = (await owner.ask("{ me { id } }"))["me"]["id"]
    store = await make_store(owner.database, user_id=me)
    return await make_product(owner.database, store, **values), store


async def mutate(client: Client, document: str, **input_: Any) -> dict[str, Any]:
    [payload] = (await client.ask(document, i=input_)).values()
    return dict(payload)


def get_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def test_variant_is_created_with_given_fields(owner: Client) -> None:
    product, store = await own_product(owner)
    size = [{"name": "size", "value": "S"}, {"name": "colour", "value": "red"}]
    given = {"name": " Small ", "price": "9.5", "compareAtPrice": "12", "attributes": size, "inventory": 7, "sku": "S-1"}
    answer = await mutate(owner, CREATE, productId=product, **given, clientMutationId="mine")
    variant = answer["variant"]
    assert get_errors(answer) == [] and answer["position"] == "1" and answer["clientMutationId"] == "mine"
    assert (variant["name"], variant["price"], variant["compareAtPrice"]) == ("Small", "9.50", "12.00")
    assert (variant["inventory"], variant["sku"], variant["isAvailable"], variant["version"]) == (7, "S-1", True, 1)
    assert sorted(variant["attributes"], key=lambda pair: str(pair["name"])) == size[::-1]
    assert variant["product"] == {
        "id": product, "version": 1, "variants": {"totalCount": 1}, "priceRange": {"min": "9.50", "max": "9.50"}, "inStock": True,
    }  # fmt: skip
    [entry] = await log.read_entries(owner.database, store, 0, 10)
    assert (entry.kind, entry.entity_id, entry.product_id, entry.version) == ("product_updated", variant["id"], product, 1)
    assert (entry.changed_fields, entry.client_mutation_id) == (["variants"], "mine")
    assert entry.actor_id == (await owner.ask("{ me { id } }"))["me"]["id"]


async def test_omitted_fields_have_schema_defaults(owner: Client) -> None:
    product, _ = await own_product(owner)
    variant = (await mutate(owner, CREATE, productId=product, name="Plain", price="1"))["variant"]
    assert (variant["inventory"], variant["inStock"], variant["attributes"], variant["sku"]) == (0, False, [], None)
    endless = (await mutate(owner, CREATE, productId=product, name="Endless", price="1", inventory=None))["variant"]
    assert (endless["inventory"], endless["inStock"]) == (None, True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"name": " "}, [("INVALID_INPUT", "name")]),
        ({"name": "a" * 1_025}, [("INVALID_INPUT", "name")]),
        ({"price": "-1"}, [("INVALID_INPUT", "price")]),
        ({"compareAtPrice": "0.5"}, [("INVALID_INPUT", "compareAtPrice")]),
        ({"inventory": -1}, [("INVALID_INPUT", "inventory")]),
        ({"sku": "\x00"}, [("INVALID_INPUT", "sku")]),
        ({"attributes": [{"name": "", "value": "x"}]}, [("INVALID_INPUT", "attributes.0.name")]),
        ({"attributes": [{"name": "a", "value": "1"}] * 2}, [("INVALID_INPUT", "attributes")]),
        ({"productId": str(uuid7())}, [("NOT_FOUND", "productId")]),
        ({"productId": "1"}, [("INVALID_INPUT", "productId")]),
    ],
)
async def test_invalid_variant_is_rejected(owner: Client, given: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    product, store = await own_product(owner)
    answer = await mutate(owner, CREATE, **{"productId": product, "name": "V", "price": "1", **given})
    assert get_errors(answer) == expected and answer["variant"] is None and answer["position"] is None
    assert await log.read_entries(owner.database, store, 0, 10) == []


async def test_new_variant_is_the_last_one(owner: Client) -> None:
    product, _ = await own_product(owner)
    for name in ("b", "c", "a"):
        await mutate(owner, CREATE, productId=product, name=name, price="1")
    assert [variant["name"] for variant in (await owner.ask(PRODUCT, i=product))["product"]["variants"]["nodes"]] == [
        "b",
        "c",
        "a",
    ]


async def test_product_has_at_most_2048_variants(owner: Client) -> None:
    product, _ = await own_product(owner)
    async with owner.database.transaction() as connection:
        many = """INSERT INTO product_variants (id, product_id, name, price)
          SELECT gen_random_uuid(), %s, n::text, 1 FROM generate_series(1, 2048) n"""
        await connection.raw.execute(many, [product])
    answer = await mutate(owner, CREATE, productId=product, name="One too many", price="1")
    assert get_errors(answer) == [("LIMIT_REACHED", "productId")]


async def test_update_changes_and_logs_given_fields(owner: Client) -> None:
    product, store = await own_product(owner)
    variant = await make_variant(
        owner.database, product, name="Old", price="10", compare_at_price="12", sku="S", attributes={"a": "1"}
    )
    answer = await mutate(owner, UPDATE, id=variant, price="11", name="Old", sku=None, clientMutationId="c")
    changed = answer["variant"]
    assert (changed["price"], changed["compareAtPrice"], changed["sku"], changed["version"]) == ("11.00", "12.00", None, 2)
    assert changed["attributes"] == [{"name": "a", "value": "1"}]
    [entry] = await log.read_entries(owner.database, store, 0, 10)
    assert sorted(entry.changed_fields) == ["variants.price", "variants.sku"] and entry.version == 2
    assert (entry.entity_id, entry.product_id, entry.client_mutation_id) == (variant, product, "c")


async def test_update_without_difference_changes_nothing(owner: Client) -> None:
    product, store = await own_product(owner)
    variant = await make_variant(owner.database, product, name="Same", price="10")
    same: list[dict[str, Any]] = [{}, {"name": "Same", "price": "10.0"}, {"attributes": []}]
    for given in same:
        answer = await mutate(owner, UPDATE, id=variant, **given)
        assert answer["variant"]["version"] == 1 and answer["position"] is None and get_errors(answer) == []
    assert await log.read_entries(owner.database, store, 0, 10) == []


async def test_null_clears_nullable_fields_only(owner: Client) -> None:
    product, _ = await own_product(owner)
    variant = await make_variant(owner.database, product, compare_at_price="12", sku="S")
    answer = await mutate(owner, UPDATE, id=variant, compareAtPrice=None, sku=None, inventory=None)
    assert [answer["variant"][name] for name in ("compareAtPrice", "sku", "inventory")] == [None] * 3
    answer = await mutate(owner, UPDATE, id=variant, name=None, price=None, attributes=None, isAvailable=None)
    assert sorted(get_errors(answer)) == [("INVALID_INPUT", name) for name in ("attributes", "isAvailable", "name", "price")]


async def test_price_is_checked_against_stored_compare_price(owner: Client) -> None:
    product, _ = await own_product(owner)
    variant = await make_variant(owner.database, product, price="10", compare_at_price="12")
    assert get_errors(await mutate(owner, UPDATE, id=variant, price="13")) == [("INVALID_INPUT", "compareAtPrice")]
    assert get_errors(await mutate(owner, UPDATE, id=variant, price="13", compareAtPrice=None)) == []


async def test_stale_version_is_rejected_with_changed_fields(owner: Client) -> None:
    product, _ = await own_product(owner)
    variant = await make_variant(owner.database, product)
    await mutate(owner, UPDATE, id=variant, price="1", inventory=2)
    for document in (UPDATE, DELETE):
        [error] = (await mutate(owner, document, id=variant, expectedVersion=1))["userErrors"]
        assert (error["code"], error["path"], error["currentVersion"]) == ("STALE_VERSION", ["expectedVersion"], 2)
        assert error["changedFields"] == ["inventory", "price"]
    assert get_errors(await mutate(owner, DELETE, id=variant, expectedVersion=2)) == []


async def test_deleted_variant_disappears_from_product(owner: Client) -> None:
    product, store = await own_product(owner)
    kept, gone = [await make_variant(owner.database, product, name=name, price=price) for name, price in (("K", "5"), ("G", "9"))]
    answer = await mutate(owner, DELETE, id=gone)
    assert answer["deletedId"] == gone and answer["position"] == "1" and kept
    assert answer["product"] == {"variants": {"totalCount": 1}, "priceRange": {"min": "5.00", "max": "5.00"}}
    left = (await owner.ask(PRODUCT, i=product))["product"]
    assert left["variants"]["nodes"] == [{"name": "K"}] and left["priceRange"] == {"min": "5.00", "max": "5.00"}
    again = await mutate(owner, DELETE, id=gone)
    assert get_errors(again) == [("NOT_FOUND", "id")] and again["product"] is None
    [entry] = await log.read_entries(owner.database, store, 0, 10)
    assert (entry.kind, entry.entity_id, entry.changed_fields) == ("product_updated", gone, ["variants"])


async def test_unavailable_variant_counts_for_owner_only(owner: Client, shopper: Client) -> None:
    product, _ = await own_product(owner, inventory=0)
    variant = await make_variant(owner.database, product, price="5")
    answer = await mutate(owner, UPDATE, id=variant, isAvailable=False)
    assert answer["variant"]["isAvailable"] is False and answer["variant"]["product"]["variants"]["totalCount"] == 1
    seen = (await shopper.ask(PRODUCT, i=product))["product"]
    assert (seen["variants"], seen["inStock"]) == ({"totalCount": 0, "nodes": []}, False)
    assert seen["priceRange"] == {"min": "10.00", "max": "10.00"}


async def test_other_users_are_rejected(owner: Client, shopper: Client) -> None:
    product, _ = await own_product(owner)
    variant = await make_variant(owner.database, product)
    other = shopper.signed_in(await make_user(shopper.database))
    new: dict[str, Any] = {"productId": product, "name": "V", "price": "1"}
    old: dict[str, Any] = {"id": variant}
    for document, given in ((CREATE, new), (UPDATE, old), (DELETE, old)):
        assert (await other.refusal(document, i=given))["extensions"]["code"] == "FORBIDDEN"
        assert (await shopper.refusal(document, i=given))["extensions"]["code"] == "UNAUTHENTICATED"
