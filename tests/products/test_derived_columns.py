"""What commands derive when they write products: which product shows an image, and when a product became active first."""

import io
from collections import Counter
from random import Random
from typing import Any

import pytest
from psycopg.rows import dict_row

from storefront.core.db.database import Database
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.client import Client
from tests.factories import make_image, make_product, make_store, make_user

Row = dict[str, Any]

ERRORS = "userErrors { code path message }"
CREATE = f"mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{ {ERRORS} }} }}"
BULK_CREATE = f"mutation($i: BulkCreateProductsInput!) {{ bulkCreateProducts(input: $i) {{ {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ {ERRORS} }} }}"
BULK_UPDATE = f"mutation($i: BulkUpdateProductsInput!) {{ bulkUpdateProducts(input: $i) {{ {ERRORS} }} }}"
DELETE = f"mutation($i: DeleteProductInput!) {{ deleteProduct(input: $i) {{ {ERRORS} }} }}"
BULK_DELETE = f"mutation($i: BulkDeleteProductsInput!) {{ bulkDeleteProducts(input: $i) {{ {ERRORS} }} }}"
UPDATE_IMAGE = f"mutation($i: UpdateImageInput!) {{ updateImage(input: $i) {{ {ERRORS} }} }}"
REMOVE_IMAGE = f"mutation($i: RemoveImageInput!) {{ removeImage(input: $i) {{ {ERRORS} }} }}"

ELSEWHERE = "https://elsewhere.example/mug.jpg"


async def load_rows(database: Database, table: str, store: str) -> dict[str, Row]:
    async with database.transaction() as connection:
        cursor = connection.raw.cursor(row_factory=dict_row)
        await cursor.execute(f"SELECT * FROM {table} WHERE config_id = %s ORDER BY id".encode(), [store])
        return {str(row["id"]): row for row in await cursor.fetchall()}


class Walk:
    """Random writes to a store, and what they should have derived, computed plainly."""

    def __init__(self, owner: Client, store: str, urls: dict[str, str], seed: int) -> None:
        self.owner, self.store, self.urls, self.random = owner, store, urls, Random(seed)
        self.published: dict[str, object] = {}
        self.shown_by: dict[str, str] = {}
        # By image: the products that list it.
        self.listing: dict[str, set[str]] = {}

    async def check(self) -> dict[str, Row]:
        """The products of the store by id. Fails if a derived column is wrong."""
        products = await load_rows(self.owner.database, "products", self.store)
        images = await load_rows(self.owner.database, "images", self.store)
        for id_, product in products.items():
            former = self.published.get(id_)
            is_published = former is not None or product["status"] == "active"
            assert (product["published_at"] is not None) == is_published, product
            assert former is None or product["published_at"] == former
            self.published[id_] = product["published_at"]
        for id_, image in images.items():
            listing = {product for product, row in products.items() if self.urls[id_] in row["images"]}
            added = listing - self.listing.get(id_, set())
            owner, former = str(image["product_id"] or ""), self.shown_by.get(id_, "")
            # It stays with the product that shows it. Another one takes it over only when it begins to list it.
            assert owner == former if former in listing else owner in (added or {""}), image
            assert (image["detached_at"] is None) == (owner != ""), image
            self.shown_by[id_], self.listing[id_] = owner, listing
        return products

    def pick_images(self) -> list[str]:
        urls = [*self.urls.values(), ELSEWHERE]
        return self.random.sample(urls, self.random.choice((0, 1, 1, 2, 3)))

    def pick_fields(self) -> Row:
        fields = {"images": self.pick_images(), "status": self.random.choice(("ACTIVE", "INACTIVE", "ARCHIVED")), "title": "New"}
        return {name: value for name, value in fields.items() if self.random.random() < 0.6}

    async def mutate(self, document: str, **given: Any) -> bool:
        [payload] = (await self.owner.ask(document, i=given)).values()
        return not payload["userErrors"]

    async def write(self, kind: str, products: dict[str, Row]) -> bool:
        """Do a write of this kind. Whether there were no errors."""
        some = self.random.sample([*products], min(len(products), 3))
        image = self.random.choice([*self.urls])
        new = {"price": "1.00", "title": "New"}
        match kind:
            case "create":
                return await self.mutate(CREATE, configId=self.store, **{**new, **self.pick_fields()})
            case "bulk create":
                rows = [{**new, **self.pick_fields()} for _ in range(2)]
                return await self.mutate(BULK_CREATE, configId=self.store, rows=rows)
            case "update":
                return await self.mutate(UPDATE, id=some[0], **self.pick_fields())
            case "bulk update":
                return await self.mutate(BULK_UPDATE, rows=[{"id": id_, **self.pick_fields()} for id_ in some])
            case "delete":
                return len(products) > 4 and await self.mutate(DELETE, id=some[0])
            case "bulk delete":
                return len(products) > 6 and await self.mutate(BULK_DELETE, rows=[{"id": id_} for id_ in some[:2]])
            case "update image":
                return await self.mutate(UPDATE_IMAGE, id=image, index=self.random.randint(0, 2))
            case "remove image":
                return await self.mutate(REMOVE_IMAGE, id=image)
            case _:
                return await self.import_file([products[id_]["handle"] for id_ in some[:2]])

    async def import_file(self, handles: list[str]) -> bool:
        lines = ["Handle,Title,Image Src,Status,Variant Price"]
        for handle in (*handles, self.random.choice(("imported", "imported-2"))):
            status = self.random.choice(("active", "draft", "archived"))
            first, *others = self.pick_images() or [""]
            lines += [f"{handle},Imported,{first},{status},1.00", *(f"{handle},,{url},," for url in others)]
        file = io.BytesIO("\n".join(lines).encode())
        summary = await import_products(self.owner.database, self.store, read_csv_products(file, "shop.csv"))
        return summary.created + summary.updated > 0


KINDS = ("create", "bulk create", "update", "bulk update", "delete", "bulk delete", "update image", "remove image", "import")


@pytest.mark.parametrize("seed", [1, 2])
async def test_images_and_publication_follow_every_write(shopper: Client, seed: int) -> None:
    database, user = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=user)
    first = await make_product(database, store)
    for _ in range(3):
        await make_image(database, first)
    for _ in range(3):
        await make_product(database, store)
    listed = (await load_rows(database, "products", store))[first]["images"]
    urls = {id_: next(url for url in listed if id_ in url) for id_ in await load_rows(database, "images", store)}
    walk = Walk(shopper.signed_in(user), store, urls, seed)
    products, done = await walk.check(), Counter[str]()
    for kind in walk.random.sample(KINDS * 6, len(KINDS) * 6):
        done[kind] += await walk.write(kind, products)
        products = await walk.check()
    assert {kind for kind, count in done.items() if count} == {*KINDS}, done


async def test_image_moves_between_products_in_one_request(shopper: Client) -> None:
    database, user = shopper.database, await make_user(shopper.database)
    store = await make_store(database, user_id=user)
    products = sorted([await make_product(database, store) for _ in range(2)])
    image = await make_image(database, products[0])
    [url] = (await load_rows(database, "products", store))[products[0]]["images"]
    for source, target in (products, products[::-1]):
        rows = [{"id": source, "images": []}, {"id": target, "images": [url]}]
        payload = (await shopper.signed_in(user).ask(BULK_UPDATE, i={"rows": rows}))["bulkUpdateProducts"]
        assert payload["userErrors"] == []
        row = (await load_rows(database, "images", store))[image]
        assert (str(row["product_id"]), row["detached_at"]) == (target, None)


async def test_image_of_another_store_is_not_taken_over(shopper: Client) -> None:
    database, user = shopper.database, await make_user(shopper.database)
    store, other = [await make_store(database, user_id=user) for _ in range(2)]
    product = await make_product(database, store)
    image = await make_image(database, product)
    [url] = (await load_rows(database, "products", store))[product]["images"]
    owner = shopper.signed_in(user)
    assert (await owner.ask(UPDATE, i={"id": product, "images": []}))["updateProduct"]["userErrors"] == []
    assert (await owner.ask(CREATE, i={"configId": other, "title": "x", "price": "1", "images": [url]}))["createProduct"] == {
        "userErrors": []
    }
    assert (await load_rows(database, "images", store))[image]["product_id"] is None
