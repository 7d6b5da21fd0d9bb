"""Reader of a connected Shopify store: pagination, resumption from any cursor, and limits."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from storefront.core.net.shopify_client import ShopifyClient, ShopifyError, ShopifyRefusedError
from storefront.imports.csv_columns import PRODUCT_FIELD_NAMES, VARIANT_FIELD_NAMES
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError, SourceItem, VariantRow
from storefront.imports.shopify import store
from tests.shopify import DOMAIN, TOKEN, Fault, Shopify, measurement, product, selling, variant, video


@pytest.fixture
async def shopify() -> AsyncIterator[Shopify]:
    async with selling(Shopify()) as shop:
        yield shop


async def items(shopify: Shopify, place: Any = None) -> list[SourceItem]:
    async with ShopifyClient(DOMAIN, TOKEN, base_url=shopify.url, backoff_seconds=0.01) as shop:
        return [item async for item in store.read_shop_products(shop, place)]


def products(found: list[SourceItem]) -> list[ProductRow]:
    return [item for item in found if isinstance(item, ProductRow)]


async def test_shop_product_is_read_completely(shopify: Shopify) -> None:
    item = {"requiresShipping": False, "unitCost": {"amount": "4.2"}, "measurement": measurement(0.1, "POUNDS")}
    sizes = [
        variant(
            1, {"Size": "S", "Colour": "red"}, item, compareAtPrice="12.00", barcode="4006381333931", taxable=False,
            inventoryPolicy="CONTINUE", inventoryQuantity=-2, image={"url": "https://x.example/2.jpg", "altText": None},
        ),
        variant(2, {"Size": "M", "Colour": "red"}, {"tracked": False}),
    ]  # fmt: skip
    received = product(
        7, sizes, ["https://x.example/1.jpg"], seo={"title": "T", "description": "D"}, descriptionHtml="<p>é\n</p>",
        isGiftCard=True, category={"id": "1", "name": "B", "fullName": "A > B"},
    )  # fmt: skip
    received["media"].append(video())
    shopify.products = [received]
    [row] = products(await items(shopify))
    assert (row.handle, row.title, row.raw_html) == ("product-7", "Product 7", "<p>é\n</p>")
    assert (row.vendor, row.product_type, row.category, row.gift_card) == ("Maker", "Things", "A > B", True)
    assert (row.tags, row.seo_title, row.seo_description, row.status) == (["a tag", "another"], "T", "D", "active")
    assert (row.images, row.track_inventory) == (["https://x.example/1.jpg", "https://x.example/2.jpg"], True)
    first, second = row.variants
    assert (first.name, first.attributes, first.sku) == ("S / red", {"Size": "S", "Colour": "red"}, "SKU-1")
    assert (first.price, first.compare_at_price, first.inventory) == (Decimal(10), Decimal(12), -2)
    assert (first.barcode, first.weight, first.cost) == ("4006381333931", {"value": "0.100", "unit": "pound"}, Decimal("4.20"))
    assert (first.taxable, first.requires_shipping, first.inventory_policy) == (False, False, "continue")
    assert (first.image, first.is_available) == ("https://x.example/2.jpg", True)
    assert second == VariantRow(
        line=2, name="M / red", price=Decimal(10), compare_at_price=None, attributes={"Size": "M", "Colour": "red"},
        inventory=None, sku="SKU-2",
    )  # fmt: skip
    stated_fields = row.stated_fields | first.stated_fields | {"track_inventory"}
    assert stated_fields >= {"handle", *PRODUCT_FIELD_NAMES, *VARIANT_FIELD_NAMES} - {"name", "is_available"}


async def test_shop_product_without_options_has_one_variant(shopify: Shopify) -> None:
    shopify.products = [product(7, [variant(1, {"Title": "Default Title"}, {"measurement": measurement(2.5, "KILOGRAMS")})])]
    [row] = products(await items(shopify))
    [only] = row.variants
    assert (only.name, only.attributes, only.sku, only.inventory) == ("Default", {}, "SKU-1", 5)
    assert only.weight == {"value": "2.500", "unit": "kilogram"}


@pytest.mark.parametrize(
    ("item", "values", "column", "problem"),
    [
        ({"measurement": measurement(1.0, "STONES")}, {}, "measurement.weight.unit", "“STONES” is none of g, kg, oz, lb"),
        ({"measurement": measurement(1e19, "GRAMS")}, {}, "measurement.weight.value", "is not a weight in grams"),
        ({"unitCost": {"amount": "1.23456"}}, {}, "unitCost.amount", "has more decimals than any currency"),
        ({}, {"inventoryPolicy": "ASK"}, "variants.inventoryPolicy", "“ASK” is none of deny, continue"),
        ({}, {"barcode": "4" * 256}, "variants.barcode", "has 256 characters"),
    ],
)
async def test_invalid_value_is_reported_by_shopify_field(
    shopify: Shopify, item: dict[str, Any], values: dict[str, Any], column: str, problem: str
) -> None:
    shopify.products = [product(1, [variant(1, {"Size": "S"}, item, **values)])]
    [found] = [error for error in await items(shopify) if isinstance(error, RowError)]
    assert found.column.endswith(column)
    assert problem in found.problem


async def test_resuming_from_any_checkpoint_yields_rest(shopify: Shopify) -> None:
    shopify.products = [product(n, images=["https://x.example/1.jpg"] * (n % 3)) for n in range(1, 31)]
    found = await items(shopify)
    assert [row.handle for row in products(found)] == [f"product-{n}" for n in range(1, 31)]
    marks = [n for n, item in enumerate(found) if isinstance(item, Checkpoint)]
    assert len(marks) == 8
    for n in marks[:-1]:
        mark = found[n]
        assert isinstance(mark, Checkpoint)
        assert await items(shopify, mark.resume_point) == found[n + 1 :]


async def test_concurrent_changes_do_not_shift_pages(shopify: Shopify) -> None:
    shopify.products = [product(n) for n in range(1, 21)]
    found = await items(shopify)
    mark = next(item for item in found if isinstance(item, Checkpoint))
    shopify.products = [product(n) for n in range(3, 23) if n != 4]
    assert [row.handle for row in products(await items(shopify, mark.resume_point))] == [f"product-{n}" for n in range(5, 23)]


async def test_too_costly_query_reduces_page_size(shopify: Shopify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PRODUCTS_PER_PAGE", 50)
    shopify.products = [product(n) for n in range(1, 31)]
    assert len(products(await items(shopify))) == 30
    assert min(shopify.costs[1:]) < max(shopify.costs)
    # The reduced page size is used from then on.
    assert sum(cost > 1_000 for cost in shopify.costs) <= 4


async def test_page_cost_is_within_shopify_limit(shopify: Shopify) -> None:
    sizes = [variant(n, {"Size": str(n)}) for n in range(300)]
    shopify.products = [product(n, sizes if n == 1 else (), [f"https://x.example/{m}.jpg" for m in range(120)]) for n in (1, 2)]
    first, second = products(await items(shopify))
    assert (len(first.variants), len(first.images), len(second.images)) == (300, 120, 120)
    assert max(shopify.costs) <= 1_000


async def test_empty_shop_yields_no_products(shopify: Shopify) -> None:
    [mark] = await items(shopify)
    assert isinstance(mark, Checkpoint) and mark.progress == 0


async def test_missing_scope_is_an_error(shopify: Shopify) -> None:
    shopify.scopes = []
    with pytest.raises(ShopifyRefusedError, match="read_products"):
        await items(shopify)


def _page(cursor: str | None, *handles: str, has_more: bool = True) -> Fault:
    nodes = [product(n, handle=handle) for n, handle in enumerate(handles)]
    whole = {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}
    nodes = [{**node, "variants": {**whole, "nodes": node["variants"]}, "media": whole} for node in nodes]
    return Fault(200, body={"data": {"products": {"nodes": nodes, "pageInfo": {"hasNextPage": has_more, "endCursor": cursor}}}})


@pytest.mark.parametrize(
    "pages",
    [
        [_page("a", "mug"), _page("a", "cup")],
        [_page("a", "mug"), _page("b")],
        [_page("a", "mug"), _page(None, "cup")],
    ],
    ids=["same cursor", "no products", "no cursor"],
)
async def test_endless_pagination_is_an_error(shopify: Shopify, pages: list[Fault]) -> None:
    shopify.faults = [*pages, *pages[-1:] * 50]
    with pytest.raises(ShopifyError, match="pages that do not end"):
        await items(shopify)
    assert len(shopify.asked) <= 3


async def test_cyclic_pages_end_at_row_limit(shopify: Shopify) -> None:
    shopify.faults = [_page(cursor, "mug") for cursor in "ab" * 50]
    async with ShopifyClient(DOMAIN, TOKEN, base_url=shopify.url) as shop:
        found = [item async for item in store.read_shop_products(shop, max_rows=10)]
    assert isinstance(found[-1], EarlyStop) and "more than 10" in found[-1].problem
    assert len(shopify.asked) == 10


async def test_variants_per_product_are_limited(shopify: Shopify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_NODES", {"variants": 150, "media": 30})
    sizes = [variant(n, {"Size": str(n)}) for n in range(600)]
    shopify.products = [product(1, sizes, [f"https://x.example/{n}.jpg" for n in range(300)])]
    [row] = products(await items(shopify))
    assert (len(row.variants), len(row.images)) == (150, 30)


async def test_product_count_is_clamped(shopify: Shopify) -> None:
    shopify.faults = [Fault(200, body={"data": {"productsCount": {"count": 10**18}}})]
    async with ShopifyClient(DOMAIN, TOKEN, base_url=shopify.url) as shop:
        assert await store.count_shop_products(shop) == 2**31
