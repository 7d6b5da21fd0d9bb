"""Diff of a batch of products against a store, and set-based writes of it. Independent of the source and of jobs."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Text, Uuid, any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import TimeSlice, run_in_thread_if_long
from storefront.core.db.database import Connection, Row, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.core.ids import new_id
from storefront.feed.log import LogEntry
from storefront.imports.csv_columns import AMOUNT_FIELD_NAMES, PRODUCT_FIELD_NAMES, VARIANT_FIELD_NAMES
from storefront.imports.row_types import ProductRow, VariantRow
from storefront.models import products as product_table
from storefront.models import variants as variant_table
from storefront.models.rows import ProductRow as StoredProduct
from storefront.models.rows import VariantRow as StoredVariant
from storefront.models.variant import MAX_VARIANTS
from storefront.writes.sql import build_insert_of_rows, select_json_rows

# Stored variants that are loaded and compared at a time.
MAX_STORED_VARIANTS = MAX_VARIANTS

ColumnValues = dict[str, Any]
VariantPair = tuple[VariantRow, StoredVariant | None]

_VARIANT_COLUMN_NAMES = (*VARIANT_FIELD_NAMES, "position")


@dataclass(slots=True)
class WritePlan:
    """The rows that one batch inserts, updates and deletes, with their log entries."""

    created: list[ColumnValues] = field(default_factory=list)
    updated: list[ColumnValues] = field(default_factory=list)
    variants_created: list[ColumnValues] = field(default_factory=list)
    variants_updated: list[ColumnValues] = field(default_factory=list)
    variants_removed: list[str] = field(default_factory=list)
    entries: list[LogEntry] = field(default_factory=list)


async def plan_writes(
    connection: Connection, config_id: str, batch: Sequence[ProductRow], attribution: Mapping[str, Any]
) -> AsyncIterator[WritePlan]:
    """Diff a batch against the stored products, which are locked. Yields one plan for most batches, and several where there are
    more than MAX_STORED_VARIANTS variants to compare with. `attribution`: columns of all log entries.
    """
    handles = [product.handle for product in batch]
    # The lock order of all commands, which prevents deadlocks: products by id, then their variants.
    rows = await connection.fetch(_lock_products_statement(), {"config_id": config_id, "handles": handles})
    stored = {row.handle: row for row in rows}
    time_slice = TimeSlice()
    for group in _split_by_stored_variants(batch, stored):
        variants: dict[str, list[StoredVariant]] = {
            stored[product.handle].id: [] for product in group if product.handle in stored
        }
        for row in await connection.fetch(_lock_variants_statement(), {"ids": list(variants)}) if variants else ():
            variants[row.product_id].append(row)
        plan = WritePlan()
        for product in group:
            stored_product = stored.get(product.handle)
            existing = variants[stored_product.id] if stored_product else []
            await run_in_thread_if_long(
                len(product.variants) + len(existing), _plan_product, plan, product, stored_product, existing, attribution
            )
            await time_slice.yield_if_expired()
        yield plan


def _split_by_stored_variants(batch: Sequence[ProductRow], stored: Mapping[str, StoredProduct]) -> Iterator[list[ProductRow]]:
    """Groups of products with at most MAX_STORED_VARIANTS stored variants together, or a single product with more."""
    group, stored_count = list[ProductRow](), 0
    for product in batch:
        variant_count = stored[product.handle].variants_total if product.handle in stored else 0
        if group and stored_count + variant_count > MAX_STORED_VARIANTS:
            yield group
            group, stored_count = [], 0
        group.append(product)
        stored_count += variant_count
    if group:
        yield group


def _plan_product(
    plan: WritePlan, product: ProductRow, old: StoredProduct | None, variants: list[StoredVariant], attribution: Mapping[str, Any]
) -> None:
    values = _keep_absent_columns(_to_column_values(product, PRODUCT_FIELD_NAMES), old, product.present_fields)
    new: ColumnValues = {"id": old.id if old else new_id(), "handle": product.handle, **values}
    changed = [name for name in PRODUCT_FIELD_NAMES if old and getattr(old, name) != new[name]]
    if _plan_variants(plan, product, new["id"], variants):
        changed.append("variants")
    if old and not changed:
        return
    (plan.updated if old else plan.created).append(new)
    entry = LogEntry(
        kind="product_updated" if old else "product_created",
        entity_id=new["id"],
        product_id=new["id"],
        version=old.version + 1 if old else 1,
        was_visible=old is not None and old.status == "active",
        is_visible=new["status"] == "active",
        changed_fields=[to_camel_case(name) for name in changed] if old else [],
        **attribution,
    )
    plan.entries.append(entry)


def _plan_variants(plan: WritePlan, product: ProductRow, product_id: str, stored: list[StoredVariant]) -> bool:
    pairs = _match_variants(product.variants, stored)
    matched_ids = {old.id for _, old in pairs if old}
    removed = [old.id for old in stored if old.id not in matched_ids] if product.is_complete else []
    created: list[ColumnValues] = []
    updated: list[ColumnValues] = []
    for (new, old), position in zip(pairs, _assign_positions(pairs, stored, product.is_complete), strict=True):
        columns = _keep_absent_columns(_to_column_values(new, VARIANT_FIELD_NAMES), old, product.present_fields)
        columns["position"] = position
        if not old:
            created.append({"id": new_id(), "product_id": product_id, **columns})
        elif _has_changes(columns, old):
            updated.append({"id": old.id, **columns})
    plan.variants_removed += removed
    plan.variants_created += created
    plan.variants_updated += updated
    return bool(removed or created or updated)


def _assign_positions(pairs: Sequence[VariantPair], stored: Sequence[StoredVariant], is_complete: bool) -> Iterator[int]:
    """The position of each variant: they ascend in the order of the source, and stored ones change only where they have to.

    If rows were rejected, the order of the source is not known: stored positions stay, and new variants follow.
    """
    last = -1 if is_complete else max((old.position for old in stored), default=-1)
    for _, old in pairs:
        if old and (old.position > last or not is_complete):
            last = max(last, old.position)
            yield old.position
        else:
            last += 1
            yield last


def _match_variants(incoming: list[VariantRow], stored: list[StoredVariant]) -> list[VariantPair]:
    """Pair each incoming variant with the stored variant that it updates, or None.

    Matches by SKU; else by name and attributes, else by attributes, else by name.
    """
    if not stored:
        return [(variant, None) for variant in incoming]
    matches: dict[int, StoredVariant] = {}
    unmatched = {row.id: row for row in stored}
    sku_key = _build_sku_key(incoming, stored)
    for get_key in (sku_key, _name_and_attributes_key, _attributes_key, _name_key):
        unmatched_by_key = {key: row for row in reversed(unmatched.values()) if (key := get_key(row)) is not None}
        for n, variant in enumerate(incoming):
            if n not in matches and (row := unmatched_by_key.pop(get_key(variant), None)):
                matches[n] = unmatched.pop(row.id)
    return [(variant, matches.get(n)) for n, variant in enumerate(incoming)]


def _build_sku_key(incoming: list[VariantRow], stored: list[StoredVariant]) -> Callable[[VariantRow | StoredVariant], object]:
    """A key function: the SKU where it is unique among the incoming and among the stored variants, else None."""
    unique_skus = [{sku for sku, count in Counter(row.sku for row in rows).items() if count == 1} for rows in (incoming, stored)]
    shared_skus = (unique_skus[0] & unique_skus[1]) - {None}
    return lambda row: row.sku if row.sku in shared_skus else None


def _name_and_attributes_key(variant: VariantRow | StoredVariant) -> object:
    return variant.name, _attributes_key(variant)


def _attributes_key(variant: VariantRow | StoredVariant) -> object:
    return frozenset((name, str(value)) for name, value in variant.attributes.items())


def _name_key(variant: VariantRow | StoredVariant) -> object:
    return variant.name


def _to_column_values(row: ProductRow | VariantRow, names: Iterable[str]) -> ColumnValues:
    """The columns as the database returns them: amounts are text with two decimals."""
    values = {name: getattr(row, name) for name in names}
    return {name: str(value) if name in AMOUNT_FIELD_NAMES and value is not None else value for name, value in values.items()}


def _keep_absent_columns(values: ColumnValues, old: Row | None, present_fields: frozenset[str]) -> ColumnValues:
    """Merge with the stored row: columns that the source does not have keep their stored value."""
    if old is None:
        return values
    merged = {name: value if name in present_fields else getattr(old, name) for name, value in values.items()}
    compare_at_price = merged["compare_at_price"]
    if compare_at_price is not None and Decimal(compare_at_price) <= Decimal(merged["price"]):
        merged["compare_at_price"] = None
    return merged


def _has_changes(values: ColumnValues, old: Row) -> bool:
    return any(getattr(old, name) != value for name, value in values.items())


async def apply_plan(connection: Connection, config_id: str, plan: WritePlan) -> bool:
    """Write the plan; False if it is stale, because a concurrent writer has created one of its products."""
    if plan.created:
        created = await connection.fetch(_insert_products_statement(), {"config_id": config_id, "rows": to_json(plan.created)})
        if len(created) < len(plan.created):
            return False
    for build_statement, rows in (
        (_update_products_statement, plan.updated),
        (_update_variants_statement, plan.variants_updated),
        (_insert_variants_statement, plan.variants_created),
    ):
        if rows:
            await connection.fetch(build_statement(), {"rows": to_json(rows)})
    if plan.variants_removed:
        await connection.fetch(_delete_variants_statement(), {"ids": plan.variants_removed})
    return True


@cache
def _lock_products_statement() -> Statement:
    in_store = product_table.c.config_id == bindparam("config_id")
    has_handle = product_table.c.handle == any_(bindparam("handles", type_=ARRAY(Text)))
    columns = [product_table.c[name] for name in ("id", "handle", "version", "variants_total", *PRODUCT_FIELD_NAMES)]
    return compile_statement(select(*columns).where(in_store & has_handle).order_by(product_table.c.id).with_for_update())


@cache
def _lock_variants_statement() -> Statement:
    of_products = variant_table.c.product_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    columns = [variant_table.c[name] for name in ("id", "product_id", *_VARIANT_COLUMN_NAMES)]
    return compile_statement(select(*columns).where(of_products).order_by(variant_table.c.id).with_for_update())


@cache
def _insert_products_statement() -> Statement:
    names = ["id", "handle", *PRODUCT_FIELD_NAMES]
    entry = select_json_rows(product_table, *names)
    # Ordered by handle: concurrent imports of the same products insert in the same order, and cannot deadlock.
    rows = select(bindparam("config_id", type_=product_table.c.config_id.type), *entry.c).order_by(entry.c.handle)
    insertion = upsert(product_table).from_select(["config_id", *names], rows, include_defaults=False)
    unique = [product_table.c.config_id, product_table.c.handle]
    return compile_statement(insertion.on_conflict_do_nothing(index_elements=unique).returning(product_table.c.id))


@cache
def _update_products_statement() -> Statement:
    entry = select_json_rows(product_table, "id", *PRODUCT_FIELD_NAMES)
    values = {name: entry.c[name] for name in PRODUCT_FIELD_NAMES}
    statement = update(product_table).values(**values, version=product_table.c.version + 1, updated_at=func.now())
    return compile_statement(statement.where(product_table.c.id == entry.c.id))


@cache
def _update_variants_statement() -> Statement:
    entry = select_json_rows(variant_table, "id", *_VARIANT_COLUMN_NAMES)
    values = {name: entry.c[name] for name in _VARIANT_COLUMN_NAMES}
    statement = update(variant_table).values(**values, version=variant_table.c.version + 1, updated_at=func.now())
    return compile_statement(statement.where(variant_table.c.id == entry.c.id))


def _insert_variants_statement() -> Statement:
    return build_insert_of_rows(variant_table, ("id", "product_id", *_VARIANT_COLUMN_NAMES))


@cache
def _delete_variants_statement() -> Statement:
    return compile_statement(delete(variant_table).where(variant_table.c.id == any_(bindparam("ids", type_=ARRAY(Uuid)))))
