"""Moves the URLs of images to another base URL, for servers whose host or port changes."""

from functools import cache

from sqlalchemy import bindparam, text

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.queries.images import MEDIA_PATH

_KEY_SQL = "([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([0-9a-f]{32})"
# The base URLs of images of this server. Another server's images may be shown, too, by URLs of the same form.
_BASE_URLS_SQL = f"""
WITH shown AS (
  SELECT address FROM products CROSS JOIN jsonb_array_elements_text(products.images) AS address
  WHERE address LIKE '%{MEDIA_PATH}/%'
  UNION ALL
  SELECT image FROM users WHERE image LIKE '%{MEDIA_PATH}/%'
)
SELECT DISTINCT part.found[1] AS base_url
FROM shown CROSS JOIN LATERAL regexp_match(address, '^(.+){MEDIA_PATH}/{_KEY_SQL}/') AS part (found)
JOIN images ON images.id = CAST(part.found[2] AS uuid) AND images.token = part.found[3]
WHERE part.found[1] <> :base_url
"""
_TEXT_COLUMNS = (("users", "image"), ("product_variants", "image"), ("category_details", "image"))


async def move_image_addresses(database: Database, base_url: str) -> int:
    """Give all URLs of uploaded images this base URL; returns the number of base URLs that they had instead.

    Versions and logs stay: it is for the start of a server that has not been read from yet. All products are read.
    """
    found = await database.fetch(_select_base_urls(), {"base_url": base_url})
    async with database.transaction() as connection:
        for row in found:
            parameters = {"former": f"{row.base_url}{MEDIA_PATH}/", "present": f"{base_url}{MEDIA_PATH}/"}
            for statement in (_move_in_products(), *map(_move_in_column, _TEXT_COLUMNS)):
                await connection.fetch(statement, parameters)
        await connection.commit()
    return len(found)


@cache
def _select_base_urls() -> Statement:
    return compile_statement(text(_BASE_URLS_SQL).bindparams(bindparam("base_url")))


@cache
def _move_in_products() -> Statement:
    columns = ("images", "options")
    moves = ", ".join(f"{name} = CAST(replace({name}::text, :former, :present) AS jsonb)" for name in columns)
    has_any = " OR ".join(f"strpos({name}::text, :former) > 0" for name in columns)
    return compile_statement(text(f"UPDATE products SET {moves} WHERE {has_any}"))


@cache
def _move_in_column(column: tuple[str, str]) -> Statement:
    table, name = column
    sql = f"UPDATE {table} SET {name} = replace({name}, :former, :present) WHERE starts_with({name}, :former)"
    return compile_statement(text(sql))
