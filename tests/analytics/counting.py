"""A recount of all events, to compare rollups with; and a process that rolls up until it is killed."""

import asyncio
from typing import Any

from storefront.analytics.rollups import roll_up
from storefront.core.db.database import Database

_GRAINS = "(VALUES (60), (900), (7200), (21600), (43200), (86400), (172800), (345600), (691200), (1382400)) AS grains (grain)"
# Computed by division of seconds since 2001, independently of date_bin.
_AT = "to_timestamp(978307200 + floor((extract(epoch FROM {0}) - 978307200) / grain) * grain)"
_PEOPLE = """people AS (
  SELECT *, coalesce(nullif(utm_source, ''), substring(lower(referrer) FROM '^[a-z]+://([^/:?#]+)'), 'direct') AS source,
         coalesce(utm_medium, '') AS medium, coalesce(utm_campaign, '') AS campaign
  FROM analytics_events WHERE NOT is_bot
), firsts AS (
  SELECT DISTINCT ON (config_id, session_id) * FROM people WHERE session_id IS NOT NULL
  ORDER BY config_id, session_id, "timestamp", id
), visits AS (
  SELECT f.*, (SELECT date_trunc('minute', max("timestamp")) FROM people p WHERE p.config_id = f.config_id AND p.session_id = f.session_id) AS seen, EXISTS (SELECT FROM people p WHERE p.config_id = f.config_id AND p.session_id = f.session_id AND p.event = 'product_click') AS clicked,
    EXISTS (SELECT FROM people p WHERE p.config_id = f.config_id AND p.session_id = f.session_id AND p.event = 'add_to_cart') AS carted,
    EXISTS (SELECT FROM people p WHERE p.config_id = f.config_id AND p.session_id = f.session_id AND p.event = 'purchase') AS purchased
  FROM firsts f
)"""  # noqa: E501

# Rollup table -> queries of the expected and the actual rows, without rows of only zeros.
BY_HAND = {
    "analytics_sessions": (
        f"""WITH {_PEOPLE} SELECT config_id, session_id, "timestamp", id, source, medium, campaign,
        clicked, carted, purchased, seen FROM visits""",
        """SELECT config_id, session_id, began, began_with, source, medium, campaign, clicked, carted, purchased, seen
        FROM analytics_sessions""",
    ),
    "analytics_totals": (
        f"""WITH {_PEOPLE}, total AS (
          SELECT config_id, grain, {_AT.format('"timestamp"')} AS at, count(*) FILTER (WHERE event = 'page_view') AS a,
            count(*) FILTER (WHERE event = 'product_click') AS b, count(*) FILTER (WHERE event = 'add_to_cart') AS c,
            count(*) FILTER (WHERE event = 'purchase') AS d, count(*) FILTER (WHERE event = 'search') AS e
          FROM people CROSS JOIN {_GRAINS} GROUP BY 1, 2, 3
        ), visited AS (
          SELECT config_id, grain, {_AT.format('"timestamp"')} AS at, count(*) AS f, count(*) FILTER (WHERE clicked) AS g,
            count(*) FILTER (WHERE clicked AND carted) AS h, count(*) FILTER (WHERE clicked AND carted AND purchased) AS i
          FROM visits CROSS JOIN {_GRAINS} GROUP BY 1, 2, 3
        ), left_at AS (
          SELECT config_id, grain, {_AT.format("seen")} AS at, count(*) AS j FROM visits CROSS JOIN {_GRAINS} GROUP BY 1, 2, 3
        ) SELECT config_id, grain, at, a, b, c, d, e,
          coalesce(f, 0), coalesce(g, 0), coalesce(h, 0), coalesce(i, 0), coalesce(j, 0)
          FROM total LEFT JOIN visited USING (config_id, grain, at) LEFT JOIN left_at USING (config_id, grain, at)
          WHERE a + b + c + d + e + coalesce(f, 0) + coalesce(j, 0) > 0""",
        """SELECT config_id, grain, at, page_views, product_clicks, add_to_carts, purchases, searches, sessions,
          clicked_sessions, converted_sessions, purchased_sessions, last_seen_sessions FROM analytics_totals
          WHERE page_views + product_clicks + add_to_carts + purchases + searches + sessions + last_seen_sessions > 0""",
    ),
    "analytics_products": (
        f"""WITH {_PEOPLE} SELECT config_id, grain, {_AT.format('"timestamp"')}, lower(properties ->> 'productId')::uuid,
          count(*) FILTER (WHERE event = 'product_click'), count(*) FILTER (WHERE event = 'add_to_cart')
        FROM people CROSS JOIN {_GRAINS}
        WHERE event IN ('product_click', 'add_to_cart') AND length(properties ->> 'productId') = 36 GROUP BY 1, 2, 3, 4""",
        "SELECT config_id, grain, at, product_id, clicks, add_to_carts FROM analytics_products",
    ),
    "analytics_purchases": (
        f"""WITH {_PEOPLE}, one AS (
          SELECT *, (properties ->> 'total') <> '' AND (properties ->> 'currency') <> '' AS is_paid FROM people
        ) SELECT config_id, grain, {_AT.format('"timestamp"')},
          CASE WHEN length(properties ->> 'productId') = 36 THEN lower(properties ->> 'productId')::uuid
            ELSE '00000000-0000-0000-0000-000000000000' END,
          CASE WHEN is_paid THEN properties ->> 'currency' ELSE '' END, count(*),
          sum(CASE WHEN is_paid THEN (properties ->> 'total')::numeric ELSE 0 END)
        FROM one CROSS JOIN {_GRAINS} WHERE event = 'purchase' GROUP BY 1, 2, 3, 4, 5""",
        "SELECT config_id, grain, at, product_id, currency, purchases, amount FROM analytics_purchases",
    ),
    "analytics_sources": (
        f"""WITH {_PEOPLE}, one AS (
          SELECT config_id, "timestamp" AS moment, source, medium, campaign, 1 AS event, 0 AS visit FROM people
          UNION ALL SELECT config_id, "timestamp", source, medium, campaign, 0, 1 FROM visits
        ) SELECT config_id, grain, {_AT.format("moment")}, source, medium, campaign, sum(event), sum(visit)
          FROM one CROSS JOIN {_GRAINS} GROUP BY 1, 2, 3, 4, 5, 6""",
        """SELECT config_id, grain, at, source, medium, campaign, events, sessions FROM analytics_sources
          WHERE events <> 0 OR sessions <> 0""",
    ),
}


async def differences(database: Database) -> dict[str, list[Any]]:
    """Differences by table: missing and surplus rows. Empty lists if the rollups are correct."""
    found = {}
    async with database.transaction() as connection:
        for table, (wanted, counted) in BY_HAND.items():
            sql = f"(({wanted}) EXCEPT ALL ({counted})) UNION ALL (({counted}) EXCEPT ALL ({wanted}))"
            found[table] = await (await connection.raw.execute(sql.encode())).fetchall()
    return found


RIGHT: dict[str, list[Any]] = {table: [] for table in BY_HAND}


def count_for_ever(url: str) -> None:
    """Roll up in a loop until the process is killed."""

    async def work() -> None:
        async with Database(url, size=1) as database:
            while True:
                await roll_up(database)

    asyncio.run(work())
