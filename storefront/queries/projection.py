"""Projection: the columns that a statement returns."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Table

from storefront.models import products

# The names of columns, sorted; None for all of them.
RequestedColumns = tuple[str, ...] | None

# Bound of the caches of compiled statements: there are more sets of columns than clients ask for at a time.
MAX_CACHED_STATEMENTS = 200


_INTERNAL_COLUMNS = {"search_vector", "sort_title", "category_paths", "folded_attributes", "attributes_key"}


def list_returned_columns(table: Table) -> list[ColumnElement[Any]]:
    """The columns of a table without those that only sort, search and compare."""
    return [column for column in table.c if column.name not in _INTERNAL_COLUMNS]


PRODUCT_COLUMNS = list_returned_columns(products)


def filter_columns(
    columns: Iterable[ColumnElement[Any]], requested: RequestedColumns, *required: str
) -> list[ColumnElement[Any]]:
    """The columns that are requested or required."""
    return [column for column in columns if requested is None or column.key in requested or column.key in required]
