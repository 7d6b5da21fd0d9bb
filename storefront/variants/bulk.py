"""Updates of many variants of a store. Set-based: 250 rows take as many statements as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import select

from storefront.core.casing import to_camel_case
from storefront.core.cooperative import count_input_steps, run_in_thread_if_long
from storefront.core.db.database import Statement, compile_statement
from storefront.models import variants
from storefront.models.former_values import FILTERED_VARIANT_COLUMNS, FormerVariants, get_former_variant
from storefront.models.options import OptionEditor
from storefront.models.row_keys import has_any_id, list_keys
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.search_document import SEARCHED_VARIANT_COLUMNS
from storefront.models.variant import fold_attributes, follow_attributes
from storefront.queries.variants import load_variants_by_keys
from storefront.variants.commands import UPDATE_RULES
from storefront.writes.amounts import has_amounts
from storefront.writes.authorization import find_products, get_currency, lock_own_products, lock_variants_of
from storefront.writes.bulk import (
    NumberedRow,
    RowOutcome,
    Values,
    describe_outcome,
    filter_existing,
    is_all_or_nothing,
    print_row_amounts,
    reject_errors,
    validate_rows,
)
from storefront.writes.changelog import record_child_change
from storefront.writes.field_errors import InvalidInputReason, make_already_exists_error, make_invalid_input_error
from storefront.writes.optimistic_lock import get_set_values
from storefront.writes.product_options import find_option_limit_errors
from storefront.writes.product_updates import ProductChange, update_products
from storefront.writes.product_validation import find_contradictions, find_image_errors
from storefront.writes.search_documents import write_search_documents
from storefront.writes.sql import convert_to_columns
from storefront.writes.transaction import UnitOfWork
from storefront.writes.variant_rows import VARIANT_COLUMN_NAMES, write_variants
from storefront.writes.variant_summary import enqueue_summaries, list_changed_fields


async def bulk_update_variants(unit: UnitOfWork, values: Values) -> Sequence[RowOutcome | None]:
    """Update many variants of a store; each row has the input of `update_variant`. Results are in the order of the rows.

    `errorPolicy` all_or_nothing rejects everything if one row is invalid; valid_rows writes the valid ones. Of rows that would
    give two variants of a product the same attributes, the first one is valid.
    """
    rows = values["rows"]
    valid_rows = await validate_rows(unit, rows, "rows", UPDATE_RULES)
    products, stored = await _lock_targets(unit, valid_rows)
    currencies = {n: get_currency(products[stored[row["id"]].product_id]) for n, row in valid_rows if row["id"] in stored}
    printed_rows = print_row_amounts(unit, _filter_of_one_store(unit, valid_rows, stored), "rows", currencies)
    current_rows = await filter_existing(unit, printed_rows, "rows", "variant", stored)
    updates = _plan_updates(unit, current_rows, stored, products)
    others = await _load_other_attributes(unit, updates)
    planned = await run_in_thread_if_long(count_input_steps(rows) + len(others), _plan_attributes, unit, updates, others)
    reject_errors(unit, all_or_nothing=is_all_or_nothing(values))
    stored_rows = await _write(unit, planned)
    outcomes = {
        update.n: describe_outcome(stored_rows[update.former.id], "updated" if update.changed_columns else "unchanged")
        for update in planned.updates
    }
    return [outcomes.get(n) for n in range(len(rows))]


# ------------------------------------------------------------------------------------------------ the variants


async def _lock_targets(
    unit: UnitOfWork, rows: Sequence[NumberedRow]
) -> tuple[Mapping[str, ProductRow], Mapping[str, VariantRow]]:
    """The products and variants of the rows, by id."""
    found = await find_products(unit, [row["id"] for _, row in rows])
    product_ids = {id_: product_id for id_, product_id in found.items() if id_ != product_id}
    locks_currency = has_amounts(row for _, row in rows)
    products = await lock_own_products(unit, [*dict.fromkeys(product_ids.values())], locks_currency=locks_currency)
    locked: list[VariantRow] = []
    for config_id in sorted({product.config_id for product in products.values()}):
        locked += await lock_variants_of(unit, config_id, [id_ for id_ in product_ids if product_ids[id_] in products])
    return products, {row.id: row for row in locked}


def _filter_of_one_store(unit: UnitOfWork, rows: Sequence[NumberedRow], stored: Mapping[str, VariantRow]) -> list[NumberedRow]:
    """The rows without those of another store than the first one."""
    stores = {n: stored[row["id"]].config_id for n, row in rows if row["id"] in stored}
    first = next(iter(stores.values()), None)
    for n, config_id in stores.items():
        if config_id != first:
            problem = "belongs to another store than other rows. Send one request for each store."
            unit.field_errors.append(make_invalid_input_error(["rows", str(n), "id"], problem, InvalidInputReason.CONFLICTING))
    return [(n, row) for n, row in rows if stores.get(n, first) == first]


async def _load_other_attributes(unit: UnitOfWork, updates: Sequence["_Update"]) -> list[VariantRow]:
    """The variants of the products whose attributes change, all of them. The products are locked, so nothing adds one."""
    products = {update.product.id: update.product for update in updates if update.changes_attributes}
    if not products:
        return []
    config_id = next(iter(products.values())).config_id
    return await unit.fetch(_select_attributes(), {"config_id": config_id, "ids": list(products)})


@cache
def _select_attributes() -> Statement:
    columns = variants.c.id, variants.c.product_id, variants.c.attributes
    return compile_statement(select(*columns).where(has_any_id(variants, "product_id")), needs_custom_plan=True)


# ------------------------------------------------------------------------------------------------ planning


@dataclass(slots=True)
class _Update:
    """What one row changes. `columns`: the new values of the variant `former` of `product`."""

    n: int
    former: VariantRow
    product: ProductRow
    columns: dict[str, Any]

    @property
    def changes_attributes(self) -> bool:
        return bool(self.columns.get("attributes", self.former.attributes) != self.former.attributes)

    @property
    def changed_columns(self) -> list[str]:
        return [name for name, value in self.columns.items() if getattr(self.former, name) != value]


@dataclass(slots=True)
class _AttributesPlan:
    """The updates with attributes as the options spell them, and the options of the products where these change, by id."""

    updates: list[_Update] = field(default_factory=list)
    options: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def _plan_updates(
    unit: UnitOfWork,
    rows: Sequence[NumberedRow],
    stored: Mapping[str, VariantRow],
    products: Mapping[str, ProductRow],
) -> list[_Update]:
    updates: list[_Update] = []
    for n, row in rows:
        former, path = stored[row["id"]], ["rows", str(n)]
        product, given = products[former.product_id], get_set_values(row)
        errors = find_contradictions(given, path, former) + find_image_errors(given, product.images, path)
        unit.field_errors += errors
        if not errors:
            updates.append(_Update(n, former, product, convert_to_columns(given)))
    return updates


def _plan_attributes(unit: UnitOfWork, updates: Sequence[_Update], others: Sequence[VariantRow]) -> _AttributesPlan:
    """Errors of rows that cannot have their attributes go to the unit."""
    plan = _AttributesPlan()
    attributes_by_product: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in others:
        attributes_by_product.setdefault(row.product_id, {})[row.id] = row.attributes
    changing: dict[str, list[_Update]] = {}
    for update in updates:
        if update.changes_attributes:
            changing.setdefault(update.product.id, []).append(update)
        else:
            plan.updates.append(update)
    for product_id, of_product in changing.items():
        attributes = attributes_by_product[product_id]
        accepted = _filter_different(unit, of_product, attributes)
        editor = OptionEditor(of_product[0].product.options)
        for update in accepted:
            update.columns["attributes"] = spelled = editor.adopt(update.columns["attributes"])
            update.columns.setdefault("name", follow_attributes(update.former.name, update.former.attributes, spelled))
        after = attributes | {update.former.id: update.columns["attributes"] for update in accepted}
        editor.drop_unused(attributes.values(), after.values())
        paths = [["rows", str(update.n), "attributes"] for update in accepted]
        if errors := [error for path in paths for error in find_option_limit_errors(editor, path)]:
            unit.field_errors += errors
            continue
        plan.updates += accepted
        if editor.options != of_product[0].product.options:
            plan.options[product_id] = editor.options
    return plan


def _filter_different(unit: UnitOfWork, updates: Sequence[_Update], attributes: Mapping[str, Mapping[str, str]]) -> list[_Update]:
    """The updates that leave each variant of a product attributes of its own. `attributes`: of all of its variants, by id."""
    accepted = list(updates)
    while True:
        changed_ids = {update.former.id for update in accepted}
        occupied = {fold_attributes(value) for id_, value in attributes.items() if id_ not in changed_ids}
        different: list[_Update] = []
        for update in accepted:
            key = fold_attributes(update.columns["attributes"])
            if key in occupied:
                error = make_already_exists_error("product_variants_attributes_key", (), ["rows", str(update.n)])
                unit.field_errors.append(error)
            else:
                different.append(update)
                occupied.add(key)
        if len(different) == len(accepted):
            return different
        # The variants of the others keep the attributes that they have.
        accepted = different


# ------------------------------------------------------------------------------------------------ writing


async def _write(unit: UnitOfWork, plan: _AttributesPlan) -> dict[str, VariantRow]:
    """Write what changes. Returns all variants of the plan as they are afterwards, by id."""
    if not plan.updates:
        return {}
    config_id = plan.updates[0].former.config_id
    updates = [update for update in plan.updates if update.changed_columns]
    products = {update.product.id: update.product for update in updates}
    stored = [{name: getattr(update.former, name) for name in ("id", *VARIANT_COLUMN_NAMES)} for update in updates]
    changed = [{**row, **update.columns} for row, update in zip(stored, updates, strict=True)]
    await write_variants(unit.connection, config_id, updated=changed)
    present = await _update_products(unit, products, plan.options)
    searched = [u.product.id for u in updates if not {*u.changed_columns}.isdisjoint(SEARCHED_VARIANT_COLUMNS)]
    # Those of products with new options are written already.
    await write_search_documents(unit.connection, config_id, [*dict.fromkeys(id_ for id_ in searched if id_ not in plan.options)])
    rows = {row.id: row for row in await load_variants_by_keys(unit.connection, list_keys(u.former for u in plan.updates))}
    for update in updates:
        product, names = update.product, update.changed_columns
        fields = [f"variants.{to_camel_case(name)}" for name in names]
        fields += [*(["options"] if product.id in plan.options else []), *list_changed_fields(product, present[product.id])]
        is_filtered = not {*names}.isdisjoint(FILTERED_VARIANT_COLUMNS)
        former_variants: FormerVariants = {update.former.id: get_former_variant(update.former)} if is_filtered else {}
        record_child_change(unit, product, rows[update.former.id], fields, former_variants or None)
    return rows


async def _update_products(
    unit: UnitOfWork, products: Mapping[str, ProductRow], options: Mapping[str, list[dict[str, Any]]]
) -> dict[str, ProductRow]:
    """Let products follow their variants, some with new options. Returns all of them as they are afterwards, by id."""
    others = [product for product in products.values() if product.id not in options]
    summaries = enqueue_summaries(unit, others) if others else None
    changes = [ProductChange(products[id_], {"options": value}, has_written_variants=True) for id_, value in options.items()]
    updated = await update_products(unit, changes)
    followed = {row.id: row for row in summaries.rows} if summaries else {}
    return {**products, **followed, **{id_: update.row for id_, update in updated.items()}}
