"""The variants of a product as a connection: pages in both directions, sort keys, counts, statements."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user, make_variant, summarize

TOTAL = 300
# Pages with cursors are read as rows, those without as JSON documents.
PAGE = """query($id: ID!, $first: Int, $after: String, $last: Int, $before: String, $sort: ProductVariantSortKey! = POSITION) {
  product(by: {id: $id}) { variants(first: $first, after: $after, last: $last, before: $before, sort: $sort) {
    totalCount nodes { name } edges { cursor node { name } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }"""
NODES = """query($id: ID!, $first: Int, $sort: ProductVariantSortKey! = POSITION) {
  product(by: {id: $id}) { variants(first: $first, sort: $sort) { totalCount nodes { name } } } }"""
# The last ten are unavailable. Several have the same price, position or time of creation.
INSERT = """INSERT INTO product_variants (id, config_id, product_id, name, attributes, price, position, is_available, created_at)
  SELECT gen_random_uuid(), config_id, products.id, n::text, jsonb_build_object('n', n::text), n %% 7, n / 2, n < 300,
    timestamptz '2026-01-01' + (310 - n) / 10 * interval '1 hour'
  FROM generate_series(0, 309) AS n, products WHERE products.id = %s"""
COLUMNS = {"POSITION": "position", "PRICE": "price", "CREATED_AT": "created_at"}


@pytest.fixture
async def owned(shopper: Client) -> tuple[Client, str]:
    """The owner of a product with 300 available variants and ten unavailable ones, and the product."""
    user = await make_user(shopper.database)
    product = await make_product(shopper.database, await make_store(shopper.database, user_id=user))
    async with shopper.database.transaction() as connection:
        await connection.raw.execute("DELETE FROM product_variants WHERE product_id = %s", [product])
        await connection.raw.execute(INSERT, [product])
    await summarize(shopper.database, product)
    return shopper.signed_in(user), product


async def load_page(client: Client, product: str, **variables: Any) -> dict[str, Any]:
    page: dict[str, Any] = (await client.ask(PAGE, id=product, **variables))["product"]["variants"]
    return page


async def load_sorted_names(client: Client, product: str, sort: str) -> list[str]:
    statement = f"SELECT name FROM product_variants WHERE product_id = %s AND is_available ORDER BY {COLUMNS[sort]}, id"
    async with client.database.transaction() as connection:
        cursor = await connection.raw.execute(statement.encode(), [product])
        return [str(name) for (name,) in await cursor.fetchall()]


def get_names(page: Mapping[str, Any]) -> list[str]:
    return [node["name"] for node in page["nodes"]]


@pytest.mark.parametrize("size", [250, 70])
@pytest.mark.parametrize("sort", COLUMNS)
async def test_all_variants_are_read_in_pages_of_both_directions(
    shopper: Client, owned: tuple[Client, str], sort: str, size: int
) -> None:
    _, product = owned
    expected = await load_sorted_names(shopper, product, sort)
    assert len(expected) == TOTAL
    forward, window = list[str](), {"first": size}
    while window:
        page = await load_page(shopper, product, sort=sort, **window)
        assert page["totalCount"] == TOTAL and [edge["node"]["name"] for edge in page["edges"]] == get_names(page)
        assert page["pageInfo"]["hasPreviousPage"] == bool(forward)
        forward += get_names(page)
        window = {"first": size, "after": page["pageInfo"]["endCursor"]} if page["pageInfo"]["hasNextPage"] else {}
    backward, window = list[str](), {"last": size}
    while window:
        page = await load_page(shopper, product, sort=sort, **window)
        assert page["pageInfo"]["hasNextPage"] == bool(backward)
        backward = get_names(page) + backward
        window = {"last": size, "before": page["pageInfo"]["startCursor"]} if page["pageInfo"]["hasPreviousPage"] else {}
    assert forward == backward == expected
    document = (await shopper.ask(NODES, id=product, first=size, sort=sort))["product"]["variants"]
    assert (document["totalCount"], get_names(document)) == (TOTAL, expected[:size])


async def test_page_has_5_variants_by_default_and_250_at_most(shopper: Client, owned: tuple[Client, str]) -> None:
    _, product = owned
    assert len((await load_page(shopper, product))["nodes"]) == 5
    assert len((await shopper.ask(NODES, id=product))["product"]["variants"]["nodes"]) == 5
    for name, count in (("first", 251), ("first", 0), ("last", 251)):
        error = await shopper.refusal(PAGE, id=product, **{name: count})
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", name)


async def test_cursor_belongs_to_one_list(shopper: Client, owned: tuple[Client, str]) -> None:
    owner, product = owned
    cursor = (await load_page(shopper, product))["pageInfo"]["endCursor"]
    other = await make_product(shopper.database, await make_store(shopper.database))
    assert (await shopper.refusal(PAGE, id=other, after=cursor))["extensions"]["field"] == "after"
    assert (await shopper.refusal(PAGE, id=product, after=cursor, sort="PRICE"))["extensions"]["field"] == "after"
    with_unavailable = PAGE.replace("sort: $sort", "sort: $sort, availableOnly: false")
    assert (await owner.refusal(with_unavailable, id=product, after=cursor))["extensions"]["field"] == "after"


@pytest.mark.parametrize("selection", ["", "pageInfo { hasNextPage }", "nodes { id }"])
async def test_count_is_that_of_the_visible_list(shopper: Client, owned: tuple[Client, str], selection: str) -> None:
    owner, product = owned
    query = f"""query($id: ID!) {{ product(by: {{id: $id}}) {{
      available: variants {{ totalCount {selection} }} all: variants(availableOnly: false) {{ totalCount {selection} }} }} }}"""
    for client, total in ((shopper, 300), (owner, 310)):
        found = (await client.ask(query, id=product))["product"]
        assert (found["available"]["totalCount"], found["all"]["totalCount"]) == (300, total)


@pytest.mark.parametrize(
    ("selection", "count"), [("nodes { name } totalCount", 1), ("edges { cursor node { name } }", 2), ("totalCount", 1)]
)
async def test_variants_of_many_products_are_one_statement(shopper: Client, selection: str, count: int) -> None:
    store = await make_store(shopper.database)
    for _ in range(12):
        product = await make_product(shopper.database, store)
        for _ in range(3):
            await make_variant(shopper.database, product)
    query = f"query($c: ID!) {{ products(configId: $c) {{ nodes {{ variants(first: 2) {{ {selection} }} }} }} }}"
    with count_statements(shopper.database) as statements:
        await shopper.ask(query, c=store)
    assert len(statements) == count
