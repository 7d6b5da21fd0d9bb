"""A store's log as somebody may see it: each entry becomes an arrival, a change, a departure, a reset, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from storefront.core.db.database import Database, Row
from storefront.feed import log
from storefront.queries.configs import positions_of
from storefront.queries.visibility import Audience

TOO_LATE = "the position asked for is no longer kept: refetch, then resume from here"
OPENED = "the store was opened: fetch it"
CLOSED = "the store was closed"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a log: its entries, the position read up to, whether there are more, and whether what came before is lost."""

    entries: Sequence[Row]
    position: int
    has_more: bool
    is_lost: bool = False


async def after(database: Database, config_id: str, position: int, limit: int) -> Part:
    """The entries after a position. Positions have no gaps: where the next one is missing, it is no longer kept."""
    part = await _next(database, config_id, position, limit)
    if part is not None:
        return part
    (head,) = await positions_of(database, [config_id])
    # What was committed between the two looks is not lost.
    part = await _next(database, config_id, position, limit) if head > position else None
    return part or Part((), head, has_more=False, is_lost=head != position)


async def _next(database: Database, config_id: str, position: int, limit: int) -> Part | None:
    entries = await log.read(database, config_id, position, limit + 1)
    if not entries or entries[0].position != position + 1:
        return None
    kept = entries[:limit]
    return Part(kept, kept[-1].position, len(entries) > limit)


def seen_as(entry: Row, audience: Audience) -> str | None:
    """What an entry is to an audience: "created", "updated", "deleted", "opened", "closed"; None for what they do not see."""
    if entry.product_id is not None:
        return str(entry.kind).removeprefix("product_") if audience is Audience.OWNER else _TO_SHOPPERS.get(_seen(entry))
    return _STORE_TO_SHOPPERS.get(_seen(entry)) if audience is Audience.SHOPPER else None


def _seen(entry: Row) -> tuple[bool, bool]:
    return entry.was_visible, entry.is_visible


_TO_SHOPPERS = {(False, True): "created", (True, True): "updated", (True, False): "deleted"}
_STORE_TO_SHOPPERS = {(False, True): "opened", (True, False): "closed"}
