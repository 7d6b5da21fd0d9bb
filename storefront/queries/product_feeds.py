"""What product feeds read: a published store with the position of its log, and its visible products page by page.

A page is one statement, so that a product and its variants are of one moment. Owners read what shoppers see.
"""

from collections.abc import AsyncIterator
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, case, cast, func, literal, literal_column, select, true
from sqlalchemy.dialects.postgresql import UUID, aggregate_order_by

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import configs, positions, products, variants
from storefront.models.row_keys import bind_store
from storefront.queries.fields import build_variant_columns, order_variants, select_variants
from storefront.queries.visibility import is_product_visible, is_store_visible, is_variant_available

# The size of a page: so many products, or fewer if their text exceeds so many characters, with an estimate for each variant.
MAX_PAGE_PRODUCTS, MAX_PAGE_CHARACTERS, ESTIMATED_VARIANT_CHARACTERS = 100, 500_000, 400
# Longest cell of Google Shopping that is read.
MAX_CELL_CHARACTERS = 750

_NIL_ID = "00000000-0000-0000-0000-000000000000"
_PRODUCT_COLUMN_NAMES = (
    *("id", "handle", "title", "description", "description_html", "vendor", "product_type", "category", "tags", "images"),
    *("options", "seo_title", "seo_description", "gift_card", "in_stock", "track_inventory"),
    *("published_at", "updated_at"),
)
_VARIANT_COLUMN_NAMES = ("id", "name", "sku", "barcode", "weight", "attributes", "image", "in_stock", "position")


async def load_published_store(database: Database, config_id: str) -> Row | None:
    """What shoppers see of a published store, with the `position` of its log; None if there is none."""
    rows = await database.fetch(_select_store(), {"id": config_id, "owned": []})
    return rows[0] if rows else None


@cache
def _select_store() -> Statement:
    position = func.coalesce(positions.c.position, 0).label("position")
    columns = configs.c.id, configs.c.store_name, configs.c.description, configs.c.currency, configs.c.product_url_template
    joined = configs.join(positions, positions.c.config_id == configs.c.id, isouter=True)
    is_named = configs.c.id == bindparam("id", type_=UUID(as_uuid=False))
    return compile_statement(select(*columns, position).select_from(joined).where(is_named, is_store_visible()))


async def iterate_pages(database: Database, config_id: str) -> AsyncIterator[list[Row]]:
    """The visible products of a store with their available variants, oldest first, in pages.

    No connection is held between two pages.
    """
    after = _NIL_ID
    while rows := await database.fetch(_select_page(), {"config_id": config_id, "after": after, "owned": []}):
        yield rows
        after = rows[-1].id


@cache
def _select_page() -> Statement:
    store = bind_store()
    columns = [products.c[name] for name in _PRODUCT_COLUMN_NAMES]
    texts = (products.c.title, products.c.description, products.c.description_html, products.c.images, products.c.tags)
    lengths = [func.length(func.coalesce(cast(column, Text), "")) for column in texts]
    weight = sum(lengths, ESTIMATED_VARIANT_CHARACTERS * products.c.variants_total).label("weight")
    is_next = products.c.id > bindparam("after", type_=UUID(as_uuid=False))
    candidate = (
        select(*columns, weight)
        .where(products.c.config_id == store, is_product_visible(store), is_next)
        .order_by(products.c.id)
        .limit(MAX_PAGE_PRODUCTS)
        .subquery("candidate")
    )
    weight_before = func.sum(candidate.c.weight).over(order_by=candidate.c.id, rows=(None, -1)).label("weight_before")
    page = select(candidate, weight_before).subquery("page")
    listed = _select_variants(page)
    first_cells = _select_first_cells(page)
    query = (
        select(*(page.c[name] for name in _PRODUCT_COLUMN_NAMES), listed.c.variants, first_cells.c.cells)
        .select_from(page.join(listed, true()).outerjoin(first_cells, true()))
        .where(func.coalesce(page.c.weight_before, 0) < MAX_PAGE_CHARACTERS)
        .order_by(page.c.id)
    )
    # A custom plan for each page: a generic plan would scan from the start of the index.
    return compile_statement(query, needs_custom_plan=True)


def _select_variants(product: Any) -> Any:
    """The available variants of each product, as a JSON list."""
    store = bind_store()
    columns = build_variant_columns(_VARIANT_COLUMN_NAMES, store, product, is_owner=False)
    # As text: numbers of JSON would be parsed as floats.
    columns += [cast(variants.c[name], Text).label(name) for name in ("price", "compare_at_price")]
    columns += [_is_first_of_sku().label("is_first_of_sku"), _select_google_cells(variants).label("cells")]
    rows = select_variants(columns, store, product, available_only=True).subquery("listed")
    row: ColumnElement[Any] = literal_column("listed")
    ordered = func.json_agg(aggregate_order_by(row, rows.c.position, rows.c.id))
    return select(func.coalesce(ordered, literal_column("'[]'::json")).label("variants")).select_from(rows).lateral("listing")


def _select_first_cells(product: Any) -> Any:
    """The cells of Google Shopping of the first variant: files have what is of the product in its first row."""
    rows = select_variants([_select_google_cells(variants).label("cells")], bind_store(), product, available_only=False)
    return rows.order_by(*order_variants()).limit(1).lateral("first_variant")


def _select_google_cells(variant: Any) -> Any:
    cell = func.jsonb_each_text(variant.c.kept_cells).table_valued("key", "value", name="cell")
    is_google = cell.c.key.ilike(literal("google shopping / %")) | cell.c.key.ilike(literal("%.mm-google-shopping.%"))
    text = func.left(cell.c.value, MAX_CELL_CHARACTERS)
    cells = select(func.jsonb_object_agg(cell.c.key, text)).select_from(cell).where(is_google).scalar_subquery()
    return case((variant.c.kept_cells != literal_column("'{}'::jsonb"), cells))


def _is_first_of_sku() -> Any:
    """Whether a variant is the oldest one of those that shoppers see with its SKU."""
    store, other, other_product = bind_store(), variants.alias("other"), products.alias("other_product")
    is_older = (other.c.config_id == store) & (other.c.sku == variants.c.sku) & (other.c.id < variants.c.id)
    is_product = (other_product.c.config_id == store) & (other_product.c.id == other.c.product_id)
    rows = select(other.c.id).join_from(other, other_product, is_product)
    visible = rows.where(is_older, is_variant_available(other), is_product_visible(store, other_product))
    return ~visible.correlate(variants).exists()
