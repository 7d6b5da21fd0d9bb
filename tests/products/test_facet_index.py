"""Facets counted by an index equal those counted in SQL, and are exact at the position that the answer names."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from storefront.core.db.database import Database
from storefront.feed.log import LogEntry, advance_positions, append_entries
from storefront.queries import spelling
from storefront.queries.facet_index import indexes
from storefront.queries.facet_index.counting import FacetSnapshot
from storefront.queries.facet_index.indexes import FacetIndexes, build_index
from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import count_statements, make_product, make_store, make_user, make_variant
from tests.feed.test_feed import DELETE, PUBLISH, UNPUBLISH, UPDATE, create
from tests.feed.test_filtered_feed import FilteredWalk
from tests.products.test_swatches import option
from tests.products.test_variant_summary import CREATE_VARIANT, UPDATE_PRODUCT

Row = dict[str, Any]

_FACETS = """facets {
  categories(first: 3) { value count isSelected } vendors { value count isSelected } productTypes { value count isSelected }
  tags(first: 2) { value count isSelected } availability { inStock count isSelected }
  attributes { name values(first: 3) { value count isSelected swatch { color } } } price { min max currency }
  priceBuckets(first: 4) { min max count isSelected } ratings { minRating count isSelected } }"""
FACETS = f"""query($c: ID!, $filter: ProductFilterInput, $search: String) {{
  products(configId: $c, filter: $filter, search: $search, first: 1) {{ totalCount position correctedSearch {_FACETS} }}
  config(by: {{id: $c}}) {{ category(by: {{path: "Mugs"}}) {{
    products(filter: $filter, search: $search, first: 1) {{ totalCount {_FACETS} }} }} }} }}"""
TAGS = "query($c: ID!) { products(configId: $c, first: 1) { position facets { tags { value count } } } }"
UPDATE_CONFIG = "mutation($i: UpdateConfigInput!) { updateConfig(input: $i) { userErrors { message } } }"


def is_counted_in_sql(statements: Sequence[str]) -> bool:
    """Whether one of the statements counts tags."""
    return any("jsonb_array_elements_text(products.tags)" in sql for sql in statements)


@dataclass(frozen=True, slots=True)
class Servers:
    """Two servers over one database: one with facet indexes, one that counts in SQL."""

    indexed: Client
    plain: Client

    async def compare(self, document: str, subject: str | None, **variables: Any) -> Any:
        """The data, which both servers return alike; None where the store is unpublished."""
        clients = [client.signed_in(subject) if subject else client for client in (self.indexed, self.plain)]
        found, expected = [(await client.post(document, **variables)).json() for client in clients]
        codes = [[error["extensions"]["code"] for error in answer.get("errors", ())] for answer in (found, expected)]
        assert codes[0] == codes[1] and set(codes[0]) <= {"NOT_FOUND"}
        assert found.get("data") == expected.get("data"), (variables, subject)
        return found.get("data")

    async def has_index(self, store: str) -> bool:
        """Whether facets are counted without SQL."""
        with count_statements(self.indexed.database) as statements:
            await self.indexed.ask(TAGS, c=store)
        return not is_counted_in_sql(statements)

    async def wait_for_index(self, store: str) -> None:
        """Ask until there is an index."""
        async with asyncio.timeout(20):
            while not await self.has_index(store):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module")
async def servers(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    folder, url = tmp_path_factory.mktemp("servers"), fresh(postgres, template)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes, "MIN_PRODUCTS", 1)
        patch.setattr(indexes, "PAUSE_SECONDS", 0.05)
        # Both correct searches by the words of the moment.
        patch.setattr(spelling, "MAX_WORDS_AGE_SECONDS", 0.0)
        async with serving(url, folder, facet_index_bytes=20_000_000) as indexed, serving(url, folder) as plain:
            yield Servers(indexed, plain)


class FacetedWalk(FilteredWalk):
    """Random writes to everything that facets depend on."""

    async def update_texts(self) -> bool:
        choices: Row = {
            "vendor": (None, "Acme", "Zest", "acme"),
            "productType": (None, "Mug", "Cup"),
            "category": (None, "Mugs", "Mugs > Small", "Cups"),
        }
        given = {name: self.random.choice(texts) for name, texts in choices.items() if self.random.random() < 0.6}
        return await self.mutate(UPDATE_PRODUCT, id=self.pick_products(1)[0], tags=self.pick_tags(), **given)

    def pick_tags(self) -> list[str]:
        return self.random.sample(("red", "crimson", "Ärmel", "zinc", "a"), self.random.randrange(4))

    async def create_spelt_variant(self) -> bool:
        colour = {"name": self.random.choice(("Colour", "COLOUR")), "value": self.random.choice(("Red", "red", "Blue", "BLUE"))}
        size = {"name": self.random.choice(("Size", "size")), "value": self.random.choice("SMLsml")}
        attributes = self.random.choice(([colour], [colour, size], [size]))
        return await self.mutate(CREATE_VARIANT, productId=self.pick_products(1)[0], price="12", attributes=attributes)

    async def delete_product(self) -> bool:
        return await self.mutate(DELETE.replace("$input", "$i"), id=self.pick_products(1)[0])

    async def publish(self) -> bool:
        document = self.random.choice((PUBLISH, PUBLISH, UNPUBLISH)).replace("$input", "$i")
        return await self.mutate(document, id=self.store)

    async def change_currency(self) -> bool:
        return await self.mutate(UPDATE_CONFIG, id=self.store, currency=self.random.choice(("EUR", "KWD")))

    def pick_filter(self, *, is_owner: bool) -> Row:
        pick = self.random.choice
        choices: Row = {
            "categories": pick((["Mugs"], ["Cups", "mugs"], [])),
            "vendors": pick((["Acme"], ["Zest", "nobody"])),
            "productTypes": pick((["Mug"], ["Cup", "Mug"])),
            "tags": pick((["red"], ["red", "crimson"], ["absent"])),
            "minPrice": pick(("5", "8.5", "10.001", "20")),
            "maxPrice": pick(("20", "20.5", "30")),
            "inStock": pick((True, False)),
            "minRating": pick((1, 2.5, 4)),
            "attributes": pick(
                (
                    [{"name": "SIZE", "values": ["s", "M"]}],
                    [{"name": "colour", "values": ["red"]}],
                    [{"name": "Size", "values": ["S", "l"]}, {"name": "Colour", "values": ["Red", "BLUE"]}],
                    [{"name": "size", "values": ["M"]}, {"name": "Absent", "values": ["x"]}],
                )
            ),
            "ids": self.pick_products(3),
            "updatedSince": "2020-01-01T00:00:00Z",
        }
        if is_owner:
            choices["statuses"] = pick((["ACTIVE"], ["INACTIVE", "ARCHIVED"]))
        return {name: choices[name] for name in self.random.sample([*choices], pick((0, 1, 1, 2, 3)))}


async def check_walk(servers: Servers, seed: int, writes: int) -> Counter[str]:
    """Compare facets after each of some random writes; returns how often each kind of write happened."""
    database, user = servers.plain.database, await make_user(servers.plain.database)
    store = await make_store(database, user_id=user)
    reviewers = [servers.plain.signed_in(await make_user(database)) for _ in range(3)]
    walk = FacetedWalk(servers.plain.signed_in(user), reviewers, store, Random(seed))
    kinds: tuple[Callable[[], Awaitable[bool]], ...] = (
        *(walk.create_product, walk.update_product, walk.bulk_update_products, walk.update_product_prices, walk.update_texts),
        *(walk.create_variant, walk.update_variant, walk.update_variant, walk.delete_variant, walk.adjust_inventory),
        *(walk.import_file, walk.update_details, walk.update_texts, walk.rename_options, walk.set_variants, walk.publish),
        *(walk.review, walk.update_review, walk.moderate_review, walk.delete_review, walk.delete_product, walk.create_product),
        *(walk.create_spelt_variant, walk.create_spelt_variant, walk.change_currency),
    )
    for n in range(8):
        # Variants get these values later. The swatches are those of the oldest product that is counted.
        options = [option("Size", S=f"#0{n}0", m=f"#0{n}1"), option("Colour", Red=f"#f{n}0", Blue=f"#0{n}f")]
        await make_product(database, store, options=options)
    await servers.wait_for_index(store)
    counted, written = Counter[str](), Counter[str]()
    for _ in range(writes):
        walk.products = await walk.load_products()
        write = walk.random.choice(kinds)
        written[write.__name__] += await write()
        for subject in (None, user):
            filter_ = walk.pick_filter(is_owner=subject is not None)
            search = walk.random.choice((None, None, None, "new", "imprted"))
            with count_statements(servers.indexed.database) as statements:
                await servers.compare(FACETS, subject, c=store, filter=filter_, search=search)
            counted["in SQL" if is_counted_in_sql(statements) else "by index"] += 1
    # In SQL are those of `updatedSince`, and those after a change of the currency, until the index is built anew.
    assert counted["by index"] > counted["in SQL"], counted
    return written


@pytest.mark.parametrize("seed", [1, 2])
async def test_index_equals_sql_after_each_change(servers: Servers, seed: int) -> None:
    written = await check_walk(servers, seed, 40)
    assert len(written) > 12


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
async def test_index_equals_sql_after_many_changes(servers: Servers, seed: int) -> None:
    await check_walk(servers, seed, 400)


# ----------------------------------------------------------------------------------------- positions


async def test_facets_are_exact_at_their_position_while_others_write(servers: Servers) -> None:
    database = servers.plain.database
    user = await make_user(database)
    store, owner = await make_store(database, user_id=user), servers.plain.signed_in(user)
    products = [await create(owner, store, tags=["old"]) for _ in range(6)]
    await servers.wait_for_index(store)
    tags_by_product = dict.fromkeys(products, "old")
    counts_by_position: dict[str, Counter[str]] = {}
    answers: list[Row] = []

    async def write() -> None:
        random = Random(3)
        for _ in range(60):
            product, tag = random.choice(products), random.choice(("red", "green", "blue"))
            payload = (await owner.ask(UPDATE, input={"id": product, "tags": [tag]}))["updateProduct"]
            tags_by_product[product] = tag
            counts_by_position.setdefault(payload["position"], Counter(tags_by_product.values()))

    async def read() -> None:
        while not writing.done():
            answers.append((await servers.indexed.ask(TAGS, c=store))["products"])

    writing = asyncio.create_task(write())
    await asyncio.gather(writing, *(read() for _ in range(3)))
    known = [answer for answer in answers if answer["position"] in counts_by_position]
    for answer in known:
        found = {value["value"]: value["count"] for value in answer["facets"]["tags"]}
        assert found == counts_by_position[answer["position"]]
    assert len({answer["position"] for answer in known}) > 10


async def test_index_is_built_anew_after_a_gap_in_the_log(servers: Servers) -> None:
    database = servers.plain.database
    user = await make_user(database)
    store, owner = await make_store(database, user_id=user), servers.plain.signed_in(user)
    product = await create(owner, store, tags=["old"])
    await servers.wait_for_index(store)
    gaps: tuple[Callable[[], Awaitable[Any]], ...] = (
        # Retention deleted the entry before anybody read it.
        lambda: _delete_log(database, store),
        # A backup was restored, which has less than the index knows.
        lambda: advance_positions(database),
    )
    for n, make_gap in enumerate(gaps):
        await owner.ask(UPDATE, input={"id": product, "tags": [f"new-{n}"]})
        await make_gap()
        for _ in range(2):
            answer = await servers.compare(TAGS, None, c=store)
            assert [value["value"] for value in answer["products"]["facets"]["tags"]] == [f"new-{n}"]
            await servers.wait_for_index(store)


async def _delete_log(database: Database, store: str) -> None:
    async with database.transaction() as connection:
        await connection.raw.execute("DELETE FROM changes WHERE config_id = %s", [store])


@pytest.mark.parametrize("limit", ["MAX_CHANGES", "MAX_CHANGED_VARIANTS"])
async def test_index_that_misses_too_many_changes_is_built_anew(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    user = await make_user(servers.plain.database)
    store, owner = await make_store(servers.plain.database, user_id=user), servers.plain.signed_in(user)
    products = [await create(owner, store, tags=["old"]) for _ in range(4)]
    await servers.wait_for_index(store)
    monkeypatch.setattr(indexes, limit, 3)
    for product in products:
        await owner.ask(UPDATE, input={"id": product, "tags": ["new"]})
    with count_statements(servers.indexed.database) as statements:
        answer = await servers.compare(TAGS, None, c=store)
    assert is_counted_in_sql(statements)
    assert answer["products"]["facets"]["tags"] == [{"value": "new", "count": 4}]
    await servers.wait_for_index(store)
    assert await servers.compare(TAGS, None, c=store) == answer


async def change_store(database: Database, store: str, changes: int = 1) -> None:
    """Append entries that concern no product."""
    async with database.transaction() as connection:
        await append_entries(connection, store, [LogEntry("store_updated", store, changed_fields=["storeName"])] * changes)


async def wait_for_snapshot(facet_indexes: FacetIndexes, database: Database, store: str) -> FacetSnapshot:
    async with asyncio.timeout(20):
        while (snapshot := await facet_indexes.load_snapshot(database, store, is_replica=False)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return snapshot


async def test_replica_that_is_behind_has_an_earlier_snapshot(
    postgres: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "MIN_PRODUCTS", 1)
    monkeypatch.setattr(indexes, "PAUSE_SECONDS", 0.02)
    async with Database(fresh(postgres, template), size=2) as primary, Database(fresh(postgres, template), size=2) as replica:
        store = await make_store(primary)
        await make_store(replica, id=store)
        await make_product(primary, store)
        facet_indexes = FacetIndexes(primary, 1_000_000)
        async with facet_indexes.running():
            first = await wait_for_snapshot(facet_indexes, primary, store)
            await change_store(primary, store, 3)
            assert (await wait_for_snapshot(facet_indexes, primary, store)).position == 3
            assert await facet_indexes.load_snapshot(replica, store, is_replica=True) is first
            for _ in range(indexes.MAX_SNAPSHOTS):
                await change_store(primary, store)
                await wait_for_snapshot(facet_indexes, primary, store)
            # It is that far behind: counted in SQL, with the index left as it is.
            assert await facet_indexes.load_snapshot(replica, store, is_replica=True) is None
            assert facet_indexes.store_count == 1
            # A primary is never behind, unless its data were replaced.
            assert await facet_indexes.load_snapshot(replica, store, is_replica=False) is None
            assert facet_indexes.store_count == 0


# -------------------------------------------------------------------------------------------- memory


async def test_least_recently_used_index_makes_room(postgres: str, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MIN_PRODUCTS", 1)
    monkeypatch.setattr(indexes, "PAUSE_SECONDS", 0.02)
    async with Database(fresh(postgres, template), size=2) as database:
        stores = [await make_store(database) for _ in range(3)]
        for store in stores:
            await make_product(database, store)
        size = (await build_index(database, stores[0])).memory_bytes
        facet_indexes = FacetIndexes(database, int(2.5 * size))
        async with facet_indexes.running():
            for store in (stores[0], stores[1], stores[0], stores[2]):
                await wait_for_snapshot(facet_indexes, database, store)
            assert facet_indexes.store_count == 2 and facet_indexes.memory_bytes == 2 * size
            found = [await facet_indexes.load_snapshot(database, store, is_replica=False) for store in (stores[0], stores[1])]
            assert found[0] is not None and found[1] is None


async def test_stores_outside_the_limits_have_no_index(postgres: str, template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MIN_PRODUCTS", 2)
    async with Database(fresh(postgres, template), size=2) as database:
        small, large, strange, usual = [await make_store(database) for _ in range(4)]
        for store, count in ((small, 1), (large, 60), (strange, 2), (usual, 2)):
            for n in range(count):
                await make_product(database, store, tags=[f"tag {n} of {store}"])
        # Two names that are one without case, which no command writes.
        await make_variant(database, await make_product(database, strange), attributes={"Size": "S", "size": "M"})
        size = (await build_index(database, usual)).memory_bytes
        facet_indexes = FacetIndexes(database, 2 * size)
        async with facet_indexes.running():
            for store in (small, large, strange):
                assert await facet_indexes.load_snapshot(database, store, is_replica=False) is None
            # The last one that is asked for is built last.
            await facet_indexes.load_snapshot(database, usual, is_replica=False)
            async with asyncio.timeout(20):
                while not facet_indexes.store_count:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            for store in (small, large, strange):
                assert await facet_indexes.load_snapshot(database, store, is_replica=False) is None
            assert await facet_indexes.load_snapshot(database, usual, is_replica=False) is not None
        assert await FacetIndexes(database, 0).load_snapshot(database, usual, is_replica=False) is None
