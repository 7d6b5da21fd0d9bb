"""Prices of many products, and of single variants, at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.models.former_values import FormerVariants, get_former_variant
from storefront.models.row_keys import group_by_store, list_keys
from storefront.models.rows import ProductRow, VariantRow
from storefront.products.bulk import UPDATE_RULES, update_rows
from storefront.queries.variants import load_variants_by_keys
from storefront.writes import validation
from storefront.writes.authorization import find_products, get_currency, lock_own_products, lock_variants_of
from storefront.writes.bulk import NumberedRow, filter_existing, print_row_amounts, validate_rows
from storefront.writes.changelog import record_child_change
from storefront.writes.field_errors import InvalidInputReason, make_invalid_input_error, make_not_found_error
from storefront.writes.optimistic_lock import get_set_values
from storefront.writes.product_validation import find_contradictions
from storefront.writes.sql import convert_to_columns
from storefront.writes.transaction import UnitOfWork
from storefront.writes.variant_rows import VARIANT_COLUMN_NAMES, write_variants
from storefront.writes.variant_summary import enqueue_summaries, list_changed_fields

PRICE_RULES: validation.Rules = {name: UPDATE_RULES[name] for name in ("id", "expectedVersion", "price", "compareAtPrice")}

# In all errors, so that they do not tell hidden objects from missing ones.
_ENTITY_NAME = "variant or product"


async def update_product_prices(unit: UnitOfWork, values: Mapping[str, Any]) -> Sequence[ProductRow | None]:
    """Set the prices of products, for all of their variants, and of single variants, all or nothing.

    Returns the product of each row.
    """
    rows = values["prices"]
    valid_rows = await validate_rows(unit, rows, "prices", PRICE_RULES)
    product_ids = await find_products(unit, [row["id"] for _, row in valid_rows])
    # All at once, in the order of all commands.
    locked = await lock_own_products(unit, [*dict.fromkeys(product_ids.values())], locks_currency=True)
    known_rows = _filter_known(unit, valid_rows, product_ids)
    variant_rows = [(n, row) for n, row in known_rows if product_ids[row["id"]] != row["id"]]
    product_rows = [(n, row) for n, row in known_rows if product_ids[row["id"]] == row["id"]]
    _reject_both(unit, variant_rows, product_rows, product_ids)
    changes = await _plan_changes(unit, variant_rows, locked, product_ids)
    stored, updated = await update_rows(unit, product_rows, "prices", all_or_nothing=True, entity_name=_ENTITY_NAME)
    present = await _write_changes(unit, changes)
    current = stored | updated | {change.n: present.get(change.product.id, change.product) for change in changes}
    return [current.get(n) for n in range(len(rows))]


@dataclass(frozen=True, slots=True)
class _VariantChange:
    """The new prices of a variant by column, and the number of its row."""

    n: int
    former: VariantRow
    product: ProductRow
    values: Mapping[str, Any]

    @property
    def config_id(self) -> str:
        """The store of the variant."""
        return self.product.config_id


def _filter_known(unit: UnitOfWork, rows: Sequence[NumberedRow], product_ids: Mapping[str, str]) -> list[NumberedRow]:
    """The rows whose variants or products exist."""
    unit.field_errors += [
        make_not_found_error(_ENTITY_NAME, row["id"], ["prices", str(n), "id"]) for n, row in rows if row["id"] not in product_ids
    ]
    return [(n, row) for n, row in rows if row["id"] in product_ids]


def _reject_both(
    unit: UnitOfWork, variant_rows: Sequence[NumberedRow], product_rows: Sequence[NumberedRow], product_ids: Mapping[str, str]
) -> None:
    """Add an error for each variant whose product has a row, too."""
    numbers = {row["id"]: n for n, row in product_rows}
    for n, row in variant_rows:
        if (other := numbers.get(product_ids[row["id"]])) is not None:
            problem = f"is a variant of the product in row {other}, whose price all variants get. Leave one of the two out."
            unit.field_errors.append(make_invalid_input_error(["prices", str(n), "id"], problem, InvalidInputReason.CONFLICTING))


async def _plan_changes(
    unit: UnitOfWork, rows: Sequence[NumberedRow], products: Mapping[str, ProductRow], product_ids: Mapping[str, str]
) -> list[_VariantChange]:
    """What the rows of variants change. Errors go to the unit."""
    stored: dict[str, VariantRow] = {}
    parents = {product_ids[row["id"]]: products[product_ids[row["id"]]] for _, row in rows if product_ids[row["id"]] in products}
    for config_id, _ in group_by_store(parents.values()):
        stored |= {row.id: row for row in await lock_variants_of(unit, config_id, [row["id"] for _, row in rows])}
    currencies = {n: get_currency(parents[stored[row["id"]].product_id]) for n, row in rows if row["id"] in stored}
    printed_rows = print_row_amounts(unit, rows, "prices", currencies)
    changes: list[_VariantChange] = []
    for n, row in await filter_existing(unit, printed_rows, "prices", _ENTITY_NAME, stored):
        former, given = stored[row["id"]], get_set_values(row)
        errors = find_contradictions(given, ["prices", str(n)], former)
        unit.field_errors += errors
        differing = {name: value for name, value in convert_to_columns(given).items() if getattr(former, name) != value}
        if not errors:
            changes.append(_VariantChange(n, former, parents[former.product_id], differing))
    return changes


async def _write_changes(unit: UnitOfWork, changes: Sequence[_VariantChange]) -> dict[str, ProductRow]:
    """Write the variants whose prices differ. Returns the products whose prices or stock follow them, by id, as of now."""
    present: dict[str, ProductRow] = {}
    for config_id, store_changes in group_by_store(change for change in changes if change.values):
        changed = [
            {**{name: getattr(change.former, name) for name in ("id", *VARIANT_COLUMN_NAMES)}, **change.values}
            for change in store_changes
        ]
        await write_variants(unit.connection, config_id, updated=changed)
        summaries = enqueue_summaries(unit, [*{change.product.id: change.product for change in store_changes}.values()])
        # Sent with the one before it.
        rows = await load_variants_by_keys(unit.connection, list_keys(change.former for change in store_changes))
        variants = {row.id: row for row in rows}
        present |= {row.id: row for row in summaries.rows}
        for change in store_changes:
            product = change.product
            fields = [f"variants.{to_camel_case(name)}" for name in change.values]
            fields += list_changed_fields(product, present.get(product.id, product))
            former_variants: FormerVariants = {change.former.id: get_former_variant(change.former)}
            record_child_change(unit, product, variants[change.former.id], fields, former_variants)
    return present
