"""Lookup of the products whose variants a source identifies by their SKU alone."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from sqlalchemy import ARRAY, Text, any_, bindparam, select

from storefront.core.db.database import Connection, Statement, compile_statement
from storefront.imports.csv_columns import PRODUCT_FIELD_NAMES
from storefront.imports.row_types import ProductRow, RowError
from storefront.models import products, variants


async def find_products_by_sku(
    connection: Connection, config_id: str, batch: Sequence[ProductRow]
) -> tuple[list[ProductRow], list[RowError]]:
    """The batch with the rows without a handle merged by product, and the errors of rows whose SKU finds none or several."""
    skus = {variant.sku for row in batch if not row.handle or row.layout.makes_handles for variant in row.variants if variant.sku}
    if not skus:
        return [*batch], []
    handles_by_sku = defaultdict[str | None, list[str]](list)
    for found in await connection.fetch(_find_handles_statement(), {"config_id": config_id, "skus": [*skus]}):
        handles_by_sku[found.sku].append(found.handle)
    merged: dict[str, ProductRow] = {}
    errors = list[RowError]()
    for row in batch:
        handles = handles_by_sku[row.variants[0].sku] if row.variants else []
        if row.handle:
            found, error = _find_product(row, handles_by_sku, merged) if row.layout.makes_handles else (row, None)
            if error:
                errors.append(error)
            else:
                merged[found.handle] = found
        elif len(handles) != 1:
            errors.append(_build_error(row, handles))
        elif (first := merged.get(handles[0])) is None:
            # It mentions some variants of the product, so it does not say which it has.
            merged[handles[0]] = replace(row, handle=handles[0], is_complete=False)
        else:
            merged[handles[0]], differing = _merge_rows(first, row)
            errors += differing
    return [*merged.values()], errors


def _find_product(
    row: ProductRow, handles_by_sku: Mapping[str | None, Sequence[str]], merged: Mapping[str, ProductRow]
) -> tuple[ProductRow, RowError | None]:
    """The row with the handle of the product that has its SKUs, if there is one. Its own was made of its title."""
    handles = {handle for variant in row.variants if variant.sku for handle in handles_by_sku[variant.sku]}
    if len(handles) > 1:
        shown = " and ".join(f"“{handle}”" for handle in sorted(handles)[:2])
        return row, row.reject(f"its SKUs are of the products {shown}: add a column Handle", "variant sku")
    found = replace(row, handle=min(handles, default=row.handle))
    if earlier := merged.get(found.handle):
        return row, row.reject(f"is the same product as on line {earlier.line}: move its rows together", "title")
    return found, None


def _build_error(row: ProductRow, handles: Sequence[str]) -> RowError:
    sku = row.variants[0].sku
    if not handles:
        problem = f"no variant has “{sku}”: add the columns Handle and Title to create it"
    else:
        shown = " and ".join(f"“{handle}”" for handle in sorted({*handles})[:2])
        problem = f"{len(handles)} variants have “{sku}”, of the products {shown}: add the column Handle"
    return row.reject(problem, "variant sku")


def _merge_rows(first: ProductRow, row: ProductRow) -> tuple[ProductRow, list[RowError]]:
    """The product of both rows. A row that says something else of the product than the first one is an error."""
    sku = row.variants[0].sku
    if duplicate := next((variant for variant in first.variants if variant.sku == sku), None):
        problem = f"“{sku}” is already on line {duplicate.line}: change or remove one"
        return first, [replace(row, handle=first.handle).reject(problem, "variant sku")]
    for name in PRODUCT_FIELD_NAMES:
        if name != "images" and name in row.stated_fields and getattr(row, name) != getattr(first, name):
            problem = f"{name.replace('_', ' ')} is not that of the same product on line {first.line}: correct one"
            return first, [replace(row, handle=first.handle).reject(problem)]
    images = [*dict.fromkeys([*first.images, *row.images])]
    product = replace(first, variants=[*first.variants, *row.variants], images=images, row_count=first.row_count + row.row_count)
    return product, []


@cache
def _find_handles_statement() -> Statement:
    joined = variants.join(products, (products.c.config_id == variants.c.config_id) & (products.c.id == variants.c.product_id))
    in_store = variants.c.config_id == bindparam("config_id")
    has_sku = variants.c.sku == any_(bindparam("skus", type_=ARRAY(Text)))
    return compile_statement(select(variants.c.sku, products.c.handle).select_from(joined).where(in_store & has_sku))
