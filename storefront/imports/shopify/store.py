"""The products of a live shop at Shopify, page by page, as the rows that its CSV has: judged by the same rules."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from storefront.core.cooperative import Turns
from storefront.core.net.shopify_client import Shop, ShopifyError, TooCostly
from storefront.imports import csv_columns
from storefront.imports.csv_columns import Layout, Record
from storefront.imports.product_parser import Assembly
from storefront.imports.row_types import Item, Mark, ProductRow, Rejection, Stop
from storefront.imports.shopify.csv_file import MAX_ROWS

# Products asked for at a time, with as many of their variants and images; the rest of these comes in pages of its own. What a
# question costs is at most 1,000 points: fewer products are asked for where this is more.
PAGE, VARIANTS, IMAGES, REST = 8, 25, 10, 100

# Of one product's, one more than an import takes: the one too many is rejected in words. Media may be films, too.
MAX_NODES = {"variants": csv_columns.VARIANTS + 1, "media": 4 * csv_columns.IMAGES}
# What a count of products may be at most: it is only for the progress.
MAX_COUNT = 2**31

# How the columns are called here: what is wrong is told in Shopify's words for it.
SPELLINGS = {
    "handle": "handle",
    "title": "title",
    "body (html)": "descriptionHtml",
    "type": "productType",
    "tags": "tags",
    "status": "status",
    "seo title": "seo.title",
    "seo description": "seo.description",
    "image src": "media.image.url",
    "variant sku": "variants.sku",
    "variant price": "variants.price",
    "variant compare at price": "variants.compareAtPrice",
    "variant inventory qty": "variants.inventoryQuantity",
    "variant inventory tracker": "variants.inventoryItem.tracked",
    **{f"option{n} {part}": f"variants.selectedOptions.{part}" for n in (1, 2, 3) for part in ("name", "value")},
}
# What is unlisted is sold to those who have its address: here that is not to be had, so it is kept from sight.
STATUSES = {"ACTIVE": "active", "DRAFT": "draft", "ARCHIVED": "archived", "UNLISTED": "draft"}

_VARIANT = """
fragment Variant on ProductVariant {
  sku price compareAtPrice inventoryQuantity selectedOptions { name value } inventoryItem { tracked }
}
"""
_PICTURE = "fragment Picture on Media { ... on MediaImage { image { url } } }"
_PRODUCTS = f"""
query Products($first: Int!, $after: String, $variants: Int!, $images: Int!) {{
  products(first: $first, after: $after, sortKey: ID) {{
    nodes {{
      id handle title descriptionHtml productType status tags
      seo {{ title description }}
      category {{ name }}
      variants(first: $variants) {{ nodes {{ ...Variant }} pageInfo {{ hasNextPage endCursor }} }}
      media(first: $images) {{ nodes {{ ...Picture }} pageInfo {{ hasNextPage endCursor }} }}
    }}
    pageInfo {{ hasNextPage endCursor }}
  }}
}}
{_VARIANT}{_PICTURE}
"""
_REST = {
    "variants": f"""
query Variants($id: ID!, $first: Int!, $after: String) {{
  product(id: $id) {{ variants(first: $first, after: $after) {{ nodes {{ ...Variant }} pageInfo {{ hasNextPage endCursor }} }} }}
}}
{_VARIANT}""",
    "media": f"""
query Media($id: ID!, $first: Int!, $after: String) {{
  product(id: $id) {{ media(first: $first, after: $after) {{ nodes {{ ...Picture }} pageInfo {{ hasNextPage endCursor }} }} }}
}}
{_PICTURE}""",
}
_COUNT = "query Count { productsCount(limit: null) { count } }"

Node = Mapping[str, Any]


async def count(shop: Shop) -> int:
    """How many products the shop has."""
    return min(max(0, int((await shop.ask(_COUNT, {}))["productsCount"]["count"])), MAX_COUNT)


async def read(shop: Shop, place: Mapping[str, Any] | None = None, *, max_rows: int = MAX_ROWS) -> AsyncIterator[Item]:
    """The products of a shop and what cannot be taken of them, with a mark behind each page. `done` counts products.

    Rows are numbered from 1 on, over variants and images. With more than `max_rows` of them, or more products, it ends with a
    Stop. Raises ShopifyError, for pages without an end, too.
    """
    cursor, row, done = (place["cursor"], place["row"], place["done"]) if place else (None, 1, 0)
    pages = _Pages(shop)
    layout = Layout(shop.domain, 0, SPELLINGS)
    has_more = True
    while has_more:
        if max(row - 1, done) >= max_rows:
            yield Stop(f"{shop.domain}: has more than {max_rows:,} products and variants, which is all that is imported.")
            return
        page = await pages.after(cursor)
        for node in page["nodes"]:
            product = [*_records(await _whole(shop, node), row)]
            row += len(product)
            async for item in _product_of(product, layout):
                yield item
        done += len(page["nodes"])
        has_more, cursor = _next(shop, page, cursor)
        yield Mark({"cursor": cursor, "row": row, "done": done}, done)


def _next(shop: Shop, page: Node, cursor: str | None) -> tuple[bool, str | None]:
    """Whether there is another page, and its cursor. Raises ShopifyError where that would be the same page again."""
    has_more, following = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
    if has_more and (not page["nodes"] or following is None or following == cursor):
        raise ShopifyError(f"{shop.domain} answers with pages that do not end. Try again later.")
    return has_more, following or cursor


async def _product_of(rows: Sequence[Record], layout: Layout) -> AsyncIterator[ProductRow | Rejection]:
    # One for each: of what it has seen nothing is wanted any more.
    assembly, turns = Assembly(layout), Turns()
    for record in rows:
        for item in assembly.take(record):
            # The marks are ours: within a page there is no place to go on from.
            if not isinstance(item, Mark):
                yield item
        await turns.over()
    for product in assembly.finish():
        yield product


class _Pages:
    def __init__(self, shop: Shop) -> None:
        self._shop, self._first = shop, PAGE

    async def after(self, cursor: str | None) -> Node:
        """The next page, smaller where it would cost too much."""
        while True:
            sizes = {"first": self._first, "variants": VARIANTS, "images": IMAGES}
            try:
                page: Node = (await self._shop.ask(_PRODUCTS, {**sizes, "after": cursor}))["products"]
            except TooCostly:
                if self._first == 1:
                    raise
                self._first //= 2
            else:
                return page


async def _whole(shop: Shop, node: Node) -> Node:
    """A product with all of its variants and images."""
    return {**node, **{name: await _all(shop, node, name) for name in ("variants", "media")}}


async def _all(shop: Shop, node: Node, name: str) -> Sequence[Node]:
    part = node[name]
    found = [*part["nodes"]]
    has_more, cursor = _next(shop, part, None)
    while has_more and len(found) < MAX_NODES[name]:
        given = {"id": node["id"], "first": REST, "after": cursor}
        product = (await shop.ask(_REST[name], given))["product"]
        # It may have been deleted meanwhile.
        if product is None:
            break
        part = product[name]
        found += part["nodes"]
        has_more, cursor = _next(shop, part, cursor)
    return found[: MAX_NODES[name]]


def _records(node: Node, first: int) -> Iterator[Record]:
    images = [media["image"]["url"] for media in node["media"] if media.get("image")]
    for n, (variant, url) in enumerate(zip_longest(node["variants"], images)):
        cells = {"handle": node["handle"], **(_product(node) if n == 0 else {}), **(_variant(variant, n == 0) if variant else {})}
        cells |= {"image src": url, "image position": str(n + 1)} if url else {}
        yield Record(first + n, {column: cell.strip() for column, cell in cells.items() if cell})


def _product(node: Node) -> dict[str, str]:
    seo, category = node["seo"] or {}, node["category"] or {}
    return {
        "title": node["title"],
        "body (html)": node["descriptionHtml"],
        "type": node["productType"] or category.get("name") or "",
        "tags": ",".join(node["tags"]),
        "status": STATUSES.get(node["status"], node["status"]),
        "seo title": seo.get("title") or "",
        "seo description": seo.get("description") or "",
    }


def _variant(node: Node, is_first: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for n, option in enumerate(node["selectedOptions"], 1):
        options |= {f"option{n} value": option["value"]} | ({f"option{n} name": option["name"]} if is_first else {})
    return {
        **options,
        "variant sku": node["sku"] or "",
        "variant price": str(node["price"]),
        "variant compare at price": str(node["compareAtPrice"] or ""),
        "variant inventory tracker": "shopify" if node["inventoryItem"]["tracked"] else "",
        "variant inventory qty": str(node["inventoryQuantity"] or 0),
    }
