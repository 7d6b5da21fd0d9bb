"""Which option values of products have a variant, given values of their other options."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, Text, bindparam, column, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, aggregate_order_by

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.queries.batching import group_by_parent
from storefront.queries.fields import build_variant_columns, fold_json
from storefront.queries.visibility import any_of_ids, is_variant_available


class OptionMatch(NamedTuple):
    """A value that offered variants have: whether one can be bought, and the first of them, those that can be bought first."""

    is_available: bool
    variant_id: str


# By name and value, without case.
OptionMatches = Mapping[tuple[str, str], OptionMatch]


async def load_option_matches(database: Database, keys: Sequence[str], selected: str) -> list[OptionMatches]:
    """The option values of each product that offered variants have. `selected`: a JSON object of names and values without case.

    A variant counts for a value if it has the selected values of all other options.
    """
    rows = await database.fetch(_select_matches(), {"ids": list(keys), "selected": selected})
    return [
        {(row.name, row.value): OptionMatch(row.is_available, row.variant_id) for row in product_rows}
        for product_rows in group_by_parent(rows, keys, "product_id")
    ]


@cache
def _select_matches() -> Statement:
    rows = select_matches(fold_json(bindparam("selected", type_=JSONB)))
    in_products = (
        rows.add_columns(variants.c.product_id).where(products.c.id == any_of_ids("ids")).group_by(variants.c.product_id)
    )
    return compile_statement(in_products, depends_on=INHERITED_DEPENDENCY)


def select_matches(selected: ColumnElement[object] | None = None) -> Select[tuple[object, ...]]:
    """Names and values that offered variants of products have, each with `is_available` and `variant_id`."""
    pair = func.jsonb_each_text(variants.c.folded_attributes).table_valued(
        column("key", Text), column("value", Text), name="pair"
    )
    [in_stock] = build_variant_columns(["in_stock"], is_owner=False)
    first = func.array_agg(
        aggregate_order_by(variants.c.id, in_stock.desc(), variants.c.position, variants.c.id), type_=ARRAY(UUID)
    )
    rows = select(
        pair.c.key.label("name"),
        pair.c.value,
        func.bool_or(in_stock).label("is_available"),
        first[1].label("variant_id"),
    ).select_from(variants.join(products, products.c.id == variants.c.product_id).join(pair, literal(True)))
    if selected is not None:
        wanted = func.jsonb_each_text(selected).table_valued(column("key", Text), column("value", Text), name="wanted")
        has_value = variants.c.folded_attributes.op("->>", return_type=Text())(wanted.c.key) == wanted.c.value
        unmet = (
            select(literal(1)).select_from(wanted).where(wanted.c.key != pair.c.key, func.coalesce(has_value, False).is_(False))
        )
        rows = rows.where(~unmet.correlate(variants, pair).exists())
    return rows.where(is_variant_available()).group_by(pair.c.key, pair.c.value)
