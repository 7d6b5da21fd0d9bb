"""`bulkUpsertProducts`: which product a row means, what it writes of it, and that each row has one result."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from storefront.feed import log
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

ERRORS = "userErrors { code path message }"
VARIANTS = "variants(availableOnly: false, first: 50) { nodes { id name price sku inventory } }"
PRODUCT = f"product {{ id version handle title price vendor options {{ name values {{ value }} }} {VARIANTS} }}"
UPSERT = f"""mutation($i: BulkUpsertProductsInput!) {{ bulkUpsertProducts(input: $i) {{
  position replayed {ERRORS} results {{ index status {PRODUCT} {ERRORS} }} }} }}"""
UPSERT_MANY = "mutation($i: BulkUpsertProductsInput!) { bulkUpsertProducts(input: $i) { results { status product { id } } } }"


def size(value: str, **values: Any) -> dict[str, Any]:
    return {"attributes": [{"name": "Size", "value": value}], **values}


@pytest.fixture
async def shop(shopper: Client) -> tuple[Client, str]:
    """An owner and their store."""
    user = await make_user(shopper.database)
    return shopper.signed_in(user), await make_store(shopper.database, user_id=user)


async def upsert(shop: tuple[Client, str], *rows: dict[str, Any], **given: Any) -> dict[str, Any]:
    owner, store = shop
    payload = (await owner.ask(UPSERT, i={"configId": store, "rows": rows, **given}))["bulkUpsertProducts"]
    assert [result["index"] for result in payload["results"]] == list(range(len(rows)))
    return dict(payload)


def list_statuses(payload: dict[str, Any]) -> list[str]:
    return [result["status"] for result in payload["results"]]


def list_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


def list_variants(result: dict[str, Any], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(variant[name] for name in names) for variant in result["product"]["variants"]["nodes"]]


async def test_rows_create_and_then_change_products(shop: tuple[Client, str]) -> None:
    shirt = {"handle": "shirt", "title": "Shirt", "price": "10", "variants": [size("S", sku="s"), size("M", price="12")]}
    mug = {"handle": "mug", "title": "Mug", "price": "5"}
    first = await upsert(shop, shirt, mug)
    assert (list_errors(first), list_statuses(first)) == ([], ["CREATED", "CREATED"])
    assert list_variants(first["results"][0], "name", "price") == [("S", "10.00"), ("M", "12.00")]
    assert list_variants(first["results"][1], "name", "inventory") == [("Default", 0)]
    again = await upsert(shop, shirt, mug)
    assert (list_statuses(again), again["position"]) == (["UNCHANGED"] * 2, None)
    changed = await upsert(
        shop,
        {"handle": "shirt", "vendor": "Acme", "variants": [size("L", price="13"), size("S", inventory=4)]},
        {"handle": "mug", "price": "6", "inventory": 2},
        {"handle": "cup", "title": "Cup", "price": "3"},
    )
    assert list_statuses(changed) == ["UPDATED", "UPDATED", "CREATED"]
    shirt_now, mug_now, _ = (result["product"] for result in changed["results"])
    assert list_variants(changed["results"][0], "name", "price", "sku", "inventory") == [
        ("L", "13.00", None, 0),
        ("S", "10.00", "s", 4),
    ]
    assert (shirt_now["title"], shirt_now["vendor"], shirt_now["price"], shirt_now["version"]) == ("Shirt", "Acme", "10.00", 2)
    assert shirt_now["options"] == [{"name": "Size", "values": [{"value": "S"}, {"value": "L"}]}]
    assert (mug_now["price"], list_variants(changed["results"][1], "price", "inventory")) == ("6.00", [("6.00", 2)])
    entries = await log.read_entries(shop[0].database, shop[1], 0, 100)
    assert [(entry.kind, entry.changed_fields) for entry in entries[2:]] == [
        ("product_created", []),
        ("product_updated", ["vendor", "options", "variants", "inventory"]),
        ("product_updated", ["price", "inventory"]),
    ]


async def test_rows_are_matched_by_id(shop: tuple[Client, str]) -> None:
    owner, store = shop
    mug, cup = [await make_product(owner.database, store, handle=handle) for handle in ("mug", "cup")]
    elsewhere = await make_product(owner.database, await make_store(owner.database))
    payload = await upsert(
        shop,
        {"id": mug, "title": "Mug", "handle": "big-mug"},
        {"title": "Mug", "price": "1"},
        {"id": cup, "handle": "mug"},
        {"id": elsewhere, "title": "Theirs"},
        {"id": mug, "title": "Twice"},
        matchBy="ID",
        errorPolicy="VALID_ROWS",
    )
    assert list_statuses(payload) == ["UPDATED", "CREATED", "REJECTED", "REJECTED", "REJECTED"]
    assert list_errors(payload) == [
        ("ALREADY_EXISTS", "rows.2.handle"),
        ("NOT_FOUND", "rows.3.id"),
        ("INVALID_INPUT", "rows.4.id"),
    ]
    assert [result["product"] and result["product"]["handle"] for result in payload["results"]][:3] == ["big-mug", "mug-2", None]


async def test_rows_are_matched_by_sku(shop: tuple[Client, str]) -> None:
    owner, store = shop
    shirt, mug = [await make_product(owner.database, store, handle=handle) for handle in ("shirt", "mug")]
    small = await make_variant(owner.database, shirt, sku="s", attributes={"Size": "S"})
    await make_variant(owner.database, mug, sku="m", attributes={"Size": "M"})
    payload = await upsert(
        shop,
        {"title": "Shirt", "variants": [{"sku": "s", "price": "7"}, size("XL", sku="xl", price="9")]},
        {"title": "Both", "price": "1", "variants": [size("A", sku="s"), size("B", sku="m")]},
        {"title": "Same", "variants": [size("S", sku="xl")]},
        {"title": "New", "price": "1", "variants": [size("S", sku="new")]},
        {"title": "New again", "price": "1", "variants": [size("S", sku="new")]},
        {"title": "None", "price": "1", "variants": [size("S")]},
        matchBy="SKU",
        errorPolicy="VALID_ROWS",
    )
    assert list_errors(payload) == [
        ("INVALID_STATE", "rows.1.variants"),
        ("INVALID_INPUT", "rows.2.variants"),
        ("INVALID_INPUT", "rows.4.variants"),
        ("INVALID_INPUT", "rows.5.variants"),
    ]
    assert list_statuses(payload) == ["UPDATED", "REJECTED", "REJECTED", "CREATED", "REJECTED", "REJECTED"]
    assert list_variants(payload["results"][0], "id", "sku", "price")[0] == (small, "s", "7.00")
    assert (payload["results"][0]["product"]["id"], payload["results"][0]["product"]["title"]) == (shirt, "Shirt")


async def test_invalid_rows_have_their_errors(shop: tuple[Client, str]) -> None:
    owner, store = shop
    shirt = await make_product(owner.database, store, handle="shirt")
    for letter, price in (("S", "1"), ("M", "2")):
        await make_variant(owner.database, shirt, attributes={"Size": letter}, price=price)
    rows: Sequence[dict[str, Any]] = [
        {"title": "No handle", "price": "1"},
        {"handle": "no-title", "price": "1"},
        {"handle": "no-price", "title": "No price"},
        {"handle": "shirt", "price": "5"},
        {"handle": "SHIRT", "title": "Twice"},
        {"handle": "new", "title": "New", "price": "1", "expectedVersion": 3},
        {"handle": "empty", "title": "Empty", "price": "1", "variants": []},
        {"handle": "by-id", "title": "By id", "id": shirt},
        {"handle": "digits", "title": "Digits", "price": "1.001"},
        {"handle": "twins", "title": "Twins", "price": "1", "variants": [size("S"), size("s")]},
        {"handle": "variant", "title": "Variant", "price": "1", "variants": [{**size("S"), "id": shirt}]},
        {"handle": "good", "title": "Good", "price": "1"},
    ]
    expected = [
        ("INVALID_INPUT", "rows.0.handle"),
        ("INVALID_INPUT", "rows.1.title"),
        ("INVALID_INPUT", "rows.2.price"),
        ("INVALID_STATE", "rows.3.price"),
        ("INVALID_INPUT", "rows.4.handle"),
        ("INVALID_STATE", "rows.5.expectedVersion"),
        ("INVALID_INPUT", "rows.6.variants"),
        ("INVALID_INPUT", "rows.7.id"),
        ("INVALID_INPUT", "rows.8.price"),
        ("INVALID_INPUT", "rows.9.variants.1.attributes"),
        ("NOT_FOUND", "rows.10.variants.0.id"),
    ]
    nothing = await upsert(shop, *rows)
    assert (list_errors(nothing), list_statuses(nothing)) == (expected, ["REJECTED"] * 11 + ["SKIPPED"])
    some = await upsert(shop, *rows, errorPolicy="VALID_ROWS")
    assert (list_errors(some), list_statuses(some)) == (expected, ["REJECTED"] * 11 + ["CREATED"])


async def test_options_are_renamed_without_variants(shop: tuple[Client, str]) -> None:
    await upsert(shop, {"handle": "shirt", "title": "Shirt", "price": "1", "variants": [size("S"), size("M")]})
    options = [{"name": "Size", "values": [{"value": "S"}]}]
    refused = await upsert(shop, {"handle": "shirt", "options": options})
    assert list_errors(refused) == [("INVALID_STATE", "rows.0.options")]
    options = [{"name": "Size", "values": [{"value": letter} for letter in "MS"]}]
    payload = await upsert(shop, {"handle": "shirt", "options": options})
    assert payload["results"][0]["product"]["options"][0]["values"] == [{"value": "M"}, {"value": "S"}]


async def test_outdated_rows_are_refused_or_merged(shop: tuple[Client, str]) -> None:
    await upsert(shop, *({"handle": handle, "title": handle, "price": "1"} for handle in ("a", "b", "c")))
    await upsert(shop, *({"handle": handle, "price": "2"} for handle in ("a", "b", "c")))
    merge = {"expectedVersion": 1, "onConflict": "MERGE_DISJOINT"}
    payload = await upsert(
        shop,
        {"handle": "a", "title": "A", "expectedVersion": 1},
        {"handle": "b", "title": "B", **merge},
        {"handle": "c", "variants": [size("S", price="3")], **merge},
        errorPolicy="VALID_ROWS",
    )
    assert list_statuses(payload) == ["REJECTED", "UPDATED", "REJECTED"]
    assert {code for code, _ in list_errors(payload)} == {"STALE_VERSION"}


async def test_dry_run_writes_nothing(shop: tuple[Client, str]) -> None:
    row = {"handle": "mug", "title": "Mug", "price": "1"}
    assert list_statuses(await upsert(shop, row, dryRun=True)) == ["CREATED"]
    assert list_statuses(await upsert(shop, row)) == ["CREATED"]


async def test_new_product_takes_a_former_handle(shop: tuple[Client, str]) -> None:
    owner, store = shop
    mug = await make_product(owner.database, store, handle="mug")
    assert list_statuses(await upsert(shop, {"id": mug, "handle": "cup"}, matchBy="ID")) == ["UPDATED"]
    query = 'query($c: ID!) { product(by: {handle: {configId: $c, handle: "mug"}}) { id } }'
    assert (await owner.ask(query, c=store))["product"]["id"] == mug
    payload = await upsert(shop, {"handle": "mug", "title": "Mug", "price": "1"})
    assert list_statuses(payload) == ["CREATED"]
    assert (await owner.ask(query, c=store))["product"]["id"] == payload["results"][0]["product"]["id"]


def build_rows(number: int) -> list[dict[str, Any]]:
    return [
        {"handle": f"p-{n}", "title": f"P {n}", "price": "1", "variants": [size(letter, sku=f"{n}{letter}") for letter in "SMLX"]}
        for n in range(number)
    ]


@pytest.mark.parametrize("match_by", ["HANDLE", "SKU"])
async def test_statements_do_not_grow_with_rows(shop: tuple[Client, str], match_by: str) -> None:
    owner, store = shop

    async def upsert_all(rows: Sequence[dict[str, Any]]) -> tuple[list[str], int]:
        given = {"configId": store, "rows": rows, "matchBy": match_by}
        with count_statements(owner.database) as statements:
            payload = (await owner.ask(UPSERT_MANY, i=given))["bulkUpsertProducts"]
        return list_statuses(payload), len(statements)

    rows = build_rows(250)
    statuses, count = await upsert_all(rows[:200])
    assert statuses == ["CREATED"] * 200 and count <= 12
    # Of each kind: new products, changed, removed and new variants.
    for n, row in enumerate(rows[:200]):
        row["variants"] = [*row["variants"][:3], size(f"{n}", sku=f"{n}new", price="2")]
        row["variants"][0]["price"] = "3"
        row["title"] = f"Changed {n}"
    statuses, count = await upsert_all(rows)
    assert statuses == ["UPDATED"] * 200 + ["CREATED"] * 50 and count <= {"HANDLE": 12, "SKU": 13}[match_by]


# ------------------------------------------------------------------------------------------------ random rows

HANDLES = ("a", "b", "c", "d")
SIZES = ("S", "M", "L")
READ = f"query($c: ID!) {{ products(configId: $c, first: 50) {{ nodes {{ handle title vendor {VARIANTS} }} }} }}"


class Model:
    """What the store should have, by handle. It is changed row by row, as the documentation describes the mutation."""

    def __init__(self) -> None:
        self.products: dict[str, dict[str, Any]] = {}

    def apply(self, row: dict[str, Any]) -> str:
        """Write a row; returns its status."""
        old = self.products.get(row["handle"])
        if old is None:
            return self._create(row)
        if row.get("expectedVersion", old["version"]) != old["version"]:
            return "REJECTED"
        new = old | {name: row[name] for name in ("title", "vendor") if name in row}
        if "variants" in row:
            given = [(form["attributes"][0]["value"], form) for form in row["variants"]]
            variants: dict[str, Any] = {}
            for letter, form in given:
                former = old["variants"].get(letter, {"price": None, "inventory": 0})
                price = form.get("price") or row.get("price") or former["price"]
                if price is None:
                    return "REJECTED"
                variants[letter] = {"price": price, "inventory": form.get("inventory", former["inventory"])}
            new["variants"] = variants
        elif "price" in row and row["price"] != min(variant["price"] for variant in old["variants"].values()):
            if len({variant["price"] for variant in old["variants"].values()}) > 1:
                return "REJECTED"
            new["variants"] = {letter: {**variant, "price": row["price"]} for letter, variant in old["variants"].items()}
        if new == old and [*new["variants"]] == [*old["variants"]]:
            return "UNCHANGED"
        self.products[row["handle"]] = {**new, "version": old["version"] + 1}
        return "UPDATED"

    def _create(self, row: dict[str, Any]) -> str:
        if "expectedVersion" in row or "title" not in row:
            return "REJECTED"
        forms = row.get("variants") or [{"attributes": [{"value": None}]}]
        variants = {
            form["attributes"][0]["value"]: {
                "price": form.get("price") or row.get("price"),
                "inventory": form.get("inventory", 0),
            }
            for form in forms
        }
        if any(variant["price"] is None for variant in variants.values()):
            return "REJECTED"
        self.products[row["handle"]] = {"title": row["title"], "vendor": row.get("vendor"), "variants": variants, "version": 1}
        return "CREATED"

    def show(self) -> list[tuple[Any, ...]]:
        """What READ should return."""
        return sorted(
            (handle, product["title"], product["vendor"], self._show_variants(product["variants"]))
            for handle, product in self.products.items()
        )

    def _show_variants(self, variants: dict[str | None, Any]) -> list[tuple[Any, ...]]:
        return [(letter or "Default", f"{v['price']}.00", v["inventory"]) for letter, v in variants.items()]


def build_random_row(rng: random.Random) -> dict[str, Any]:
    row: dict[str, Any] = {"handle": rng.choice(HANDLES)}
    values: dict[str, Any] = {"title": rng.choice("TUV"), "vendor": rng.choice([None, "Acme"]), "price": str(rng.randint(1, 3))}
    values["expectedVersion"] = rng.choice([1, 2])
    for name, chance in (("title", 0.7), ("vendor", 0.3), ("price", 0.6), ("expectedVersion", 0.15)):
        if rng.random() < chance:
            row[name] = values[name]
    if rng.random() < 0.6:
        row["variants"] = [build_random_variant(rng, letter) for letter in rng.sample(SIZES, rng.randint(1, 3))]
    return row


def build_random_variant(rng: random.Random, letter: str) -> dict[str, Any]:
    given: dict[str, Any] = {"price": str(rng.randint(1, 3)), "inventory": rng.randint(0, 2)}
    return size(letter, **{name: value for name, value in given.items() if rng.random() < 0.5})


async def read_products(shop: tuple[Client, str]) -> list[tuple[Any, ...]]:
    nodes = (await shop[0].ask(READ, c=shop[1]))["products"]["nodes"]
    return sorted(
        (node["handle"], node["title"], node["vendor"], list_variants({"product": node}, "name", "price", "inventory"))
        for node in nodes
    )


@pytest.mark.parametrize("seed", range(8))
async def test_random_rows_have_the_state_of_a_model(shop: tuple[Client, str], seed: int) -> None:
    rng, model = random.Random(seed), Model()
    for attempt in range(5):
        rows = [build_random_row(rng) for _ in range(rng.randint(1, 6))]
        # A retry while the first request is being executed, and one after it.
        retries = [upsert(shop, *rows, errorPolicy="VALID_ROWS", idempotencyKey=f"{seed}-{attempt}") for _ in range(2)]
        payloads = await asyncio.gather(*retries)
        payloads.append(await upsert(shop, *rows, errorPolicy="VALID_ROWS", idempotencyKey=f"{seed}-{attempt}"))
        assert sorted(payload.pop("replayed") for payload in payloads) == [False, True, True]
        assert payloads[0] == payloads[1] == payloads[2]
        seen: set[str] = set()
        expected = []
        for row in rows:
            expected.append("REJECTED" if row["handle"] in seen else model.apply(row))
            seen.add(row["handle"])
        assert list_statuses(payloads[0]) == expected, rows
        assert {int(error["path"][1]) for error in payloads[0]["userErrors"]} == {
            n for n, status in enumerate(expected) if status == "REJECTED"
        }
        assert await read_products(shop) == model.show()


async def test_concurrent_upserts_create_each_product_once(shop: tuple[Client, str]) -> None:
    rows = build_rows(20)
    payloads = await asyncio.gather(*(upsert(shop, *rng_rows) for rng_rows in (rows, rows[::-1], rows[5:])))
    created = [status for payload in payloads for status in list_statuses(payload)]
    assert (created.count("CREATED"), created.count("UNCHANGED")) == (20, 35)
    assert len(await read_products(shop)) == 20
