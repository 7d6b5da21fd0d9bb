"""Former handles of products: they lead to the present ones until another product takes them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.client import Client
from tests.factories import count_statements, make_product, make_store, make_user

BY_HANDLE = "query($c: ID!, $h: String!) { product(by: {handle: {configId: $c, handle: $h}}) { id handle } }"
# A list is not written as JSON by Postgres here.
IN_STORE = "query($c: ID!, $h: String!) { config(by: {id: $c}) { product(by: {handle: $h}) { id handle options { name } } } }"
IN_STORES = "query($c: [ID!]!, $h: String!) { nodes(ids: $c) { ... on Config { product(by: {handle: $h}) { handle } } } }"
PAGE = "query($s: String!, $h: String!) { config(by: {slug: $s}) { slug product(by: {handle: $h}) { id handle } } }"
UPDATE = """mutation($id: ID!, $h: String!) { updateProduct(input: {id: $id, handle: $h}) {
  product { handle } userErrors { code path } } }"""
CREATE = """mutation($c: ID!, $title: String!, $h: String) {
  createProduct(input: {configId: $c, title: $title, handle: $h, price: "1"}) {
    product { id handle } userErrors { code path } } }"""
DELETE = "mutation($id: ID!) { deleteProduct(input: {id: $id}) { deletedId userErrors { code } } }"


class Shop:
    """A store with its owner, and an anonymous client."""

    def __init__(self, shopper: Client, owner: Client, store: str, slug: str) -> None:
        self.shopper, self.owner, self.store, self.slug = shopper, owner, store, slug

    async def find(self, handle: str) -> tuple[str, str] | None:
        """Id and handle of the product with a handle, which all lookups find alike."""
        found: list[dict[str, Any] | None] = []
        for client in (self.shopper, self.owner):
            found.append((await client.ask(BY_HANDLE, c=self.store, h=handle))["product"])
            nested = (await client.ask(IN_STORE, c=self.store, h=handle))["config"]["product"]
            found.append(nested and {"id": nested["id"], "handle": nested["handle"]})
            found.append((await client.ask(PAGE, s=self.slug, h=handle))["config"]["product"])
        assert all(one == found[0] for one in found), found
        return (found[0]["id"], found[0]["handle"]) if found[0] else None

    async def create(self, title: str, handle: str | None = None) -> str:
        payload = (await self.owner.ask(CREATE, c=self.store, title=title, h=handle))["createProduct"]
        assert payload["userErrors"] == []
        return str(payload["product"]["id"])

    async def rename(self, product: str, handle: str) -> str:
        payload = (await self.owner.ask(UPDATE, id=product, h=handle))["updateProduct"]
        assert payload["userErrors"] == []
        return str(payload["product"]["handle"])


@pytest.fixture
async def shop(shopper: Client) -> Shop:
    user = await make_user(shopper.database)
    store = await make_store(shopper.database, user_id=user, slug=f"магазин-{user}")
    return Shop(shopper, shopper.signed_in(user), store, f"магазин-{user}")


async def test_former_handles_lead_to_present_one(shop: Shop) -> None:
    product = await shop.create("Кружка синяя")
    assert await shop.find("кружка-синяя") == (product, "кружка-синяя")
    assert await shop.rename(product, "Кружка™") == "кружка"
    assert await shop.rename(product, "mug") == "mug"
    for handle in ("mug", "кружка", "кружка-синяя", "Кружка_Синяя"):
        assert await shop.find(handle) == (product, "mug")
    assert await shop.rename(product, "кружка") == "кружка"
    assert await shop.find("mug") == await shop.find("кружка") == (product, "кружка")
    other = await make_store(shop.shopper.database)
    nodes = (await shop.shopper.ask(IN_STORES, c=[other, shop.store], h="mug"))["nodes"]
    assert [node["product"] for node in nodes] == [None, {"handle": "кружка"}]


async def test_new_product_takes_former_handle_over(shop: Shop) -> None:
    old = await shop.create("Mug")
    await shop.rename(old, "old-mug")
    new = await shop.create("Mug")
    assert await shop.find("mug") == (new, "mug")
    await shop.owner.ask(DELETE, id=new)
    assert await shop.find("mug") is None
    given = await shop.create("Cup", "cup")
    await shop.rename(given, "tea-cup")
    await shop.rename(old, "cup")
    assert await shop.find("cup") == (old, "cup")
    assert await shop.find("old-mug") == (old, "cup")


async def test_deleted_product_is_forgotten(shop: Shop) -> None:
    product = await shop.create("Mug")
    await shop.rename(product, "cup")
    await shop.owner.ask(DELETE, id=product)
    assert await shop.find("mug") is None and await shop.find("cup") is None


async def test_hidden_product_is_not_found_by_former_handle(shop: Shop) -> None:
    product = await make_product(shop.shopper.database, shop.store, handle="secret", status="inactive")
    await shop.rename(product, "secret-2")
    for handle in ("secret", "secret-2"):
        assert (await shop.shopper.ask(PAGE, s=shop.slug, h=handle))["config"]["product"] is None
        assert (await shop.shopper.ask(BY_HANDLE, c=shop.store, h=handle))["product"] is None
        assert (await shop.owner.ask(BY_HANDLE, c=shop.store, h=handle))["product"] == {"id": product, "handle": "secret-2"}


async def test_concurrent_rename_and_creation_leave_one_owner(shop: Shop) -> None:
    for n in range(5):
        old = await shop.create("Mug", f"mug-{n}")
        renamed, payload = await asyncio.gather(
            shop.rename(old, f"cup-{n}"), shop.owner.ask(CREATE, c=shop.store, title="x", h=f"mug-{n}")
        )
        new = payload["createProduct"]["product"]
        assert renamed == f"cup-{n}" and await shop.find(f"mug-{n}") == ((new["id"], f"mug-{n}") if new else (old, f"cup-{n}"))
    sql = "SELECT count(*) FROM former_handles JOIN products USING (config_id, handle)"
    async with shop.shopper.database.transaction() as connection:
        assert await (await connection.raw.execute(sql)).fetchall() == [(0,)]


async def test_imported_handles_are_found_as_they_were(shop: Shop, tmp_path: Path) -> None:
    spellings = ["เสื้อยืด", "सूती-कुर्ता", "socks-dry™", "Blue_Mug", "t-shirt-🎉-new", "кружка"]
    old = await shop.create("Socks", "socks-dry")
    await shop.rename(old, "old-socks")
    text = "Handle,Title,Variant Price\n" + "".join(f"{handle},Title,5\n" for handle in spellings)
    for counts in ((len(spellings), 0), (0, len(spellings))):
        (tmp_path / "shop.csv").write_text(text)
        with (tmp_path / "shop.csv").open("rb") as file:
            summary = await import_products(shop.owner.database, shop.store, read_csv_products(file, "shop.csv"))
        assert (summary.created, summary.unchanged, summary.rejected) == (*counts, 0)
    for handle in spellings:
        assert await shop.find(handle) is not None
    assert (await shop.find("socks-dry")) != (old, "old-socks") and await shop.find("old-socks") == (old, "old-socks")
    found = await shop.find("кружка")
    assert found and await shop.rename(found[0], "кружка") == "кружка"


async def test_two_spellings_of_one_handle_are_not_one_product(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("Handle,Title,Variant Price\na_b,First,5\na-b,Second,6\na-b,,7\n")
    with (tmp_path / "shop.csv").open("rb") as file:
        summary = await import_products(shop.owner.database, shop.store, read_csv_products(file, "shop.csv"))
    assert (summary.created, summary.rejected) == (1, 2)
    assert [error.line for error in summary.row_errors] == [3, 4]


async def test_address_of_page_is_one_statement(shop: Shop) -> None:
    product = await shop.create("Mug")
    await shop.rename(product, "cup")
    page = "query($s: String!, $h: String!) { config(by: {slug: $s}) { slug product(by: {handle: $h}) { id title handle } } }"
    for handle, expected in (("cup", "cup"), ("mug", "cup"), ("none", None)):
        with count_statements(shop.shopper.database) as statements:
            answer = await shop.shopper.ask(page, s=shop.slug, h=handle)
        found = answer["config"]["product"]
        assert (found and found["handle"], len(statements)) == (expected, 1)
