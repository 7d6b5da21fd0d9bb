"""Descriptions in their two forms, and the other fields of a product that files have: over GraphQL, on both read paths."""

import io
from typing import Any

import pytest

from storefront.imports.exports import export_products
from storefront.imports.product_writer import import_products
from storefront.imports.shopify.csv_file import read_csv_products
from tests.client import Client
from tests.factories import make_product, make_store, make_user

FIELDS = "id version description descriptionHtml vendor productType giftCard publishedAt"
ERRORS = "userErrors { code message path ... on InvalidInputError { reason } }"
CREATE = f"mutation($i: CreateProductInput!) {{ createProduct(input: $i) {{ product {{ {FIELDS} }} {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateProductInput!) {{ updateProduct(input: $i) {{ product {{ {FIELDS} }} {ERRORS} }} }}"
BULK = f"""mutation($rows: [UpdateProductRowInput!]!) {{ bulkUpdateProducts(input: {{ rows: $rows, errorPolicy: VALID_ROWS }}) {{
  results {{ product {{ {FIELDS} }} {ERRORS} }} }} }}"""
CHANGED = """query($c: ID!) { productChanges(configId: $c, after: "0") { changes {
  ... on ProductUpdated { changedFields } } } }"""


@pytest.fixture
async def owner(shopper: Client) -> Client:
    return shopper.signed_in(await make_user(shopper.database))


async def own_store(owner: Client) -> str:
    return await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])


async def create(owner: Client, store: str, **values: Any) -> Any:
    created = (await owner.ask(CREATE, i={"configId": store, "title": "Mug", "price": "1", **values}))["createProduct"]
    assert created["userErrors"] == []
    return created["product"]


async def update(owner: Client, product: Any, **values: Any) -> Any:
    updated = (await owner.ask(UPDATE, i={"id": product["id"], **values}))["updateProduct"]
    assert updated["userErrors"] == []
    return updated["product"]


def get_forms(product: Any) -> tuple[str | None, str | None]:
    return product["description"], product["descriptionHtml"]


async def test_html_is_sanitised_and_its_text_is_the_description(owner: Client) -> None:
    store = await own_store(owner)
    html = '<p onclick="x">Soft <b>wool</b><script>alert(1)</script></p><ul><li>One<li>Two</ul><img src=x onerror=y>'
    product = await create(owner, store, descriptionHtml=html)
    assert get_forms(product) == (
        "Soft wool\n\nOne\nTwo", "<p>Soft <b>wool</b></p><ul><li>One</li><li>Two</li></ul>"
    )  # fmt: skip
    # Without viewer the page is written by the database, and with `viewerReview` it is read by row.
    for more in ("", "viewerReview { id }"):
        document = f"query($c: ID!) {{ products(configId: $c) {{ nodes {{ {FIELDS} {more} }} }} }}"
        (node,) = (await owner.ask(document, c=store))["products"]["nodes"]
        assert get_forms(node) == get_forms(product)
    assert get_forms(await update(owner, product, descriptionHtml=None)) == (None, None)
    assert get_forms(await update(owner, product, descriptionHtml="<img src=x>")) == (None, None)


async def test_description_becomes_paragraphs(owner: Client) -> None:
    store = await own_store(owner)
    product = await create(owner, store, description="A <b>\nand B\n\nC & D")
    assert get_forms(product) == ("A <b>\nand B\n\nC & D", "<p>A &lt;b&gt;<br>and B</p>\n<p>C &amp; D</p>")
    assert get_forms(await update(owner, product, description=None)) == (None, None)
    # As much as a description may have, with characters that take more in HTML: no HTML.
    text = "&" * 65_536
    assert get_forms(await update(owner, product, description=text)) == (text, None)


async def test_equal_description_keeps_the_format(owner: Client) -> None:
    """Forms send what they have read."""
    store = await own_store(owner)
    product = await create(owner, store, descriptionHtml="<h1>Soft</h1><p>wool</p>")
    same = await update(owner, product, description="Soft\n\nwool")
    assert (same["version"], get_forms(same)) == (1, get_forms(product))
    assert get_forms(await update(owner, product, description="Hard")) == ("Hard", "<p>Hard</p>")
    bold = await update(owner, product, descriptionHtml="<b>Hard</b>")
    assert (bold["version"], get_forms(bold)) == (3, ("Hard", "<b>Hard</b>"))
    changes = (await owner.ask(CHANGED, c=store))["productChanges"]["changes"]
    assert [set(change["changedFields"]) for change in changes if change] == [
        {"description", "descriptionHtml"}, {"descriptionHtml"}
    ]  # fmt: skip


async def test_both_forms_together_are_refused(owner: Client) -> None:
    store = await own_store(owner)
    product = await create(owner, store)
    for forms in ({"description": "a", "descriptionHtml": "<p>b"}, {"description": None, "descriptionHtml": "a"}):
        refused = [
            (await owner.ask(CREATE, i={"configId": store, "title": "T", "price": "1", **forms}))["createProduct"]["userErrors"],
            (await owner.ask(UPDATE, i={"id": product["id"], **forms}))["updateProduct"]["userErrors"],
            (await owner.ask(BULK, rows=[{"id": product["id"], **forms}]))["bulkUpdateProducts"]["results"][0]["userErrors"],
        ]
        for (error,), path in zip(
            refused, (["descriptionHtml"], ["descriptionHtml"], ["rows", "0", "descriptionHtml"]), strict=True
        ):
            assert (error["path"], error["reason"]) == (path, "CONFLICTING")
            assert "description and descriptionHtml" in error["message"]
    assert get_forms(await update(owner, product, description=None, descriptionHtml=None)) == (None, None)


@pytest.mark.parametrize("html", ["<b>" * 10_001, "x" * 65_537, "<" * 60_000])
async def test_too_much_html_is_refused(owner: Client, html: str) -> None:
    store = await own_store(owner)
    given = {"configId": store, "title": "Mug", "price": "1", "descriptionHtml": html}
    (error,) = (await owner.ask(CREATE, i=given))["createProduct"]["userErrors"]
    assert (error["code"], error["path"], error["reason"]) == ("INVALID_INPUT", ["descriptionHtml"], "TOO_LONG")


async def test_bulk_updates_write_both_forms(owner: Client) -> None:
    store = await own_store(owner)
    products = [await create(owner, store, descriptionHtml="<h1>a</h1>") for _ in range(3)]
    values: list[dict[str, Any]] = [{"descriptionHtml": "<i>b</i><script>x"}, {"description": "c"}, {"description": "a"}]
    rows = [{"id": product["id"], **value} for product, value in zip(products, values, strict=True)]
    results = (await owner.ask(BULK, rows=rows))["bulkUpdateProducts"]["results"]
    assert [get_forms(result["product"]) for result in results] == [("b", "<i>b</i>"), ("c", "<p>c</p>"), ("a", "<h1>a</h1>")]


async def test_forms_conflict_with_each_other(owner: Client) -> None:
    """A new text would replace the format that somebody else has written."""
    store = await own_store(owner)
    product = await create(owner, store, descriptionHtml="<p>a</p>")
    await update(owner, product, descriptionHtml="<p><b>a</b></p>")
    merge = {"id": product["id"], "expectedVersion": 1, "onConflict": "MERGE_DISJOINT"}
    stale = (await owner.ask(UPDATE, i={**merge, "description": "b"}))["updateProduct"]
    assert [error["code"] for error in stale["userErrors"]] == ["STALE_VERSION"]
    merged = (await owner.ask(UPDATE, i={**merge, "vendor": "Potter"}))["updateProduct"]["product"]
    assert (merged["vendor"], get_forms(merged)) == ("Potter", ("a", "<p><b>a</b></p>"))


# ------------------------------------------------------------------------------------------ other fields


async def test_vendors_and_types_filter_and_count(owner: Client) -> None:
    store = await own_store(owner)
    for vendor, kind in (("Potter", "Mug"), ("Potter", "Bowl"), ("Weaver", "Rug"), (None, None)):
        await create(owner, store, vendor=vendor, productType=kind)
    await create(owner, store, vendor="Hidden", productType="Secret", status="INACTIVE")
    document = """query($c: ID!, $f: ProductFilterInput) { products(configId: $c, filter: $f) { totalCount facets {
      vendors(first: 2) { value count isSelected } productTypes { value count isSelected } } } }"""
    anonymous = Client(owner.http, owner.database)
    found = (await anonymous.ask(document, c=store, f={"vendors": ["Potter"]}))["products"]
    assert found["totalCount"] == 2
    assert found["facets"]["vendors"] == [
        {"value": "Potter", "count": 2, "isSelected": True}, {"value": "Weaver", "count": 1, "isSelected": False}
    ]  # fmt: skip
    assert [(one["value"], one["count"]) for one in found["facets"]["productTypes"]] == [("Bowl", 1), ("Mug", 1)]
    both = (await anonymous.ask(document, c=store, f={"vendors": ["Potter", "Weaver"], "productTypes": ["Mug", "Rug"]}))[
        "products"
    ]
    assert both["totalCount"] == 2


async def test_product_is_published_once(owner: Client) -> None:
    store = await own_store(owner)
    draft = await create(owner, store, status="INACTIVE")
    assert draft["publishedAt"] is None and (await create(owner, store))["publishedAt"] is not None
    first = (await update(owner, draft, status="ACTIVE"))["publishedAt"]
    assert first is not None
    await update(owner, draft, status="ARCHIVED")
    assert (await update(owner, draft, status="ACTIVE"))["publishedAt"] == first
    bulk = [await create(owner, store, status="INACTIVE") for _ in range(2)]
    rows = [{"id": bulk[0]["id"], "status": "ACTIVE"}, {"id": bulk[1]["id"], "vendor": "Potter"}]
    results = (await owner.ask(BULK, rows=rows))["bulkUpdateProducts"]["results"]
    assert [result["product"]["publishedAt"] is None for result in results] == [False, True]
    for input_ in ("CreateProductInput", "UpdateProductInput", "UpdateProductRowInput"):
        fields = (await owner.ask("query($n: String!) { __type(name: $n) { inputFields { name } } }", n=input_))["__type"][
            "inputFields"
        ]
        assert "publishedAt" not in {field["name"] for field in fields}


async def import_file(owner: Client, store: str, file: str) -> Any:
    return await import_products(owner.database, store, read_csv_products(io.BytesIO(file.encode()), "shop.csv"))


async def test_imports_and_exports_have_the_fields(owner: Client) -> None:
    store = await own_store(owner)
    header = "Handle,Title,Body (HTML),Vendor,Type,Product Category,Gift Card,Status,Variant Price\n"
    file = header + (
        'mug,Mug,"<p class=x>Soft <b>clay</b></p><script>x</script>",Potter,Cup,Home > Kitchen,false,active,5\n'
        "card,Card,Plain,,,,TRUE,draft,10\n"
    )
    assert (await import_file(owner, store, file)).created == 2
    document = (
        f"query($c: ID!, $h: String!) {{ product(by: {{ handle: {{ configId: $c, handle: $h }} }}) {{ category {FIELDS} }} }}"
    )
    mug, card = [(await owner.ask(document, c=store, h=handle))["product"] for handle in ("mug", "card")]
    assert get_forms(mug) == ("Soft clay", "<p>Soft <b>clay</b></p>")
    assert (mug["vendor"], mug["productType"], mug["category"], mug["giftCard"]) == ("Potter", "Cup", "Home > Kitchen", False)
    assert get_forms(card) == ("Plain", "Plain")
    assert (card["vendor"], card["giftCard"], card["publishedAt"]) == (None, True, None)
    assert mug["publishedAt"] is not None
    exported = b"".join([part async for part in export_products(owner.database, store)])
    assert b"Soft <b>clay</b>" in exported and b"Potter" in exported and b"Home > Kitchen" in exported
    assert (await import_file(owner, store, exported.decode())).unchanged == 2
    assert (await import_file(owner, store, "Handle,Status\ncard,active\n")).updated == 1
    assert (await owner.ask(document, c=store, h="card"))["product"]["publishedAt"] is not None


async def test_descriptions_of_any_origin_come_back_from_exports(owner: Client) -> None:
    store = await own_store(owner)
    for n, text in enumerate(["a  b", " a\n\n\n\nb\nc ", "<b>x</b>", "&" * 65_536, "a\n" * 20_000, "=1+1", ""]):
        await create(owner, store, title=f"Mug {n}", description=text)
    await create(owner, store, title="Bowl", descriptionHtml="<table><tr><td>" * 20 + "x")
    # As before descriptions had a format.
    await make_product(owner.database, store, title="Old", description="<p>as it came</p>")
    exported = b"".join([part async for part in export_products(owner.database, store)])
    summary = await import_file(owner, store, exported.decode())
    assert (summary.unchanged, summary.updated, summary.rejected) == (9, 0, 0)


async def test_too_much_html_rejects_the_product(owner: Client) -> None:
    store = await own_store(owner)
    file = f"Handle,Title,Body (HTML),Variant Price\na,A,{'<b>' * 10_001},1\nb,B,<b>x</b>,1\n"
    summary = await import_file(owner, store, file)
    assert (summary.created, summary.rejected) == (1, 1)
    (error,) = summary.row_errors
    assert (error.handle, error.column) == ("a", "Body (HTML)") and "10,000 tags" in error.problem
