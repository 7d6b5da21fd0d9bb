"""Rows by their unique keys, by the names of the constraints: which row has a value that a mutation was refused."""

from collections.abc import Mapping, Sequence
from functools import cache

from sqlalchemy import Column, bindparam, select

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import configs, products, reviews

_COLUMNS_BY_CONSTRAINT: Mapping[str, Sequence[Column[str]]] = {
    "configs_slug_key": (configs.c.slug,),
    "products_config_id_handle_key": (products.c.config_id, products.c.handle),
    "reviews_product_id_user_id_key": (reviews.c.product_id, reviews.c.user_id),
}


async def find_id_by_unique_key(database: Database, constraint: str, values: Sequence[str]) -> str | None:
    """The id of the row with these values of a constraint's columns, whether or not it is visible."""
    columns = _COLUMNS_BY_CONSTRAINT[constraint]
    if len(values) != len(columns):
        return None
    rows = await database.fetch(_select_id(constraint), dict(zip((column.name for column in columns), values, strict=True)))
    return str(rows[0].id) if rows else None


@cache
def _select_id(constraint: str) -> Statement:
    columns = _COLUMNS_BY_CONSTRAINT[constraint]
    rows = select(columns[0].table.c.id).where(*(column == bindparam(column.name) for column in columns))
    return compile_statement(rows)
