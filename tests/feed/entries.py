"""Entries of a store's log, one by one."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from storefront.feed.hub import Gap, Hub
from storefront.models.rows import ChangeRow


async def stream_entries(hub: Hub, config_id: str, after: int | None) -> AsyncGenerator[ChangeRow | Gap, None]:
    """Yield a store's entries after a position (None: from now on). Ends when the store is deleted."""
    async with aclosing(hub.stream_batches(config_id, after)) as batches:
        async for batch in batches:
            for entry in batch.entries:
                yield entry
