"""Plans which variants of a product are created, changed and deleted when it is given all of them, with its options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from storefront.core.casing import to_camel_case
from storefront.core.ids import new_id
from storefront.models.former_values import FormerVariants
from storefront.models.options import OptionEditor
from storefront.models.rows import ProductRow, VariantRow
from storefront.models.variant import MAX_VARIANTS, build_variant_name, fold_attributes, follow_attributes
from storefront.models.variant_summary import summarize_variants
from storefront.writes import validation
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_not_found_error,
)
from storefront.writes.product_options import RevisedOptions, find_option_limit_errors, rename_variants, revise_options
from storefront.writes.product_validation import VARIANT_RULES, find_contradictions, find_equal_attributes, find_image_errors
from storefront.writes.sql import convert_to_columns
from storefront.writes.variant_rows import (
    VARIANT_COLUMN_NAMES,
    VARIANT_DEFAULTS,
    get_former_variants,
    make_unique_key,
    match_rows,
)

Values = Mapping[str, Any]

_ROW_RULES: validation.Rules = {"id": validation.optional_rule(validation.validate_id), **VARIANT_RULES}
VARIANTS_RULE: validation.Rule = validation.list_rule(validation.object_rule(_ROW_RULES), MAX_VARIANTS, distinct=False)


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """The rows to write, and the columns of the product that follow them."""

    created: list[dict[str, Any]]
    updated: list[dict[str, Any]]
    removed_ids: list[str]
    former_variants: FormerVariants
    product_columns: Values
    # The variants as they are afterwards.
    rows: list[dict[str, Any]]

    @property
    def has_changes(self) -> bool:
        """Whether a variant is written."""
        return bool(self.created or self.updated or self.removed_ids)


def plan_variants(
    product: ProductRow,
    stored: Sequence[VariantRow],
    forms: Sequence[Values],
    options: Sequence[Values] | None,
    images: Sequence[str],
) -> VariantPlan:
    """Give a product these variants, in this order. Raises MutationRejected.

    Existing ones are found by id, or else SKU, or else attributes. Fields that are omitted stay as they are. Stored variants
    without a form are deleted. `stored`: all of the product's, locked. `images`: of the product, as they are afterwards.
    """
    if not forms:
        problem = "must have at least one entry: a product has a variant."
        raise MutationRejected(make_invalid_input_error(["variants"], problem, InvalidInputReason.TOO_SHORT))
    rows = [convert_to_columns(form) for form in forms]
    editor, renamed = _edit_options(product, options, stored, images)
    matches = _match_variants(rows, stored, renamed)
    new_rows = [_complete_row(row, matches.get(n), renamed, editor, n) for n, row in enumerate(rows)]
    if errors := _find_errors(forms, new_rows, images, editor):
        raise MutationRejected(*errors)
    if options is None:
        editor.drop_unused([row.attributes for row in stored], [row["attributes"] for row in new_rows])
    former = {row.id: row for row in matches.values()}
    keys = {"config_id": product.config_id, "product_id": product.id}
    created = [{**keys, **row} for row in new_rows if row["id"] not in former]
    updated = [row for row in new_rows if row["id"] in former and _has_changes(row, former[row["id"]])]
    removed_ids = [row.id for row in stored if row.id not in former]
    return VariantPlan(
        created=created,
        updated=updated,
        removed_ids=removed_ids,
        former_variants=get_former_variants(stored, created, updated, removed_ids),
        product_columns={**summarize_variants(new_rows), "options": editor.options},
        rows=new_rows,
    )


def _match_variants(
    rows: Sequence[dict[str, Any]], stored: Sequence[VariantRow], renamed: Mapping[str, Values]
) -> dict[int, VariantRow]:
    """The stored variant of each row that has one. Attributes are compared as the options are called now."""
    wanted = [SimpleNamespace(id=row.get("id"), sku=row.get("sku"), attributes=row.get("attributes")) for row in rows]
    keys: list[Callable[[Any], object]] = [
        lambda row: row.id,
        make_unique_key(lambda row: row.sku, wanted, stored),
        lambda row: _fold_current_attributes(row, renamed),
    ]
    matches: dict[int, Any] = match_rows(wanted, stored, keys)
    errors = [
        make_not_found_error("variant of this product", row["id"], ["variants", str(n), "id"])
        for n, row in enumerate(rows)
        if row.get("id") is not None and (n not in matches or matches[n].id != row["id"])
    ]
    if errors:
        raise MutationRejected(*errors)
    return matches


def _fold_current_attributes(row: Any, renamed: Mapping[str, Values]) -> object:
    attributes = renamed[row.id]["attributes"] if row.id in renamed else row.attributes
    return None if attributes is None else fold_attributes(attributes)


def _edit_options(
    product: ProductRow, inputs: Sequence[Values] | None, stored: Sequence[VariantRow], images: Sequence[str]
) -> tuple[OptionEditor, Mapping[str, Values]]:
    """The options to edit, and the variants that are called something else now, by id."""
    if inputs is None:
        return OptionEditor(product.options), {}
    revised: RevisedOptions = revise_options(product.options, inputs, images)
    renamed = rename_variants(revised, stored)
    if revised.errors:
        raise MutationRejected(*revised.errors)
    # Values that are not listed are those of rows that change them, or are added again.
    return OptionEditor(revised.options), {row["id"]: row for row in renamed.rows}


def _complete_row(
    row: dict[str, Any], former: VariantRow | None, renamed: Mapping[str, Values], editor: OptionEditor, position: int
) -> dict[str, Any]:
    """All columns of a variant: as given, or else as they are, or else the defaults."""
    given = {name: value for name, value in row.items() if name != "id"}
    if former is None:
        complete = {"name": None, "price": None, **VARIANT_DEFAULTS, **given, "id": new_id()}
    else:
        stored = {name: getattr(former, name) for name in VARIANT_COLUMN_NAMES}
        complete = {**stored, **renamed.get(former.id, {}), **given, "id": former.id}
    complete["attributes"] = editor.adopt(complete["attributes"] or {})
    if former is not None and "name" not in given:
        complete["name"] = follow_attributes(former.name, former.attributes, complete["attributes"])
    complete["name"] = complete["name"] or build_variant_name(complete["attributes"])
    return {**complete, "position": position}


def _find_errors(
    forms: Sequence[Values], rows: Sequence[Values], images: Sequence[str], editor: OptionEditor
) -> list[FieldError]:
    errors = find_option_limit_errors(editor, ["variants"]) + find_equal_attributes([row["attributes"] for row in rows])
    for n, (form, row) in enumerate(zip(forms, rows, strict=True)):
        path = ["variants", str(n)]
        if row["price"] is None:
            errors.append(make_invalid_input_error([*path, "price"], "is required.", InvalidInputReason.REQUIRED))
            continue
        fields = {to_camel_case(name): value for name, value in row.items()}
        errors += find_contradictions({**fields, "inventory": form.get("inventory")}, path)
        errors += find_image_errors(form, images, path)
    return errors


def _has_changes(row: Values, former: VariantRow) -> bool:
    if [*row["attributes"]] != [*former.attributes]:
        return True
    return any(getattr(former, name) != row[name] for name in VARIANT_COLUMN_NAMES)
