"""What else a shopper of a product may like."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from storefront.core.database import Database, Row, Statement, compiled
from storefront.core.scopes import WITHIN
from storefront.queries.grouped import by_parent
from storefront.queries.listing import COLUMNS

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
    LIMIT :limit
  )"""
_TAGGED = "other.tags ?| ARRAY(SELECT jsonb_array_elements_text(parent.tags))"
_ELSEWHERE = "other.category IS DISTINCT FROM parent.category"


def _tier(number: int, wanted: str) -> str:
    taken = " + ".join(f"(SELECT count(*) FROM tier_{above})" for above in range(number)) or "0"
    return _TIER.format(number=number, wanted=wanted, places=f"{taken} < :limit", candidates=CANDIDATES)


_RELATED = f"""
SELECT parent.id AS parent_id, {", ".join(f"related.{column.name}" for column in COLUMNS)}
FROM products AS parent
CROSS JOIN LATERAL (
  WITH {_tier(0, "other.category = parent.category")},
  {_tier(1, f"{_ELSEWHERE} AND {_TAGGED}")},
  {_tier(2, f"{_ELSEWHERE} AND NOT {_TAGGED}")}
  SELECT * FROM tier_0 UNION ALL SELECT * FROM tier_1 UNION ALL SELECT * FROM tier_2
  ORDER BY tier, shared DESC, popularity DESC, id DESC
  LIMIT :limit
) AS best
JOIN products AS related ON related.id = best.id
WHERE parent.id = ANY(:ids)
ORDER BY parent.id, best.tier, best.shared DESC, best.popularity DESC, best.id DESC
"""


async def related(database: Database, keys: Sequence[str], limit: int) -> list[list[Row]]:
    """For each product active others of its store: same category first, then shared tags, then popularity.

    Where there are more than CANDIDATES of a category, the most popular of them are compared.
    """
    return by_parent(await database.fetch(_related(), {"ids": list(keys), "limit": limit}), keys)


@cache
def _related() -> Statement:
    return compiled(text(_RELATED).bindparams(bindparam("ids", type_=ARRAY(UUID)), bindparam("limit")), reads=WITHIN)
