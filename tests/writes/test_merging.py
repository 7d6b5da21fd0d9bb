"""Updates of outdated versions that are merged: nothing that another editor has written is lost."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from storefront.core.db.database import Database
from tests.client import Client
from tests.factories import make_image, make_product, make_review, make_store, make_user, make_variant
from tests.writes.test_concurrency import buyer, processes

ERRORS = """userErrors { __typename code message path
  ... on StaleVersionError { currentVersion changedFields current { id } } }"""
Row = dict[str, Any]


def document(name: str, selection: str = "position") -> str:
    """A mutation with one input."""
    return f"mutation($i: {name[:1].upper()}{name[1:]}Input!) {{ {name}(input: $i) {{ {selection} {ERRORS} }} }}"


@dataclass(frozen=True)
class Shop:
    """A store with a product, a variant, a review and an image, and their owner."""

    owner: Client
    store: str
    product: str
    variant: str
    review: str
    image: str

    async def write(self, mutation: str, /, **values: Any) -> list[Row]:
        """The errors of a mutation."""
        selection = "replayed" if mutation == "updateProfile" else "position"
        return list((await self.owner.ask(document(mutation, selection), i=values))[mutation]["userErrors"])

    async def merge(self, mutation: str, version: int, /, **values: Any) -> list[Row]:
        return await self.write(mutation, expectedVersion=version, onConflict="MERGE_DISJOINT", **values)


@pytest.fixture
async def shop(shopper: Client) -> Shop:
    database, user = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=user)
    product = await make_product(database, store)
    variant = await make_variant(database, product)
    return Shop(
        owner=shopper.signed_in(user),
        store=store,
        product=product,
        variant=variant,
        review=await make_review(database, product, user_id=user),
        image=await make_image(database, product),
    )


# The mutation, the object, two fields with other values than it has, and how the first one may be written a second time.
UPDATES: dict[str, tuple[str | None, Row, Row, Row]] = {
    "updateProduct": ("product", {"title": "Cup"}, {"vendor": "Oak"}, {"title": "Mug"}),
    "updateVariant": ("variant", {"barcode": "1"}, {"sku": "A-1"}, {"barcode": "2"}),
    "updateReview": ("review", {"title": "Fine"}, {"body": "Indeed"}, {"title": "Good"}),
    "updateConfig": ("store", {"storeName": "Oak"}, {"description": "Wood"}, {"storeName": "Elm"}),
    "updateProfile": (None, {"name": "Ada"}, {"image": "https://example.com/a.png"}, {"name": "Eve"}),
}


@pytest.mark.parametrize("name", UPDATES)
async def test_update_of_other_fields_is_merged(shop: Shop, name: str) -> None:
    target, first, other, again = UPDATES[name]
    key = {"id": getattr(shop, target)} if target else {}
    assert await shop.write(name, expectedVersion=1, **key, **first) == []
    # Refused by default, and when told so.
    for policy in ({}, {"onConflict": "REJECT"}):
        [error] = await shop.write(name, expectedVersion=1, **policy, **key, **other)
        assert (error["code"], error["currentVersion"], error["changedFields"]) == ("STALE_VERSION", 2, [*first])
    assert await shop.merge(name, 1, **key, **other) == []
    # Since then both have changed.
    for values in (again, {**again, **other}):
        [error] = await shop.merge(name, 1, **key, **values)
        assert (error["__typename"], error["currentVersion"]) == ("StaleVersionError", 3)
        assert error["changedFields"] == sorted([*first, *other])
        assert error["current"]["id"] == (key.get("id") or error["current"]["id"])
    # Since version 2 only the other field has.
    assert await shop.merge(name, 2, **key, **again) == []
    # None that the client can have read.
    [error] = await shop.merge(name, 9, **key, **other)
    assert (error["currentVersion"], error["changedFields"]) == (4, [])


async def test_place_of_an_image_is_merged_with_its_text(shop: Shop) -> None:
    second = await make_image(shop.owner.database, shop.product)
    assert await shop.write("updateImage", id=second, alt="One") == []
    [error] = await shop.merge("updateImage", 1, id=second, alt="Two")
    assert error["changedFields"] == ["alt"]
    assert await shop.merge("updateImage", 1, id=second, index=0) == []


@pytest.mark.parametrize(("deleted", "kept_versions"), [(6, ()), (2, (2, 3))])
async def test_changes_that_the_log_no_longer_has_are_conflicts(shop: Shop, deleted: int, kept_versions: tuple[int, ...]) -> None:
    for n, values in enumerate(({"title": "A"}, {"category": "B"}, {"title": "C"}), 1):
        assert await shop.write("updateProduct", id=shop.product, **values) == []
        assert await shop.write("updateReview", id=shop.review, rating=n) == []
    async with shop.owner.database.transaction() as connection:
        await connection.raw.execute("DELETE FROM changes WHERE position <= %s", [deleted])
    for version, field_name in ((1, "description"), (2, "seoTitle"), (3, "seoDescription")):
        errors = await shop.merge("updateProduct", version, id=shop.product, **{field_name: "New"})
        assert [error["code"] for error in errors] == ([] if version in kept_versions else ["STALE_VERSION"]), version
    for version, field_name in ((1, "body"), (3, "title")):
        errors = await shop.merge("updateReview", version, id=shop.review, **{field_name: "New"})
        assert [error["code"] for error in errors] == ([] if version in kept_versions else ["STALE_VERSION"]), version


async def test_versions_of_a_product_that_variants_made_are_known(shop: Shop) -> None:
    size = [{"name": "Size", "value": "S"}]
    assert await shop.write("createVariant", productId=shop.product, price=5, attributes=size) == []
    assert await shop.write("updateVariant", id=shop.variant, attributes=[{"name": "Size", "value": "M"}], price=7) == []
    [error] = await shop.merge("updateProduct", 1, id=shop.product, price=9, title="Cup")
    assert error["currentVersion"] == 3
    assert {"options", "price", "variants"} <= {*error["changedFields"]}
    options = [{"name": "Size", "values": [{"value": "S"}, {"value": "M"}]}]
    [error] = await shop.merge("updateProduct", 1, id=shop.product, options=options)
    assert error["code"] == "STALE_VERSION"
    assert await shop.merge("updateProduct", 1, id=shop.product, title="Cup") == []
    assert await shop.merge("updateProduct", 2, id=shop.product, category="Cups") == []


async def test_variant_that_its_product_changed_is_a_conflict(shop: Shop) -> None:
    assert await shop.write("updateProduct", id=shop.product, price="30") == []
    [error] = await shop.merge("updateVariant", 1, id=shop.variant, sku="A")
    assert (error["currentVersion"], error["changedFields"]) == (2, [])


@pytest.mark.parametrize("policy", ["VALID_ROWS", "ALL_OR_NOTHING"])
async def test_bulk_rows_are_merged_one_by_one(shop: Shop, policy: str) -> None:
    other = await make_product(shop.owner.database, shop.store)
    for product in (shop.product, other):
        assert await shop.write("updateProduct", id=product, title="Cup") == []
    merged = {"expectedVersion": 1, "onConflict": "MERGE_DISJOINT"}
    bulk = document("bulkUpdateProducts", "results { product { version title category } }")
    rows = [{"id": shop.product, "category": "Cups", **merged}, {"id": other, "title": "Mug", **merged}]
    payload = (await shop.owner.ask(bulk, i={"rows": rows, "errorPolicy": policy}))["bulkUpdateProducts"]
    [error] = payload["userErrors"]
    assert (error["path"], error["changedFields"]) == (["rows", "1", "expectedVersion"], ["title"])
    found = [result["product"] for result in payload["results"]] if policy == "VALID_ROWS" else []
    assert found == ([{"version": 3, "title": "Cup", "category": "Cups"}, None] if found else [])
    rows[1] = {"id": other, "category": "Mugs", **merged}
    payload = (await shop.owner.ask(bulk, i={"rows": rows[1:], "errorPolicy": policy}))["bulkUpdateProducts"]
    assert payload["userErrors"] == []


# --------------------------------------------------------------------------------------- concurrent editors

FIELDS = ("title", "vendor", "category", "seoTitle", "seoDescription", "tags", "price")
STATE = f"version {' '.join(FIELDS)}"
READ = f"query($id: ID!) {{ product(by: {{id: $id}}) {{ {STATE} }} }}"
UPDATE = document("updateProduct", f"position product {{ {STATE} }}")
BULK = document("bulkUpdateProducts", f"position results {{ product {{ {STATE} }} }}")


@dataclass(frozen=True)
class Attempt:
    """An update: what it was based on and set, and the product after it, or the error."""

    expected_version: int
    values: Row
    product: Row | None
    error: Row | None


async def edit(client: Client, product: str, seed: int, count: int) -> list[Attempt]:
    """Update random fields, with values that nobody else writes, of versions that were read a while ago."""
    random, attempts = Random(seed), list[Attempt]()
    for n in range(count):
        read = (await client.ask(READ, id=product))["product"]
        await asyncio.sleep(random.random() * 0.05)
        text = f"{seed}-{n}"
        values: Row = {
            name: [text] if name == "tags" else f"{seed}.{n:02}" if name == "price" else text
            for name in random.sample(FIELDS, random.choice((1, 1, 2)))
        }
        row = {"id": product, "expectedVersion": read["version"], "onConflict": "MERGE_DISJOINT", **values}
        if random.random() < 0.3:
            payload = (await client.ask(BULK, i={"rows": [row]}))["bulkUpdateProducts"]
            after = payload["results"][0]["product"] if payload["results"] else None
        else:
            payload = (await client.ask(UPDATE, i=row))["updateProduct"]
            after = payload["product"]
        error = payload["userErrors"][0] if payload["userErrors"] else None
        attempts.append(Attempt(read["version"], values, None if error else after, error))
    return attempts


async def test_concurrent_editors_lose_no_field(empty_url: str, database: Database, tmp_path: Path) -> None:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    product = await make_product(database, store)
    with processes(empty_url, tmp_path, workers=4) as port:
        async with buyer(port, database, user) as client:
            state = (await client.ask(READ, id=product))["product"]
            edits: list[Awaitable[list[Attempt]]] = [edit(client, product, seed, 12) for seed in range(1, 11)]
            attempts = [attempt for found in await asyncio.gather(*edits) for attempt in found]
            final = (await client.ask(READ, id=product))["product"]
    accepted = sorted((one for one in attempts if one.product), key=lambda one: one.product["version"] if one.product else 0)
    refused = [one for one in attempts if one.error]
    # Each made the next version, and shows what all before it have written: a serial order.
    for version, one in enumerate(accepted, 2):
        state = {**state, **one.values, "version": version}
        assert one.product == state
    assert final == state
    changed = [frozenset(one.values) for one in accepted]
    for one in accepted:
        assert one.product
        since = changed[one.expected_version - 1 : one.product["version"] - 2]
        assert all(fields.isdisjoint(one.values) for fields in since)
    for one in refused:
        assert one.error and one.error["__typename"] == "StaleVersionError", one.error
        since = changed[one.expected_version - 1 : one.error["currentVersion"] - 1]
        # Refused with a reason, which the error names.
        assert set().union(*since) == {*one.error["changedFields"]}
        assert {*one.values} & {*one.error["changedFields"]}
    merged = [one for one in accepted if one.product and one.product["version"] > one.expected_version + 1]
    assert len(merged) > 10 and len(refused) > 10
