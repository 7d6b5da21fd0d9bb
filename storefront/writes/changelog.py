"""What a write of products and of what belongs to them is told as in the log."""

from collections.abc import Sequence

from storefront.core.db.database import Row
from storefront.feed.log import Entry
from storefront.writes.transaction import Unit


def record_product(unit: Unit, kind: str, old: Row | None, new: Row | None, fields: Sequence[str] = ()) -> None:
    """A product came, changed or went."""
    row: Row = new or old
    seen = [state is not None and state.status == "active" for state in (old, new)]
    _record(unit, row.config_id, kind, row.id, row, seen, fields)


def record_part(unit: Unit, product_id: str, shelf: Row, part: Row, fields: Sequence[str]) -> None:
    """A variant or review of a product came, changed or went: to those who follow the product, a change of it.

    `shelf` has the product's `config_id` and `status`; fields are named as in variants.price.
    """
    seen = shelf.status == "active"
    _record(unit, shelf.config_id, "product_updated", product_id, part, [seen, seen], fields)


def _record(
    unit: Unit, config_id: str, kind: str, product_id: str, row: Row, seen: Sequence[bool], fields: Sequence[str]
) -> None:
    entry = Entry(
        kind=kind,
        entity_id=row.id,
        product_id=product_id,
        version=row.version,
        was_visible=seen[0],
        is_visible=seen[1],
        changed_fields=fields,
    )
    unit.record(config_id, entry)
