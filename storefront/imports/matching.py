"""Matching of the rows of a product with its stored variants: which variant each row changes, and which rows are refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from storefront.imports.csv_columns import AMOUNT_FIELD_NAMES, OPTION_NUMBERS, VARIANT_FIELD_NAMES
from storefront.imports.row_types import ProductRow, RowError, VariantRow
from storefront.models.options import Option
from storefront.models.rows import VariantRow as StoredVariant
from storefront.models.variant import build_variant_name, fold_attributes, fold_case
from storefront.writes.variant_rows import make_unique_key, match_rows

VariantPair = tuple[VariantRow, StoredVariant | None]
FoldedAttributes = frozenset[tuple[str, str]]


@dataclass(slots=True)
class MatchedVariants:
    """The pairs of row and stored variant (None for a new one) in the order of the rows, and the errors of refused rows."""

    pairs: list[VariantPair] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)


class _UnmatchedRowError(Exception):
    """A row that names no variant, with the column at fault and the problem."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column, self.problem = column, problem


def match_variants(
    product: ProductRow,
    variants: Sequence[VariantRow],
    stored: Sequence[StoredVariant],
    options: Sequence[Option],
    *,
    replaces_variants: bool,
) -> MatchedVariants:
    """Match the `variants` of a product with its stored ones: by SKU where that is unique, else by options, else by name.

    A row without SKU and options is the only variant of its product. `options`: of the stored product. `replaces_variants`: the
    stored variants without a row are going to be deleted.
    """
    matched = MatchedVariants()
    resolver = _OptionResolver(product, stored, options)
    rows = list[VariantRow]()
    for row in variants:
        try:
            rows.append(resolver.resolve(row))
        except _UnmatchedRowError as error:
            matched.errors.append(product.reject_row(row.line, error.problem, error.column))
    matches = dict[int, StoredVariant]()
    if stored:
        keys = (make_unique_key(_get_sku, rows, stored), _get_name_and_attributes, _get_attributes, _get_name)
        matches = match_rows(rows, stored, keys)
    if len(stored) == 1 and not matches and rows and _is_only_variant(rows, stored[0]):
        matches[0] = stored[0]
    for n, row in enumerate(rows):
        try:
            if n not in matches:
                _check_new_variant(row, is_first=not matched.pairs, stored=stored, replaces_variants=replaces_variants)
            matched.pairs.append((row, matches.get(n)))
        except _UnmatchedRowError as error:
            if not _is_satisfied(row, stored):
                matched.errors.append(product.reject_row(row.line, error.problem, error.column))
    return matched


def _is_only_variant(rows: Sequence[VariantRow], only: StoredVariant) -> bool:
    """Whether the first row means the only variant of the product, though neither its SKU nor its options say so."""
    first = rows[0]
    if _states_options(first):
        # The first options of a product that had none: its variant becomes one of them.
        return not only.attributes and not (first.sku and only.sku)
    if not first.sku:
        return True
    return len(rows) == 1 and (not only.attributes or only.sku is None)


def _check_new_variant(row: VariantRow, *, is_first: bool, stored: Sequence[StoredVariant], replaces_variants: bool) -> None:
    """Raises _UnmatchedRowError if the row says too little to create a variant."""
    if _states_options(row) and (row.attributes or replaces_variants or not any(old.attributes for old in stored)):
        return
    if not stored and is_first:
        return
    if not stored:
        raise _UnmatchedRowError("option1 value", "is missing: each variant of a new product needs its options")
    if row.sku and any(old.sku == row.sku for old in stored):
        raise _UnmatchedRowError("variant sku", f"several variants have “{row.sku}”: fill in the options of this one")
    if row.sku:
        raise _UnmatchedRowError("variant sku", f"no variant of the product has “{row.sku}”: fill in its options to create it")
    raise _UnmatchedRowError("", f"names none of the {len(stored)} variants of the product: fill in its SKU or its options")


def _is_satisfied(row: VariantRow, stored: Sequence[StoredVariant]) -> bool:
    """Whether what a row without SKU and options says is true of a stored variant already, so that nothing is lost with it."""
    if row.sku or _states_options(row):
        return False
    values = {name: value for name in row.stated_fields if (value := _get_stored_form(row, name)) is not None}
    return any(all(getattr(old, name) == value for name, value in values.items()) for old in stored)


def _get_stored_form(row: VariantRow, name: str) -> Any:
    """A value of a row as it is stored; None if the row has none."""
    value = getattr(row, name) if name in VARIANT_FIELD_NAMES else None
    return str(value) if name in AMOUNT_FIELD_NAMES and value is not None else value


def _states_options(row: VariantRow) -> bool:
    return "attributes" in row.stated_fields


@dataclass(slots=True)
class _OptionResolver:
    """Completes the options of rows: names that the source leaves out, and options that it has no columns for."""

    product: ProductRow
    stored: Sequence[StoredVariant]
    options: Sequence[Option]
    # Stored variants by the options of a row that has only some of theirs, for each set of names.
    _indexes: dict[frozenset[str], dict[FoldedAttributes, list[StoredVariant]]] = field(default_factory=dict)

    def resolve(self, row: VariantRow) -> VariantRow:
        """The row with complete options. Raises _UnmatchedRowError."""
        if not _states_options(row):
            return row
        attributes = row.attributes
        if row.unnamed_options:
            attributes = {**attributes, **self._name_options(row)}
        if attributes and self.options and len(self.options) > (column_count := self._count_columns()):
            attributes = self._add_options_without_columns(row, attributes, column_count)
        return row if attributes is row.attributes else replace(row, attributes=attributes, name=build_variant_name(attributes))

    def _name_options(self, row: VariantRow) -> dict[str, str]:
        named = dict[str, str]()
        for number, value in row.unnamed_options.items():
            if number > len(self.options):
                raise _UnmatchedRowError(
                    f"option{number} value", f"“{value}” needs a name for option {number} on line {self.product.line}"
                )
            named[self.options[number - 1]["name"]] = value
        return named

    def _count_columns(self) -> int:
        """The number of options that the source has columns for. The lossless cell has room for all."""
        spellings = self.product.layout.spellings
        if "storefront" in spellings:
            return len(self.options)
        return sum(f"option{number} value" in spellings for number in OPTION_NUMBERS)

    def _add_options_without_columns(self, row: VariantRow, attributes: dict[str, str], column_count: int) -> dict[str, str]:
        names, folded = frozenset(map(fold_case, attributes)), fold_attributes(attributes)
        by_sku = [old for old in self.stored if row.sku and old.sku == row.sku]
        found = by_sku if len(by_sku) == 1 else self._get_index(names).get(folded, [])
        stored_names = {fold_case(option["name"]) for option in self.options}
        if len(found) == 1 and names <= stored_names:
            return {**{name: value for name, value in found[0].attributes.items() if fold_case(name) not in names}, **attributes}
        described = " and ".join(option["name"] for option in self.options)
        problem = f"the product has the options {described}, and the source has columns for {column_count}: add the others"
        raise _UnmatchedRowError("option1 value", problem)

    def _get_index(self, names: frozenset[str]) -> dict[FoldedAttributes, list[StoredVariant]]:
        if (index := self._indexes.get(names)) is None:
            index = self._indexes[names] = {}
            for old in self.stored:
                part = frozenset(pair for pair in fold_attributes(old.attributes) if pair[0] in names)
                index.setdefault(part, []).append(old)
        return index


# Keys are None for rows that do not state them. Stored variants state everything.


def _get_sku(variant: VariantRow | StoredVariant) -> object:
    return variant.sku


def _get_name_and_attributes(variant: VariantRow | StoredVariant) -> object:
    attributes = _get_attributes(variant)
    return None if attributes is None else (variant.name, attributes)


def _get_attributes(variant: VariantRow | StoredVariant) -> object:
    if isinstance(variant, VariantRow) and not _states_options(variant):
        return None
    return fold_attributes(variant.attributes)


def _get_name(variant: VariantRow | StoredVariant) -> object:
    return None if isinstance(variant, VariantRow) and not _states_options(variant) else variant.name
