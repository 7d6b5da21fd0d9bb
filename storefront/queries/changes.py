"""A store's log as somebody may see it: each entry becomes an arrival, a change, a departure, a reset, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from storefront.core.db.database import Database, Row
from storefront.feed import log
from storefront.queries.configs import load_log_positions
from storefront.queries.visibility import Audience

EXPIRED_POSITION_REASON = "the position asked for is no longer kept: refetch, then resume from here"
STORE_OPENED_REASON = "the store was opened: fetch it"
STORE_CLOSED_REASON = "the store was closed"


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a log: its entries, the position read up to, whether there are more, and whether what came before is lost."""

    entries: Sequence[Row]
    position: int
    has_more: bool
    has_gap: bool = False


async def load_changes_after(database: Database, config_id: str, position: int, limit: int) -> LogPage:
    """The entries after a position. Positions have no gaps: where the next one is missing, it is no longer kept."""
    page = await _load_next_page(database, config_id, position, limit)
    if page is not None:
        return page
    (head,) = await load_log_positions(database, [config_id])
    # What was committed between the two looks is not lost.
    page = await _load_next_page(database, config_id, position, limit) if head > position else None
    return page or LogPage((), head, has_more=False, has_gap=head != position)


async def _load_next_page(database: Database, config_id: str, position: int, limit: int) -> LogPage | None:
    entries = await log.read_entries(database, config_id, position, limit + 1)
    if not entries or entries[0].position != position + 1:
        return None
    page_entries = entries[:limit]
    return LogPage(page_entries, page_entries[-1].position, len(entries) > limit)


def classify_entry(entry: Row, audience: Audience) -> str | None:
    """What an entry is to an audience: "created", "updated", "deleted", "opened", "closed"; None for what they do not see."""
    if entry.product_id is not None:
        return (
            str(entry.kind).removeprefix("product_")
            if audience is Audience.OWNER
            else _SHOPPER_PRODUCT_CHANGES.get(_get_visibility(entry))
        )
    return _SHOPPER_STORE_CHANGES.get(_get_visibility(entry)) if audience is Audience.SHOPPER else None


def _get_visibility(entry: Row) -> tuple[bool, bool]:
    return entry.was_visible, entry.is_visible


_SHOPPER_PRODUCT_CHANGES = {(False, True): "created", (True, True): "updated", (True, False): "deleted"}
_SHOPPER_STORE_CHANGES = {(False, True): "opened", (True, False): "closed"}
