"""`adjustInventory`: which stock an id means, what is refused, and that concurrent orders never oversell."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from storefront.feed import log
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant

ADJUST = """mutation($changes: [InventoryChangeInput!]!) { adjustInventory(input: {changes: $changes}) {
  variants { id inventory inStock version product { id inventory totalInventory inStock version } } position
  userErrors { code message path ... on InsufficientStockError { available } ... on InvalidInputError { reason } } } }"""
MAX_INT32 = 2**31 - 1


@pytest.fixture
async def owned(shopper: Client) -> tuple[Client, str]:
    """An owner, and their store."""
    user = await make_user(shopper.database)
    return shopper.signed_in(user), await make_store(shopper.database, user_id=user)


async def adjust(client: Client, *changes: tuple[str, int]) -> dict[str, Any]:
    """The payload of a mutation with these changes: pairs of id and delta."""
    given = [{"id": id_, "delta": delta} for id_, delta in changes]
    return dict((await client.ask(ADJUST, changes=given))["adjustInventory"])


def get_errors(payload: dict[str, Any]) -> list[tuple[str, str]]:
    assert not payload["userErrors"] or (payload["variants"], payload["position"]) == ([], None)
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def load_stocks(client: Client, *product_ids: str) -> list[list[int | None]]:
    query = """query($ids: [ID!]!) { nodes(ids: $ids) { ... on Product {
      variants(availableOnly: false, first: 50) { nodes { inventory } } } } }"""
    nodes = (await client.ask(query, ids=list(product_ids)))["nodes"]
    return [[variant["inventory"] for variant in node["variants"]["nodes"]] for node in nodes]


async def test_products_and_variants_change_together(owned: tuple[Client, str]) -> None:
    owner, store = owned
    simple = await make_product(owner.database, store, inventory=5)
    shirt = await make_product(owner.database, store)
    small, large = [await make_variant(owner.database, shirt, inventory=count) for count in (3, 4)]
    received = await adjust(owner, (large, -4), (simple, 10), (small, -1))
    assert get_errors(received) == [] and received["position"] == "3"
    variants = received["variants"]
    assert [(variant["inventory"], variant["version"]) for variant in variants] == [(0, 2), (15, 2), (2, 2)]
    assert [variant["id"] for variant in variants[::2]] == [large, small]
    shirt_then = {"id": shirt, "inventory": 2, "totalInventory": 2, "inStock": True, "version": 1}
    simple_then = {"id": simple, "inventory": 15, "totalInventory": 15, "inStock": True, "version": 1}
    assert [variant["product"] for variant in variants] == [shirt_then, simple_then, shirt_then]
    entries = await log.read_entries(owner.database, store, 0, 10)
    assert [(entry.entity_id, entry.product_id, entry.version) for entry in entries] == [
        (variants[0]["id"], shirt, 2), (variants[1]["id"], simple, 2), (variants[2]["id"], shirt, 2),
    ]  # fmt: skip
    assert {(*sorted(entry.changed_fields),) for entry in entries} == {("inventory", "variants.inventory")}


async def test_one_invalid_change_prevents_all(owned: tuple[Client, str]) -> None:
    owner, store = owned
    one, other = [await make_product(owner.database, store, inventory=count) for count in (5, 1)]
    received = await adjust(owner, (one, 1), (other, -2), (one, -3))
    assert get_errors(received) == [("INSUFFICIENT_STOCK", "changes.1.delta"), ("INVALID_INPUT", "changes.2.id")]
    assert received["userErrors"][0]["available"] == 1 and "only 1 are in stock, 2 were" in received["userErrors"][0]["message"]
    assert await load_stocks(owner, one, other) == [[5], [1]]
    assert await log.read_entries(owner.database, store, 0, 10) == []


async def test_product_with_several_variants_is_refused(owned: tuple[Client, str]) -> None:
    owner, store = owned
    simple, shirt = [await make_product(owner.database, store) for _ in range(2)]
    variants = [await make_variant(owner.database, shirt) for _ in range(2)]
    received = await adjust(owner, (simple, 1), (shirt, 1))
    assert get_errors(received) == [("INVALID_STATE", "changes.1.id")]
    assert "has 2 variants. Give the id of the one" in received["userErrors"][0]["message"]
    assert get_errors(await adjust(owner, (simple, 1), (variants[1], 1))) == []


async def test_same_stock_twice_is_refused(owned: tuple[Client, str]) -> None:
    owner, store = owned
    product = await make_product(owner.database, store, inventory=5)
    variant = await make_variant(owner.database, product)
    for first, second in ((product, product), (variant, variant), (product, variant), (variant, product.upper())):
        received = await adjust(owner, (first, 1), (second, 1))
        assert get_errors(received) == [("INVALID_INPUT", "changes.1.id")]
        assert received["userErrors"][0]["reason"] == "DUPLICATE" and "changes.0" in received["userErrors"][0]["message"]


async def test_changes_of_two_stores_are_refused(owned: tuple[Client, str]) -> None:
    owner, store = owned
    user = (await owner.ask("{ me { id } }"))["me"]["id"]
    other = await make_store(owner.database, user_id=user)
    here, there = [await make_product(owner.database, config) for config in (store, other)]
    received = await adjust(owner, (here, 1), (there, 1))
    [(code, path)] = get_errors(received)
    assert (code, path, received["userErrors"][0]["reason"]) == ("INVALID_INPUT", "changes.1.id", "CONFLICTING")
    assert await load_stocks(owner, here, there) == [[5], [5]]


async def test_visible_stock_of_others_is_forbidden(owned: tuple[Client, str], shopper: Client) -> None:
    owner, store = owned
    mine = await make_product(owner.database, store)
    theirs = await make_product(shopper.database, await make_store(shopper.database))
    variant = await make_variant(shopper.database, theirs)
    for id_ in (theirs, variant):
        for changes in ([(id_, 1)], [(mine, 1), (id_, 1)]):
            given = [{"id": changed, "delta": delta} for changed, delta in changes]
            assert (await owner.refusal(ADJUST, changes=given))["extensions"]["code"] == "FORBIDDEN"
            assert (await shopper.refusal(ADJUST, changes=given))["extensions"]["code"] == "UNAUTHENTICATED"
    assert await load_stocks(owner, mine, theirs) == [[5], [5]]


async def test_hidden_stock_of_others_is_not_found(owned: tuple[Client, str], shopper: Client) -> None:
    owner, store = owned
    published, unpublished = await make_store(shopper.database), await make_store(shopper.database, is_published=False)
    shown = await make_product(shopper.database, published)
    await make_variant(shopper.database, shown)
    hidden_ids = [await make_variant(shopper.database, shown, is_available=False)]
    for config, status in ((published, "inactive"), (unpublished, "active")):
        product = await make_product(shopper.database, config, status=status)
        hidden_ids += [product, await make_variant(shopper.database, product)]
    mine = await make_product(owner.database, store)
    for id_ in (*hidden_ids, str(uuid4()), store):
        received = await adjust(owner, (mine, 1), (id_, 1))
        assert get_errors(received) == [("NOT_FOUND", "changes.1.id")]
    assert await load_stocks(owner, mine) == [[5]]


async def test_own_hidden_stock_is_changed(owned: tuple[Client, str]) -> None:
    owner, store = owned
    product = await make_product(owner.database, store, status="archived")
    variant = await make_variant(owner.database, product, is_available=False)
    assert (await adjust(owner, (variant, 2)))["variants"][0]["inventory"] == 7
    assert (await adjust(owner, (product, 2)))["variants"][0]["id"] == variant


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], [("INVALID_INPUT", "changes")]),
        ([("$id", 0)], [("INVALID_INPUT", "changes.0.delta")]),
        ([("1", 1), ("$id", 0)], [("INVALID_INPUT", "changes.0.id"), ("INVALID_INPUT", "changes.1.delta")]),
        ([("$id", MAX_INT32)], [("INVALID_INPUT", "changes.0.delta")]),
        ([("$id", -MAX_INT32 - 1)], [("INVALID_INPUT", "changes.0.delta")]),
    ],
    ids=str,
)
async def test_invalid_changes_are_refused(
    owned: tuple[Client, str], changes: list[tuple[str, int]], expected: list[tuple[str, str]]
) -> None:
    owner, store = owned
    product = await make_product(owner.database, store, inventory=1)
    received = await adjust(owner, *((product if id_ == "$id" else id_, delta) for id_, delta in changes))
    assert get_errors(received) == expected
    assert await load_stocks(owner, product) == [[1]]


async def test_untracked_stock_is_refused(owned: tuple[Client, str]) -> None:
    owner, store = owned
    product = await make_product(owner.database, store, inventory=None)
    received = await adjust(owner, (product, 1))
    assert get_errors(received) == [("INVALID_STATE", "changes.0.delta")]
    assert "not tracked. Set inventory" in received["userErrors"][0]["message"]


async def test_stock_falls_below_zero_only_with_policy_continue(owned: tuple[Client, str]) -> None:
    owner, store = owned
    product = await make_product(owner.database, store, inventory=1)
    update = "mutation($i: UpdateVariantInput!) { updateVariant(input: $i) { variant { inventory inStock } } }"

    async def adjust_stock(delta: int) -> tuple[int, bool, bool]:
        [variant] = (await adjust(owner, (product, delta)))["variants"]
        return variant["inventory"], variant["inStock"], variant["product"]["inStock"]

    assert get_errors(await adjust(owner, (product, -3))) == [("INSUFFICIENT_STOCK", "changes.0.delta")]
    variant = (await adjust(owner, (product, -1)))["variants"][0]["id"]
    await owner.ask(update, i={"id": variant, "inventoryPolicy": "CONTINUE"})
    assert await adjust_stock(-2) == (-2, True, True)
    # What was sold remains sold.
    denied = (await owner.ask(update, i={"id": variant, "inventoryPolicy": "DENY"}))["updateVariant"]["variant"]
    assert denied == {"inventory": -2, "inStock": False}
    assert await adjust_stock(1) == (-1, False, False)
    refused = await adjust(owner, (product, -1))
    assert get_errors(refused) == [("INSUFFICIENT_STOCK", "changes.0.delta")] and refused["userErrors"][0]["available"] == 0
    assert await adjust_stock(2) == (1, True, True)


async def test_untracked_product_is_in_stock_with_counted_variants(owned: tuple[Client, str]) -> None:
    owner, store = owned
    product = await make_product(owner.database, store, inventory=1, track_inventory=False)
    [variant] = (await adjust(owner, (product, -1)))["variants"]
    assert (variant["inventory"], variant["product"]["inStock"]) == (0, True)


async def test_concurrent_orders_do_not_oversell(owned: tuple[Client, str]) -> None:
    owner, store = owned
    simple = await make_product(owner.database, store, inventory=50)
    shirt = await make_product(owner.database, store)
    variants = [await make_variant(owner.database, shirt, inventory=50) for _ in range(2)]
    # In both orders, which must not deadlock.
    orders = [[(simple, -1), (variants[n % 2], -1)][:: 1 - n // 2 % 2 * 2] for n in range(100)]
    answers = await asyncio.gather(*(adjust(owner, *order) for order in orders))
    done, refused = [a for a in answers if not a["userErrors"]], [a for a in answers if a["userErrors"]]
    assert (len(done), len(refused)) == (50, 50)
    assert {(error["code"], error["available"]) for a in refused for error in a["userErrors"]} == {("INSUFFICIENT_STOCK", 0)}
    # Two entries of the log each, whose last position is the payload's.
    assert sorted(int(answer["position"]) for answer in done) == list(range(2, 101, 2))
    [[left], others] = await load_stocks(owner, simple, shirt)
    assert left == 0 and sum(count or 0 for count in others) == 50
    query = "query($i: ID!) { product(by: {id: $i}) { inventory totalInventory } }"
    assert (await owner.ask(query, i=shirt))["product"] == {"inventory": 50, "totalInventory": 50}


async def test_statements_do_not_grow_with_changes(owned: tuple[Client, str]) -> None:
    owner, store = owned
    products = [await make_product(owner.database, store) for _ in range(250)]
    counts = []
    for changed in (products[:1], products):
        with count_statements(owner.database) as statements:
            received = await adjust(owner, *((id_, 1) for id_ in changed))
        assert get_errors(received) == [] and len(received["variants"]) == len(changed)
        counts.append(len(statements))
    assert counts[0] == counts[1]
    too_many = [{"id": id_, "delta": 1} for id_ in (*products, products[0])]
    assert (await owner.refusal(ADJUST, changes=too_many))["extensions"]["field"] == "input.changes"
