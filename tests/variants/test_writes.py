"""Variant mutations over GraphQL: stored rows, payloads, log entries and the product's derived columns."""

import asyncio
from typing import Any

import pytest

from storefront.core.ids import uuid7
from storefront.feed import log
from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant, summarize

ERRORS = """userErrors { __typename code message path
  ... on StaleVersionError { currentVersion changedFields } ... on AlreadyExistsError { existingId } }"""
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


def size(value: str) -> list[dict[str, str]]:
    return [{"name": "Size", "value": value}]


def get_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def test_variant_is_created_with_given_fields(owner: Client) -> None:
    product, store = await own_product(owner)
    options = [{"name": "size", "value": "S"}, {"name": "colour", "value": "red"}]
    given = {"name": " Small ", "price": "9.5", "compareAtPrice": "12", "attributes": options, "inventory": 7, "sku": "S-1"}
    answer = await mutate(owner, CREATE, productId=product, **given, clientMutationId="mine")
    variant = answer["variant"]
    assert get_errors(answer) == [] and answer["position"] == "1" and answer["clientMutationId"] == "mine"
    assert (variant["name"], variant["price"], variant["compareAtPrice"]) == ("Small", "9.50", "12.00")
    assert (variant["inventory"], variant["sku"], variant["isAvailable"], variant["version"]) == (7, "S-1", True, 1)
    assert sorted(variant["attributes"], key=lambda pair: str(pair["name"])) == options[::-1]
    assert variant["product"] == {
        "id": product, "version": 2, "variants": {"totalCount": 1}, "priceRange": {"min": "9.50", "max": "9.50"}, "inStock": True,
    }  # fmt: skip
    [entry] = await log.read_entries(owner.database, store, 0, 10)
    assert (entry.kind, entry.entity_id, entry.product_id, entry.version) == ("product_updated", variant["id"], product, 1)
    # It is the only variant now: the product shows its price and stock.
    assert (entry.changed_fields, entry.client_mutation_id) == (
        ["variants", "options", "price", "compareAtPrice", "inventory"],
        "mine",
    )
    assert entry.actor_id == (await owner.ask("{ me { id } }"))["me"]["id"]


async def test_omitted_fields_have_schema_defaults(owner: Client) -> None:
    product, _ = await own_product(owner)
    variant = (await mutate(owner, CREATE, productId=product, price="1", attributes=size("S")))["variant"]
    assert (variant["inventory"], variant["inStock"], variant["name"], variant["sku"]) == (0, False, "S", None)
    endless = (await mutate(owner, CREATE, productId=product, name="Endless", price="1", inventory=None))["variant"]
    assert endless["attributes"] == []
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
        ({"attributes": [{"name": "a", "value": "1"}, {"name": "A", "value": "2"}]}, [("INVALID_INPUT", "attributes")]),
        ({"attributes": []}, [("ALREADY_EXISTS", "attributes")]),
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
        await mutate(owner, CREATE, productId=product, attributes=size(name), price="1")
    assert [variant["name"] for variant in (await owner.ask(PRODUCT, i=product))["product"]["variants"]["nodes"]] == [
        "b",
        "c",
        "a",
    ]


async def test_product_has_at_most_2048_variants(owner: Client) -> None:
    product, _ = await own_product(owner)
    async with owner.database.transaction() as connection:
        many = """INSERT INTO product_variants (id, config_id, product_id, name, price, attributes)
          SELECT gen_random_uuid(), config_id, products.id, n::text, 1, jsonb_build_object('n', n::text)
          FROM generate_series(1, 2046) n, products WHERE products.id = %s"""
        await connection.raw.execute(many, [product])
    await summarize(owner.database, product)
    assert get_errors(await mutate(owner, CREATE, productId=product, attributes=size("S"), price="1")) == []
    answer = await mutate(owner, CREATE, productId=product, attributes=size("M"), price="1")
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
    assert sorted(entry.changed_fields) == ["price", "variants.price", "variants.sku"] and entry.version == 2
    assert (entry.entity_id, entry.product_id, entry.client_mutation_id) == (variant, product, "c")


async def test_update_without_difference_changes_nothing(owner: Client) -> None:
    product, store = await own_product(owner)
    variant = await make_variant(owner.database, product, name="Same", price="10", attributes={})
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
    variant, _ = [await make_variant(owner.database, product) for _ in range(2)]
    await mutate(owner, UPDATE, id=variant, price="1", inventory=2)
    for document in (UPDATE, DELETE):
        [error] = (await mutate(owner, document, id=variant, expectedVersion=1))["userErrors"]
        assert (error["code"], error["path"], error["currentVersion"]) == ("STALE_VERSION", ["expectedVersion"], 2)
        assert error["changedFields"] == ["inventory", "price"]
    assert get_errors(await mutate(owner, DELETE, id=variant, expectedVersion=2)) == []


async def test_stale_variant_does_not_report_fields_of_product(owner: Client) -> None:
    product, store = await own_product(owner)
    variant, _ = [await make_variant(owner.database, product, price=price, inventory=None) for price in ("5", "9")]
    await mutate(owner, UPDATE, id=variant, isAvailable=False)
    [entry] = await log.read_entries(owner.database, store, 0, 10)
    assert entry.changed_fields == ["variants.isAvailable", "price"]
    [error] = (await mutate(owner, UPDATE, id=variant, name="New", expectedVersion=1))["userErrors"]
    assert (error["currentVersion"], error["changedFields"]) == (2, ["isAvailable"])


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
    assert (entry.kind, entry.entity_id, entry.changed_fields) == ("product_updated", gone, ["variants", "inventory"])


async def test_only_variant_of_product_cannot_be_deleted(owner: Client) -> None:
    product, _ = await own_product(owner)
    find = "query($i: ID!) { product(by: {id: $i}) { variants { nodes { id } } } }"
    for is_implicit in (True, False):
        if not is_implicit:
            await make_variant(owner.database, product)
        [only] = (await owner.ask(find, i=product))["product"]["variants"]["nodes"]
        answer = await mutate(owner, DELETE, id=only["id"])
        assert get_errors(answer) == [("INVALID_STATE", "id")] and answer["deletedId"] is None
        assert "Delete the product instead" in answer["userErrors"][0]["message"]
    other = await make_variant(owner.database, product, is_available=False)
    assert get_errors(await mutate(owner, DELETE, id=only["id"])) == []
    assert get_errors(await mutate(owner, DELETE, id=other)) == [("INVALID_STATE", "id")]


async def test_variants_with_the_same_attributes_are_refused(owner: Client) -> None:
    product, store = await own_product(owner)
    first = await make_variant(owner.database, product, attributes={"Size": "S", "Colour": "Red"}, is_available=False)
    other = await make_variant(owner.database, product, attributes={"Size": "M", "Colour": "Red"})
    for pairs in ((("Size", "S"), ("Colour", "Red")), (("colour", "RED"), ("SIZE", "s"))):
        attributes = [{"name": name, "value": value} for name, value in pairs]
        for document, given in ((CREATE, {"productId": product, "price": "1", "name": "New"}), (UPDATE, {"id": other})):
            answer = await mutate(owner, document, attributes=attributes, **given)
            assert get_errors(answer) == [("ALREADY_EXISTS", "attributes")] and answer["variant"] is None
            assert answer["userErrors"][0]["existingId"] == first
            assert "the same attributes" in answer["userErrors"][0]["message"]
    assert await log.read_entries(owner.database, store, 0, 10) == []
    # It may be written otherwise itself, and another product may have the same.
    attributes = [{"name": "size", "value": "s"}, {"name": "Colour", "value": "red"}]
    assert get_errors(await mutate(owner, UPDATE, id=first, attributes=attributes)) == []
    second, _ = await own_product(owner)
    assert get_errors(await mutate(owner, CREATE, productId=second, price="1", attributes=attributes)) == []


async def test_one_of_concurrent_equal_variants_is_created(owner: Client) -> None:
    product, _ = await own_product(owner)
    given = {"productId": product, "price": "1", "attributes": size("S")}
    answers = await asyncio.gather(*(mutate(owner, CREATE, **given) for _ in range(10)))
    [created] = [answer["variant"]["id"] for answer in answers if answer["variant"]]
    assert {error["existingId"] for answer in answers for error in answer["userErrors"]} == {created}
    assert (await owner.ask(PRODUCT, i=product))["product"]["variants"] == {"totalCount": 1, "nodes": [{"name": "S"}]}


async def test_first_variant_with_attributes_replaces_the_implicit_one(owner: Client) -> None:
    product, _ = await own_product(owner, inventory=5, price="7")
    names = []
    for value in "SM":
        await mutate(owner, CREATE, productId=product, price="9", attributes=size(value))
        found = (await owner.ask(PRODUCT, i=product))["product"]
        names.append([variant["name"] for variant in found["variants"]["nodes"]])
        assert found["priceRange"] == {"min": "9.00", "max": "9.00"} and found["inStock"] is False
    assert names == [["S"], ["S", "M"]]


@pytest.mark.parametrize(
    "given",
    [
        {"sku": "A"}, {"barcode": "1"}, {"weight": {"value": "1", "unit": "GRAM"}}, {"cost": "1"}, {"name": "Classic"},
        {"image": "https://x.example/1.jpg"},
    ],
    ids=str,
)  # fmt: skip
async def test_variant_with_values_of_its_own_is_kept(owner: Client, given: dict[str, Any]) -> None:
    product, _ = await own_product(owner, images=["https://x.example/1.jpg"], price="7")
    find = "query($i: ID!) { product(by: {id: $i}) { variants { nodes { id } } } }"
    [only] = (await owner.ask(find, i=product))["product"]["variants"]["nodes"]
    assert get_errors(await mutate(owner, UPDATE, id=only["id"], **given)) == []
    answer = await mutate(owner, CREATE, productId=product, price="9", attributes=size("S"))
    assert answer["variant"]["product"]["variants"]["totalCount"] == 2
    assert answer["variant"]["product"]["priceRange"] == {"min": "7.00", "max": "9.00"}


async def test_unavailable_variant_counts_for_owner_only(owner: Client, shopper: Client) -> None:
    product, _ = await own_product(owner, inventory=0)
    variant = await make_variant(owner.database, product, price="5")
    answer = await mutate(owner, UPDATE, id=variant, isAvailable=False)
    assert answer["variant"]["isAvailable"] is False and answer["variant"]["product"]["variants"]["totalCount"] == 1
    seen = (await shopper.ask(PRODUCT, i=product))["product"]
    assert (seen["variants"], seen["inStock"]) == ({"totalCount": 0, "nodes": []}, False)
    # Of the variants that are not available, as there are no others.
    assert seen["priceRange"] == {"min": "5.00", "max": "5.00"}


async def test_other_users_are_rejected(owner: Client, shopper: Client) -> None:
    product, _ = await own_product(owner)
    variant = await make_variant(owner.database, product)
    other = shopper.signed_in(await make_user(shopper.database))
    new: dict[str, Any] = {"productId": product, "name": "V", "price": "1"}
    old: dict[str, Any] = {"id": variant}
    for document, given in ((CREATE, new), (UPDATE, old), (DELETE, old)):
        assert (await other.refusal(document, i=given))["extensions"]["code"] == "FORBIDDEN"
        assert (await shopper.refusal(document, i=given))["extensions"]["code"] == "UNAUTHENTICATED"
