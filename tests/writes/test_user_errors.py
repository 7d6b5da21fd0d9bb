"""User errors: the reason of invalid input, the object that has a value, and the object that an update raced with."""

from typing import Any

import pytest
import pytest_asyncio

from storefront.core.ids import uuid7
from tests.client import Client
from tests.factories import count_statements, make_product, make_review, make_store, make_user

ERRORS = """userErrors { code path
  ... on InvalidInputError { reason } ... on AlreadyExistsError { existingId } ... on LimitReachedError { limit }
  ... on StaleVersionError { currentVersion current { __typename id ... on Product { title } ... on Config { storeName } } } }"""
CREATE = f"mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{ product {{ id handle }} {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ product {{ id }} {ERRORS} }} }}"
CREATE_STORE = f"mutation($i: CreateConfigInput!) {{ createConfig(input: $i) {{ config {{ id }} {ERRORS} }} }}"
UPDATE_STORE = f"mutation($i: UpdateConfigInput!) {{ updateConfig(input: $i) {{ config {{ id }} {ERRORS} }} }}"
REVIEW = f"mutation($i: CreateReviewInput!) {{ createReview(input: $i) {{ review {{ id }} {ERRORS} }} }}"
BULK = f"mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{ {ERRORS} }} }}"


@pytest_asyncio.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


async def get_errors(client: Client, document: str, **input_: Any) -> list[dict[str, Any]]:
    [payload] = (await client.ask(document, i=input_)).values()
    errors: list[dict[str, Any]] = payload["userErrors"]
    return errors


async def create_store(owner: Client, slug: str, **fields: Any) -> str:
    created = await owner.ask(CREATE_STORE, i={"storeName": slug, "slug": slug, **fields})
    return str(created["createConfig"]["config"]["id"])


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"title": " "}, "title", "REQUIRED"),
        ({"title": "x" * 256}, "title", "TOO_LONG"),
        ({"title": "a\x01b"}, "title", "MALFORMED"),
        ({"handle": "!?"}, "handle", "MALFORMED"),
        ({"price": "-0.01"}, "price", "TOO_SMALL"),
        ({"price": "1000000000000000"}, "price", "TOO_LARGE"),
        ({"price": "1.001"}, "price", "MALFORMED"),
        ({"compareAtPrice": "0.50"}, "compareAtPrice", "CONFLICTING"),
        ({"inventory": -1}, "inventory", "TOO_SMALL"),
        ({"images": ["ftp://example.com/a.jpg"]}, "images.0", "MALFORMED"),
        (
            {"variants": [{"name": "S", "price": "1", "attributes": [{"name": "a", "value": "1"}] * 2}]},
            "variants.0.attributes",
            "DUPLICATE",
        ),
    ],
)
async def test_invalid_input_has_a_reason(owner: Client, fields: dict[str, Any], path: str, reason: str) -> None:
    store = await create_store(owner, f"shop-{uuid7()}")
    [error] = await get_errors(owner, CREATE, configId=store, **{"title": "Mug", "price": "1", **fields})
    assert (error["code"], ".".join(error["path"]), error["reason"]) == ("INVALID_INPUT", path, reason)


async def test_taken_value_names_the_object_that_has_it(owner: Client) -> None:
    store = await create_store(owner, f"shop-{uuid7()}")
    made = (await owner.ask(CREATE, i={"configId": store, "title": "Mug", "price": "1", "handle": "mug"}))["createProduct"][
        "product"
    ]
    other = (await owner.ask(CREATE, i={"configId": store, "title": "Cup", "price": "1"}))["createProduct"]["product"]
    expected = {"code": "ALREADY_EXISTS", "path": ["handle"], "existingId": made["id"]}
    assert await get_errors(owner, CREATE, configId=store, title="Two", price="1", handle="mug") == [expected]
    assert await get_errors(owner, UPDATE, id=other["id"], handle="mug") == [expected]
    rows = [{"id": other["id"], "handle": "mug"}]
    assert await get_errors(owner, BULK, rows=rows) == [expected | {"path": ["rows", "0", "handle"]}]


async def test_taken_value_stays_the_same_when_it_is_replayed(owner: Client) -> None:
    store = await create_store(owner, f"shop-{uuid7()}")
    made = (await owner.ask(CREATE, i={"configId": store, "title": "Mug", "price": "1", "handle": "mug"}))["createProduct"][
        "product"
    ]
    input_ = {"configId": store, "title": "Two", "price": "1", "handle": "mug", "idempotencyKey": str(uuid7())}
    first, second = [await get_errors(owner, CREATE, **input_) for _ in range(2)]
    assert first == second == [{"code": "ALREADY_EXISTS", "path": ["handle"], "existingId": made["id"]}]


@pytest.mark.parametrize("is_published", [True, False])
async def test_taken_slug_reveals_published_stores_only(owner: Client, is_published: bool) -> None:
    slug = f"taken-{uuid7()}"
    taken = await make_store(owner.database, slug=slug, is_published=is_published)
    [error] = await get_errors(owner, CREATE_STORE, storeName="Mine", slug=slug)
    assert error == {"code": "ALREADY_EXISTS", "path": ["slug"], "existingId": taken if is_published else None}


async def test_statements_do_not_depend_on_the_number_of_taken_values(owner: Client) -> None:
    store = await create_store(owner, f"shop-{uuid7()}")
    taken = [f"taken-{n}" for n in range(20)]
    for handle in taken:
        await make_product(owner.database, store, handle=handle)
    others = [await make_product(owner.database, store) for _ in taken]
    counts = []
    for many in (1, 20):
        rows = [{"id": id_, "handle": handle} for id_, handle in zip(others[:many], taken, strict=False)]
        with count_statements(owner.database) as statements:
            errors = await get_errors(owner, BULK, rows=rows)
        assert len({error["existingId"] for error in errors}) == many
        counts.append(len(statements))
    assert counts[0] == counts[1]


async def test_second_review_names_the_first(shopper: Client) -> None:
    author = await make_user(shopper.database)
    product = await make_product(shopper.database, await make_store(shopper.database))
    review = await make_review(shopper.database, product, user_id=author)
    [error] = await get_errors(shopper.signed_in(author), REVIEW, productId=product, rating=5)
    assert error == {"code": "ALREADY_EXISTS", "path": ["productId"], "existingId": review}


async def test_stale_version_returns_the_current_object(owner: Client) -> None:
    store = await create_store(owner, f"shop-{uuid7()}")
    made = (await owner.ask(CREATE, i={"configId": store, "title": "Mug", "price": "1"}))["createProduct"]["product"]
    assert await get_errors(owner, UPDATE, id=made["id"], title="Copper mug") == []
    [error] = await get_errors(owner, UPDATE, id=made["id"], title="Tin mug", expectedVersion=1)
    assert (error["code"], error["currentVersion"]) == ("STALE_VERSION", 2)
    assert error["current"] == {"__typename": "Product", "id": made["id"], "title": "Copper mug"}
    assert await get_errors(owner, UPDATE_STORE, id=store, storeName="Pottery") == []
    [error] = await get_errors(owner, UPDATE_STORE, id=store, storeName="Other", expectedVersion=1)
    assert error["current"] == {"__typename": "Config", "id": store, "storeName": "Pottery"}
    rows = [{"id": made["id"], "title": "Tin mug", "expectedVersion": 1}]
    [error] = await get_errors(owner, BULK, rows=rows)
    assert error["current"]["title"] == "Copper mug"


async def test_error_in_one_mutation_keeps_the_results_of_the_others(owner: Client) -> None:
    foreign = await make_product(owner.database, await make_store(owner.database))
    store = await create_store(owner, f"shop-{uuid7()}")
    document = f"""mutation($a: CreateProductInput!, $b: UpdateProductInput!, $c: CreateProductInput!) {{
      first: createProduct(input: $a) {{ product {{ title }} {ERRORS} }}
      second: updateProduct(input: $b) {{ product {{ title }} {ERRORS} }}
      third: createProduct(input: $c) {{ product {{ title }} {ERRORS} }} }}"""
    inputs = {
        "a": {"configId": store, "title": "One", "price": "1"},
        "b": {"id": foreign, "title": "Mine now"},
        "c": {"configId": store, "title": "Three", "price": "3"},
    }
    response = (await owner.post(document, **inputs)).json()
    [error] = response["errors"]
    assert (error["path"], error["extensions"]["code"]) == (["second"], "FORBIDDEN")
    assert response["data"]["second"] is None
    assert [response["data"][name]["product"]["title"] for name in ("first", "third")] == ["One", "Three"]
    listed = await owner.ask("query($c: ID!) { products(configId: $c) { totalCount } }", c=store)
    assert listed["products"]["totalCount"] == 2
