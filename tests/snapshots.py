"""Comparisons of whole databases: has anything been written?"""

from storefront.core.db.database import Database

_TABLES_SQL = """SELECT oid::regclass::text FROM pg_class
  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1"""
_DIGEST_SQL = "SELECT '{0}', count(*), sum(hashtidextended(ctid, xmin::text::bigint)) FROM {0}"


async def fetch_row_versions(database: Database) -> list[str]:
    """A digest of the row versions of each table: their places, and the transactions that wrote them.

    As long as it is the same, so is each row. Digests of the values find no more, and take a hundred times as long.
    """
    async with database.transaction() as connection:
        tables = [name for (name,) in await (await connection.raw.execute(_TABLES_SQL)).fetchall()]
        digests = await connection.raw.execute(" UNION ALL ".join(map(_DIGEST_SQL.format, tables)).encode())
        return [f"{name}: {count} rows, {digest}" for name, count, digest in await digests.fetchall()]
