"""Diff of a batch of products against a store, and set-based writes of it. Independent of the source and of jobs."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Text, any_, bindparam, func, select, update
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
from storefront.models.options import Option, OptionEditor
from storefront.models.rows import ProductRow as StoredProduct
from storefront.models.rows import VariantRow as StoredVariant
from storefront.models.variant import MAX_VARIANTS, build_variant_name, fold_attributes
from storefront.models.variant_summary import SETTABLE_COLUMNS, SUMMARIZED_COLUMNS, SUMMARY_COLUMNS, summarize_variants
from storefront.writes.sql import select_json_rows
from storefront.writes.variant_rows import lock_variants, make_unique_key, match_rows, write_variants

# Stored variants that are loaded and compared at a time.
MAX_STORED_VARIANTS = MAX_VARIANTS

ColumnValues = dict[str, Any]
VariantPair = tuple[VariantRow, StoredVariant | None]

# The columns of a product that follow its variants.
_DERIVED_COLUMNS = (*SUMMARY_COLUMNS, "options")
_LOCKED_PRODUCT_COLUMNS = ("id", "handle", "version", *_DERIVED_COLUMNS, *PRODUCT_FIELD_NAMES)


@dataclass(slots=True)
class WritePlan:
    """The rows of a store that one batch inserts, updates and deletes, with their log entries."""

    config_id: str
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
        for row in await lock_variants(connection, list(variants)):
            variants[row.product_id].append(row)
        plan = WritePlan(config_id)
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
    has_changed_variants, derived = _plan_variants(plan, product, new["id"], variants, old.options if old else ())
    if has_changed_variants:
        shown = (*SETTABLE_COLUMNS, "options")
        changed += ["variants", *(name for name in shown if old and getattr(old, name) != derived[name])]
    if old and not changed:
        return
    new |= derived
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


def _plan_variants(
    plan: WritePlan, product: ProductRow, product_id: str, stored: list[StoredVariant], options: Sequence[Option]
) -> tuple[bool, ColumnValues]:
    """Plan the writes of a product's variants. Returns whether there are any, and the columns of the product that follow them."""
    editor = OptionEditor(options)
    pairs = _match_variants(product.variants, stored)
    matched_ids = {old.id for _, old in pairs if old}
    removed = [old.id for old in stored if old.id not in matched_ids] if product.is_complete else []
    created: list[ColumnValues] = []
    updated: list[ColumnValues] = []
    # As they are after the import: those that the source does not have stay if one of its rows was rejected.
    kept = [row for row in stored if row.id not in matched_ids and not product.is_complete]
    remaining = [{name: getattr(row, name) for name in SUMMARIZED_COLUMNS} for row in kept]
    for (new, old), position in zip(pairs, _assign_positions(pairs, stored, product.is_complete), strict=True):
        columns = _keep_absent_columns(_spell_like_options(new, editor), old, product.present_fields)
        if old and "compare_at_price" not in product.present_fields:
            columns = _drop_reached_compare_at_price(columns, old)
        row = {"id": old.id if old else new_id(), "position": position, **columns}
        remaining.append(row)
        if not old:
            created.append({"config_id": plan.config_id, "product_id": product_id, **row})
        elif _has_changes(row, old):
            updated.append(row)
    plan.variants_removed += removed
    plan.variants_created += created
    plan.variants_updated += updated
    attributes = [row["attributes"] for row in created + updated]
    written_ids = {row["id"] for row in updated}
    attributes += [row.attributes for row in stored if row.id not in written_ids and row.id not in removed]
    editor.drop_unused([row.attributes for row in stored], attributes)
    return bool(removed or created or updated), {**summarize_variants(remaining), "options": editor.options}


def _spell_like_options(variant: VariantRow, editor: OptionEditor) -> ColumnValues:
    """The columns of a variant, with the attributes as the options of the product spell them, to which new ones are added."""
    attributes = editor.adopt(variant.attributes)
    is_derived = variant.name == build_variant_name(variant.attributes)
    name = build_variant_name(attributes) if is_derived else variant.name
    return {**_to_column_values(variant, VARIANT_FIELD_NAMES), "attributes": attributes, "name": name}


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
    keys = (
        make_unique_key(_sku_key, incoming, stored),
        _name_and_attributes_key,
        _attributes_key,
        _name_key,
    )
    matches = match_rows(incoming, stored, keys)
    return [(variant, matches.get(n)) for n, variant in enumerate(incoming)]


def _sku_key(variant: VariantRow | StoredVariant) -> object:
    return variant.sku


def _name_and_attributes_key(variant: VariantRow | StoredVariant) -> object:
    return variant.name, _attributes_key(variant)


def _attributes_key(variant: VariantRow | StoredVariant) -> object:
    return fold_attributes(variant.attributes)


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
    return {name: value if name in present_fields else getattr(old, name) for name, value in values.items()}


def _drop_reached_compare_at_price(columns: ColumnValues, old: StoredVariant) -> ColumnValues:
    """A variant that keeps its stored compare-at price, without it if the new price has reached it."""
    compare_at_price, price = columns["compare_at_price"], columns["price"]
    is_reached = compare_at_price is not None and price != old.price and Decimal(compare_at_price) <= Decimal(price)
    return {**columns, "compare_at_price": None} if is_reached else columns


def _has_changes(values: ColumnValues, old: Row) -> bool:
    return any(getattr(old, name) != value for name, value in values.items())


async def apply_plan(connection: Connection, config_id: str, plan: WritePlan) -> bool:
    """Write the plan; False if it is stale, because a concurrent writer has created one of its products."""
    if plan.created:
        created = await connection.fetch(_insert_products_statement(), {"config_id": config_id, "rows": to_json(plan.created)})
        if len(created) < len(plan.created):
            return False
    if plan.updated:
        await connection.fetch(_update_products_statement(), {"rows": to_json(plan.updated)})
    await write_variants(
        connection, created=plan.variants_created, updated=plan.variants_updated, removed_ids=plan.variants_removed
    )
    return True


@cache
def _lock_products_statement() -> Statement:
    in_store = product_table.c.config_id == bindparam("config_id")
    has_handle = product_table.c.handle == any_(bindparam("handles", type_=ARRAY(Text)))
    columns = [product_table.c[name] for name in _LOCKED_PRODUCT_COLUMNS]
    return compile_statement(select(*columns).where(in_store & has_handle).order_by(product_table.c.id).with_for_update())


@cache
def _insert_products_statement() -> Statement:
    names = ["id", "handle", *PRODUCT_FIELD_NAMES, *_DERIVED_COLUMNS]
    entry = select_json_rows(product_table, *names)
    # Ordered by handle: concurrent imports of the same products insert in the same order, and cannot deadlock.
    rows = select(bindparam("config_id", type_=product_table.c.config_id.type), *entry.c).order_by(entry.c.handle)
    insertion = upsert(product_table).from_select(["config_id", *names], rows, include_defaults=False)
    unique = [product_table.c.config_id, product_table.c.handle]
    return compile_statement(insertion.on_conflict_do_nothing(index_elements=unique).returning(product_table.c.id))


@cache
def _update_products_statement() -> Statement:
    names = (*PRODUCT_FIELD_NAMES, *_DERIVED_COLUMNS)
    entry = select_json_rows(product_table, "id", *names)
    values = {name: entry.c[name] for name in names}
    statement = update(product_table).values(**values, version=product_table.c.version + 1, updated_at=func.now())
    return compile_statement(statement.where(product_table.c.id == entry.c.id))
