"""A store's log for an audience: an entry is a change of a product or of the store, a reset, or not visible."""

from collections.abc import Sequence
from dataclasses import dataclass

from storefront.core.db.database import Database
from storefront.feed import log
from storefront.feed.log import GapReason, explain_gap
from storefront.models.rows import ChangeRow
from storefront.queries.configs import load_log_positions
from storefront.queries.visibility import Audience


@dataclass(frozen=True, slots=True)
class LogPage:
    """A page of a log: its entries, the last position read, whether more follow, and why earlier entries are missing, if so."""

    entries: Sequence[ChangeRow]
    position: int
    has_more: bool
    gap_reason: GapReason | None = None


async def load_changes_after(database: Database, config_id: str, position: int, limit: int) -> LogPage:
    """The entries after a position. Positions are gapless: a missing next entry was deleted by log retention."""
    page = await _load_next_page(database, config_id, position, limit)
    if page is not None:
        return page
    (head,) = await load_log_positions(database, [config_id])
    # Entries committed between the two reads must not count as a gap.
    page = await _load_next_page(database, config_id, position, limit) if head > position else None
    return page or LogPage((), head, has_more=False, gap_reason=None if head == position else explain_gap(position, head))


async def _load_next_page(database: Database, config_id: str, position: int, limit: int) -> LogPage | None:
    entries = await log.read_entries(database, config_id, position, limit + 1)
    if not entries or entries[0].position != position + 1:
        return None
    page_entries = entries[:limit]
    return LogPage(page_entries, page_entries[-1].position, len(entries) > limit)


def classify_entry(entry: ChangeRow, audience: Audience) -> str | None:
    """The kind of an entry for an audience; None if not visible.

    Of a product "created", "updated" or "deleted"; of the store "opened", "closed" or "configured".
    """
    if entry.product_id is not None:
        return (
            str(entry.kind).removeprefix("product_")
            if audience is Audience.OWNER
            else _SHOPPER_PRODUCT_CHANGES.get(_get_visibility(entry))
        )
    is_configured = entry.entity_id == entry.config_id and bool(entry.changed_fields)
    if audience is Audience.OWNER:
        return "configured" if is_configured else None
    if _get_visibility(entry) == (True, True):
        return "configured" if is_configured else None
    return _SHOPPER_STORE_CHANGES.get(_get_visibility(entry))


def _get_visibility(entry: ChangeRow) -> tuple[bool, bool]:
    return entry.was_visible, entry.is_visible


_SHOPPER_PRODUCT_CHANGES = {(False, True): "created", (True, True): "updated", (True, False): "deleted"}
_SHOPPER_STORE_CHANGES = {(False, True): "opened", (True, False): "closed"}
