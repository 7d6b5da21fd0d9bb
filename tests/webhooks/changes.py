"""Changes that are appended to a log directly."""

from storefront.core.db.database import Database
from storefront.feed.log import LogEntry, append_entries


async def append_changes(database: Database, store: str, *products: str) -> None:
    """Append a change of each product to the log of its store."""
    entries = [
        LogEntry(kind="product_updated", entity_id=id_, product_id=id_, was_visible=True, is_visible=True) for id_ in products
    ]
    async with database.transaction() as connection:
        await append_entries(connection, store, entries)
