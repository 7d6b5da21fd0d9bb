"""The prices, stock and counts that a product shows are those of its variants, whoever writes them, one by one or at once."""

import asyncio
import io
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from psycopg.rows import dict_row

from storefront.core.db.database import Database
from storefront.feed import log
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.client import Client
from tests.factories import make_product, make_store, make_user, make_variant

Row = dict[str, Any]

ERRORS = "userErrors { code path message }"
CREATE_PRODUCT = f"mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{ product {{ id }} {ERRORS} }} }}"
UPDATE_PRODUCT = f"""mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{
  product {{ price compareAtPrice inventory version }} position {ERRORS} }} }}"""
BULK = f"""mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{
  results {{ product {{ price inventory version }} }} {ERRORS} }} }}"""
PRICES = f"""mutation($i: UpdateProductPricesInput!) {{ updateProductPrices(input: $i) {{
  products {{ price compareAtPrice priceRange {{ min max }} version }} {ERRORS} }} }}"""
CREATE_VARIANT = f"mutation($i: CreateVariantInput!) {{ createVariant(input: $i) {{ variant {{ id }} {ERRORS} }} }}"
UPDATE_VARIANT = f"mutation($i: UpdateVariantInput!) {{ updateVariant(input: $i) {{ variant {{ id }} {ERRORS} }} }}"
DELETE_VARIANT = f"mutation($i: DeleteVariantInput!) {{ deleteVariant(input: $i) {{ deletedId {ERRORS} }} }}"
ADJUST = f"mutation($i: AdjustInventoryInput!) {{ adjustInventory(input: $i) {{ variants {{ id }} {ERRORS} }} }}"

SUMMARY = (
    *("price", "compare_at_price", "max_price", "inventory", "total_inventory"),
    *("variants_total", "variants_available", "variants_in_stock", "in_stock"),
)
LOGGED_NAMES = {"price": "price", "compare_at_price": "compareAtPrice", "inventory": "inventory"}


async def load_rows(database: Database, table: str, store: str) -> list[Row]:
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=dict_row)
        return await (
            await cursor.execute(f"SELECT * FROM {table} WHERE config_id = %s ORDER BY id".encode(), [store])
        ).fetchall()


def summarize(product: Row, variants: Sequence[Row]) -> Row:
    """The summary, computed as plainly as possible."""
    available = [variant for variant in variants if variant["is_available"]]
    buyable = [
        variant
        for variant in available
        if variant["inventory"] is None or variant["inventory"] > 0 or variant["inventory_policy"] == "continue"
    ]
    prices = sorted(Decimal(variant["price"]) for variant in available or variants)
    first = next(
        variant
        for variant in sorted(variants, key=lambda variant: (variant["position"], str(variant["id"])))
        if Decimal(variant["price"]) == prices[0] and (variant["is_available"] or not available)
    )
    counts = [variant["inventory"] for variant in variants]
    total = sum(count for count in counts if count is not None)
    return {
        "price": first["price"],
        "compare_at_price": first["compare_at_price"],
        "max_price": prices[-1],
        "inventory": None if None in counts else total,
        "total_inventory": total,
        "variants_total": len(variants),
        "variants_available": len(available),
        "variants_in_stock": len(buyable),
        "in_stock": bool(buyable) or (not product["track_inventory"] and bool(available)),
    }


async def load_checked_products(database: Database, store: str) -> dict[str, Row]:
    """The products of a store by id, with their variants as "variants". Fails if a summary is wrong."""
    products = {str(row["id"]): {**row, "variants": []} for row in await load_rows(database, "products", store)}
    for variant in await load_rows(database, "product_variants", store):
        products[str(variant["product_id"])]["variants"].append(variant)
    for product in products.values():
        assert product["variants"], product["handle"]
        received = {name: product[name] for name in SUMMARY}
        received["max_price"] = Decimal(received["max_price"])
        assert received == summarize(product, product["variants"]), product["handle"]
    return products


@dataclass
class Walk:
    """Random writes to a store by its owner. Many are refused, for the reasons that they are refused for in use."""

    owner: Client
    store: str
    random: Random
    products: dict[str, Row] = field(default_factory=dict)

    async def load_products(self) -> dict[str, Row]:
        """The products of the store by id. Fails if a summary is wrong."""
        return await load_checked_products(self.owner.database, self.store)

    def pick_prices(self) -> Row:
        """A price, maybe with a compare-at price, which is sometimes too low."""
        price, compare_at = self.random.choice(("5", "10", "10", "20")), self.random.choice((None, None, "12", "30"))
        return {"price": price} if self.random.random() < 0.5 else {"price": price, "compareAtPrice": compare_at}

    def pick_stock(self) -> Row:
        return {"inventory": self.random.choice((None, 0, 3, 7))}

    def pick_variant(self, **fixed: Any) -> Row:
        size = [{"name": self.random.choice(("Size", "size")), "value": self.random.choice("SMLsml")}]
        optional: Row = {
            "attributes": self.random.choice((size, size, size, [])),
            "isAvailable": self.random.random() < 0.7,
            "inventoryPolicy": self.random.choice(("DENY", "CONTINUE")),
            "sku": self.random.choice((None, "A", "B")),
        }
        given = {name: value for name, value in optional.items() if self.random.random() < 0.7}
        return {**self.pick_prices(), **self.pick_stock(), **given, **fixed}

    def pick_products(self, count: int) -> list[str]:
        return self.random.sample([*self.products], min(count, len(self.products)))

    def pick_priced_products(self, count: int) -> list[str]:
        """Products whose prices can be changed at once, most of the time."""
        alike = [id_ for id_, row in self.products.items() if len({variant["price"] for variant in row["variants"]}) == 1]
        return self.random.sample(alike, min(count, len(alike))) if self.random.random() < 0.8 else self.pick_products(count)

    def pick_variant_id(self) -> str:
        variants = [variant for product in self.products.values() for variant in product["variants"]]
        return str(self.random.choice(variants)["id"])

    def pick_product_fields(self) -> Row:
        fields = self.random.choice((self.pick_prices(), self.pick_stock(), {"trackInventory": self.random.random() < 0.5}))
        return {**fields, "title": self.random.choice(("A", "B"))}

    async def mutate(self, document: str, **given: Any) -> bool:
        """Whether there were no errors."""
        [payload] = (await self.owner.ask(document, i=given)).values()
        return not payload["userErrors"]

    async def create_product(self) -> bool:
        variants = [self.pick_variant() for _ in range(self.random.choice((0, 0, 1, 2, 3)))]
        for variant in variants:
            variant.pop("price") if self.random.random() < 0.3 else None
        given = {**self.pick_prices(), **self.pick_stock(), "title": "New"}
        given.pop("price") if self.random.random() < 0.2 else None
        return await self.mutate(CREATE_PRODUCT, configId=self.store, variants=variants, **given)

    async def update_product(self) -> bool:
        return await self.mutate(UPDATE_PRODUCT, id=self.pick_products(1)[0], **self.pick_product_fields())

    async def bulk_update_products(self) -> bool:
        rows = [{"id": id_, **self.pick_product_fields()} for id_ in self.pick_priced_products(3)]
        return await self.mutate(BULK, rows=rows, errorPolicy=self.random.choice(("VALID_ROWS", "ALL_OR_NOTHING")))

    async def update_product_prices(self) -> bool:
        variants = {self.pick_variant_id() for _ in range(self.random.randrange(3))}
        ids = [*self.pick_priced_products(2), *sorted(variants)]
        self.random.shuffle(ids)
        return await self.mutate(PRICES, prices=[{"id": id_, **self.pick_prices()} for id_ in ids])

    async def create_variant(self) -> bool:
        return await self.mutate(CREATE_VARIANT, **self.pick_variant(productId=self.pick_products(1)[0]))

    async def update_variant(self) -> bool:
        fields = self.pick_variant()
        kept = self.random.sample([*fields], min(len(fields), self.random.randrange(1, 4)))
        return await self.mutate(UPDATE_VARIANT, id=self.pick_variant_id(), **{name: fields[name] for name in kept})

    async def delete_variant(self) -> bool:
        return await self.mutate(DELETE_VARIANT, id=self.pick_variant_id())

    async def adjust_inventory(self) -> bool:
        ids = [self.pick_variant_id(), *self.pick_products(1)]
        deltas = self.random.choices((-3, -1, 2, 5), k=2)
        changes = [{"id": id_, "delta": delta} for id_, delta in zip(ids, deltas, strict=True)]
        return await self.mutate(ADJUST, changes=changes[: self.random.randrange(1, 3)])

    async def import_file(self) -> bool:
        lines = ["Handle,Title,Option1 Name,Option1 Value,Variant Price,Variant Compare At Price,Variant Inventory Tracker,"
                 "Variant Inventory Qty,Variant Inventory Policy"]  # fmt: skip
        handles = [product["handle"] for product in self.products.values()]
        for handle in {*self.random.sample(handles, 2), self.random.choice(("imported", "imported-2"))}:
            # One of the sizes may have no valid price: its row is rejected, and no variant is deleted.
            sizes = self.random.choice(([""], ["S"], ["S", "M"], ["L", "S", "s"], ["M", "L"]))
            for n, size in enumerate(sizes):
                price, tracker = (
                    self.random.choice(("5", "10", "20", "20", "?" if n else "8")),
                    self.random.choice(("shopify", "")),
                )
                policy = self.random.choice(("deny", "continue"))
                cells = [handle, "" if n else "Imported", "Size" if size and not n else "", size, price]
                lines.append(",".join([*cells, self.random.choice(("", "15")), tracker, self.random.choice("0259"), policy]))
        file = io.BytesIO("\n".join(lines).encode())
        summary = await import_products(self.owner.database, self.store, read_csv_products(file, "shop.csv"))
        return summary.created + summary.updated > 0


async def make_walk(shopper: Client, seed: int) -> Walk:
    user = await make_user(shopper.database)
    return Walk(shopper.signed_in(user), await make_store(shopper.database, user_id=user), Random(seed))


def list_changed_products(before: Mapping[str, Row], after: Mapping[str, Row]) -> dict[str, set[str]]:
    """The fields of the log by product, of those products that existed before and show something else now."""
    changes = {
        id_: {field_name for name, field_name in LOGGED_NAMES.items() if after[id_][name] != before[id_][name]}
        for id_ in before.keys() & after.keys()
    }
    return {id_: fields for id_, fields in changes.items() if fields}


@pytest.mark.parametrize("seed", [1, 2])
async def test_summary_stays_correct_under_random_writes(shopper: Client, seed: int) -> None:
    walk = await make_walk(shopper, seed)
    writes: tuple[Callable[[], Awaitable[bool]], ...] = (
        *(walk.create_product, walk.update_product, walk.bulk_update_products, walk.update_product_prices),
        *(walk.create_variant, walk.create_variant, walk.update_variant, walk.update_variant, walk.delete_variant),
        *(walk.adjust_inventory, walk.import_file),
    )
    for _ in range(4):
        await make_product(shopper.database, walk.store)
    walk.products = await walk.load_products()
    written, position = Counter[str](), 0
    for _ in range(100):
        write = walk.random.choice(writes)
        await write()
        products = await walk.load_products()
        entries = await log.read_entries(shopper.database, walk.store, position, 100)
        written[write.__name__] += bool(entries)
        logged: dict[str, set[str]] = {str(entry.product_id): set() for entry in entries}
        for entry in entries:
            logged[str(entry.product_id)] |= {*entry.changed_fields}
        for id_, changed in list_changed_products(walk.products, products).items():
            assert changed <= logged[id_], (write.__name__, changed, logged)
        position, walk.products = max([position, *(entry.position for entry in entries)]), products
    assert {name for name, count in written.items() if count} == {write.__name__ for write in writes}


@pytest.mark.parametrize("write", ["create", "update", "delete", "adjust", "all"])
async def test_concurrent_writes_to_variants_are_all_summarized(shopper: Client, write: str) -> None:
    walk = await make_walk(shopper, 3)
    product = await make_product(shopper.database, walk.store)
    variants = [await make_variant(shopper.database, product, inventory=5, price=10 + n) for n in range(8)]
    writes: dict[str, Sequence[tuple[str, Row]]] = {
        "create": [
            (CREATE_VARIANT, {"productId": product, "price": n, "inventory": n, "attributes": [{"name": "n", "value": f"{n}"}]})
            for n in range(1, 9)
        ],
        "update": [(UPDATE_VARIANT, {"id": id_, "isAvailable": False, "price": 3}) for id_ in variants[2:]],
        "delete": [(DELETE_VARIANT, {"id": id_}) for id_ in variants[:2]],
        "adjust": [(ADJUST, {"changes": [{"id": id_, "delta": delta}]}) for id_ in variants[2:] for delta in (2, -1)],
    }
    given = [one for some in writes.values() for one in some] if write == "all" else writes[write]
    assert all(await asyncio.gather(*(walk.mutate(document, **fields) for document, fields in given)))
    stored = (await load_checked_products(shopper.database, walk.store))[product]
    expected = {"create": (16, 16, 76), "update": (8, 2, 40), "delete": (6, 6, 30), "adjust": (8, 8, 46), "all": (14, 8, 72)}
    assert (stored["variants_total"], stored["variants_available"], stored["total_inventory"]) == expected[write]


async def test_only_one_of_two_variants_can_be_deleted(shopper: Client) -> None:
    walk = await make_walk(shopper, 4)
    product = await make_product(shopper.database, walk.store)
    variants = [await make_variant(shopper.database, product) for _ in range(2)]
    assert sorted(await asyncio.gather(*(walk.mutate(DELETE_VARIANT, id=id_) for id_ in variants))) == [False, True]
    assert (await load_checked_products(shopper.database, walk.store))[product]["variants_total"] == 1


# ------------------------------------------------------------------------------------------------ lists

LIST = """query($c: ID!, $f: ProductFilterInput, $s: ProductSortInput) { products(configId: $c, filter: $f, sort: $s) {
  totalCount nodes { title } } }"""
SHOWN = """query($id: ID!) { product(by: {id: $id}) {
  price compareAtPrice priceRange { min max } inventory totalInventory inStock } }"""


async def list_titles(client: Client, store: str, sort: Row | None = None, **filters: Any) -> list[str]:
    found = (await client.ask(LIST, c=store, f=filters, s=sort))["products"]
    titles = [node["title"] for node in found["nodes"]]
    assert found["totalCount"] == len(titles)
    search = {"configId": store, **({"sortBy": sort["key"], "sortOrder": sort["order"]} if sort else {}), **filters}
    query = "query($i: ProductSearchInput!) { searchProducts(input: $i) { products { title } } }"
    paged = (await client.ask(query, i=search))["searchProducts"]["products"]
    assert [node["title"] for node in paged] == titles
    return titles


async def test_price_follows_the_variants(shopper: Client) -> None:
    walk = await make_walk(shopper, 5)
    owner, store = walk.owner, walk.store
    product = await make_product(shopper.database, store, title="Shirt", price="20", compare_at_price="30")
    first = await make_variant(shopper.database, product, price="20", compare_at_price="30")
    second = await make_variant(shopper.database, product, price="25", compare_at_price="30")
    await make_product(shopper.database, store, title="Mug", price="30")
    by_price = {"key": "PRICE", "order": "ASC"}
    shown = (await shopper.ask(SHOWN, id=product))["product"]
    assert (shown["price"], shown["compareAtPrice"], shown["priceRange"]) == ("20.00", "30.00", {"min": "20.00", "max": "25.00"})
    assert await list_titles(shopper, store, maxPrice="21") == ["Shirt"]
    assert await list_titles(shopper, store, by_price) == ["Shirt", "Mug"]
    for variant, price in ((first, "40"), (second, "45")):
        assert await walk.mutate(UPDATE_VARIANT, id=variant, price=price, compareAtPrice=None)
    for client in (shopper, owner):
        shown = (await client.ask(SHOWN, id=product))["product"]
        assert (shown["price"], shown["compareAtPrice"]) == ("40.00", None)
        assert shown["priceRange"] == {"min": "40.00", "max": "45.00"}
        assert await list_titles(client, store, maxPrice="21") == []
        assert await list_titles(client, store, minPrice="41") == ["Shirt"]
        assert await list_titles(client, store, by_price) == ["Mug", "Shirt"]
    facets = """query($c: ID!, $f: ProductFilterInput) { products(configId: $c, filter: $f) { facets { price { min max } } } }"""
    assert (await shopper.ask(facets, c=store))["products"]["facets"]["price"] == {"min": "30.00", "max": "45.00"}
    assert await walk.mutate(UPDATE_VARIANT, id=first, isAvailable=False)
    assert (await shopper.ask(SHOWN, id=product))["product"]["price"] == "45.00"


async def test_price_filters_match_available_variants(shopper: Client) -> None:
    store = await make_store(shopper.database)
    for title, prices in {
        "Between": ("13.50",),
        "Around": ("10", "20"),
        "Low": ("10", "13.60"),
        "High": ("13.40", "20"),
        "Middle": ("10", "13.50", "20"),
    }.items():
        product = await make_product(shopper.database, store, title=title)
        for price in prices:
            await make_variant(shopper.database, product, price=price)
    await make_variant(shopper.database, product_id := await make_product(shopper.database, store, title="Hidden"), price="10")
    await make_variant(shopper.database, product_id, price="13.50", is_available=False)
    sold_out = await make_product(shopper.database, store, title="Unavailable")
    await make_variant(shopper.database, sold_out, price="13.50", is_available=False)
    by_title = {"key": "NAME", "order": "ASC"}
    found = await list_titles(shopper, store, by_title, minPrice="13.40", maxPrice="13.60")
    assert found == ["Between", "High", "Low", "Middle"]
    assert await list_titles(shopper, store, by_title, minPrice="13.55") == ["Around", "High", "Low", "Middle"]
    assert await list_titles(shopper, store, by_title, maxPrice="13.40") == ["Around", "Hidden", "High", "Low", "Middle"]
    assert await list_titles(shopper, store, by_title, minPrice="20.01") == []
    facets = """query($c: ID!) { products(configId: $c) { facets { price { min max } } } }"""
    assert (await shopper.ask(facets, c=store))["products"]["facets"]["price"] == {"min": "10.00", "max": "20.00"}


async def test_price_facet_ignores_unavailable_products(shopper: Client) -> None:
    """Its ends are prices that the filters find."""
    store = await make_store(shopper.database)
    for price, is_available in (("5", False), ("10", True), ("12", True), ("99", False)):
        product = await make_product(shopper.database, store, title=price)
        await make_variant(shopper.database, product, price=price, is_available=is_available)
    query = """query($c: ID!) { products(configId: $c) { totalCount facets { price { min max } } } }"""
    found = (await shopper.ask(query, c=store))["products"]
    assert found == {"totalCount": 4, "facets": {"price": {"min": "10.00", "max": "12.00"}}}


# ------------------------------------------------------------------------------------------------ writes through the product


async def get_payload(client: Client, document: str, **given: Any) -> Row:
    [payload] = (await client.ask(document, i=given)).values()
    return dict(payload)


def get_errors(payload: Row) -> list[tuple[str, str]]:
    return [(error["code"], ".".join(error["path"])) for error in payload["userErrors"]]


async def test_price_of_product_is_written_to_all_variants(shopper: Client) -> None:
    walk = await make_walk(shopper, 6)
    product = await make_product(shopper.database, walk.store)
    for available in (True, True, False):
        await make_variant(shopper.database, product, price="10", is_available=available)
    changed = await get_payload(walk.owner, UPDATE_PRODUCT, id=product, price="12", compareAtPrice="15")
    assert changed["product"] == {"price": "12.00", "compareAtPrice": "15.00", "inventory": 15, "version": 2}
    variants = (await load_checked_products(shopper.database, walk.store))[product]["variants"]
    assert [(str(row["price"]), str(row["compare_at_price"]), row["version"]) for row in variants] == [("12.00", "15.00", 2)] * 3
    low = await get_payload(walk.owner, UPDATE_PRODUCT, id=product, price="16")
    assert get_errors(low) == [("INVALID_INPUT", "compareAtPrice")]
    [entry] = await log.read_entries(shopper.database, walk.store, 0, 10)
    assert (entry.kind, entry.entity_id, entry.version) == ("product_updated", product, 2)
    assert {"price", "compareAtPrice"} <= {*entry.changed_fields}


async def test_price_of_product_with_different_prices_is_refused(shopper: Client) -> None:
    walk = await make_walk(shopper, 7)
    product = await make_product(shopper.database, walk.store)
    for price in ("20", "25"):
        await make_variant(shopper.database, product, price=price, compare_at_price="30")
    for given, path in (
        ({"price": "21"}, "price"),
        ({"compareAtPrice": None}, "compareAtPrice"),
        ({"inventory": 3}, "inventory"),
    ):
        refused = await get_payload(walk.owner, UPDATE_PRODUCT, id=product, title="New", **given)
        assert get_errors(refused) == [("INVALID_STATE", path)] and refused["product"] is None
        assert "updateVariant" in refused["userErrors"][0]["message"]
        bulk = await get_payload(walk.owner, BULK, rows=[{"id": product, **given}], errorPolicy="VALID_ROWS")
        assert get_errors(bulk) == [("INVALID_STATE", f"rows.0.{path}")] and bulk["results"] == [{"product": None}]
    refused = await get_payload(walk.owner, PRICES, prices=[{"id": product, "price": "21"}])
    assert get_errors(refused) == [("INVALID_STATE", "prices.0.price")]
    assert await log.read_entries(shopper.database, walk.store, 0, 10) == []
    # A client that sends back what it has read changes nothing.
    same = {"price": "20.00", "compareAtPrice": "30.00", "inventory": 10}
    unchanged = await get_payload(walk.owner, UPDATE_PRODUCT, id=product, **same)
    assert get_errors(unchanged) == [] and unchanged["position"] is None
    assert unchanged["product"] == {**same, "version": 1}
    bulk = await get_payload(walk.owner, BULK, rows=[{"id": product, **same, "title": "New"}])
    assert get_errors(bulk) == [] and bulk["results"][0]["product"] == {"price": "20.00", "inventory": 10, "version": 2}
    stored = (await load_checked_products(shopper.database, walk.store))[product]
    assert [(str(row["price"]), row["version"]) for row in stored["variants"]] == [("20.00", 1), ("25.00", 1)]


async def test_bulk_update_refuses_only_rows_with_different_prices(shopper: Client) -> None:
    walk = await make_walk(shopper, 8)
    simple, same, different = [await make_product(shopper.database, walk.store, price="10") for _ in range(3)]
    for product, prices in ((same, ("10", "10")), (different, ("10", "11"))):
        for price in prices:
            await make_variant(shopper.database, product, price=price)
    rows = [{"id": id_, "price": "9", "title": "New"} for id_ in (different, same, simple)]
    assert get_errors(await get_payload(walk.owner, BULK, rows=rows)) == [("INVALID_STATE", "rows.0.price")]
    some = await get_payload(walk.owner, BULK, rows=rows, errorPolicy="VALID_ROWS")
    assert get_errors(some) == [("INVALID_STATE", "rows.0.price")]
    assert [row["product"] and row["product"]["price"] for row in some["results"]] == [None, "9.00", "9.00"]
    stored = await load_checked_products(shopper.database, walk.store)
    assert [stored[id_]["title"] == "New" for id_ in (different, same, simple)] == [False, True, True]
    given = [{"id": same, "price": "8", "compareAtPrice": "20"}, {"id": simple, "price": "7"}]
    changed = (await get_payload(walk.owner, PRICES, prices=given))["products"]
    assert [(row["price"], row["compareAtPrice"]) for row in changed] == [("8.00", "20.00"), ("7.00", None)]
    assert [row["priceRange"]["max"] for row in changed] == ["8.00", "7.00"]


async def test_stock_of_product_is_that_of_its_only_variant(shopper: Client) -> None:
    walk = await make_walk(shopper, 9)
    product = await make_product(shopper.database, walk.store, inventory=5)
    for given, expected in ((7, 7), (None, None), (0, 0)):
        changed = await get_payload(walk.owner, UPDATE_PRODUCT, id=product, inventory=given)
        assert get_errors(changed) == [] and changed["product"]["inventory"] == expected
        stored = (await load_checked_products(shopper.database, walk.store))[product]
        assert [row["inventory"] for row in stored["variants"]] == [expected]
    refused = await get_payload(walk.owner, UPDATE_PRODUCT, id=product, inventory=-1)
    assert get_errors(refused) == [("INVALID_INPUT", "inventory")]
