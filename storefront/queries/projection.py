"""Only the columns that somebody asked for."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement

from storefront.models import products

# What a whole row of a product has; what only sorts and finds it stays in the database.
PRODUCT_COLUMNS = [c for c in products.c if c.name not in ("search_vector", "sort_title")]

# The names of columns, sorted; None for all of them.
RequestedColumns = tuple[str, ...] | None

# There are more sets of columns than anybody needs: statements for the latest are kept.
MAX_CACHED_STATEMENTS = 200


def filter_columns(
    columns: Iterable[ColumnElement[Any]], requested: RequestedColumns, *required: str
) -> list[ColumnElement[Any]]:
    """Those of the columns that are wanted, and those that are always needed."""
    return [column for column in columns if requested is None or column.key in requested or column.key in required]
