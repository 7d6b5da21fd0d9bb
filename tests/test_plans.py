"""Query plans of the hot statements over a few thousand products: they use indexes and read about as many rows as they return."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg.rows import tuple_row

from storefront.core.db.database import Database, Parameters, Row, Statement
from storefront.demo.commands import seed
from storefront.models.row_keys import RowKey
from storefront.queries import categories, facets, keyset, listing, products, related, reviews, search, suggestions, variants
from storefront.queries.listing import Listing, Order, Selection, StoreScope
from storefront.queries.visibility import Audience
from tests.conftest import fresh

INDEXES = {
    "created_at": "products_by_created_at_idx",
    "updated_at": "products_by_updated_at_idx",
    "price": "products_by_price_idx",
    "name": "products_by_sort_title_idx",
    "popularity": "products_by_popularity_idx",
    "rating": "products_by_rating_idx",
}
BIG = ("products", "product_variants", "reviews")
SIZE = 20
SHOPPERS = Selection(Audience.SHOPPER)


class Recording(Database):
    """A database that records the last statement and its parameters."""

    last: tuple[Statement, Parameters]

    async def fetch(self, statement: Statement, parameters: Parameters | None = None) -> list[Row]:
        self.last = statement, parameters or {}
        return await super().fetch(statement, parameters)


@dataclass(frozen=True)
class Plan:
    """The nodes of a plan, the outermost first."""

    nodes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def read_whole(self) -> set[str]:
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"} & {*BIG}

    @property
    def sorts(self) -> bool:
        return any("Sort" in node["Node Type"] for node in self.nodes)

    @property
    def rows_read(self) -> float:
        """Rows of the big tables that were visited, returned or not."""
        touched = [node for node in self.nodes if node.get("Relation Name") in BIG]
        row_counts = ((node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in touched)
        return float(sum(row_counts))


def flatten_plan(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from flatten_plan(child)


@dataclass(frozen=True)
class Shop:
    """The biggest store of the demo, and some of its products."""

    database: Recording
    store: str
    ids: list[str]
    sku: str
    handle: str

    @property
    def keys(self) -> list[RowKey]:
        """The keys of the products."""
        return [RowKey(self.store, id_) for id_ in self.ids]

    async def plan(self, question: Callable[["Shop"], Awaitable[object]]) -> Plan:
        """How the last statement of a question was run with its parameters."""
        await question(self)
        statement, parameters = self.database.last
        explained = Statement("EXPLAIN (ANALYZE, FORMAT JSON) " + statement.sql, statement.constants)
        [(answer,)] = await self.database.fetch(explained, parameters)
        return Plan([*flatten_plan(answer[0]["Plan"])])

    async def generic_plan(self, question: Callable[["Shop"], Awaitable[object]]) -> Plan:
        """How it would be run without looking at the parameters, which Postgres may decide to do for a statement used often."""
        await question(self)
        statement, _ = self.database.last
        names = [*dict.fromkeys(re.findall(r"%\((\w+)\)s", statement.sql))]
        numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement.sql).replace("%%", "%")
        async with self.database.transaction() as connection:
            cursor = await connection.raw.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {numbered}".encode())
            [(answer,)] = await cursor.fetchall()
        return Plan([*flatten_plan(answer[0]["Plan"])])

    async def page(self, key: str, descending: bool, cursor: str | None = None, size: int = SIZE) -> keyset.Page:
        list_ = Listing(SHOPPERS, Order(key, descending), keyset.Window(size, cursor))
        [found] = await listing.load_pages(self.database, [StoreScope(self.store)], list_)
        return found.page


@pytest_asyncio.fixture(scope="module")
async def shop(postgres: str, template: str) -> AsyncIterator[Shop]:
    url = fresh(postgres, template)
    database = Recording(url)
    async with database:
        summary = await seed(database, products=5_000, events=0)
        with psycopg.connect(url, autocommit=True) as connection:
            # As autovacuum does after a load: until then the GIN index has a pending list, and the planner avoids it.
            connection.execute("VACUUM ANALYZE")
        async with database.transaction() as reading:
            cursor = reading.raw.cursor(row_factory=tuple_row)
            await cursor.execute(
                "SELECT p.config_id, p.id, sku, handle FROM products AS p JOIN configs AS c ON c.id = p.config_id"
                " JOIN product_variants AS v ON v.product_id = p.id"
                " WHERE slug = %s AND status = 'active' AND sku <> '' ORDER BY p.id LIMIT 20",
                [summary.slug],
            )
            rows = await cursor.fetchall()
        yield Shop(database, rows[0][0], [*dict.fromkeys(row[1] for row in rows)], rows[0][2], rows[0][3])


@pytest.mark.parametrize("descending", [False, True], ids=["asc", "desc"])
@pytest.mark.parametrize("key", INDEXES)
async def test_page_reads_its_index_range_only(shop: Shop, key: str, descending: bool) -> None:
    async def middle() -> str:
        cursor = None
        for _ in range(6):
            page = await shop.page(key, descending, cursor, size=100)
            cursor = page.encode_cursor(page.rows[-1])
        assert cursor
        return cursor

    for cursor in (None, await middle()):
        plan = await shop.plan(lambda shop, cursor=cursor: shop.page(key, descending, cursor))  # type: ignore[misc]
        assert INDEXES[key] in plan.indexes
        assert not plan.sorts
        assert plan.rows_read < 3 * SIZE
        generic = await shop.generic_plan(lambda shop, cursor=cursor: shop.page(key, descending, cursor))  # type: ignore[misc]
        assert (generic.indexes & {*INDEXES.values()}, generic.sorts) == ({INDEXES[key]}, False)


async def test_last_page_reads_remaining_rows_only(shop: Shop) -> None:
    left = 30
    back = Listing(SHOPPERS, Order("price", True), keyset.Window(left, backward=True))
    [found] = await listing.load_pages(shop.database, [StoreScope(shop.store)], back)
    cursor = found.page.encode_cursor(found.page.rows[0])
    plan = await shop.plan(lambda shop: shop.page("price", True, cursor))
    assert "products_by_price_idx" in plan.indexes
    assert plan.rows_read < 3 * left


SEARCHED = Selection(Audience.SHOPPER, search=search.parse_search("cotton sh"))


async def searched(shop: Shop) -> object:
    best = Listing(SEARCHED, Order("relevance", True), keyset.Window(SIZE))
    return await listing.load_pages(shop.database, [StoreScope(shop.store)], best)


async def search_with_total(shop: Shop) -> object:
    return await listing.load_counts(shop.database, [StoreScope(shop.store)], SEARCHED)


async def faceted(shop: Shop) -> object:
    return await facets.load_facet_values(shop.database, "tags", [StoreScope(shop.store)], SEARCHED)


async def suggested(shop: Shop) -> object:
    return await suggestions.load_title_matches(shop.database, [StoreScope(shop.store)], SEARCHED, 8)


@pytest.mark.parametrize("question", [searched, search_with_total, faceted, suggested])
async def test_search_uses_the_word_index(shop: Shop, question: Callable[[Shop], Awaitable[object]]) -> None:
    for plan in (await shop.plan(question), await shop.generic_plan(question)):
        assert "products_search_idx" in plan.indexes
        assert plan.read_whole == set()


async def first_page_with_total(shop: Shop) -> object:
    best = Listing(SEARCHED, Order("relevance", True), keyset.Window(SIZE), with_total=True)
    return await listing.load_pages(shop.database, [StoreScope(shop.store)], best)


async def test_search_counts_and_sorts_narrow_rows(shop: Shop) -> None:
    # Rows with search documents have a thousand bytes: those of a few thousand matches would be written to disk.
    for plan in (await shop.plan(first_page_with_total), await shop.generic_plan(first_page_with_total)):
        widths = [node["Plans"][0]["Plan Width"] for node in plan.nodes if node["Node Type"] in ("WindowAgg", "Sort")]
        assert len(widths) >= 2
        assert max(widths) < 300


@pytest.mark.parametrize("typed", ["t", "sh", "tea", "linen s", "zz"])
async def test_title_matches_are_those_of_all_titles(shop: Shop, typed: str) -> None:
    selection = Selection(Audience.SHOPPER, search=search.parse_search(typed))
    [found] = await suggestions.load_title_matches(shop.database, [StoreScope(shop.store)], selection, 8)
    async with shop.database.transaction() as connection:
        cursor = await connection.raw.cursor(row_factory=tuple_row).execute(
            "SELECT id::text, title FROM products WHERE config_id = %s AND status = 'active' ORDER BY popularity DESC, id DESC",
            [shop.store],
        )
        rows = await cursor.fetchall()
    *words, beginning = typed.split()
    expected = [
        (id_, title)
        for id_, title in rows
        if {*words} <= {*split_title(title)} and any(word.startswith(beginning) for word in split_title(title))
    ]
    assert found.ids == [id_ for id_, _ in expected][:8]
    assert found.titles == [*dict.fromkeys(title for _, title in expected)][:8]


def split_title(title: str) -> list[str]:
    return re.findall(r"\w+", title.lower())


async def test_common_beginnings_read_popular_products_only(shop: Shop) -> None:
    async def suggest_letter(shop: Shop) -> object:
        selection = Selection(Audience.SHOPPER, search=search.parse_search("s"))
        return await suggestions.load_title_matches(shop.database, [StoreScope(shop.store)], selection, 8)

    plan = await shop.plan(suggest_letter)
    assert plan.rows_read <= suggestions.POPULAR_PRODUCTS
    for node in plan.nodes:
        if node.get("Index Name") == "products_search_idx":
            assert node["Actual Loops"] == 0


async def test_searched_categories_are_found_one_behind_the_other(shop: Shop) -> None:
    async def search_categories(shop: Shop) -> object:
        selection = Selection(Audience.SHOPPER, search=search.parse_search("zzz"))
        return await categories.search_categories(shop.database, [StoreScope(shop.store)], selection, 8)

    [tree] = await categories.load_category_trees(shop.database, [shop.store], Audience.SHOPPER)
    plan = await shop.plan(search_categories)
    assert plan.rows_read <= 2 * len(tree.nodes)
    for one in (plan, await shop.generic_plan(search_categories)):
        assert one.indexes
        assert one.indexes <= {"products_categories_idx", "products_shelf_idx"}


async def by_ids(shop: Shop) -> object:
    return await products.load_products_by_keys(shop.database, shop.keys, [])


async def by_handle(shop: Shop) -> object:
    return await products.load_product_by_handle(shop.database, shop.store, shop.handle, [])


async def by_sku(shop: Shop) -> object:
    return await products.load_product_by_sku(shop.database, shop.store, shop.sku, [])


async def variants_of(shop: Shop) -> object:
    return await variants.load_variants_of_products(shop.database, shop.keys, keyset.Window(5), "position", True, is_owner=False)


async def variant_by_attributes(shop: Shop) -> object:
    return await variants.load_variant_of_products(shop.database, shop.keys, "attributes", '{"Size": "M"}', is_owner=False)


async def reviews_of(shop: Shop) -> object:
    return await reviews.load_reviews_of_products(shop.database, shop.keys, keyset.Window(3))


async def reviews_with_stars(shop: Shop) -> object:
    return await reviews.load_reviews_of_products(shop.database, shop.keys, keyset.Window(3), rating=5)


async def reviews_behind(shop: Shop) -> object:
    for key in shop.keys:
        [page] = await reviews.load_reviews_of_products(shop.database, [key], keyset.Window(1))
        if page.has_next:
            return await reviews.load_reviews_of_products(
                shop.database, [key], keyset.Window(3, page.encode_cursor(page.rows[0]))
            )
    raise AssertionError("no product has two reviews")


@pytest.mark.parametrize(
    ("question", "any_index", "most"),
    [
        (by_ids, "products_id_idx", 20),
        # Its id, and the row.
        (by_handle, "products_config_id_handle_key", 2),
        (by_sku, "product_variants_by_sku_idx", 4),
        # Of a small table, the unique index of the attributes seems to cost as much: it is smaller.
        (variants_of, "product_variants_in_order_idx product_variants_attributes_key", 20 * 30),
        (variant_by_attributes, "product_variants_in_order_idx product_variants_attributes_key", 20 * 30),
        (reviews_of, "reviews_newest_idx", 20 * 5),
        (reviews_behind, "reviews_newest_idx", 6),
        (reviews_with_stars, "reviews_by_rating_idx", 20 * 5),
    ],
)
async def test_single_products_and_edges_use_indexes(
    shop: Shop, question: Callable[[Shop], Awaitable[object]], any_index: str, most: int
) -> None:
    plan, generic = await shop.plan(question), await shop.generic_plan(question)
    assert plan.rows_read <= most
    for one in (plan, generic):
        assert one.indexes & {*any_index.split()}
    assert plan.read_whole | generic.read_whole == set()


async def test_related_products_rank_candidates_only(shop: Shop) -> None:
    plan = await shop.plan(lambda shop: related.load_related_products(shop.database, shop.keys[:1], 4))
    assert plan.read_whole == set()
    assert plan.rows_read < 300


@pytest.mark.parametrize("backward", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("audience", Audience)
async def test_page_of_store_reviews_reads_its_index_range_only(shop: Shop, audience: Audience, backward: bool) -> None:
    async def load(shop: Shop, cursor: str | None, size: int = SIZE) -> keyset.Page:
        window = keyset.Window(size, cursor, backward)
        [page] = await reviews.load_reviews_of_stores(shop.database, [shop.store], window, None, audience)
        return page

    middle = await load(shop, None, 100)
    for cursor in (None, middle.encode_cursor(middle.rows[0 if backward else -1])):
        plan = await shop.plan(lambda shop, cursor=cursor: load(shop, cursor))  # type: ignore[misc]
        generic = await shop.generic_plan(lambda shop, cursor=cursor: load(shop, cursor))  # type: ignore[misc]
        for one in (plan, generic):
            assert "reviews_of_store_idx" in one.indexes
            assert not one.sorts
            assert one.read_whole == set()
        # Each review, and its product if that decides about its visibility.
        assert plan.rows_read < 3 * SIZE
