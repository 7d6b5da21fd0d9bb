"""Writes of analytics: how much each product is wanted."""

from functools import cache

from sqlalchemy import text

from storefront.core.database import Database, Statement, compiled

DAYS = 30
CART_WEIGHT = 5

# Counted anew rather than added up: an event that grows old leaves the count by itself. Only rows that differ are written.
# One refresh at a time: of several processes that try, the others find the lock taken and do nothing.
_REFRESH = f"""
WITH allowed AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(7312027) AS go),
wanted AS (
  SELECT config_id, properties ->> 'productId' AS product_id,
         sum(CASE event WHEN 'add_to_cart' THEN {CART_WEIGHT} ELSE 1 END)::integer AS score
  FROM analytics_events
  WHERE "timestamp" > now() - interval '{DAYS} days' AND event IN ('product_click', 'add_to_cart')
  GROUP BY 1, 2
),
scored AS (
  SELECT products.id, coalesce(wanted.score, 0) AS score
  FROM products LEFT JOIN wanted ON wanted.config_id = products.config_id AND wanted.product_id = products.id::text
),
changed AS (
  UPDATE products SET popularity = scored.score
  FROM scored, allowed
  WHERE allowed.go AND products.id = scored.id AND products.popularity <> scored.score
  RETURNING 1
)
SELECT count(*) AS changed FROM changed
"""


async def refresh_popularity(database: Database) -> int:
    """Bring every product's popularity up to date; returns how many changed."""
    async with database.transaction() as connection:
        # The whole of a long month may take longer than a request is allowed.
        await connection.raw.execute("SET LOCAL statement_timeout = '10min'")
        [(changed,)] = await connection.fetch(_refresh())
    return int(changed)


@cache
def _refresh() -> Statement:
    return compiled(text(_REFRESH))
