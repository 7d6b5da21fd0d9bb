"""Which option values of products have a variant, given values of their other options."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, FromClause, Select, Text, bindparam, column, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, aggregate_order_by
from sqlalchemy.sql.selectable import TableValuedAlias

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.row_keys import RowKey, are_of_single_store, bind_keys, build_key_parameters, get_store, is_row_of_key
from storefront.queries.batching import group_by_parent
from storefront.queries.fields import build_variant_columns, fold_json, is_variant_of_product
from storefront.queries.paging import select_per_parent
from storefront.queries.visibility import is_variant_available


class OptionMatch(NamedTuple):
    """A value that offered variants have: whether one can be bought, and the first of them, those that can be bought first."""

    is_available: bool
    variant_id: str


# By name and value, without case.
OptionMatches = Mapping[tuple[str, str], OptionMatch]


async def load_option_matches(database: Database, keys: Sequence[RowKey], selected: str) -> list[OptionMatches]:
    """The option values of each product that offered variants have. `selected`: a JSON object of names and values without case.

    A variant counts for a value if it has the selected values of all other options.
    """
    parameters = {**build_key_parameters(keys), "selected": selected}
    rows = await database.fetch(_select_matches(are_of_single_store(keys)), parameters)
    return [
        {(row.name, row.value): OptionMatch(row.is_available, row.variant_id) for row in product_rows}
        for product_rows in group_by_parent(rows, [key.id for key in keys], "product_id")
    ]


@cache
def _select_matches(is_single_store: bool) -> Statement:
    key = bind_keys(is_single_store)
    config_id = get_store(key, is_single_store)
    pair, is_in_stock = _unnest_attributes(), _is_in_stock(config_id, products)
    first = func.array_agg(
        aggregate_order_by(variants.c.id, is_in_stock.desc(), variants.c.position, variants.c.id), type_=ARRAY(UUID)
    )
    rows = select(
        variants.c.product_id,
        pair.c.key.label("name"),
        pair.c.value,
        func.bool_or(is_in_stock).label("is_available"),
        first[1].label("variant_id"),
    ).select_from(variants.join(products, is_variant_of_product(config_id)).join(pair, literal(True)))
    selected = fold_json(bindparam("selected", type_=JSONB))
    wanted = func.jsonb_each_text(selected).table_valued(column("key", Text), column("value", Text), name="wanted")
    has_value = variants.c.folded_attributes.op("->>", return_type=Text())(wanted.c.key) == wanted.c.value
    unmet = select(literal(1)).select_from(wanted).where(wanted.c.key != pair.c.key, func.coalesce(has_value, False).is_(False))
    matches = rows.where(
        ~unmet.correlate(variants, pair).exists(), is_variant_available(), is_row_of_key(products, key, is_single_store)
    ).group_by(variants.c.product_id, pair.c.key, pair.c.value)
    return compile_statement(select_per_parent(key, matches, name="matches"), depends_on=INHERITED_DEPENDENCY)


def select_offered_variants(config_id: ColumnElement[object], product: FromClause) -> Select[tuple[object, ...]]:
    """The `folded_attributes` of the offered variants of a product of this store, each with `in_stock`. Correlated."""
    rows = select(variants.c.folded_attributes, _is_in_stock(config_id, product))
    return rows.where(is_variant_of_product(config_id, product), is_variant_available()).correlate(product)


def _unnest_attributes() -> TableValuedAlias:
    """The names and values of the attributes of a variant, without case."""
    columns = column("key", Text), column("value", Text)
    return func.jsonb_each_text(variants.c.folded_attributes).table_valued(*columns, name="pair")


def _is_in_stock(config_id: ColumnElement[object], product: FromClause) -> ColumnElement[Any]:
    [in_stock] = build_variant_columns(["in_stock"], config_id, product, is_owner=False)
    return in_stock
