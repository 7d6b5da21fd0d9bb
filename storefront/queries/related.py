"""What else a shopper of a product may like."""

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import BigInteger, FromClause, Uuid, column, select, text, true

from storefront.core.cache_dependencies import WITHIN
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import products
from storefront.queries.batching import by_parent
from storefront.queries.projection import COLUMNS, MOST_STATEMENTS
from storefront.queries.visibility import ids

# Three tiers, each looked at only while the ones before it leave places, and of each its favourites: no product has its
# whole store ranked for it.
CANDIDATES = 200
_TIER = """
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
_TAGGED = "other.tags ?| ARRAY(SELECT jsonb_array_elements_text(parent.tags))"
_ELSEWHERE = "other.category IS DISTINCT FROM parent.category"
_WANTED = ("other.category = parent.category", f"{_ELSEWHERE} AND {_TAGGED}", f"{_ELSEWHERE} AND NOT {_TAGGED}")
_ORDER = "tier, shared DESC, popularity DESC, id DESC"

# The columns that a product needs to have others ranked for it.
PARENT = frozenset({"id", "config_id", "category", "tags"})


def best(limit: int) -> FromClause:
    """The first products that go with the row called "parent" beside which this stands: the `id` of each, and its `place`.

    The parent has the columns PARENT. Where there are more than CANDIDATES of a category, the most popular are compared.
    """
    tiers = range(len(_WANTED))
    found = " UNION ALL ".join(f"SELECT * FROM tier_{number}" for number in tiers)
    ranked = f"""
  WITH {",".join(_tier(number, limit) for number in tiers)}
  SELECT id, row_number() OVER (ORDER BY {_ORDER}) AS place FROM ({found}) AS found ORDER BY place LIMIT {limit}"""
    return text(ranked).columns(column("id", Uuid), column("place", BigInteger)).lateral("best")


def _tier(number: int, limit: int) -> str:
    taken = " + ".join(f"(SELECT count(*) FROM tier_{above})" for above in range(number)) or "0"
    return _TIER.format(number=number, wanted=_WANTED[number], places=f"{taken} < {limit}", candidates=CANDIDATES, limit=limit)


async def related(database: Database, keys: Sequence[str], limit: int) -> list[list[Row]]:
    """For each product active others of its store: same category first, then shared tags, then popularity."""
    return by_parent(await database.fetch(_related(limit), {"ids": list(keys)}), keys)


@lru_cache(MOST_STATEMENTS)
def _related(limit: int) -> Statement:
    parent, ranked = products.alias("parent"), best(limit)
    rows = parent.join(ranked, true()).join(products, products.c.id == ranked.c.id)
    found = select(parent.c.id.label("parent_id"), *COLUMNS).select_from(rows).where(parent.c.id == ids("ids"))
    return compiled(found.order_by(parent.c.id, ranked.c.place), reads=WITHIN)
