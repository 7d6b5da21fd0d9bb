"""Changes that stand in a log, whatever made them."""

from storefront.core.db.database import Database
from storefront.feed.log import LogEntry, append_entries


async def changed(database: Database, store: str, *products: str) -> None:
    """A change of each product, written to the log."""
    entries = [
        LogEntry(kind="product_updated", entity_id=id_, product_id=id_, was_visible=True, is_visible=True) for id_ in products
    ]
    async with database.transaction() as connection:
        await append_entries(connection, store, entries)
