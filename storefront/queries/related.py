"""Related products."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, BindParameter, ColumnElement, FromClause, Uuid, column, select, text, true

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products
from storefront.models.row_keys import RowKey, are_of_single_store, build_key_parameters, get_store
from storefront.models.rows import ProductRow
from storefront.queries.batching import group_by_parent
from storefront.queries.paging import select_of_keys
from storefront.queries.projection import MAX_CACHED_STATEMENTS, PRODUCT_COLUMNS

# Three tiers, each read only if the earlier ones leave places, and of each only the most popular products: ranking never reads
# a whole store.
MAX_CANDIDATES = 200
_TIER_SQL = """
  tier_{number} AS MATERIALIZED (
    SELECT candidate.id, {number} AS tier, candidate.popularity, (
      SELECT count(*) FROM jsonb_array_elements_text(candidate.tags) AS tag WHERE parent.tags ? tag
    ) AS shared
    FROM (
      SELECT other.id, other.popularity, other.tags
      FROM products AS other
      WHERE other.config_id = {config_id} AND other.id <> parent.id AND other.status = 'active' AND {wanted} AND {places}
      ORDER BY other.popularity DESC, other.id DESC
      LIMIT {candidates}
    ) AS candidate
    ORDER BY shared DESC, candidate.popularity DESC, candidate.id DESC
    LIMIT {limit}
  )"""
_SHARES_TAG_SQL = "other.tags ?| ARRAY(SELECT jsonb_array_elements_text(parent.tags))"
_OTHER_CATEGORY_SQL = "other.category IS DISTINCT FROM parent.category"
_TIER_CONDITIONS_SQL = (
    "other.category = parent.category",
    f"{_OTHER_CATEGORY_SQL} AND {_SHARES_TAG_SQL}",
    f"{_OTHER_CATEGORY_SQL} AND NOT {_SHARES_TAG_SQL}",
)
_RANKING_SQL = "tier, shared DESC, popularity DESC, id DESC"

# The columns of a product that its ranking reads.
PARENT_COLUMNS = frozenset({"id", "config_id", "category", "tags"})


def rank_related_products(limit: int, config_id: ColumnElement[Any]) -> FromClause:
    """The related products of the row named "parent" (LATERAL), of this store: `id` and `place`, from 1.

    The parent has PARENT_COLUMNS. `config_id`: the store of the statement, or that of the parent. Of a tier, only the
    MAX_CANDIDATES most popular products are compared.
    """
    is_parameter = isinstance(config_id, BindParameter)
    config_id_sql = "CAST(:config_id AS uuid)" if is_parameter else "parent.config_id"
    tiers = range(len(_TIER_CONDITIONS_SQL))
    tiers_union = " UNION ALL ".join(f"SELECT * FROM tier_{number}" for number in tiers)
    sql = f"""
  WITH {",".join(_build_tier_sql(number, limit, config_id_sql) for number in tiers)}
  SELECT id, row_number() OVER (ORDER BY {_RANKING_SQL}) AS place FROM ({tiers_union}) AS found ORDER BY place LIMIT {limit}"""
    return text(sql).columns(column("id", Uuid), column("place", BigInteger)).lateral("best")


def _build_tier_sql(number: int, limit: int, config_id: str) -> str:
    places_taken = " + ".join(f"(SELECT count(*) FROM tier_{earlier})" for earlier in range(number)) or "0"
    return _TIER_SQL.format(
        number=number,
        wanted=_TIER_CONDITIONS_SQL[number],
        places=f"{places_taken} < {limit}",
        candidates=MAX_CANDIDATES,
        limit=limit,
        config_id=config_id,
    )


async def load_related_products(database: Database, keys: Sequence[RowKey], limit: int) -> list[list[ProductRow]]:
    """Other active products of each product's store: same category first, then by shared tags, then by popularity."""
    rows = await database.fetch(_select_related(limit, are_of_single_store(keys)), build_key_parameters(keys))
    return group_by_parent(rows, [key.id for key in keys])


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_related(limit: int, is_single_store: bool) -> Statement:
    columns = [products.c[name] for name in sorted(PARENT_COLUMNS)]
    parent = select_of_keys(select(*columns), products, is_single_store).subquery("parent")
    store = get_store(parent, is_single_store)
    ranked = rank_related_products(limit, store)
    rows = parent.join(ranked, true()).join(products, (products.c.config_id == store) & (products.c.id == ranked.c.id))
    query = select(parent.c.id.label("parent_id"), *PRODUCT_COLUMNS).select_from(rows)
    return compile_statement(query.order_by(parent.c.id, ranked.c.place), depends_on=INHERITED_DEPENDENCY)
