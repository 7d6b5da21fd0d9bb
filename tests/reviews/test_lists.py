"""Lists of reviews, of a product and of a store: pages in both directions, numbers of stars, visibility, statements."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.client import Client
from tests.factories import count_reviews, count_statements, make_product, make_review, make_store, make_user

# Pages with edges are read as rows, those without as JSON documents.
PAGE = """totalCount nodes { id } edges { cursor node { id rating } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"""
ARGUMENTS = "first: $first, after: $after, last: $last, before: $before"
VARIABLES = "$id: ID!, $first: Int, $after: String, $last: Int, $before: String"
OF_PRODUCT = f"""query({VARIABLES}, $rating: Int) {{
  product(by: {{id: $id}}) {{ reviews(rating: $rating, {ARGUMENTS}) {{ {PAGE} }} }} }}"""
OF_STORE = f"query({VARIABLES}) {{ config(by: {{id: $id}}) {{ reviews({ARGUMENTS}) {{ {PAGE} }} }} }}"
DOCUMENT = """query($id: ID!, $first: Int, $rating: Int) {
  product(by: {id: $id}) { reviews(rating: $rating, first: $first) { totalCount nodes { id } } } }"""
# Ten reviews of one to four stars at the same time each; none has five.
INSERT = """
WITH authors AS (
  INSERT INTO users (id, email) SELECT gen_random_uuid(), gen_random_uuid() || '@example.com' FROM generate_series(1, 40)
  RETURNING id
)
INSERT INTO reviews (id, config_id, product_id, user_id, rating, created_at)
SELECT gen_random_uuid(), p.config_id, p.id, a.id, 1 + number %% 4, timestamptz '2026-01-01' + number / 10 * interval '1 day'
FROM products AS p, (SELECT id, row_number() OVER () - 1 AS number FROM authors) AS a WHERE p.id = %s
"""


async def make_reviewed_product(client: Client, store: str, **values: Any) -> str:
    """Insert a product with 40 reviews."""
    product = await make_product(client.database, store, **values)
    async with client.database.transaction() as connection:
        await connection.raw.execute(INSERT.encode(), [product])
    await count_reviews(client.database, store)
    return product


async def load_ids(client: Client, condition: str, *values: object) -> list[str]:
    """The ids of reviews, newest first."""
    statement = f"SELECT r.id::text FROM reviews AS r WHERE {condition} ORDER BY created_at DESC, id DESC"
    async with client.database.transaction() as connection:
        return [str(id_) for (id_,) in await (await connection.raw.execute(statement.encode(), values)).fetchall()]


async def load_page(client: Client, query: str, id_: str, **variables: Any) -> dict[str, Any]:
    [parent] = (await client.ask(query, id=id_, **variables)).values()
    page: dict[str, Any] = parent["reviews"]
    return page


def get_ids(page: Mapping[str, Any]) -> list[str]:
    return [node["id"] for node in page["nodes"]]


async def check_pages(client: Client, query: str, id_: str, expected: list[str], size: int, **variables: Any) -> None:
    """Read all pages of a list in both directions, and compare them with the expected ids."""
    forward, window = list[str](), {"first": size}
    while window:
        page = await load_page(client, query, id_, **window, **variables)
        assert page["totalCount"] == len(expected) and [edge["node"]["id"] for edge in page["edges"]] == get_ids(page)
        assert page["pageInfo"]["hasPreviousPage"] == bool(forward)
        forward += get_ids(page)
        window = {"first": size, "after": page["pageInfo"]["endCursor"]} if page["pageInfo"]["hasNextPage"] else {}
    backward, window = list[str](), {"last": size}
    while window:
        page = await load_page(client, query, id_, **window, **variables)
        assert page["pageInfo"]["hasNextPage"] == bool(backward)
        backward = get_ids(page) + backward
        window = {"last": size, "before": page["pageInfo"]["startCursor"]} if page["pageInfo"]["hasPreviousPage"] else {}
    assert forward == backward == expected


@pytest.mark.parametrize("rating", [None, 1, 4, 5])
@pytest.mark.parametrize("size", [3, 10, 100])
async def test_reviews_of_product_are_read_in_both_directions(shopper: Client, size: int, rating: int | None) -> None:
    store = await make_store(shopper.database)
    product, _ = [await make_reviewed_product(shopper, store) for _ in range(2)]
    expected = await load_ids(shopper, "product_id = %s AND rating = coalesce(%s, rating)", product, rating)
    assert len(expected) == {None: 40, 5: 0}.get(rating, 10)
    await check_pages(shopper, OF_PRODUCT, product, expected, size, rating=rating)
    document = await load_page(shopper, DOCUMENT, product, first=size, rating=rating)
    assert (document["totalCount"], get_ids(document)) == (len(expected), expected[:size])


@pytest.mark.parametrize("size", [7, 100])
async def test_reviews_of_store_are_read_in_both_directions(shopper: Client, size: int) -> None:
    owner = await make_user(shopper.database)
    store, other = [await make_store(shopper.database, user_id=owner) for _ in range(2)]
    for status in ("active", "active", "inactive"):
        await make_reviewed_product(shopper, store, status=status)
    await make_reviewed_product(shopper, other)
    visible = "product_id IN (SELECT id FROM products WHERE config_id = %s AND status = 'active')"
    for client, condition, total in ((shopper, visible, 80), (shopper.signed_in(owner), "config_id = %s", 120)):
        expected = await load_ids(client, condition, store)
        assert len(expected) == total
        await check_pages(client, OF_STORE, store, expected, size)


async def test_page_sizes_have_defaults_and_limits(shopper: Client) -> None:
    store = await make_store(shopper.database)
    product = await make_reviewed_product(shopper, store)
    assert len((await load_page(shopper, OF_PRODUCT, product))["nodes"]) == 3
    assert len((await load_page(shopper, DOCUMENT, product))["nodes"]) == 3
    assert len((await load_page(shopper, OF_STORE, store))["nodes"]) == 20
    for query, id_ in ((OF_PRODUCT, product), (OF_STORE, store)):
        for name, count in (("first", 101), ("first", 0), ("last", 101), ("last", -1)):
            error = await shopper.refusal(query, id=id_, **{name: count})
            assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", name)
        error = await shopper.refusal(query, id=id_, first=1, last=1)
        assert error["extensions"]["field"] == "last" and "not both" in error["message"]


@pytest.mark.parametrize("rating", [0, 6, -1])
@pytest.mark.parametrize("query", [OF_PRODUCT, DOCUMENT])
async def test_invalid_rating_is_refused_by_its_name(shopper: Client, query: str, rating: int) -> None:
    product = await make_product(shopper.database, await make_store(shopper.database))
    literal = query.replace("rating: $rating", f"rating: {rating}").replace(", $rating: Int", "")
    for error in (await shopper.refusal(query, id=product, rating=rating), await shopper.refusal(literal, id=product)):
        assert (error["extensions"]["code"], error["extensions"]["field"]) == ("BAD_USER_INPUT", "rating")
        assert error["message"] == f"rating: must be between 1 and 5, not {rating}."


async def test_cursor_belongs_to_one_list_of_reviews(shopper: Client) -> None:
    stores = [await make_store(shopper.database) for _ in range(2)]
    product, other = [await make_reviewed_product(shopper, store) for store in stores]
    of_product = (await load_page(shopper, OF_PRODUCT, product))["pageInfo"]["endCursor"]
    of_store = (await load_page(shopper, OF_STORE, stores[0]))["pageInfo"]["endCursor"]
    refused: list[tuple[str, str, str, dict[str, int]]] = [
        (OF_PRODUCT, other, of_product, {}),
        (OF_PRODUCT, product, of_product, {"rating": 4}),
        (OF_PRODUCT, product, of_store, {}),
        (OF_STORE, stores[1], of_store, {}),
        (OF_STORE, stores[0], of_product, {}),
    ]
    for query, id_, cursor, variables in refused:
        for name in ("after", "before"):
            error = await shopper.refusal(query, id=id_, **{name: cursor}, **variables)
            assert error["extensions"]["field"] == name and "belongs to a list" in error["message"]


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ("reviews(first: 2, rating: 5) { nodes { id } totalCount }", 1),
        ("reviews(last: 2, rating: 5) { nodes { id } totalCount }", 2),
        ("reviews { edges { cursor node { id } } pageInfo { endCursor } }", 2),
        ("reviews(rating: 5) { totalCount } all: reviews { totalCount } priceRange { min }", 1),
    ],
)
async def test_reviews_of_many_products_are_one_statement(shopper: Client, selection: str, count: int) -> None:
    store = await make_store(shopper.database)
    for _ in range(12):
        product = await make_product(shopper.database, store)
        for rating in (5, 5, 5, 1):
            await make_review(shopper.database, product, rating=rating)
    query = f"query($c: ID!) {{ products(configId: $c) {{ nodes {{ {selection} }} }} }}"
    with count_statements(shopper.database) as statements:
        nodes = (await shopper.ask(query, c=store))["products"]["nodes"]
    assert len(statements) == count
    assert [node["reviews"].get("totalCount", 3) for node in nodes] == [3] * 12


@pytest.mark.parametrize(
    ("selection", "count"),
    [
        ("nodes { id }", 2),
        ("totalCount", 2),
        ("totalCount edges { cursor node { rating } }", 3),
        ("nodes { product { title } }", 3),
    ],
)
async def test_reviews_of_many_stores_are_one_statement(shopper: Client, selection: str, count: int) -> None:
    owner = await make_user(shopper.database)
    for _ in range(4):
        product = await make_product(shopper.database, await make_store(shopper.database, user_id=owner))
        await make_review(shopper.database, product, user_id=owner)
    query = f"{{ configs(first: 4) {{ nodes {{ reviews(first: 1) {{ {selection} }} }} }} }}"
    with count_statements(shopper.database) as statements:
        nodes = (await shopper.ask(query))["configs"]["nodes"]
    assert (len(statements), len(nodes)) == (count, 4)


async def test_stores_of_one_page_show_their_own_reviews(shopper: Client) -> None:
    owner = await make_user(shopper.database)
    own, foreign, empty = [await make_store(shopper.database, **v) for v in ({"user_id": owner}, {}, {})]
    expected: dict[str, list[str]] = {own: [], foreign: [], empty: []}
    for store, is_own in ((own, True), (foreign, False)):
        for status in ("archived", "active"):
            review = await make_review(shopper.database, await make_product(shopper.database, store, status=status))
            if is_own or status == "active":
                expected[store].insert(0, review)
    query = "{ configs(first: 3) { nodes { id reviews { totalCount nodes { id product { status } } } } } }"
    nodes = (await shopper.signed_in(owner).ask(query))["configs"]["nodes"]
    assert {node["id"]: get_ids(node["reviews"]) for node in nodes} == expected
    assert {node["id"]: node["reviews"]["totalCount"] for node in nodes} == {store: len(ids) for store, ids in expected.items()}


async def test_reviews_of_store_follow_writes(shopper: Client) -> None:
    store = await make_store(shopper.database)
    product = await make_product(shopper.database, store)
    author = shopper.signed_in(await make_user(shopper.database))
    create = "mutation($input: CreateReviewInput!) { createReview(input: $input) { review { id } userErrors { message } } }"
    review = (await author.ask(create, input={"productId": product, "rating": 4}))["createReview"]["review"]["id"]
    assert get_ids(await load_page(shopper, OF_STORE, store)) == [review]
    delete = "mutation($input: DeleteReviewInput!) { deleteReview(input: $input) { deletedId userErrors { message } } }"
    assert (await author.ask(delete, input={"id": review}))["deleteReview"]["deletedId"] == review
    page = await load_page(shopper, OF_STORE, store)
    assert (page["nodes"], page["totalCount"]) == ([], 0)
