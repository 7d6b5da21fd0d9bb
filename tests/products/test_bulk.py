"""Bulk mutations create and delete up to 250 products, with one result per row, in as many statements as for one."""

from collections.abc import Sequence
from typing import Any

import pytest

from storefront.feed import log
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

ERRORS = "userErrors { code path message }"
PRODUCT = "product { id handle title price inventory variants { nodes { name price } } }"
RESULTS = f"position replayed {ERRORS} results {{ index status deletedId {PRODUCT} {ERRORS} }}"
CREATE = f"mutation($i: BulkCreateProductsInput!) {{ bulkCreateProducts(input: $i) {{ {RESULTS} }} }}"
UPDATE = f"mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{ {RESULTS} }} }}"
DELETE = f"mutation($i: BulkDeleteProductsInput!) {{ bulkDeleteProducts(input: $i) {{ {RESULTS} }} }}"
COUNT = "query($c: ID!) { products(configId: $c) { totalCount } }"
SIZES = [{"attributes": [{"name": "Size", "value": size}]} for size in "SM"]


@pytest.fixture
async def shop(shopper: Client) -> tuple[Client, str]:
    """An owner and their store."""
    user = await make_user(shopper.database)
    return shopper.signed_in(user), await make_store(shopper.database, user_id=user)


async def run(owner: Client, document: str, **given: Any) -> dict[str, Any]:
    [payload] = (await owner.ask(document, i=given)).values()
    assert isinstance(payload, dict)
    return payload


def list_statuses(payload: dict[str, Any]) -> list[str]:
    assert [result["index"] for result in payload["results"]] == list(range(len(payload["results"])))
    return [result["status"] for result in payload["results"]]


def list_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def count_products(owner: Client, store: str) -> int:
    return int((await owner.ask(COUNT, c=store))["products"]["totalCount"])


async def list_kinds(owner: Client, store: str) -> list[str]:
    return [entry.kind for entry in await log.read_entries(owner.database, store, 0, 1_000)]


async def test_products_are_created_with_their_variants(shop: tuple[Client, str]) -> None:
    owner, store = shop
    rows: Sequence[dict[str, Any]] = [
        {"title": "Mug", "price": "5", "inventory": 3},
        {"title": "Shirt", "price": "10", "variants": [SIZES[0], {**SIZES[1], "price": "12"}]},
        {"title": "Mug", "price": "6", "handle": "cup", "status": "INACTIVE"},
    ]
    payload = await run(owner, CREATE, configId=store, rows=rows)
    assert (payload["userErrors"], list_statuses(payload)) == ([], ["CREATED"] * 3)
    mug, shirt, cup = (result["product"] for result in payload["results"])
    assert (mug["handle"], mug["price"], mug["inventory"], mug["variants"]["nodes"]) == (
        *("mug", "5.00", 3),
        [{"name": "Default", "price": "5.00"}],
    )
    assert shirt["variants"]["nodes"] == [{"name": "S", "price": "10.00"}, {"name": "M", "price": "12.00"}]
    assert (cup["handle"], payload["position"]) == ("cup", "3")
    assert await list_kinds(owner, store) == ["product_created"] * 3


async def test_handles_of_equal_titles_have_numbers(shop: tuple[Client, str]) -> None:
    owner, store = shop
    for handle in ("mug", "mug-3", "mug-4"):
        await make_product(owner.database, store, handle=handle)
    rows = [{"title": "Mug", "price": "1"}] * 3 + [{"title": "Cup", "handle": "mug-6", "price": "1"}]
    payload = await run(owner, CREATE, configId=store, rows=rows)
    assert [result["product"]["handle"] for result in payload["results"]] == ["mug-2", "mug-5", "mug-7", "mug-6"]
    many = await run(owner, CREATE, configId=store, rows=[{"title": "Mug", "price": "1"}] * 250)
    assert len({result["product"]["handle"] for result in many["results"]}) == 250


async def test_invalid_rows_have_their_errors(shop: tuple[Client, str]) -> None:
    owner, store = shop
    await make_product(owner.database, store, handle="taken")
    rows: Sequence[dict[str, Any]] = [
        {"title": "Good", "price": "1"},
        {"title": " ", "price": "1"},
        {"title": "No price"},
        {"title": "Taken", "price": "1", "handle": "taken"},
        {"title": "First", "price": "1", "handle": "same"},
        {"title": "Second", "price": "1", "handle": "same"},
        {"title": "Digits", "price": "1.001"},
        {"title": "Twice", "price": "1", "variants": [SIZES[0], SIZES[0]]},
    ]
    expected = [
        ("INVALID_INPUT", "rows.1.title"),
        ("INVALID_INPUT", "rows.2.price"),
        ("ALREADY_EXISTS", "rows.3.handle"),
        ("ALREADY_EXISTS", "rows.5.handle"),
        ("INVALID_INPUT", "rows.6.price"),
        ("INVALID_INPUT", "rows.7.variants.1.attributes"),
    ]
    nothing = await run(owner, CREATE, configId=store, rows=rows)
    assert list_errors(nothing) == expected
    rejected = "REJECTED"
    assert list_statuses(nothing) == ["SKIPPED", rejected, rejected, rejected, "SKIPPED", rejected, rejected, rejected]
    assert await count_products(owner, store) == 1
    some = await run(owner, CREATE, configId=store, rows=rows, errorPolicy="VALID_ROWS")
    assert list_errors(some) == expected
    assert list_statuses(some) == ["CREATED", rejected, rejected, rejected, "CREATED", rejected, rejected, rejected]
    assert [[error["path"][:2] for error in result["userErrors"]] for result in some["results"]][1] == [["rows", "1"]]
    assert await count_products(owner, store) == 3


async def test_dry_run_creates_nothing(shop: tuple[Client, str]) -> None:
    owner, store = shop
    payload = await run(owner, CREATE, configId=store, rows=[{"title": "Mug", "price": "1"}], dryRun=True)
    assert (list_statuses(payload), payload["position"]) == (["CREATED"], None)
    assert (await count_products(owner, store), await list_kinds(owner, store)) == (0, [])


async def test_stores_of_others_get_no_products(shop: tuple[Client, str], shopper: Client) -> None:
    _, store = shop
    stranger = shopper.signed_in(await make_user(shopper.database))
    given = {"configId": store, "rows": [{"title": "Mug", "price": "1"}]}
    assert (await stranger.refusal(CREATE, i=given))["extensions"]["code"] == "FORBIDDEN"
    assert await count_products(stranger, store) == 0


async def test_retries_return_the_first_result(shop: tuple[Client, str]) -> None:
    owner, store = shop
    given = {"configId": store, "rows": [{"title": "Mug", "price": "1"}, {"title": ""}], "errorPolicy": "VALID_ROWS"}
    first, second = [await run(owner, CREATE, **given, idempotencyKey="k") for _ in range(2)]
    assert (second.pop("replayed"), first.pop("replayed")) == (True, False)
    assert first == second
    product = first["results"][0]["product"]["id"]
    deleted = [await run(owner, DELETE, rows=[{"id": product}], idempotencyKey="d") for _ in range(2)]
    assert [result["deletedId"] for payload in deleted for result in payload["results"]] == [product, product]
    assert await count_products(owner, store) == 0


async def test_products_are_deleted(shop: tuple[Client, str]) -> None:
    owner, store = shop
    products = [await make_product(owner.database, store) for _ in range(3)]
    await make_variant(owner.database, products[0])
    rows: Sequence[dict[str, Any]] = [
        {"id": products[0]},
        {"id": products[1], "expectedVersion": 7},
        {"id": products[0]},
        {"id": "01900000-0000-7000-8000-000000000000"},
        {"id": products[2], "expectedVersion": 1},
    ]
    expected = [("STALE_VERSION", "rows.1.expectedVersion"), ("INVALID_INPUT", "rows.2.id"), ("NOT_FOUND", "rows.3.id")]
    nothing = await run(owner, DELETE, rows=rows)
    assert (list_errors(nothing), await count_products(owner, store)) == (expected, 3)
    some = await run(owner, DELETE, rows=rows, errorPolicy="VALID_ROWS")
    assert list_errors(some) == expected
    assert list_statuses(some) == ["DELETED", "REJECTED", "REJECTED", "REJECTED", "DELETED"]
    assert [result["deletedId"] for result in some["results"]] == [products[0], None, None, None, products[2]]
    assert all(result["product"] is None for result in some["results"])
    assert await count_products(owner, store) == 1
    assert await list_kinds(owner, store) == ["product_deleted"] * 2


async def test_updated_rows_say_whether_they_changed(shop: tuple[Client, str]) -> None:
    owner, store = shop
    one, two = [await make_product(owner.database, store, title=title) for title in ("One", "Two")]
    rows = [{"id": one, "title": "One"}, {"id": two, "title": "2"}, {"id": two}]
    payload = await run(owner, UPDATE, rows=rows, errorPolicy="VALID_ROWS")
    assert list_statuses(payload) == ["UNCHANGED", "UPDATED", "REJECTED"]


@pytest.mark.parametrize("document", [CREATE, DELETE])
async def test_number_of_rows_is_limited(shop: tuple[Client, str], document: str) -> None:
    owner, store = shop
    new, old = {"title": "Mug", "price": "1"}, {"id": store}
    given = {"configId": store, "rows": []} if document == CREATE else {"rows": []}
    assert list_errors(await run(owner, document, **given)) == [("INVALID_INPUT", "rows")]
    too_many = {**given, "rows": [new if document == CREATE else old] * 251}
    answer = (await owner.post(document, i=too_many)).json()
    assert "250" in str(answer) and await count_products(owner, store) == 0


async def test_statements_do_not_grow_with_rows(shop: tuple[Client, str]) -> None:
    owner, store = shop
    counts = set()
    for number in (2, 100):
        rows = [{"title": f"Mug {number} {n}", "price": "1", "variants": SIZES} for n in range(number)]
        with count_statements(owner.database) as created:
            payload = await run(owner, CREATE, configId=store, rows=rows)
        products = [{"id": result["product"]["id"]} for result in payload["results"]]
        with count_statements(owner.database) as deleted:
            await run(owner, DELETE, rows=products)
        counts.add((len(created), len(deleted)))
    [(created_count, deleted_count)] = counts
    assert created_count <= 12 and deleted_count <= 12
