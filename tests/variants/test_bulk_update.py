"""`bulkUpdateVariants`: set-based, one result per row, and the same state as one update after the other."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from storefront.feed import log
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

ERRORS = "userErrors { code path message }"
FIELDS = "id version name price compareAtPrice inventory sku attributes { name value }"
PRODUCT = "product { price priceRange { max } inventory options { name values { value } } }"
UPDATE = f"""mutation($i: BulkUpdateVariantsInput!) {{ bulkUpdateVariants(input: $i) {{
  position replayed {ERRORS} results {{ index status variant {{ {FIELDS} {PRODUCT} }} {ERRORS} }} }} }}"""
UPDATE_ONE = f"mutation($i: UpdateVariantInput!) {{ updateVariant(input: $i) {{ variant {{ id }} {ERRORS} }} }}"
READ = f"query($ids: [ID!]!) {{ nodes(ids: $ids) {{ ... on ProductVariant {{ {FIELDS} }} }} }}"
UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture
async def shop(shopper: Client) -> tuple[Client, str]:
    """An owner and their store."""
    user = await make_user(shopper.database)
    return shopper.signed_in(user), await make_store(shopper.database, user_id=user)


def size(value: str) -> list[dict[str, str]]:
    return [{"name": "Size", "value": value}]


async def make_shirt(shop: tuple[Client, str], *sizes: str) -> list[str]:
    """A product with a variant of each size; the ids of these."""
    owner, store = shop
    options = [{"id": store, "name": "Size", "values": [{"id": store, "value": letter, "swatch": None} for letter in sizes]}]
    shirt = await make_product(owner.database, store, options=options)
    return [await make_variant(owner.database, shirt, name=letter, attributes={"Size": letter}) for letter in sizes]


async def update(owner: Client, *rows: dict[str, Any], **given: Any) -> dict[str, Any]:
    payload = (await owner.ask(UPDATE, i={"rows": rows, **given}))["bulkUpdateVariants"]
    assert [result["index"] for result in payload["results"]] == list(range(len(rows)))
    return dict(payload)


def list_statuses(payload: dict[str, Any]) -> list[str]:
    return [result["status"] for result in payload["results"]]


def list_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def test_variants_of_many_products_change(shop: tuple[Client, str]) -> None:
    owner, store = shop
    small, medium = await make_shirt(shop, "S", "M")
    other = await make_product(owner.database, store)
    single = await make_variant(owner.database, other, name="One", attributes={})
    rows: list[dict[str, Any]] = [
        {"id": medium, "price": "20", "inventory": 1},
        {"id": single, "sku": "x"},
        {"id": small, "price": "10.00"},
    ]
    payload = await update(owner, *rows)
    assert (list_errors(payload), list_statuses(payload)) == ([], ["UPDATED", "UPDATED", "UNCHANGED"])
    shirt, one, same = (result["variant"] for result in payload["results"])
    assert (shirt["price"], shirt["version"], one["sku"], one["version"], same["version"]) == ("20.00", 2, "x", 2, 1)
    assert (shirt["product"]["price"], shirt["product"]["inventory"]) == ("10.00", 6)
    entries = await log.read_entries(owner.database, store, 0, 10)
    assert [(entry.entity_id, entry.changed_fields) for entry in entries] == [
        (medium, ["variants.price", "variants.inventory", "inventory"]),
        (single, ["variants.sku"]),
    ]
    assert payload["position"] == "2"


async def test_variants_exchange_their_attributes(shop: tuple[Client, str]) -> None:
    owner, _ = shop
    small, medium, large = await make_shirt(shop, "S", "M", "L")
    payload = await update(
        owner, {"id": small, "attributes": size("m")}, {"id": medium, "attributes": size("XL")}, {"id": large, "sku": "l"}
    )
    assert list_errors(payload) == []
    first, second, _ = (result["variant"] for result in payload["results"])
    assert [(variant["name"], variant["attributes"]) for variant in (first, second)] == [("M", size("M")), ("XL", size("XL"))]
    assert first["product"]["options"] == [{"name": "Size", "values": [{"value": v} for v in ("M", "L", "XL")]}]
    swapped = await update(owner, {"id": small, "attributes": size("L")}, {"id": large, "attributes": size("M")})
    assert list_statuses(swapped) == ["UPDATED", "UPDATED"]
    refused = await update(
        owner,
        {"id": small, "attributes": size("S")},
        {"id": medium, "attributes": size("L")},
        {"id": large, "attributes": size("s")},
        errorPolicy="VALID_ROWS",
    )
    assert list_statuses(refused) == ["UPDATED", "UPDATED", "REJECTED"]
    assert list_errors(refused) == [("ALREADY_EXISTS", "rows.2.attributes")]


async def test_rejected_rows_keep_their_attributes_from_others(shop: tuple[Client, str]) -> None:
    """A row that is rejected keeps what another row would have taken."""
    owner, _ = shop
    small, medium, _ = await make_shirt(shop, "S", "M", "L")
    rows: list[dict[str, Any]] = [{"id": small, "attributes": size("M")}, {"id": medium, "attributes": size("L")}]
    payload = await update(owner, *rows, errorPolicy="VALID_ROWS")
    assert list_statuses(payload) == ["REJECTED", "REJECTED"]


async def test_invalid_rows_have_their_errors(shop: tuple[Client, str]) -> None:
    owner, _ = shop
    small, medium = await make_shirt(shop, "S", "M")
    rows: Sequence[dict[str, Any]] = [
        {"id": small, "price": "-1"},
        {"id": small, "price": "1.001"},
        {"id": small, "sku": "twice"},
        {"id": UNKNOWN, "sku": "x"},
        {"id": medium, "compareAtPrice": "1"},
        {"id": medium, "sku": "x", "expectedVersion": 9},
    ]
    payload = await update(owner, *rows)
    assert list_errors(payload) == [
        ("INVALID_INPUT", "rows.0.price"),
        ("INVALID_INPUT", "rows.1.price"),
        ("INVALID_INPUT", "rows.2.id"),
        ("NOT_FOUND", "rows.3.id"),
        ("INVALID_INPUT", "rows.4.compareAtPrice"),
        ("INVALID_INPUT", "rows.5.id"),
    ]
    assert list_errors(await update(owner, rows[5])) == [("STALE_VERSION", "rows.0.expectedVersion")]
    assert list_errors(await update(owner, {"id": medium, "image": "https://a.example/b.jpg"})) == [
        ("INVALID_INPUT", "rows.0.image")
    ]


async def test_rows_are_of_one_store(shop: tuple[Client, str]) -> None:
    owner, _ = shop
    [mine] = await make_shirt(shop, "S")
    user = (await owner.ask("{ me { id } }"))["me"]["id"]
    [other] = await make_shirt((owner, await make_store(owner.database, user_id=user)), "S")
    payload = await update(owner, {"id": mine, "sku": "x"}, {"id": other, "sku": "x"}, errorPolicy="VALID_ROWS")
    assert (list_statuses(payload), list_errors(payload)) == (["UPDATED", "REJECTED"], [("INVALID_INPUT", "rows.1.id")])


async def test_retries_and_dry_runs(shop: tuple[Client, str]) -> None:
    owner, store = shop
    [small] = await make_shirt(shop, "S")
    assert list_statuses(await update(owner, {"id": small, "sku": "x"}, dryRun=True)) == ["UPDATED"]
    first, second = [await update(owner, {"id": small, "sku": "x"}, idempotencyKey="k") for _ in range(2)]
    assert (first.pop("replayed"), second.pop("replayed")) == (False, True)
    assert first == second and list_statuses(first) == ["UPDATED"]
    assert len(await log.read_entries(owner.database, store, 0, 10)) == 1


async def test_statements_do_not_grow_with_rows(shop: tuple[Client, str]) -> None:
    owner, _ = shop
    ids = [id_ for _ in range(8) for id_ in await make_shirt(shop, "S", "M", "L")]
    counts = set()
    for number in (2, 24):
        rows = [{"id": id_, "price": f"{number}", "attributes": size(f"{number} {n}")} for n, id_ in enumerate(ids[:number])]
        with count_statements(owner.database) as statements:
            assert list_statuses(await update(owner, *rows)) == ["UPDATED"] * number
        counts.add(len(statements))
    assert len(counts) == 1 and max(counts) <= 13


# ------------------------------------------------------------------------------------------------ random rows


def build_random_row(rng: random.Random, ids: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"id": rng.choice([*ids, UNKNOWN] if rng.random() < 0.2 else ids)}
    values = {
        "price": rng.choice(["5", "10", "15", "1.001"]),
        "compareAtPrice": rng.choice([None, "12"]),
        "inventory": rng.choice([0, 3, -1]),
    }
    values |= {"sku": rng.choice(["a", "b", None]), "expectedVersion": rng.choice([1, 2]), "onConflict": "REJECT"}
    for name in rng.sample(sorted(values), rng.randint(0, 3)):
        row[name] = values[name]
    return row


@pytest.mark.parametrize("seed", range(6))
async def test_random_rows_have_the_state_of_single_updates(shop: tuple[Client, str], seed: int) -> None:
    """Two equal products: one is updated in bulk, the other one row after the other with `updateVariant`."""
    owner, _ = shop
    rng = random.Random(seed)
    bulk, single = [await make_shirt(shop, "S", "M", "L", "X") for _ in range(2)]
    twin = dict(zip(bulk, single, strict=True)) | {UNKNOWN: UNKNOWN}
    for attempt in range(4):
        rows = [build_random_row(rng, bulk) for _ in range(rng.randint(1, 6))]
        key = f"{seed}-{attempt}"
        payload = await update(owner, *rows, errorPolicy="VALID_ROWS", idempotencyKey=key)
        again = await update(owner, *rows, errorPolicy="VALID_ROWS", idempotencyKey=key)
        assert {**again, "replayed": False} == payload
        seen: set[str] = set()
        for row, result in zip(rows, payload["results"], strict=True):
            if row["id"] in seen:
                assert result["status"] == "REJECTED"
                continue
            one = (await owner.ask(UPDATE_ONE, i={**row, "id": twin[row["id"]]}))["updateVariant"]
            codes = [[error["code"] for error in errors] for errors in (one["userErrors"], result["userErrors"])]
            assert codes[0] == codes[1], (row, one, result)
            assert (result["status"] == "REJECTED") == bool(one["userErrors"])
            seen |= {row["id"]}
        first, second = [(await owner.ask(READ, ids=ids))["nodes"] for ids in (bulk, single)]
        assert [{**node, "id": ""} for node in first] == [{**node, "id": ""} for node in second]
