"""Rows by their unique keys, by the names of the constraints: which row has a value that a mutation was refused."""

from collections.abc import Mapping, Sequence
from functools import cache

from sqlalchemy import Column, and_, bindparam, column, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import configs, products, reviews, variants

_COLUMNS_BY_CONSTRAINT: Mapping[str, Sequence[Column[str]]] = {
    "configs_slug_key": (configs.c.slug,),
    "products_config_id_handle_key": (products.c.config_id, products.c.handle),
    "product_variants_attributes_key": (variants.c.config_id, variants.c.product_id, variants.c.attributes_key),
    "reviews_config_id_user_id_product_id_key": (reviews.c.config_id, reviews.c.user_id, reviews.c.product_id),
}


async def find_ids_by_unique_keys(database: Database, keys: Sequence[tuple[str, ...]], constraint: str) -> list[str | None]:
    """The id of the row with each key, the values of a constraint's columns, whether or not it is visible; None for no row."""
    names = [column.name for column in _COLUMNS_BY_CONSTRAINT[constraint]]
    parameters = {name: list(values) for name, values in zip(names, zip(*keys, strict=True), strict=True)}
    rows = await database.fetch(_select_ids(constraint), parameters)
    ids_by_key = {tuple(str(getattr(row, name)) for name in names): str(row.id) for row in rows}
    return [ids_by_key.get(key) for key in keys]


@cache
def _select_ids(constraint: str) -> Statement:
    columns = _COLUMNS_BY_CONSTRAINT[constraint]
    arrays = [bindparam(one.name, type_=ARRAY(one.type)) for one in columns]
    given = func.unnest(*arrays).table_valued(*(column(one.name, one.type) for one in columns)).render_derived(name="given")
    is_given = and_(*(one == given.c[one.name] for one in columns))
    return compile_statement(select(columns[0].table.c.id, *columns).select_from(columns[0].table.join(given, is_given)))
