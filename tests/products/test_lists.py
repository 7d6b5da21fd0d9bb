"""Connections and cursors: pagination visits every row once and in order during concurrent writes."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from random import Random
from typing import Any

import orjson
import pytest
import pytest_asyncio
from psycopg.rows import dict_row

from storefront.core.db.database import Database
from storefront.queries.search import fold_text
from tests.client import Client
from tests.factories import make_product, make_review, make_store, make_variant

PAGE = """
query Page($c: ID!, $sort: ProductSortInput, $search: String, $first: Int, $after: String, $last: Int, $before: String) {
  products(configId: $c, sort: $sort, search: $search, first: $first, after: $after, last: $last, before: $before) {
    nodes { id }
    edges { cursor node { id } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
  }
}
"""
TITLES = (
    "Äpfel",
    "apfel",
    "Apfelkuchen",
    "éclair",
    "Eclair",
    "Øre",
    "ore",
    "ß",
    "ss",
    "zebra",
    "ZEBRA",
    "Ζωή",
    "жук",
    "日本",
    "A b",
    "A-b",
)


def stars(row: dict[str, Any]) -> float:
    counts: list[int] = row["rating_counts"]
    return sum(n * count for n, count in enumerate(counts, 1)) / max(1, sum(counts))


KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "CREATED_AT": lambda row: datetime.fromisoformat(row["created_at"]),
    "UPDATED_AT": lambda row: datetime.fromisoformat(row["updated_at"]),
    "PRICE": lambda row: Decimal(row["price"]),
    "NAME": lambda row: fold_text(row["title"]),
    "POPULARITY": lambda row: row["popularity"],
    "RATING": stars,
    "RELEVANCE": lambda row: row["relevance"],
}


async def rows_of(database: Database, store: str) -> list[dict[str, Any]]:
    """The rows of the store's products, unordered."""
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=dict_row)
        await cursor.execute(
            "SELECT *, ts_rank(search_vector, to_tsquery('english', 'walk')) AS relevance FROM products WHERE config_id = %s",
            [store],
        )
        return await cursor.fetchall()


async def delete(database: Database, product: str) -> None:
    async with database.transaction() as connection:
        await connection.raw.execute("DELETE FROM products WHERE id = %s", [product])


@dataclass
class Crowd:
    """A store with many equal sort keys: permanent products, and others that are added and deleted."""

    client: Client
    store: str
    random: Random
    passing: list[str]

    async def add(self) -> str:
        some = self.random.choice
        values = {
            "title": some(TITLES),
            "description": some((None, "to walk in", "walk, and walk again")),
            "category": some((None, "walk")),
            "price": some(("0.00", "5.00", "5.50", "10.00", "99.90", "100.00")),
            "created_at": f"2024-01-0{some('123')}T00:00:00.{some(('0', '000001', '5'))}Z",
            "updated_at": f"2024-02-0{some('123')}T00:00:00Z",
            "popularity": some((0, 0, 1, 7)),
            "rating_counts": some(("{0,0,0,0,0}", "{0,0,0,0,0}", "{1,0,0,0,0}", "{1,1,1,0,0}", "{0,1,0,0,1}", "{0,0,0,0,3}")),
        }
        return await make_product(self.client.database, self.store, **values)

    async def move(self) -> None:
        """Add and delete some products."""
        for _ in range(self.random.randrange(3)):
            self.passing.append(await self.add())
        for _ in range(self.random.randrange(min(3, len(self.passing) + 1))):
            await delete(self.client.database, self.passing.pop(self.random.randrange(len(self.passing))))

    async def walk(self, back: bool, **arguments: Any) -> list[str]:
        """All ids in list order, paginated forward or backward."""
        size, cursor, seen = ("last", "before", []) if back else ("first", "after", list[str]())
        position: str | None = None
        while True:
            page = (await self.client.ask(PAGE, c=self.store, **{size: 7, cursor: position}, **arguments))["products"]
            found, info = [node["id"] for node in page["nodes"]], page["pageInfo"]
            seen = found + seen if back else seen + found
            if not info["hasPreviousPage" if back else "hasNextPage"]:
                return seen
            assert len(found) == 7
            position = info["startCursor" if back else "endCursor"]
            await self.move()


@pytest_asyncio.fixture(scope="module")
async def crowd(shopper: Client) -> Crowd:
    found = Crowd(shopper, await make_store(shopper.database), Random(7), [])
    for _ in range(210):
        await found.add()
    return found


@pytest.mark.parametrize("back", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("order", ["ASC", "DESC"])
@pytest.mark.parametrize("key", KEYS)
async def test_pagination_visits_each_row_once_in_order(crowd: Crowd, key: str, order: str, back: bool) -> None:
    search = "walk" if key == "RELEVANCE" else None
    before = await rows_of(crowd.client.database, crowd.store)
    lasting = [row for row in before if str(row["id"]) not in crowd.passing and (not search or row["relevance"] > 0)]
    seen = await crowd.walk(back, sort={"key": key, "order": order}, search=search)
    assert len(seen) == len(set(seen))
    expected = sorted(lasting, key=lambda row: (KEYS[key](row), str(row["id"])), reverse=order == "DESC")
    assert len(expected) > 100
    ids = {row["id"] for row in expected}
    assert [id_ for id_ in seen if id_ in ids] == [row["id"] for row in expected]


async def store_of(client: Client, count: int) -> tuple[str, list[str]]:
    """A store and its products, newest first."""
    store = await make_store(client.database)
    return store, [await make_product(client.database, store) for _ in range(count)][::-1]


@pytest.mark.parametrize("count", [0, 1, 10])
async def test_single_page_has_no_neighbours(shopper: Client, count: int) -> None:
    store, ids = await store_of(shopper, count)
    for size in ("first", "last"):
        page = (await shopper.ask(PAGE, c=store, **{size: 10}))["products"]
        assert [node["id"] for node in page["nodes"]] == [edge["node"]["id"] for edge in page["edges"]] == ids
        cursors = [edge["cursor"] for edge in page["edges"]]
        ends = (cursors[0], cursors[-1]) if cursors else (None, None)
        assert page["pageInfo"] == {
            "hasNextPage": False,
            "hasPreviousPage": False,
            "startCursor": ends[0],
            "endCursor": ends[1],
        }


async def test_page_info_tells_neighbours(shopper: Client) -> None:
    store, ids = await store_of(shopper, 6)
    received = []
    cursor = None
    for expected in (ids[:3], ids[3:]):
        page = (await shopper.ask(PAGE, c=store, first=3, after=cursor))["products"]
        assert [node["id"] for node in page["nodes"]] == expected
        received.append((page["pageInfo"]["hasPreviousPage"], page["pageInfo"]["hasNextPage"]))
        cursor = page["pageInfo"]["endCursor"]
    assert received == [(False, True), (True, False)]
    received = []
    cursor = None
    for expected in (ids[3:], ids[:3]):
        page = (await shopper.ask(PAGE, c=store, last=3, before=cursor))["products"]
        assert [node["id"] for node in page["nodes"]] == expected
        received.append((page["pageInfo"]["hasPreviousPage"], page["pageInfo"]["hasNextPage"]))
        cursor = page["pageInfo"]["startCursor"]
    assert received == [(True, False), (False, True)]


async def test_page_after_last_row_is_empty(shopper: Client) -> None:
    store, _ = await store_of(shopper, 3)
    last = (await shopper.ask(PAGE, c=store, first=3))["products"]["pageInfo"]["endCursor"]
    page = (await shopper.ask(PAGE, c=store, first=3, after=last))["products"]
    assert page["nodes"] == []
    assert page["pageInfo"] == {"hasNextPage": False, "hasPreviousPage": True, "startCursor": None, "endCursor": None}


async def test_any_edge_cursor_works_in_both_directions(shopper: Client) -> None:
    store, ids = await store_of(shopper, 5)
    middle = (await shopper.ask(PAGE, c=store, first=5))["products"]["edges"][2]["cursor"]
    after = (await shopper.ask(PAGE, c=store, first=5, after=middle))["products"]
    before = (await shopper.ask(PAGE, c=store, last=5, before=middle))["products"]
    assert [node["id"] for node in before["nodes"]] == ids[:2]
    assert [node["id"] for node in after["nodes"]] == ids[3:]


async def test_cursor_of_deleted_row_works(shopper: Client) -> None:
    store, ids = await store_of(shopper, 4)
    cursor = (await shopper.ask(PAGE, c=store, first=2))["products"]["pageInfo"]["endCursor"]
    await delete(shopper.database, ids[1])
    page = (await shopper.ask(PAGE, c=store, first=2, after=cursor))["products"]
    assert [node["id"] for node in page["nodes"]] == ids[2:]


async def test_cursor_of_another_sort_is_rejected(shopper: Client) -> None:
    store, _ = await store_of(shopper, 2)
    cursor = (await shopper.ask(PAGE, c=store, first=1))["products"]["pageInfo"]["endCursor"]
    error = await shopper.refusal(PAGE, c=store, first=1, after=cursor, sort={"key": "PRICE"})
    assert "another sort" in error["message"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("RATING", True),
        ("RATING", "1"),
        ("PRICE", "１.００"),
        ("PRICE", 1.5),
        ("POPULARITY", 2**31),
        ("NAME", "\0"),
        ("CREATED_AT", "2024-W01-1"),
        ("CREATED_AT", "2024-01-01T00:00:00+23:59"),
    ],
)
async def test_altered_cursor_is_rejected(shopper: Client, key: str, value: object) -> None:
    store, _ = await store_of(shopper, 1)
    cursor = (await shopper.ask(PAGE, c=store, sort={"key": key}))["products"]["pageInfo"]["endCursor"]
    digest, _, id_ = orjson.loads(urlsafe_b64decode(cursor + "=="))
    altered = urlsafe_b64encode(orjson.dumps([digest, value, id_])).decode()
    assert "altered" in (await shopper.refusal(PAGE, c=store, after=altered, sort={"key": key}))["message"]


async def test_long_imported_titles_fit_into_cursors(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for letter in "ab":
        await make_product(shopper.database, store, title=letter + "🛍" * 254)
    sort = {"key": "NAME", "order": "ASC"}
    cursor = (await shopper.ask(PAGE, c=store, first=1, sort=sort))["products"]["pageInfo"]["endCursor"]
    assert len((await shopper.ask(PAGE, c=store, first=1, after=cursor, sort=sort))["products"]["nodes"]) == 1


async def test_nested_products_are_paged_per_store(shopper: Client) -> None:
    stores = [await store_of(shopper, count) for count in (0, 1, 10)]
    query = "{ configs(first: 3) { nodes { id products(first: 4) { nodes { id } pageInfo { hasNextPage } totalCount } } } }"
    for found, (store, ids) in zip((await shopper.ask(query))["configs"]["nodes"], reversed(stores), strict=True):
        assert found["id"] == store
        assert [node["id"] for node in found["products"]["nodes"]] == ids[:4]
        assert found["products"]["pageInfo"]["hasNextPage"] == (len(ids) > 4)
        assert found["products"]["totalCount"] == len(ids)


async def test_reviews_are_paged_per_product(shopper: Client) -> None:
    store, products = await store_of(shopper, 3)
    reviews = {
        p: [await make_review(shopper.database, p) for _ in range(n)][::-1] for p, n in zip(products, (0, 1, 10), strict=True)
    }
    query = """query($c: ID!) { products(configId: $c) { nodes {
      id reviews(first: 4) { nodes { id } totalCount pageInfo { hasNextPage endCursor } } } } }"""
    nodes = (await shopper.ask(query, c=store))["products"]["nodes"]
    for node in nodes:
        assert [review["id"] for review in node["reviews"]["nodes"]] == reviews[node["id"]][:4]
        assert node["reviews"]["totalCount"] == len(reviews[node["id"]])
    query = """query($id: ID!, $after: String) { product(by: {id: $id}) {
      reviews(first: 4, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } } }"""
    seen, cursor = list[str](), nodes[2]["reviews"]["pageInfo"]["endCursor"]
    for _ in range(2):
        page = (await shopper.ask(query, id=products[2], after=cursor))["product"]["reviews"]
        seen, cursor = seen + [review["id"] for review in page["nodes"]], page["pageInfo"]["endCursor"]
    assert seen == reviews[products[2]][4:]
    assert page["pageInfo"]["hasNextPage"] is False


async def test_variants_are_first_per_product_in_order(shopper: Client) -> None:
    store, products = await store_of(shopper, 3)
    variants = {p: [await make_variant(shopper.database, p) for _ in range(n)] for p, n in zip(products, (1, 2, 10), strict=True)}
    query = (
        "query($c: ID!) { products(configId: $c) { nodes { id variants(first: 4) { totalCount nodes { id product { id } } } } } }"
    )
    for node in (await shopper.ask(query, c=store))["products"]["nodes"]:
        assert [variant["id"] for variant in node["variants"]["nodes"]] == variants[node["id"]][:4]
        assert {variant["product"]["id"] for variant in node["variants"]["nodes"]} <= {node["id"]}
        assert node["variants"]["totalCount"] == len(variants[node["id"]])


NUMBERED = """query($i: ProductSearchInput!) {
  searchProducts(input: $i) { products { id } pagination { total page limit hasNext } } }"""


@pytest.mark.parametrize("count", [0, 1, 10])
async def test_offset_pages(shopper: Client, count: int) -> None:
    store, ids = await store_of(shopper, count)
    for offset in (0, 5, 9, 10, 11):
        found = (await shopper.ask(NUMBERED, i={"configId": store, "limit": 5, "offset": offset}))["searchProducts"]
        assert [product["id"] for product in found["products"]] == ids[offset : offset + 5]
        expected = {"total": count, "page": offset // 5 + 1, "limit": 5, "hasNext": offset + 5 < count}
        assert found["pagination"] == expected


async def test_offset_pages_filter_by_zero_price(shopper: Client) -> None:
    store = await make_store(shopper.database)
    free, _ = [await make_product(shopper.database, store, price=price) for price in ("0.00", "1.00")]
    found = (await shopper.ask(NUMBERED, i={"configId": store, "maxPrice": "0"}))["searchProducts"]
    assert [product["id"] for product in found["products"]] == [free]
    assert len((await shopper.ask(NUMBERED, i={"configId": store, "minPrice": "0"}))["searchProducts"]["products"]) == 2


@pytest.mark.parametrize("sort", ["CREATED_AT", "PRICE", "NAME", "POPULARITY", "UPDATED_AT", "RATING"])
async def test_offset_pages_are_sorted(crowd: Crowd, sort: str) -> None:
    key = KEYS[sort]
    rows = await rows_of(crowd.client.database, crowd.store)
    for order in ("ASC", "DESC"):
        expected = sorted(rows, key=lambda row: (key(row), str(row["id"])), reverse=order == "DESC")
        chosen = {"configId": crowd.store, "limit": 100, "offset": 30, "sortBy": sort, "sortOrder": order}
        found = (await crowd.client.ask(NUMBERED, i=chosen))["searchProducts"]["products"]
        assert [product["id"] for product in found] == [row["id"] for row in expected[30:130]]
