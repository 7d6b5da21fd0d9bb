"""Parser that validates CSV records and groups them into products. Independent of files and of the database."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar

from storefront.imports import lossless_cell
from storefront.imports.csv_columns import (
    DEFAULT_MAX_CELL_LENGTH,
    GRAMS_BY_WEIGHT_UNIT,
    INVENTORY_POLICY_BY_CELL,
    MAX_CELL_LENGTHS,
    OPTION_NUMBERS,
    PRODUCT_TEXT_COLUMNS,
    STATUS_BY_PUBLISHED_CELL,
    STATUS_BY_STATUS_CELL,
    SURPLUS_OPTION_COLUMNS,
    TRUE_BY_CELL,
    VARIANT_TEXT_COLUMNS,
    WEIGHT_UNIT_BY_CELL,
    CsvRecord,
    InvalidRowError,
    SourceLayout,
    describe_unstorable_character,
)
from storefront.imports.row_types import Checkpoint, ProductRow, RowError, VariantRow
from storefront.models.product import MAX_IMAGES, MAX_TAG_CHARACTERS, MAX_TAGS
from storefront.models.variant import MAX_VARIANTS, build_variant_name, fold_attributes, fold_case
from storefront.models.writable_fields import MAX_INT32

T = TypeVar("T")

EMPTY_LOSSLESS_CELL = lossless_cell.LosslessCell()

_HANDLE_PATTERN = re.compile(r"(?=.*[^\W_])[\w-]+")
_AMOUNT_PATTERN = re.compile(r"0*([0-9]+)(?:\.([0-9]*?)0*)?", re.ASCII)
_GRAMS_PATTERN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,12})?", re.ASCII)
MAX_WEIGHT = Decimal("10000000.000")
_QUANTITY_PATTERN = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?", re.ASCII)
# Names of fields with their columns.
_PRODUCT_TEXTS, _VARIANT_TEXTS = (
    [(name, column.lower()) for name, column in columns.items()] for columns in (PRODUCT_TEXT_COLUMNS, VARIANT_TEXT_COLUMNS)
)
_UNPOSITIONED_RANK, _VARIANT_IMAGE_RANK = (1, 0), (2, 0)


@dataclass(slots=True)
class _ProductDraft:
    handle: str
    first_record: CsvRecord
    tags: list[str]
    status: str
    option_names: list[str]
    row_count: int = 0
    is_complete: bool = True
    variants: dict[frozenset[tuple[str, str]], VariantRow] = field(default_factory=dict)
    image_ranks: dict[str, tuple[int, int]] = field(default_factory=dict)
    lossless_fields: Mapping[str, Any] = field(default_factory=dict)

    def add_record(self, record: CsvRecord) -> None:
        """Add a record. Validation comes first: a rejected row changes nothing. Raises InvalidRowError."""
        attributes, lossless_cell = self._parse_attributes(record), _parse_lossless_cell(record)
        variant = (
            _build_variant(record, attributes) if attributes or record["variant price"] or record is self.first_record else None
        )
        ranks = self._parse_images(record)
        if variant:
            self._add_variant(variant, lossless_cell.variant)
        if lossless_cell.product and record is self.first_record:
            self.lossless_fields = lossless_cell.product
        for url, rank in ranks.items():
            self.image_ranks[url] = min(rank, self.image_ranks.get(url, rank))
        self.row_count += 1

    def _parse_attributes(self, record: CsvRecord) -> dict[str, str]:
        if not self.option_names and record["option1 value"].lower() == "default title":
            return {}
        values = [self._parse_option_value(record, number) for number in OPTION_NUMBERS]
        return dict(zip(self.option_names, values, strict=False)) if any(values) or record["variant price"] else {}

    def _parse_option_value(self, record: CsvRecord, number: int) -> str:
        name = self.option_names[number - 1] if number <= len(self.option_names) else ""
        value, repeated_name = record[f"option{number} value"], record[f"option{number} name"]
        if value and not name:
            raise InvalidRowError(
                f"option{number} value", f"{_quote_cell(value)} needs a name for option {number} on line {self.first_record.line}"
            )
        if repeated_name and repeated_name != name and record is not self.first_record:
            raise InvalidRowError(
                f"option{number} name",
                f"{_quote_cell(repeated_name)} is not the name on line {self.first_record.line}: leave it empty",
            )
        if name and not value and record["variant price"]:
            raise InvalidRowError(f"option{number} value", f"is missing, every variant needs a value for {_quote_cell(name)}")
        return value

    def _add_variant(self, variant: VariantRow, lossless_variant: Mapping[str, Any] | None) -> None:
        if lossless_variant:
            variant = _drop_low_compare_at_price(replace(variant, **lossless_variant))
        variant_key = fold_attributes(variant.attributes)
        if duplicate := self.variants.get(variant_key):
            raise InvalidRowError(
                "option1 value", f"{_quote_cell(variant.name)} is already on line {duplicate.line}: change or remove one"
            )
        if len(self.variants) == MAX_VARIANTS:
            raise InvalidRowError(
                "option1 value", f"a product may have {MAX_VARIANTS} variants, this is number {MAX_VARIANTS + 1}: split it"
            )
        self.variants[variant_key] = variant

    def _parse_images(self, record: CsvRecord) -> dict[str, tuple[int, int]]:
        position = record["image position"]
        rank = (0, int(position)) if position.isdecimal() and len(position) < 10 else _UNPOSITIONED_RANK
        image_url, variant_image_url = record["image src"], record["variant image"]
        ranks = {variant_image_url: _VARIANT_IMAGE_RANK, image_url: rank}
        ranks.pop("", None)
        if (count := len(self.image_ranks.keys() | ranks.keys())) > MAX_IMAGES:
            raise InvalidRowError("image src", f"a product may have {MAX_IMAGES} images, this is number {count}: remove some")
        return ranks

    def build_product(self, present_fields: frozenset[str]) -> ProductRow:
        variants, first_record = list(self.variants.values()), self.first_record
        row = ProductRow(
            handle=self.handle,
            line=first_record.line,
            row_count=self.row_count,
            is_complete=self.is_complete,
            present_fields=present_fields,
            images=sorted(self.image_ranks, key=self.image_ranks.__getitem__),
            category=first_record["type"] or first_record["product category"].rpartition(">")[2].strip() or None,
            tags=self.tags,
            track_inventory=any(variant.inventory is not None for variant in variants),
            status=self.status,
            **_parse_texts(first_record, _PRODUCT_TEXTS),
            variants=variants,
        )
        return replace(row, **self.lossless_fields) if self.lossless_fields else row


class ProductParser:
    """Groups adjacent rows of one handle into a product.

    `remember_handles`: reject a second group of rows with the same handle, which would overwrite the first. Without it the
    consumer of the products has to detect these.
    """

    def __init__(self, layout: SourceLayout, *, remember_handles: bool = True) -> None:
        self._layout, self._present_fields, self._remember_handles = layout, layout.present_fields, remember_handles
        self._line_by_handle: dict[str, int] = {}
        self._current_handle = ""
        self._is_repeated_handle = False
        self._draft: _ProductDraft | None = None

    def add_row(self, row: CsvRecord | RowError) -> Iterator[ProductRow | RowError | Checkpoint]:
        """Add a row. Yields the product that it completes, a checkpoint, and the error if the row is rejected."""
        handle = "" if isinstance(row, RowError) else "-".join(row["handle"].lower().split())
        # A row with an invalid handle may belong to the current product, so it does not end it.
        if isinstance(row, CsvRecord) and handle != self._current_handle and _HANDLE_PATTERN.fullmatch(handle):
            yield from self.finish()
            yield Checkpoint({"offset": row.start_offset, "line": row.line, "rows": row.preceding_rows}, row.start_offset)
            self._current_handle, self._is_repeated_handle = handle, handle in self._line_by_handle
            if not self._remember_handles:
                self._line_by_handle.clear()
        if row_error := row if isinstance(row, RowError) else self._try_add_record(row, handle):
            if self._draft:
                self._draft.is_complete = False
            yield row_error

    def finish(self) -> Iterator[ProductRow]:
        """Yield the last product, if there is one."""
        if self._draft:
            yield self._draft.build_product(self._present_fields)
        self._draft = None

    def _try_add_record(self, record: CsvRecord, handle: str) -> RowError | None:
        try:
            self._add_record(record, handle)
        except InvalidRowError as error:
            return self._layout.build_row_error(record.line, handle, error.column, error.problem)
        return None

    def _add_record(self, record: CsvRecord, handle: str) -> None:
        if not _HANDLE_PATTERN.fullmatch(handle):
            problem = f"{_quote_cell(handle)} may have only letters, digits, hyphens and underscores" if handle else "is missing"
            raise InvalidRowError("handle", f"{problem}: give every row the handle of its product")
        if self._draft:
            _check_record(record)
            self._draft.add_record(record)
        elif self._is_repeated_handle:
            raise InvalidRowError(
                "handle", f"the rows of this product started on line {self._line_by_handle[handle]}: move this one up to them"
            )
        elif handle in self._line_by_handle:
            raise InvalidRowError("", f"belongs to the rejected product on line {self._line_by_handle[handle]}")
        else:
            self._begin_product(record, handle)

    def _begin_product(self, record: CsvRecord, handle: str) -> None:
        self._line_by_handle[handle] = record.line
        _check_record(record)
        if not record["title"]:
            raise InvalidRowError("title", "is missing on the first row of the product: fill it in")
        draft = _ProductDraft(handle, record, _parse_tags(record), _parse_status(record), _parse_option_names(record))
        draft.add_record(record)
        self._draft = draft


def _parse_lossless_cell(record: CsvRecord) -> lossless_cell.LosslessCell:
    if not (cell := record["storefront"]):
        return EMPTY_LOSSLESS_CELL
    try:
        return lossless_cell.parse_cell(cell)
    except ValueError as error:
        raise InvalidRowError("storefront", f"cannot be read ({error}): empty the cell") from None


def _drop_low_compare_at_price(variant: VariantRow) -> VariantRow:
    """The price cell may have been edited in a file whose lossless cell has the compare-at price."""
    is_low = variant.compare_at_price is not None and variant.compare_at_price < variant.price
    return replace(variant, compare_at_price=None) if is_low else variant


def _check_record(record: CsvRecord) -> None:
    if record.surplus_cell_count:
        raise InvalidRowError("", "the row has more cells than the header: put quotes around a cell that contains commas")
    for column in record.cells.keys() & SURPLUS_OPTION_COLUMNS:
        if record[column]:
            raise InvalidRowError(column, f"a product may have {len(OPTION_NUMBERS)} options: leave this one out")
    for column, cell in record.cells.items():
        _check_cell(column, cell)


def _check_cell(column: str, cell: str) -> None:
    # The cheap checks first: this is the hot path.
    if ("\0" in cell or not cell.isascii()) and (problem := describe_unstorable_character(cell)):
        raise InvalidRowError(column, f"contains {problem}: remove it")
    if len(cell) > (max_length := MAX_CELL_LENGTHS.get(column, DEFAULT_MAX_CELL_LENGTH)):
        raise InvalidRowError(column, f"has {len(cell):,} characters, at most {max_length:,} are allowed: shorten it")


def _parse_tags(record: CsvRecord) -> list[str]:
    tags = list(dict.fromkeys(filter(None, map(str.strip, record["tags"].split(",")))))
    if len(tags) > MAX_TAGS:
        raise InvalidRowError("tags", f"has {len(tags)} tags, at most {MAX_TAGS} are allowed: remove some")
    if tags and (longest := max(map(len, tags))) > MAX_TAG_CHARACTERS:
        raise InvalidRowError(
            "tags", f"has a tag of {longest:,} characters, at most {MAX_TAG_CHARACTERS} are allowed: shorten it"
        )
    return tags


def _parse_status(record: CsvRecord) -> str:
    if record["status"]:
        return _parse_choice(record, "status", STATUS_BY_STATUS_CELL)
    return _parse_choice(record, "published", STATUS_BY_PUBLISHED_CELL)


def _parse_choice(record: CsvRecord, column: str, values: Mapping[str, T]) -> T:
    """The value of a cell that has one of a few texts, in any case."""
    if (value := values.get(record[column].lower())) is None:
        raise InvalidRowError(
            column, f"{_quote_cell(record[column])} is none of {', '.join(filter(None, values))}: use one of them"
        )
    return value


def _parse_option_names(record: CsvRecord) -> list[str]:
    names = [record[f"option{number} name"] for number in OPTION_NUMBERS]
    if names[0].lower() == "title" and record["option1 value"].lower() == "default title":
        return []
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, 1):
        if not name or fold_case(name) in map(fold_case, names[: number - 1]):
            problem = f"{_quote_cell(name)} names two options" if name else "is missing before a later option"
            raise InvalidRowError(f"option{number} name", f"{problem}: give each option its own name")
    return names


def _build_variant(record: CsvRecord, attributes: dict[str, str]) -> VariantRow:
    price, compare_at_price = _parse_amount(record, "variant price"), _parse_amount(record, "variant compare at price")
    if price is None:
        raise InvalidRowError("variant price", "is missing: fill it in")
    policy = _parse_choice(record, "variant inventory policy", INVENTORY_POLICY_BY_CELL)
    return VariantRow(
        line=record.line,
        name=build_variant_name(attributes),
        price=price,
        compare_at_price=compare_at_price if compare_at_price and compare_at_price > price else None,
        attributes=attributes,
        inventory=_parse_inventory(record, may_be_negative=policy == "continue"),
        inventory_policy=policy,
        weight=_parse_weight(record),
        cost=_parse_amount(record, "cost per item"),
        taxable=_parse_choice(record, "variant taxable", TRUE_BY_CELL),
        requires_shipping=_parse_choice(record, "variant requires shipping", TRUE_BY_CELL),
        image=record["variant image"] or None,
        **_parse_texts(record, _VARIANT_TEXTS),
    )


def _parse_texts(record: CsvRecord, columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The texts that are read from one column as they are."""
    return {name: record[column] or None for name, column in columns}


def _parse_amount(record: CsvRecord, column: str) -> Decimal | None:
    if not (cell := record[column]):
        return None
    if not (match := _AMOUNT_PATTERN.fullmatch(cell)):
        raise InvalidRowError(
            column, f"{_quote_cell(cell)} is not an amount of 0 or more: write digits and a point, such as 1299.90"
        )
    whole, cents = match[1], match[2] or ""
    if len(whole) > 8:
        raise InvalidRowError(column, f"{_quote_cell(cell)} is too much: it must be below 100,000,000")
    if len(cents) > 2:
        raise InvalidRowError(column, f"{_quote_cell(cell)} has more than two decimals: round it")
    return Decimal(f"{whole}.{cents:0<2}")


def _parse_weight(record: CsvRecord) -> dict[str, str] | None:
    """The weight in the unit for display. Zero is none: Shopify writes it for variants without a weight."""
    cell, unit = record["variant grams"], _parse_choice(record, "variant weight unit", WEIGHT_UNIT_BY_CELL)
    if not _GRAMS_PATTERN.fullmatch(cell or "0"):
        raise InvalidRowError("variant grams", f"{_quote_cell(cell)} is not a weight in grams: write digits, such as 250")
    value = (Decimal(cell or "0") / GRAMS_BY_WEIGHT_UNIT[unit]).quantize(Decimal("0.001"))
    if value > MAX_WEIGHT:
        raise InvalidRowError("variant grams", f"{_quote_cell(cell)} is too much: it must be below 10,000,000")
    # Whole grams may round up to the limit.
    return {"value": str(min(value, MAX_WEIGHT - Decimal("0.001"))), "unit": unit} if value else None


def _parse_inventory(record: CsvRecord, *, may_be_negative: bool) -> int | None:
    column = "variant inventory qty"
    if not (match := _QUANTITY_PATTERN.fullmatch(record[column] or "0")):
        raise InvalidRowError(column, f"{_quote_cell(record[column])} is not a whole number: write digits only")
    if (quantity := int(match[1])) > MAX_INT32:
        raise InvalidRowError(column, f"{quantity:,} is too much: at most {MAX_INT32:,} can be counted")
    # Oversold inventory is negative at Shopify; here only where more may be sold than there is.
    least = -MAX_INT32 if may_be_negative else 0
    return max(least, quantity) if record["variant inventory tracker"] else None


def _quote_cell(cell: str) -> str:
    return f"“{cell}”" if len(cell) <= 40 else f"“{cell[:39]}…”"
