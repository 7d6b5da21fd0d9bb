"""Log entries for writes of products, variants and reviews, and of what belongs to a store besides."""

from collections.abc import Sequence

from storefront.core.db.database import Row
from storefront.feed.log import LogEntry
from storefront.models.former_values import FormerVariants, get_former_product
from storefront.models.rows import ConfigRow, ProductRow, VersionedRow
from storefront.writes.transaction import UnitOfWork


def record_product_change(
    unit: UnitOfWork,
    kind: str,
    old: ProductRow | None,
    new: ProductRow | None,
    fields: Sequence[str] = (),
    former_variants: FormerVariants | None = None,
) -> None:
    """Record the creation, update or deletion of a product. `former_variants`: those that are written with it."""
    row: Row = new or old
    visibility = [state is not None and state.status == "active" for state in (old, new)]
    _record_entry(unit, kind, row, row, visibility, fields, old if new else None, former_variants)


def record_child_change(
    unit: UnitOfWork,
    product: ProductRow,
    child: VersionedRow,
    fields: Sequence[str],
    former_variants: FormerVariants | None = None,
) -> None:
    """Record the creation, update or deletion of a variant, as an update of its product.

    `product` is as it was before, with FILTERED_PRODUCT_COLUMNS; fields are named as in variants.price.
    """
    is_visible = product.status == "active"
    visibility = [is_visible, is_visible]
    _record_entry(unit, "product_updated", product, child, visibility, fields, product, former_variants)


def record_review_change(
    unit: UnitOfWork, product: ProductRow, review: VersionedRow, fields: Sequence[str], *, is_public: bool
) -> None:
    """Record the creation, update or deletion of a review, as an update of its product.

    `product` is as in `record_child_change`. `is_public`: shoppers see the review, or saw it before.
    """
    is_visible = is_public and product.status == "active"
    # A review that shoppers do not see does not change the product. Its entry has no former values: with those of before the
    # transaction, it would hide from shoppers what another review's entry in the transaction changed.
    former_product = product if is_public else None
    _record_entry(unit, "product_updated", product, review, [is_visible, is_visible], fields, former_product, None)


def record_store_change(unit: UnitOfWork, store: ConfigRow, field: str) -> None:
    """Record a change of what belongs to a store and has rows of its own, such as its categories.

    The version of the store stays: it does not protect them.
    """
    entry = LogEntry(
        kind="store_updated",
        entity_id=store.id,
        version=store.version,
        was_visible=store.is_published,
        is_visible=store.is_published,
        changed_fields=[field],
    )
    unit.record_change(store.id, entry)


def _record_entry(
    unit: UnitOfWork,
    kind: str,
    product: ProductRow,
    row: VersionedRow,
    visibility: Sequence[bool],
    fields: Sequence[str],
    former_product: ProductRow | None,
    former_variants: FormerVariants | None,
) -> None:
    entry = LogEntry(
        kind=kind,
        entity_id=row.id,
        product_id=product.id,
        version=row.version,
        was_visible=visibility[0],
        is_visible=visibility[1],
        changed_fields=fields,
        former_product=get_former_product(former_product) if former_product else None,
        former_variants=former_variants,
    )
    unit.record_change(product.config_id, entry)
