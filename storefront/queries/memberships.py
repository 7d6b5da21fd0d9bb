"""Whether products matched the filters of a list before and after changes of the log.

The conditions are those of lists. They are run on the rows of the past: in a subquery, `products` and `product_variants` name
what these tables were, which log entries after that moment tell (`models/former_values.py`).
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import BigInteger, and_, bindparam, column, false, func, literal_column, select, text, true
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products, variants
from storefront.models.categories import CATEGORY_PATHS_SQL
from storefront.models.former_values import FILTERED_PRODUCT_COLUMNS
from storefront.models.row_keys import bind_store
from storefront.models.rows import ChangeRow
from storefront.models.variant import FOLDED_ATTRIBUTES_SQL
from storefront.queries.listing import Selection, StoreScope, build_filter_conditions
from storefront.queries.projection import MAX_CACHED_STATEMENTS


class Membership(NamedTuple):
    """Whether a product matched the filters before a change, and after it."""

    before: bool
    after: bool


async def load_memberships(
    database: Database, config_id: str, entries: Sequence[ChangeRow], selection: Selection
) -> Mapping[int, Membership]:
    """The membership of each entry's product in a selection by filters, for every audience, by the entry's position.

    Entries of products that exist no longer are left out.
    """
    statement = _select_memberships(tuple(name for name, _ in selection.filters))
    parameters = {
        **selection.build_parameters([StoreScope(config_id)]),
        "positions": [entry.position for entry in entries],
        "product_ids": [entry.product_id for entry in entries],
    }
    found = {(row.entry_position, row.moment): row.is_match for row in await database.fetch(statement, parameters)}
    return {
        entry.position: Membership(
            found[entry.position, entry.position] and entry.kind != "product_created", found[entry.position, entry.position + 1]
        )
        for entry in entries
        if (entry.position, entry.position) in found
    }


# A moment is a position: the state before the entry there. What comes after an entry is the moment of the next position.
_PAST_VARIANTS_SQL = f"""
SELECT moments.product_id, CAST(:config_id AS uuid) AS config_id, coalesce(stored.id, former.id) AS id, past.price,
  past.is_available, {FOLDED_ATTRIBUTES_SQL.replace("attributes", "past.attributes")} AS folded_attributes
FROM (SELECT * FROM product_variants AS v WHERE v.config_id = :config_id AND v.product_id = moments.product_id) AS stored
FULL JOIN (
  SELECT DISTINCT ON (variant.key) CAST(variant.key AS uuid) AS id, variant.value
  FROM changes, jsonb_each(changes.former_variants) AS variant
  WHERE changes.config_id = :config_id AND changes.product_id = moments.product_id AND changes.position >= moments.moment
  ORDER BY variant.key, changes.position
) AS former ON former.id = stored.id
CROSS JOIN LATERAL jsonb_populate_record(CAST(stored AS product_variants), coalesce(former.value, '{{}}')) AS past
WHERE former.value IS DISTINCT FROM 'null'
"""
_PAST_PRODUCTS_SQL = f"""
SELECT stored.id, stored.config_id, {", ".join(f"past.{name}" for name in FILTERED_PRODUCT_COLUMNS)},
  {CATEGORY_PATHS_SQL.replace("category)", "past.category)")} AS category_paths
FROM products AS stored
LEFT JOIN LATERAL (
  SELECT changes.former_product FROM changes
  WHERE changes.config_id = :config_id AND changes.product_id = moments.product_id AND changes.position >= moments.moment
    AND changes.former_product IS NOT NULL
  ORDER BY changes.position LIMIT 1
) AS former ON true
CROSS JOIN LATERAL jsonb_populate_record(stored, coalesce(former.former_product, '{{}}')) AS past
WHERE stored.config_id = :config_id AND stored.id = moments.product_id
"""


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_memberships(filters: tuple[str, ...]) -> Statement:
    entry = func.unnest(bindparam("positions", type_=ARRAY(BigInteger)), bindparam("product_ids", type_=ARRAY(UUID)))
    entries = entry.table_valued(column("position", BigInteger), column("product_id", UUID)).render_derived(name="entries")
    offset = func.generate_series(literal_column("0"), literal_column("1")).table_valued("value").render_derived(name="step")
    moments = (
        select(
            entries.c.position.label("entry_position"),
            (entries.c.position + offset.c.value).label("moment"),
            entries.c.product_id,
        )
        .select_from(entries.join(offset, true()))
        .subquery("moments")
    )
    # CTEs of the subquery, which shadow the tables that the conditions name.
    past_products = text(_PAST_PRODUCTS_SQL).columns(*products.c["id", "config_id", *FILTERED_PRODUCT_COLUMNS, "category_paths"])
    past_variants = text(_PAST_VARIANTS_SQL).columns(*variants.c["product_id", "config_id", "id", "price", "is_available"])
    ctes = [
        past_variants.cte(variants.name, nesting=True),
        past_products.cte(products.name, nesting=True),
    ]
    is_match = func.coalesce(and_(true(), *build_filter_conditions(filters, bind_store())), false()).label("is_match")
    past = select(is_match).select_from(products).add_cte(*ctes, nest_here=True).lateral("past")
    return compile_statement(
        select(moments.c.entry_position, moments.c.moment, past.c.is_match).select_from(moments.join(past, true()))
    )
