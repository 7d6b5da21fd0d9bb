"""Descriptions of sources, as they are stored: sanitised HTML and its text.

Parsers leave them as they are, because they run on the event loop: hostile HTML takes up to a quarter of a second.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import replace

from storefront.core.html import HtmlLimitError, SafeHtml
from storefront.imports.row_types import ProductRow, RowError, SourceItem
from storefront.models.product import DESCRIPTION_CSV_COLUMN
from storefront.writes.descriptions import sanitize_description, sanitize_description_now


async def sanitize_descriptions(items: AsyncIterable[SourceItem]) -> AsyncGenerator[SourceItem, None]:
    """The items, with the descriptions of products as they are stored. Those with too much HTML are rejected."""
    async for item in items:
        if isinstance(item, ProductRow) and item.raw_html is not None:
            try:
                yield _set_description(item, await sanitize_description(item.raw_html))
            except HtmlLimitError as error:
                yield _reject(item, error)
        else:
            yield item


def sanitize_row(row: ProductRow) -> ProductRow | RowError:
    """One product, in this thread."""
    if row.raw_html is None:
        return row
    try:
        return _set_description(row, sanitize_description_now(row.raw_html))
    except HtmlLimitError as error:
        return _reject(row, error)


def _set_description(row: ProductRow, safe: SafeHtml) -> ProductRow:
    # A lossless cell may have another text.
    text = safe.text or None if row.description is None else row.description
    return replace(row, description=text, description_html=safe.html or None, raw_html=None)


def _reject(row: ProductRow, error: HtmlLimitError) -> RowError:
    return row.reject(f"{str(error).removesuffix('.')}: shorten it", DESCRIPTION_CSV_COLUMN.lower())
