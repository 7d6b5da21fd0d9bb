"""Reading one's own writes: `atLeast` makes a read include the change at a log position."""

import asyncio
from typing import Annotated

import strawberry

from storefront.core.db.database import DATABASE_ERRORS, Database
from storefront.feed import log
from storefront.graph.context import Context
from storefront.graph.scalars import Position

# Seconds that a read waits for a replica before it goes to the primary, and between two looks at the replica's position.
MAX_WAIT_SECONDS, LOOK_INTERVAL_SECONDS = 1.0, 0.02

AtLeast = Annotated[
    Position | None,
    strawberry.argument(
        description="Includes the change at this log position of the store: pass `ChangePayload.position` to read your own write."
    ),
]


async def read_at_least(context: Context, config_id: str | None, position: int | None) -> None:
    """Let the operation read a store at a log position or later, from its replica if that gets there in time, else the primary.

    `config_id`: None if the replica does not know the store. Responses are cached by the position as well, so that no older
    one is returned.
    """
    if position is None or context.replica is None:
        # The primary has every change that anybody knows of.
        return
    if config_id is None or not await _wait_for_position(context.replica, config_id, position):
        context.replica = None
    # Rows that other fields of the operation read before.
    context.clear_loaders()


async def _wait_for_position(database: Database, config_id: str, position: int) -> bool:
    try:
        async with asyncio.timeout(MAX_WAIT_SECONDS):
            while (await log.load_last_positions(database, [config_id])).get(config_id, 0) < position:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_INTERVAL_SECONDS)
    except (*DATABASE_ERRORS, TimeoutError):
        return False
    return True
