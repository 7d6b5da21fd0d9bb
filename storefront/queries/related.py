"""What else a shopper of a product may like."""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import BigInteger, FromClause, Uuid, column, select, text, true

from storefront.core.cache_dependencies import INHERITED_DEPENDENCY
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products
from storefront.queries.batching import group_by_parent
from storefront.queries.projection import MAX_CACHED_STATEMENTS, PRODUCT_COLUMNS
from storefront.queries.visibility import any_of_ids

# Three tiers, each looked at only while the ones before it leave places, and of each its favourites: no product has its
# whole store ranked for it.
MAX_CANDIDATES = 200
_TIER_SQL = """
  tier_{number} AS MATERIALIZED (
    SELECT candidate.id, {number} AS tier, candidate.popularity, (
      SELECT count(*) FROM jsonb_array_elements_text(candidate.tags) AS tag WHERE parent.tags ? tag
    ) AS shared
    FROM (
      SELECT other.id, other.popularity, other.tags
      FROM products AS other
      WHERE other.config_id = parent.config_id AND other.id <> parent.id AND other.status = 'active' AND {wanted} AND {places}
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

# The columns that a product needs to have others ranked for it.
PARENT_COLUMNS = frozenset({"id", "config_id", "category", "tags"})


def rank_related_products(limit: int) -> FromClause:
    """The first products that go with the row called "parent" beside which this stands: the `id` of each, and its `place`.

    The parent has the columns PARENT. Where there are more than CANDIDATES of a category, the most popular are compared.
    """
    tiers = range(len(_TIER_CONDITIONS_SQL))
    tiers_union = " UNION ALL ".join(f"SELECT * FROM tier_{number}" for number in tiers)
    sql = f"""
  WITH {",".join(_build_tier_sql(number, limit) for number in tiers)}
  SELECT id, row_number() OVER (ORDER BY {_RANKING_SQL}) AS place FROM ({tiers_union}) AS found ORDER BY place LIMIT {limit}"""
    return text(sql).columns(column("id", Uuid), column("place", BigInteger)).lateral("best")


def _build_tier_sql(number: int, limit: int) -> str:
    places_taken = " + ".join(f"(SELECT count(*) FROM tier_{earlier})" for earlier in range(number)) or "0"
    return _TIER_SQL.format(
        number=number,
        wanted=_TIER_CONDITIONS_SQL[number],
        places=f"{places_taken} < {limit}",
        candidates=MAX_CANDIDATES,
        limit=limit,
    )


async def load_related_products(database: Database, keys: Sequence[str], limit: int) -> list[list[Row]]:
    """For each product active others of its store: same category first, then shared tags, then popularity."""
    return group_by_parent(await database.fetch(_select_related(limit), {"ids": list(keys)}), keys)


@lru_cache(MAX_CACHED_STATEMENTS)
def _select_related(limit: int) -> Statement:
    parent, ranked = products.alias("parent"), rank_related_products(limit)
    rows = parent.join(ranked, true()).join(products, products.c.id == ranked.c.id)
    query = select(parent.c.id.label("parent_id"), *PRODUCT_COLUMNS).select_from(rows).where(parent.c.id == any_of_ids("ids"))
    return compile_statement(query.order_by(parent.c.id, ranked.c.place), depends_on=INHERITED_DEPENDENCY)
