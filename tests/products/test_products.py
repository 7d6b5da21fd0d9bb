"""Single products: variants, stock, price ranges, reviews, related products and popularity."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from psycopg.rows import tuple_row

from storefront.analytics.commands import refresh_popularity
from storefront.analytics.rollups import roll_up
from storefront.core.db.database import Database
from tests.client import Client
from tests.factories import count_statements, insert, make_product, make_review, make_store, make_user, make_variant


async def run(database: Database, sql: str, **parameters: object) -> list[Any]:
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=tuple_row)
        await cursor.execute(sql.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []


async def product(client: Client, id_: str, fields: str) -> Any:
    return (await client.ask(f"query($id: ID!) {{ product(by: {{id: $id}}) {{ {fields} }} }}", id=id_))["product"]


async def new_product(client: Client, **values: Any) -> str:
    return await make_product(client.database, await make_store(client.database), **values)


PAGE = """id title description price compareAtPrice images category tags inventory totalInventory trackInventory inStock seoTitle
  status version createdAt updatedAt priceRange { max __typename min } count: variants(availableOnly: false) { totalCount }
  reviewSummary { average count distribution { count __typename rating } __typename }
  config { id storeName slug description isPublished currency createdAt __typename }
  variants(first: 2) { totalCount __typename
    nodes { id name price compareAtPrice inventory sku isAvailable inStock attributes { name value } createdAt
      w: weight { unit __typename value } currency barcode taxable requiresShipping inventoryPolicy cost updatedAt } }
  cheapest: variants(sort: PRICE) { nodes { price } } oldest: variants(sort: CREATED_AT, first: 250) { nodes { createdAt } }
  hidden: variants(availableOnly: false) { nodes { id } }
  reviews(first: 2) { nodes { __typename rating title body createdAt user { id name image createdAt } } }
  related(first: 3) { id title category variants { nodes { name } } related(first: 1) { id config { slug } } }"""


async def test_product_page_takes_one_statement_plus_batches(shopper: Client) -> None:
    store = await make_store(shopper.database, store_name='A "store" \\ of\nours', slug="pages")
    spiced: dict[str, Any] = {
        "category": "Mugs",
        "images": '["a\\"b", "ü"]',
        "tags": '["t\\u00e9", "x"]',
        "description": "\t\"%s\" \\ :one '1'",
    }
    full = await make_product(shopper.database, store, handle="full", **spiced, compare_at_price="99.00", inventory=3)
    bare = await make_product(shopper.database, store, handle="bare")
    await make_variant(shopper.database, bare, is_available=False)
    for n in range(5):
        await make_product(shopper.database, store, category=("Mugs", "Cups")[n % 2], tags='["x"]', popularity=n)
    for n in range(3):
        await make_variant(
            shopper.database, full, name=f'"{n}"', price=f"{10 + n}.50", inventory=(0, None, 4)[n], sku=(None, "S\\1", "s")[n],
            attributes={"color": 'r"ed', "size": "SML"[n]}, is_available=n < 2, barcode=(None, '"')[n % 2], cost="1.00",
            weight=('{"unit": "pound", "value": "0.500"}', None)[n % 2], taxable=n > 0,
            inventory_policy=("deny", "continue")[n % 2],
        )  # fmt: skip
        user = await make_user(shopper.database, name=('N"', None, "n")[n])
        await make_review(shopper.database, full, user_id=user, rating=5 - n, title=("t", None, "'")[n])
    # Who has a store of their own is read to row by row: of that one they see more.
    owner = await make_user(shopper.database)
    await make_store(shopper.database, user_id=owner)
    query = f"query($by: ProductByInput!) {{ product(by: $by) {{ {PAGE} }} }}"
    for by in (
        {"id": full},
        {"handle": {"configId": store, "handle": "full"}},
        {"sku": {"configId": store, "sku": "S\\1"}},
        {"id": bare},
    ):
        if "id" in by:
            # The store of an id is looked up once.
            await shopper.ask("query($id: ID!) { node(id: $id) { id } }", id=by["id"])
        with count_statements(shopper.database) as statements:
            received = await shopper.ask(query, by=by)
        assert len(statements) == 1
        with count_statements(shopper.database) as statements:
            assert received == await shopper.signed_in(owner).ask(query, by=by)
        assert len(statements) > 5
    assert received["product"]["reviewSummary"]["average"] is None and received["product"]["variants"]["nodes"] == []
    many = " ".join(f'p{n}: product(by: {{id: "{id_}"}}) {{ {PAGE} }}' for n, id_ in enumerate((full, bare, store)))
    await shopper.ask("query($id: ID!) { node(id: $id) { id } }", id=store)
    with count_statements(shopper.database) as statements:
        received = await shopper.ask(f"{{ {many} }}")
    assert len(statements) == 1 and received["p2"] is None
    assert received == await shopper.signed_in(owner).ask(f"{{ {many} }}")


async def test_product_is_found_by_id_handle_sku(shopper: Client) -> None:
    store, other = [await make_store(shopper.database) for _ in range(2)]
    mine = await make_product(shopper.database, store, handle="h")
    theirs = await make_product(shopper.database, other, handle="h")
    for owner in (mine, theirs):
        await make_variant(shopper.database, owner, sku="S-1")
    await make_variant(shopper.database, mine, sku="gone", is_available=False)
    query = "query($by: ProductByInput!) { product(by: $by) { id } }"
    for by, expected in (
        ({"id": mine}, mine),
        ({"id": mine.upper().replace("-", "")}, mine),
        ({"handle": {"configId": store, "handle": "h"}}, mine),
        ({"handle": {"configId": other, "handle": "h"}}, theirs),
        ({"handle": {"configId": store, "handle": "H"}}, mine),
        ({"sku": {"configId": store, "sku": "S-1"}}, mine),
        ({"sku": {"configId": other, "sku": "S-1"}}, theirs),
        ({"sku": {"configId": store, "sku": "gone"}}, None),
        ({"id": store}, None),
    ):
        found = (await shopper.ask(query, by=by))["product"]
        assert (found and found["id"]) == expected


async def test_variant_is_found_by_all_attributes(shopper: Client) -> None:
    id_ = await new_product(shopper)
    first = await make_variant(shopper.database, id_, attributes={"Size": "S", "Colour": "red"})
    second = await make_variant(shopper.database, id_, attributes={"Size": "M", "Colour": "red"})
    await make_variant(shopper.database, id_, attributes={"Size": "L"}, is_available=False)

    async def variant(**wanted: str) -> str | None:
        pairs = ", ".join(f'{{name: "{name}", value: "{value}"}}' for name, value in wanted.items())
        found = (await product(shopper, id_, f"variant(by: {{attributes: [{pairs}]}}) {{ id }}"))["variant"]
        return found and str(found["id"])

    assert await variant(Size="M", Colour="red") == second
    assert await variant(Colour="red") == await variant() == first
    assert await variant(size="m", COLOUR="Red") == second
    assert await variant(Size="M", Colour="blue") is await variant(Size="L") is await variant(Fit="M") is None


@pytest.mark.parametrize(
    ("values", "variants", "in_stock"),
    [
        ({"inventory": 1}, [], True),
        ({"inventory": 0}, [], False),
        ({"inventory": None}, [], True),
        ({"inventory": 0, "track_inventory": False}, [], True),
        ({"inventory": None, "track_inventory": False}, [], True),
        ({"inventory": 0}, [{"inventory": 1}], True),
        ({"inventory": 0}, [{"inventory": None}], True),
        ({"inventory": 5}, [{"inventory": 0}], False),
        ({"inventory": 5}, [{"inventory": 0}, {"inventory": 2}], True),
        ({"inventory": 5}, [{"inventory": 0}, {"inventory": 2, "is_available": False}], False),
        ({"inventory": 5}, [{"inventory": 5, "is_available": False}], False),
        ({"inventory": 5, "track_inventory": False}, [{"inventory": 5, "is_available": False}], False),
        ({"inventory": 5, "track_inventory": False}, [{"inventory": 0}, {"inventory": 5, "is_available": False}], True),
        ({"inventory": 0, "track_inventory": False}, [{"inventory": 0}], True),
    ],
)
async def test_in_stock_follows_inventory_and_variants(
    shopper: Client, values: dict[str, Any], variants: list[dict[str, Any]], in_stock: bool
) -> None:
    id_ = await new_product(shopper, **values)
    for variant in variants:
        await make_variant(shopper.database, id_, **variant)
    found = await product(shopper, id_, "inStock variants { nodes { inStock } } config { id }")
    assert found["inStock"] is in_stock
    assert any(variant["inStock"] for variant in found["variants"]["nodes"]) is in_stock
    query = "query($c: ID!, $wanted: Boolean!) { products(configId: $c, filter: {inStock: $wanted}) { totalCount } }"
    listed = await shopper.ask(query, c=found["config"]["id"], wanted=in_stock)
    assert listed["products"]["totalCount"] == 1


async def test_price_range_and_count_use_available_variants(shopper: Client) -> None:
    id_ = await new_product(shopper, price="7.00")
    fields = "price priceRange { min max } variants(first: 9, availableOnly: false) { totalCount nodes { price } }"

    def expect(*prices: str, shown: list[str]) -> dict[str, Any]:
        nodes = [{"price": price} for price in shown]
        price_range = {"min": prices[0], "max": prices[-1]}
        return {"price": prices[0], "priceRange": price_range, "variants": {"totalCount": len(nodes), "nodes": nodes}}

    assert await product(shopper, id_, fields) == expect("7.00", shown=["7.00"])
    for price, expected in (("3.00", ["3.00"]), ("1.00", ["1.00", "3.00"])):
        await make_variant(shopper.database, id_, price=price, is_available=False)
        assert await product(shopper, id_, fields) == expect(*expected, shown=[])
    for price in ("10.00", "0.00", "9.50"):
        await make_variant(shopper.database, id_, price=price)
    assert await product(shopper, id_, fields) == expect("0.00", "10.00", shown=["10.00", "0.00", "9.50"])


async def test_owner_may_select_unavailable_variants(shopper: Client) -> None:
    user = await make_user(shopper.database)
    id_ = await make_product(shopper.database, await make_store(shopper.database, user_id=user))
    await make_variant(shopper.database, id_, is_available=False)
    owner = shopper.signed_in(user)
    fields = "totalCount nodes { id }"
    found = await product(owner, id_, f"shown: variants {{ {fields} }} all: variants(availableOnly: false) {{ {fields} }}")
    assert [(found[name]["totalCount"], len(found[name]["nodes"])) for name in ("shown", "all")] == [(0, 0), (1, 1)]


async def test_related_products_order_category_tags_popularity(shopper: Client) -> None:
    store, other = [await make_store(shopper.database) for _ in range(2)]

    async def add(**values: Any) -> str:
        return await make_product(shopper.database, **{"config_id": store, **values})

    me = await add(category="A", tags=["x", "y"])
    popular = await add(category="C", popularity=99)
    no_category = await add(category=None, popularity=98)
    same_plain = await add(category="A", popularity=1)
    same_liked = await add(category="A", popularity=2)
    same_tagged = await add(category="A", tags=["x"])
    one_tag = await add(category="B", tags=["y"], popularity=5)
    two_tags = await add(category="B", tags=["x", "y", "z"])
    await add(category="A", status="inactive")
    await add(category="A", config_id=other)
    expected = [same_tagged, same_liked, same_plain, two_tags, one_tag, popular, no_category]
    for first in (1, 4, 7, 50):
        found = (await product(shopper, me, f"related(first: {first}) {{ id }}"))["related"]
        assert [node["id"] for node in found] == expected[:first]
    query = "query($c: ID!) { products(configId: $c) { nodes { id related(first: 50) { id } } } }"
    for node in (await shopper.ask(query, c=store))["products"]["nodes"]:
        ids = [one["id"] for one in node["related"]]
        assert {*ids} == {me, *expected} - {node["id"]}
        assert len(ids) == len(expected)


async def test_single_product_has_no_related_products(shopper: Client) -> None:
    id_ = await new_product(shopper, category=None)
    assert await product(shopper, id_, "related { id }") == {"related": []}


async def test_popularity_weights_events_of_thirty_days(database: Database) -> None:
    random, store, expected = Random(3), await make_store(database), Counter[str]()
    other = await make_store(database)
    ids = [await make_product(database, store, popularity=random.choice((0, 50))) for _ in range(5)]
    for _ in range(200):
        days, event, target = (
            # Whole quarters of an hour are counted: those of the very edge may be in or out.
            random.choice((random.uniform(0, 29.9), random.uniform(30.1, 40))),
            random.choice(("product_click", "add_to_cart", "page_view")),
            random.choice(ids),
        )
        where, when = random.choice((store, store, other)), datetime.now(UTC) - timedelta(days=days)
        properties = random.choice(({"productId": target}, {"productId": target, "n": 1}, {}, {"productId": "x"}))
        await insert(database, "analytics_events", config_id=where, event=event, properties=properties, timestamp=when)
        if days < 30 and where == store and properties.get("productId") == target:
            expected[target] += {"product_click": 1, "add_to_cart": 5, "page_view": 0}[event]
    await roll_up(database, wait=True)
    await refresh_popularity(database)
    found = dict(await run(database, "SELECT id::text, popularity FROM products"))
    assert found == {id_: expected[id_] for id_ in ids}
    assert await refresh_popularity(database) == 0
