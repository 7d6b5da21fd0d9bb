"""A store's log as somebody may see it: each entry becomes an arrival, a change, a departure, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from storefront.core.database import Database, Row
from storefront.feed import log
from storefront.queries.visibility import Audience


@dataclass(frozen=True, slots=True)
class SeenChange:
    """An entry of the log and what it was to the asker: "created", "updated" or "deleted"."""

    entry: Row
    kind: str


async def after(
    database: Database, config_id: str, position: int, limit: int, audience: Audience
) -> tuple[list[SeenChange], int, bool]:
    """What the asker sees of the entries after a position, the position read up to, and whether there are more."""
    entries = await log.read(database, config_id, position, limit + 1)
    kept = entries[:limit]
    seen = [SeenChange(entry, kind) for entry in kept if (kind := seen_as(entry, audience)) is not None]
    return seen, kept[-1].position if kept else position, len(entries) > limit


def seen_as(entry: Row, audience: Audience) -> str | None:
    """What an entry is to an audience; None where it concerns nothing that they see."""
    if entry.product_id is None:
        return None
    if audience is Audience.OWNER:
        return str(entry.kind).removeprefix("product_")
    return _TO_SHOPPERS.get((entry.was_visible, entry.is_visible))


_TO_SHOPPERS = {(False, True): "created", (True, True): "updated", (True, False): "deleted"}


def live(changes: Sequence[SeenChange]) -> list[str]:
    """The ids of the products that the changes still speak of."""
    return [change.entry.product_id for change in changes if change.kind != "deleted"]
