"""The search document of a product follows its fields and its variants, whoever writes them, one by one or at once."""

import io
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from psycopg.rows import tuple_row

from storefront.core.db.database import Database
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from storefront.models.search_document import build_search_vector
from storefront.writes.search_documents import rebuild_search_documents
from tests.client import Client
from tests.factories import make_store, make_user
from tests.products.test_search import search
from tests.products.test_variant_summary import (
    BULK,
    CREATE_PRODUCT,
    CREATE_VARIANT,
    DELETE_VARIANT,
    ERRORS,
    UPDATE_PRODUCT,
    UPDATE_VARIANT,
    Row,
    Walk,
    load_rows,
)

SET_VARIANTS = f"mutation($i: SetProductVariantsInput!) {{ setProductVariants(input: $i) {{ product {{ id }} {ERRORS} }} }}"
DELETE_PRODUCT = f"mutation($i: DeleteProductInput!) {{ deleteProduct(input: $i) {{ deletedId {ERRORS} }} }}"

WORDS = ("amber", "birch", "cobalt", "dune", "ember", "fjord")
CODES = tuple(f"{letter}{number}" for letter in ("kx", "qz") for number in range(1, 4))


class SearchedWalk(Walk):
    """Random writes of what is searched."""

    def pick_word(self) -> str:
        return self.random.choice(WORDS)

    def pick_searched_fields(self) -> Row:
        fields: Row = {
            "title": f"{self.pick_word()} thing",
            "description": self.random.choice((None, f"<p>Of {self.pick_word()}</p>")),
            "category": self.random.choice((None, self.pick_word())),
            "tags": self.random.sample(WORDS, 2),
        }
        return {name: fields[name] for name in self.random.sample([*fields], self.random.randrange(1, 5))}

    def pick_coded_variant(self, **fixed: Any) -> Row:
        value = [{"name": "Wood", "value": self.pick_word()}]
        codes = {name: self.random.choice((None, *CODES)) for name in ("sku", "barcode")}
        return {"price": "5", "attributes": value, **codes, **fixed}

    async def create_product(self) -> bool:
        variants = [self.pick_coded_variant() for _ in range(self.random.randrange(3))]
        fields = {"title": "thing", **self.pick_searched_fields()}
        return await self.mutate(CREATE_PRODUCT, configId=self.store, price="5", variants=variants, **fields)

    async def update_product(self) -> bool:
        return await self.mutate(UPDATE_PRODUCT, id=self.pick_products(1)[0], **self.pick_searched_fields())

    async def rename_option(self) -> bool:
        [id_] = self.pick_products(1)
        options = [
            {
                "id": o["id"],
                "name": o["name"],
                "values": [{"id": v["id"], "value": f"new {v['value']}"[:20]} for v in o["values"]],
            }
            for o in self.products[id_]["options"]
        ]
        return await self.mutate(UPDATE_PRODUCT, id=id_, options=options)

    async def bulk_update_products(self) -> bool:
        rows = [{"id": id_, **self.pick_searched_fields()} for id_ in self.pick_products(3)]
        return await self.mutate(BULK, rows=rows, errorPolicy="VALID_ROWS")

    async def create_variant(self) -> bool:
        return await self.mutate(CREATE_VARIANT, **self.pick_coded_variant(productId=self.pick_products(1)[0]))

    async def update_variant(self) -> bool:
        fields = self.pick_coded_variant()
        kept = self.random.sample([*fields], self.random.randrange(1, 4))
        return await self.mutate(UPDATE_VARIANT, id=self.pick_variant_id(), **{name: fields[name] for name in kept})

    async def delete_variant(self) -> bool:
        return await self.mutate(DELETE_VARIANT, id=self.pick_variant_id())

    async def set_variants(self) -> bool:
        words = self.random.sample(WORDS, self.random.randrange(1, 4))
        variants = [self.pick_coded_variant(attributes=[{"name": "Wood", "value": word}]) for word in words]
        return await self.mutate(SET_VARIANTS, productId=self.pick_products(1)[0], variants=variants)

    async def delete_product(self) -> bool:
        return len(self.products) > 3 and await self.mutate(DELETE_PRODUCT, id=self.pick_products(1)[0])

    async def import_file(self) -> bool:
        lines = ["Handle,Title,Body (HTML),Tags,Option1 Name,Option1 Value,Variant SKU,Variant Barcode,Variant Price"]
        handles = [product["handle"] for product in self.products.values()]
        for handle in {*self.random.sample(handles, 2), self.random.choice(("imported", "imported-2"))}:
            for n, word in enumerate(self.random.sample(WORDS, self.random.randrange(1, 4))):
                of_product = ["", "", "", ""] if n else [f"{self.pick_word()} thing", self.pick_word(), self.pick_word(), "Wood"]
                # One price may be invalid: then no variant is deleted.
                price = self.random.choice(("5", "5", "?" if n else "5"))
                code = [self.random.choice(("", *CODES)) for _ in range(2)]
                lines.append(",".join([handle, *of_product, word, *code, price]))
        file = io.BytesIO("\n".join(lines).encode())
        summary = await import_products(self.owner.database, self.store, read_csv_products(file, "shop.csv"))
        return summary.created + summary.updated > 0


async def load_products(database: Database, store: str) -> dict[str, Row]:
    products = {str(row["id"]): {**row, "variants": []} for row in await load_rows(database, "products", store)}
    for variant in await load_rows(database, "product_variants", store):
        products[str(variant["product_id"])]["variants"].append(variant)
    return products


async def build_documents(database: Database, products: dict[str, Row]) -> dict[str, str]:
    """The documents of products and their variants, built anew, as Postgres writes them."""
    vectors = {}
    for id_, product in products.items():
        variants = sorted(product["variants"], key=lambda variant: (variant["position"], str(variant["id"])))
        codes = [code for variant in variants for code in (variant["sku"], variant["barcode"]) if code]
        vectors[id_] = build_search_vector(product, codes)
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=tuple_row)
        await cursor.execute("SELECT vector::tsvector::text FROM unnest(%s::text[]) AS vector", [[*vectors.values()]])
        return dict(zip(vectors, [text for (text,) in await cursor.fetchall()], strict=True))


def has_word(product: Row, word: str) -> bool:
    """Whether a product has the word anywhere, by its fields and its variants."""
    values = [product["title"], product["category"], product["description"], *product["tags"]]
    for variant in product["variants"]:
        values += [variant["sku"], variant["barcode"], *variant["attributes"].values()]
    return any(word in text.replace("<", " ").replace(">", " ").split() for text in values if text)


@pytest.mark.parametrize("seed", [1, 2])
async def test_documents_follow_random_writes(shopper: Client, seed: int) -> None:
    user = await make_user(shopper.database)
    walk = SearchedWalk(shopper.signed_in(user), await make_store(shopper.database, user_id=user), Random(seed))
    writes: tuple[Callable[[], Awaitable[bool]], ...] = (
        *(walk.create_product, walk.update_product, walk.rename_option, walk.bulk_update_products, walk.create_variant),
        *(
            walk.update_variant,
            walk.update_variant,
            walk.delete_variant,
            walk.set_variants,
            walk.delete_product,
            walk.import_file,
        ),
    )
    for _ in range(4):
        await walk.create_product()
    written = Counter[str]()
    for _ in range(45):
        walk.products = await load_products(shopper.database, walk.store)
        write = walk.random.choice(writes)
        written[write.__name__] += await write()
        products = await load_products(shopper.database, walk.store)
        documents = await build_documents(shopper.database, products)
        assert {id_: row["search_vector"] for id_, row in products.items()} == documents, write.__name__
        word = walk.random.choice((*WORDS, *CODES))
        found = await search(shopper, walk.store, f'"{word}"')
        assert found["totalCount"] == sum(has_word(product, word) for product in products.values()), (write.__name__, word)
    assert {name for name, count in written.items() if count} == {write.__name__ for write in writes}


async def test_documents_can_be_rebuilt(shopper: Client) -> None:
    store = await make_store(shopper.database)
    async with shopper.database.transaction() as connection:
        await connection.raw.execute(
            "INSERT INTO products (id, config_id, title, handle, price, max_price, variants_total, variants_available)"
            " VALUES (gen_random_uuid(), %s, 'Unindexed lantern', 'unindexed', 1, 1, 1, 1)",
            [store],
        )
    assert (await search(shopper, store, "lantern"))["totalCount"] == 0
    assert await rebuild_search_documents(shopper.database) >= 1
    assert (await search(shopper, store, "lantern"))["totalCount"] == 1


async def test_document_of_large_product_stays_within_limits(shopper: Client) -> None:
    product = {
        "title": "Title " * 40,
        "options": [{"values": [{"value": f"Value {n} {'x' * 240}"} for n in range(1_024)]}],
        "tags": [f"Tag {n} {'日' * 240}" for n in range(250)],
        "category": None,
        "description": "ﷺ" * 65_536,
    }
    vector = build_search_vector(product, [f"{n}-{'a1' * 120}" for n in range(1_024)])
    async with shopper.database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=tuple_row)
        found = await (await cursor.execute("SELECT %s::tsvector @@ 'title'", [vector])).fetchone()
    assert found == (True,)
