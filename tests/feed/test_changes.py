"""Reading a log by pages during concurrent writes."""

import psycopg

from storefront.core.db.database import Database
from storefront.core.ids import new_id
from storefront.queries import changes
from tests.factories import make_store


async def test_commit_between_two_reads_is_no_gap(database: Database, empty_url: str) -> None:
    store, seen = await make_store(database), list[str]()

    def commit(sql: str) -> None:
        seen.append(sql)
        if len(seen) == 2:
            with psycopg.connect(empty_url) as connection:
                connection.execute("INSERT INTO store_positions VALUES (%s, 1)", [store])
                row = "INSERT INTO changes (config_id, position, kind, entity_id, was_visible, is_visible)"
                connection.execute(f"{row} VALUES (%s, 1, 'store_updated', %s, true, true)".encode(), [store, new_id()])

    database.observers.append(commit)
    part = await changes.load_changes_after(database, store, 0, 10)
    assert len(seen) == 3 and part.gap_reason is None and [entry.position for entry in part.entries] == [1]
