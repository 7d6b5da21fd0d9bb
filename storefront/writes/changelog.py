"""Log entries for writes of products, variants and reviews."""

from collections.abc import Sequence

from storefront.core.db.database import Row
from storefront.feed.log import LogEntry
from storefront.models.rows import ProductRow, VersionedRow
from storefront.writes.transaction import UnitOfWork


def record_product_change(
    unit: UnitOfWork, kind: str, old: ProductRow | None, new: ProductRow | None, fields: Sequence[str] = ()
) -> None:
    """Record the creation, update or deletion of a product."""
    row: Row = new or old
    visibility = [state is not None and state.status == "active" for state in (old, new)]
    _record_entry(unit, row.config_id, kind, row.id, row, visibility, fields)


def record_child_change(
    unit: UnitOfWork, product_id: str, product: ProductRow, child: VersionedRow, fields: Sequence[str]
) -> None:
    """Record the creation, update or deletion of a variant or review, as an update of its product.

    `product` has `config_id` and `status`; fields are named as in variants.price.
    """
    is_visible = product.status == "active"
    _record_entry(unit, product.config_id, "product_updated", product_id, child, [is_visible, is_visible], fields)


def _record_entry(
    unit: UnitOfWork,
    config_id: str,
    kind: str,
    product_id: str,
    row: VersionedRow,
    visibility: Sequence[bool],
    fields: Sequence[str],
) -> None:
    entry = LogEntry(
        kind=kind,
        entity_id=row.id,
        product_id=product_id,
        version=row.version,
        was_visible=visibility[0],
        is_visible=visibility[1],
        changed_fields=fields,
    )
    unit.record_change(config_id, entry)
