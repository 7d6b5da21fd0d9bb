"""Validates and revises the options of products."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storefront.core.ids import new_id
from storefront.models.former_values import FormerVariants, get_former_variant
from storefront.models.options import Attributes, Option, OptionEditor
from storefront.models.rows import ProductRow
from storefront.models.variant import MAX_ATTRIBUTES, MAX_VARIANTS, fold_case, follow_attributes
from storefront.writes import validation
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_invalid_state_error,
    make_limit_reached_error,
    make_not_found_error,
)

MAX_OPTIONS, MAX_OPTION_VALUES = MAX_ATTRIBUTES, MAX_VARIANTS

_SWATCH_RULES: validation.Rules = {
    "color": validation.optional_rule(validation.validate_colour),
    "image": validation.optional_rule(validation.validate_url),
}
_VALUE_RULES: validation.Rules = {
    "id": validation.optional_rule(validation.validate_id),
    "value": validation.text_rule(255),
    "swatch": validation.optional_rule(validation.object_rule(_SWATCH_RULES)),
}
_OPTION_RULES: validation.Rules = {
    "id": validation.optional_rule(validation.validate_id),
    "name": validation.text_rule(255),
    "values": validation.list_rule(validation.object_rule(_VALUE_RULES), MAX_OPTION_VALUES, distinct=False),
}
OPTIONS_RULE: validation.Rule = validation.list_rule(validation.object_rule(_OPTION_RULES), MAX_OPTIONS, distinct=False)


@dataclass(slots=True)
class RevisedOptions:
    """Options as an input lists them, in its order. Listed ones that exist keep their ids, whatever they are called now."""

    options: list[Option] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)
    # The new names, and pairs of new name and value, by the former ones without case.
    _names: dict[str, str] = field(default_factory=dict)
    _values: dict[tuple[str, str], str] = field(default_factory=dict)

    def rename(self, attributes: Attributes) -> dict[str, str]:
        """The attributes of a stored variant as they are called now. Raises KeyError for those that are not listed."""
        return {
            self._names[fold_case(name)]: self._values[fold_case(name), fold_case(value)] for name, value in attributes.items()
        }


def revise_options(stored: Sequence[Option], inputs: Sequence[Mapping[str, Any]], images: Sequence[str]) -> RevisedOptions:
    """The options that valid inputs list. Existing ones are found by id, or else by name and value."""
    revised = RevisedOptions()
    formers = _match_formers(stored, inputs, "name", "option", ["options"], revised.errors)
    for n, entry in enumerate(inputs):
        path, former = ["options", str(n)], formers[n]
        option: Option = {"id": former["id"] if former else new_id(), "name": entry["name"], "values": []}
        if not entry["values"]:
            problem = "must have at least one entry."
            revised.errors.append(make_invalid_input_error([*path, "values"], problem, InvalidInputReason.TOO_SHORT))
        values = former["values"] if former else ()
        former_values = _match_formers(values, entry["values"], "value", "option value", [*path, "values"], revised.errors)
        for m, value_entry in enumerate(entry["values"]):
            value_path, former_value = [*path, "values", str(m)], former_values[m]
            swatch = _build_swatch(value_entry, former_value, images, value_path, revised.errors)
            key = former_value["id"] if former_value else new_id()
            option["values"].append({"id": key, "value": value_entry["value"], "swatch": swatch})
            if former and former_value:
                revised._values[fold_case(former["name"]), fold_case(former_value["value"])] = value_entry["value"]
        if former:
            revised._names[fold_case(former["name"])] = entry["name"]
        revised.options.append(option)
        revised.errors += _find_duplicates([value["value"] for value in option["values"]], [*path, "values"], "value")
    revised.errors += _find_duplicates([option["name"] for option in revised.options], ["options"], "name")
    return revised


def _match_formers(
    stored: Sequence[Option],
    entries: Sequence[Mapping[str, Any]],
    key: str,
    entity_name: str,
    path: Sequence[str],
    errors: list[FieldError],
) -> list[Option | None]:
    """What each entry revises, each stored one once: entries that name an id come first, the others are found by their text."""
    by_id = {item["id"]: item for item in stored}
    claimed: dict[str, int] = {}
    for n, entry in enumerate(entries):
        if (id_ := entry.get("id")) is None:
            continue
        if id_ not in by_id:
            errors.append(make_not_found_error(entity_name, id_, [*path, str(n), "id"]))
        elif (first := claimed.setdefault(id_, n)) != n:
            problem = f"is that of entry {first}. Leave it out for a new one."
            errors.append(make_invalid_input_error([*path, str(n), "id"], problem, InvalidInputReason.DUPLICATE))
    by_text = {fold_case(item[key]): item for item in stored if item["id"] not in claimed}
    return [by_text.pop(fold_case(entry[key]), None) if entry.get("id") is None else by_id.get(entry["id"]) for entry in entries]


def _build_swatch(
    entry: Mapping[str, Any], former: Option | None, images: Sequence[str], path: Sequence[str], errors: list[FieldError]
) -> dict[str, Any] | None:
    if "swatch" not in entry:
        return former["swatch"] if former else None
    if entry["swatch"] is None:
        return None
    swatch = {"color": entry["swatch"].get("color"), "image": entry["swatch"].get("image")}
    if swatch["image"] is not None and swatch["image"] not in images:
        problem = "must be one of the product's images."
        errors.append(make_invalid_input_error([*path, "swatch", "image"], problem, InvalidInputReason.NOT_ALLOWED))
    if swatch == {"color": None, "image": None}:
        problem = "must have a color or an image. Give null for no swatch."
        errors.append(make_invalid_input_error([*path, "swatch"], problem, InvalidInputReason.REQUIRED))
    return swatch


def _find_duplicates(texts: Sequence[str], path: Sequence[str], key: str) -> list[FieldError]:
    first_by_text: dict[str, int] = {}
    return [
        make_invalid_input_error(
            [*path, str(n), key], f"is that of entry {first}, apart from upper and lower case.", InvalidInputReason.DUPLICATE
        )
        for n, text in enumerate(texts)
        if (first := first_by_text.setdefault(fold_case(text), n)) != n
    ]


def find_option_limit_errors(editor: OptionEditor, path: Sequence[str]) -> list[FieldError]:
    """The error of a product with too many options, or too many values of all options together."""
    value_count = sum(len(option["values"]) for option in editor.options)
    for count, maximum, name in (
        (len(editor.options), MAX_OPTIONS, "options"),
        (value_count, MAX_OPTION_VALUES, "option values"),
    ):
        if count > maximum:
            return [
                make_limit_reached_error(path, f"the product would have {count:,} {name}, and may have {maximum:,}.", maximum)
            ]
    return []


@dataclass(frozen=True, slots=True)
class RenamedVariants:
    """New attributes and names of variants, by id; and errors for attributes that the options do not list."""

    rows: list[dict[str, Any]]
    errors: list[FieldError]


def rename_variants(revised: RevisedOptions, variants: Sequence[Any]) -> RenamedVariants:
    """How stored variants (rows with `id`, `name` and `attributes`) are called with revised options, where that differs."""
    rows: list[dict[str, Any]] = []
    errors: list[FieldError] = []
    for variant in variants:
        try:
            renamed = revised.rename(variant.attributes)
        except KeyError:
            problem = f"variant {variant.name!r} has a value that is not listed. List it, or change the variant first."
            errors = errors or [make_invalid_state_error(["options"], problem)]
            continue
        attributes = {option["name"]: renamed[option["name"]] for option in revised.options if option["name"] in renamed}
        name = follow_attributes(variant.name, variant.attributes, attributes)
        # The order counts, too.
        if (name, [*attributes.items()]) != (variant.name, [*variant.attributes.items()]):
            rows.append({"id": variant.id, "name": name, "attributes": attributes})
    return RenamedVariants(rows, errors)


def plan_options(
    product: ProductRow, inputs: Sequence[Mapping[str, Any]], images: Sequence[str], stored: Sequence[Any]
) -> tuple[list[Option], list[dict[str, Any]]]:
    """The options of a product as listed, and the rows of variants that are called something else then. `stored`: all of its
    variants. Raises MutationRejected.
    """
    revised = revise_options(product.options, inputs, images)
    renamed = rename_variants(revised, stored)
    if errors := revised.errors or renamed.errors or find_option_limit_errors(OptionEditor(revised.options), ["options"]):
        raise MutationRejected(*errors)
    return revised.options, renamed.rows


def get_renamed_variants(stored: Sequence[Any], renamed: Sequence[Mapping[str, Any]]) -> FormerVariants:
    """The variants that are renamed, as they were before, for the log."""
    renamed_ids = {row["id"] for row in renamed}
    return {row.id: get_former_variant(row) for row in stored if row.id in renamed_ids}
