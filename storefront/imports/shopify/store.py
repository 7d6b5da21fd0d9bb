"""Reader of the products of a connected Shopify store, page by page, as CSV records: the same validation applies."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from storefront.core.cooperative import TimeSlice
from storefront.core.net.shopify_client import QueryTooCostlyError, ShopifyClient, ShopifyError
from storefront.imports.csv_columns import GRAMS_BY_WEIGHT_UNIT, WEIGHT_UNIT_BY_CELL, CsvRecord, build_layout
from storefront.imports.product_parser import ProductParser
from storefront.imports.row_types import Checkpoint, EarlyStop, ProductRow, RowError, SourceItem, SourceLayout
from storefront.imports.shopify.csv_file import MAX_ROWS
from storefront.models.product import MAX_IMAGES
from storefront.models.variant import MAX_VARIANTS

# Page sizes: products per query, with their first variants and images; further ones are fetched in pages of their own. A query
# may cost at most 1,000 points: the page is made smaller if it costs more.
PRODUCTS_PER_PAGE, VARIANTS_PER_PRODUCT, IMAGES_PER_PRODUCT, CONNECTION_PAGE_SIZE = 4, 25, 10, 100

# Per product: one variant more than an import accepts, so that validation rejects it. Media includes videos.
MAX_NODES = {"variants": MAX_VARIANTS + 1, "media": 4 * MAX_IMAGES}
# Clamp of the product count, which is only for progress.
MAX_PRODUCT_COUNT = 2**31

# Shopify's field for each column: error messages name the field.
SHOPIFY_FIELD_BY_COLUMN = {
    "handle": "handle",
    "title": "title",
    "body (html)": "descriptionHtml",
    "vendor": "vendor",
    "type": "productType",
    "product category": "category.fullName",
    "gift card": "isGiftCard",
    "tags": "tags",
    "status": "status",
    "seo title": "seo.title",
    "seo description": "seo.description",
    "image src": "media.image.url",
    "image alt text": "media.image.altText",
    "variant sku": "variants.sku",
    "variant price": "variants.price",
    "variant compare at price": "variants.compareAtPrice",
    "variant inventory qty": "variants.inventoryQuantity",
    "variant inventory tracker": "variants.inventoryItem.tracked",
    "variant inventory policy": "variants.inventoryPolicy",
    "variant barcode": "variants.barcode",
    "variant taxable": "variants.taxable",
    "variant requires shipping": "variants.inventoryItem.requiresShipping",
    "variant grams": "variants.inventoryItem.measurement.weight.value",
    "variant weight unit": "variants.inventoryItem.measurement.weight.unit",
    "variant image": "variants.image.url",
    "cost per item": "variants.inventoryItem.unitCost.amount",
    **{f"option{n} {part}": f"variants.selectedOptions.{part}" for n in (1, 2, 3) for part in ("name", "value")},
}
# UNLISTED products are sold only by direct link. There is no such status here, so they are imported as drafts.
STATUS_CELL_BY_SHOPIFY_STATUS = {"ACTIVE": "active", "DRAFT": "draft", "ARCHIVED": "archived", "UNLISTED": "draft"}

WEIGHT_UNIT_CELL_BY_SHOPIFY_UNIT = {"GRAMS": "g", "KILOGRAMS": "kg", "OUNCES": "oz", "POUNDS": "lb"}

_VARIANT_FRAGMENT = """
fragment Variant on ProductVariant {
  sku barcode price compareAtPrice taxable inventoryQuantity inventoryPolicy
  selectedOptions { name value }
  image { url }
  inventoryItem { tracked requiresShipping unitCost { amount } measurement { weight { value unit } } }
}
"""
_MEDIA_FRAGMENT = "fragment Picture on Media { ... on MediaImage { image { url altText } } }"
_PRODUCTS_QUERY = f"""
query Products($first: Int!, $after: String, $variants: Int!, $images: Int!) {{
  products(first: $first, after: $after, sortKey: ID) {{
    nodes {{
      id handle title descriptionHtml vendor productType isGiftCard status tags
      seo {{ title description }}
      category {{ fullName }}
      variants(first: $variants) {{ nodes {{ ...Variant }} pageInfo {{ hasNextPage endCursor }} }}
      media(first: $images) {{ nodes {{ ...Picture }} pageInfo {{ hasNextPage endCursor }} }}
    }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}
{_VARIANT_FRAGMENT}{_MEDIA_FRAGMENT}
"""
_CONNECTION_QUERIES = {
    "variants": f"""
query Variants($id: ID!, $first: Int!, $after: String) {{
  product(id: $id) {{ variants(first: $first, after: $after) {{ nodes {{ ...Variant }} pageInfo {{ hasNextPage endCursor }} }} }}
}}
{_VARIANT_FRAGMENT}""",
    "media": f"""
query Media($id: ID!, $first: Int!, $after: String) {{
  product(id: $id) {{ media(first: $first, after: $after) {{ nodes {{ ...Picture }} pageInfo {{ hasNextPage endCursor }} }} }}
}}
{_MEDIA_FRAGMENT}""",
}
_COUNT_QUERY = "query Count { productsCount(limit: null) { count } }"

Node = Mapping[str, Any]


async def count_shop_products(shop: ShopifyClient) -> int:
    """The number of products of the shop."""
    return min(max(0, int((await shop.execute_query(_COUNT_QUERY, {}))["productsCount"]["count"])), MAX_PRODUCT_COUNT)


async def read_shop_products(
    shop: ShopifyClient, resume_point: Mapping[str, Any] | None = None, *, max_rows: int = MAX_ROWS
) -> AsyncIterator[SourceItem]:
    """Products and row errors of a shop, with a checkpoint after each page. `progress` counts products.

    Rows are numbered from 1, over variants and images. With more than `max_rows` rows or products it ends with an EarlyStop.
    Raises ShopifyError, also for pagination that does not end.
    """
    cursor, row_number, products_done = (
        (resume_point["cursor"], resume_point["row"], resume_point["done"]) if resume_point else (None, 1, 0)
    )
    pages = _PageReader(shop)
    layout = build_layout(shop.domain, 0, SHOPIFY_FIELD_BY_COLUMN)
    has_more = True
    while has_more:
        if max(row_number - 1, products_done) >= max_rows:
            yield EarlyStop(f"{shop.domain}: has more than {max_rows:,} products and variants, which is all that is imported.")
            return
        page = await pages.fetch_page(cursor)
        for node in page["nodes"]:
            product_records = [*_build_records(await _load_full_product(shop, node), row_number)]
            row_number += len(product_records)
            async for item in _parse_product(product_records, layout):
                yield item
        products_done += len(page["nodes"])
        has_more, cursor = _next_cursor(shop, page, cursor)
        yield Checkpoint({"cursor": cursor, "row": row_number, "done": products_done}, products_done)


def _next_cursor(shop: ShopifyClient, page: Node, cursor: str | None) -> tuple[bool, str | None]:
    """Whether there is a next page, and its cursor. Raises ShopifyError if pagination does not advance."""
    has_more, end_cursor = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
    if has_more and (not page["nodes"] or end_cursor is None or end_cursor == cursor):
        raise ShopifyError(f"{shop.domain} returns pages that do not end. Try again later.")
    return has_more, end_cursor or cursor


async def _parse_product(product_records: Sequence[CsvRecord], layout: SourceLayout) -> AsyncIterator[ProductRow | RowError]:
    # A parser per product: no state is needed across products.
    parser, time_slice = ProductParser(layout), TimeSlice()
    for record in product_records:
        for item in parser.add_row(record):
            # Reading resumes between pages only, at the cursor: checkpoints within a page are dropped.
            if not isinstance(item, Checkpoint):
                yield item
        await time_slice.yield_if_expired()
    for product in parser.finish():
        yield product


class _PageReader:
    def __init__(self, shop: ShopifyClient) -> None:
        self._shop, self._page_size = shop, PRODUCTS_PER_PAGE

    async def fetch_page(self, cursor: str | None) -> Node:
        """The next page. Halves the page size while the query is too costly."""
        while True:
            sizes = {"first": self._page_size, "variants": VARIANTS_PER_PRODUCT, "images": IMAGES_PER_PRODUCT}
            try:
                page: Node = (await self._shop.execute_query(_PRODUCTS_QUERY, {**sizes, "after": cursor}))["products"]
            except QueryTooCostlyError:
                if self._page_size == 1:
                    raise
                self._page_size //= 2
            else:
                return page


async def _load_full_product(shop: ShopifyClient, node: Node) -> Node:
    """The product with all of its variants and images."""
    return {**node, **{connection: await _load_all_nodes(shop, node, connection) for connection in ("variants", "media")}}


async def _load_all_nodes(shop: ShopifyClient, node: Node, connection: str) -> Sequence[Node]:
    page = node[connection]
    nodes = [*page["nodes"]]
    has_more, cursor = _next_cursor(shop, page, None)
    while has_more and len(nodes) < MAX_NODES[connection]:
        variables = {"id": node["id"], "first": CONNECTION_PAGE_SIZE, "after": cursor}
        product = (await shop.execute_query(_CONNECTION_QUERIES[connection], variables))["product"]
        # The product may have been deleted since.
        if product is None:
            break
        page = product[connection]
        nodes += page["nodes"]
        has_more, cursor = _next_cursor(shop, page, cursor)
    return nodes[: MAX_NODES[connection]]


def _build_records(node: Node, first_number: int) -> Iterator[CsvRecord]:
    images = [media["image"] for media in node["media"] if media.get("image")]
    for n, (variant, image) in enumerate(zip_longest(node["variants"], images)):
        cells = {
            "handle": node["handle"],
            **(_build_product_cells(node) if n == 0 else {}),
            **(_build_variant_cells(variant, n == 0) if variant else {}),
        }
        if image:
            cells |= {"image src": image["url"], "image position": str(n + 1), "image alt text": image.get("altText") or ""}
        yield CsvRecord(first_number + n, {column: cell.strip() for column, cell in cells.items() if cell})


def _build_product_cells(node: Node) -> dict[str, str]:
    seo, category = node["seo"] or {}, node["category"] or {}
    return {
        "title": node["title"],
        "body (html)": node["descriptionHtml"],
        "vendor": node["vendor"],
        "type": node["productType"],
        "product category": category.get("fullName") or "",
        "gift card": str(node["isGiftCard"]),
        "tags": ",".join(node["tags"]),
        "status": STATUS_CELL_BY_SHOPIFY_STATUS.get(node["status"], node["status"]),
        "seo title": seo.get("title") or "",
        "seo description": seo.get("description") or "",
    }


def _build_variant_cells(node: Node, is_first: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for n, option in enumerate(node["selectedOptions"], 1):
        options |= {f"option{n} value": option["value"]} | ({f"option{n} name": option["name"]} if is_first else {})
    item, image = node["inventoryItem"], node["image"] or {}
    return {
        **options,
        "variant sku": node["sku"] or "",
        "variant barcode": node["barcode"] or "",
        "variant price": str(node["price"]),
        "variant compare at price": str(node["compareAtPrice"] or ""),
        "variant taxable": str(node["taxable"]),
        "variant image": image.get("url") or "",
        "variant inventory tracker": "shopify" if item["tracked"] else "",
        "variant inventory qty": str(node["inventoryQuantity"] or 0),
        "variant inventory policy": node["inventoryPolicy"],
        "variant requires shipping": str(item["requiresShipping"]),
        "cost per item": str((item["unitCost"] or {}).get("amount") or ""),
        **_build_weight_cells(item["measurement"]["weight"]),
    }


def _build_weight_cells(weight: Node | None) -> dict[str, str]:
    """The cells that CSV files have: grams, and the unit for display."""
    if not weight:
        return {}
    unit: str = weight["unit"]
    cell = WEIGHT_UNIT_CELL_BY_SHOPIFY_UNIT.get(unit, unit)
    grams = Decimal(str(weight["value"])) * GRAMS_BY_WEIGHT_UNIT.get(WEIGHT_UNIT_BY_CELL.get(cell, ""), Decimal(1))
    return {"variant grams": f"{grams:.9f}", "variant weight unit": cell}
