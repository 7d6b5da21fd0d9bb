"""Parser that validates CSV records and groups them into products. Independent of files and of the database.

A product states what its rows have cells for. An empty cell clears a value that may be empty, and states nothing of one that may
not: title, status, price, quantity, policy and the like. What is not stated is looked up in the store later (`matching.py`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

from storefront.core.currencies import AMOUNT_LIMIT, MAX_FRACTION_DIGITS, MAX_INTEGER_DIGITS
from storefront.core.handles import normalize_handle
from storefront.imports import lossless_cell
from storefront.imports.csv_columns import (
    BOOLEAN_BY_CELL,
    COLUMNS_BY_FIELD,
    DEFAULT_MAX_CELL_LENGTH,
    GRAMS_BY_WEIGHT_UNIT,
    IDENTIFYING_VARIANT_COLUMNS,
    INVENTORY_POLICY_BY_CELL,
    MAX_CELL_LENGTHS,
    MAX_HANDLE_CHARACTERS,
    OPTION_NUMBERS,
    PRODUCT_FIELD_NAMES,
    PRODUCT_TEXT_COLUMNS,
    STATUS_BY_STATUS_CELL,
    SURPLUS_OPTION_COLUMNS,
    VARIANT_COLUMNS,
    VARIANT_TEXT_COLUMNS,
    WEIGHT_UNIT_BY_CELL,
    CsvRecord,
    InvalidRowError,
    describe_unstorable_character,
)
from storefront.imports.files.numbers import remove_spaces_between_groups
from storefront.imports.row_types import NO_FIELDS, Checkpoint, ProductRow, RowError, SourceLayout, VariantRow
from storefront.models.product import DESCRIPTION_CSV_COLUMN, MAX_IMAGES, MAX_TAG_CHARACTERS, MAX_TAGS
from storefront.models.variant import MAX_VARIANTS, build_variant_name, fold_attributes, fold_case
from storefront.models.writable_fields import MAX_INT32
from storefront.writes.validation import InvalidValueError, validate_url

T = TypeVar("T")

EMPTY_LOSSLESS_CELL = lossless_cell.LosslessCell()

_AMOUNT_PATTERN = re.compile(r"0*([0-9]+)(?:\.([0-9]*?)0*)?", re.ASCII)
# As spreadsheets show long numbers: 4.00638E+12.
_ROUNDED_CODE_PATTERN = re.compile(r"[0-9][.,][0-9]+E\+[0-9]{2}", re.ASCII)
# Of a code that is known, and what a spreadsheet takes for a number: 12E5 is shown as 1.20E+06.
_ROUNDED_NUMBER_PATTERN = re.compile(r"([0-9])(?:[.,]([0-9]{1,20}))?E\+([0-9]{2})", re.ASCII)
_NUMERIC_CODE_PATTERN = re.compile(r"([0-9]{1,255})(?:[Ee]\+?([0-9]{1,2}))?", re.ASCII)
_GRAMS_PATTERN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{0,12})?", re.ASCII)
MAX_WEIGHT = Decimal("10000000.000")
_QUANTITY_PATTERN = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?", re.ASCII)
# Between the URLs of a list. URLs may contain commas.
_URL_SEPARATOR = re.compile(r"\s*[\s,;|]\s*(?=https?://)", re.IGNORECASE)
# Names of fields with their columns.
_PRODUCT_TEXTS, _VARIANT_TEXTS = (
    [(name, column.lower()) for name, column in columns.items()] for columns in (PRODUCT_TEXT_COLUMNS, VARIANT_TEXT_COLUMNS)
)
_UNPOSITIONED_RANK, _VARIANT_IMAGE_RANK = (1, 0), (2, 0)
# What a row of options names if its product has none.
_NO_OPTION_NAME, _NO_OPTION_VALUE = "title", "default title"

_OPTION_VALUE_COLUMNS = tuple(f"option{number} value" for number in OPTION_NUMBERS)
# A cell of so many characters is short enough for every column.
_MIN_CELL_LENGTH = min(*MAX_CELL_LENGTHS.values(), DEFAULT_MAX_CELL_LENGTH)

# What identifies a variant among the rows of its product.
VariantKey = frozenset[tuple[str, str]] | str


@dataclass(slots=True)
class _ProductDraft:
    handle: str
    first_record: CsvRecord
    layout: SourceLayout
    tags: list[str]
    status: str
    gift_card: bool
    option_names: list[str]
    unstated_fields: set[str]
    row_count: int = 0
    is_complete: bool = True
    variants: dict[VariantKey, VariantRow] = field(default_factory=dict)
    image_ranks: dict[str, tuple[int, int]] = field(default_factory=dict)
    image_alts: dict[str, str] = field(default_factory=dict)
    has_images: bool = False
    lossless_fields: Mapping[str, Any] = field(default_factory=dict)

    def add_record(self, record: CsvRecord) -> None:
        """Add a record. Validation comes first: a rejected row changes nothing. Raises InvalidRowError."""
        lossless_cell = _parse_lossless_cell(record)
        variant = self._parse_variant(record, lossless_cell.variant)
        if variant is None and (column := next((name for name, cell in record.kept_cells.items() if cell), None)):
            raise InvalidRowError(column, "is of no variant: move the cell to the row of one")
        ranks = self._parse_images(record)
        if variant:
            self._add_variant(variant)
        if lossless_cell.product and record is self.first_record:
            self.lossless_fields = lossless_cell.product
        if alt := record["image alt text"]:
            self.image_alts |= {url: alt for url, rank in ranks.items() if rank is not _VARIANT_IMAGE_RANK}
        for url, rank in ranks.items():
            self.image_ranks[url] = min(rank, self.image_ranks.get(url, rank))
            self.has_images |= rank is not _VARIANT_IMAGE_RANK
        self.row_count += 1

    def _parse_variant(self, record: CsvRecord, lossless_fields: Mapping[str, Any] | None) -> VariantRow | None:
        """The variant of the record; None if it has only a further image."""
        if not record.has_variant:
            return None
        cells = record.cells
        is_first, has_cells = record is self.first_record, not cells.keys().isdisjoint(VARIANT_COLUMNS)
        if not is_first and not has_cells:
            return None
        attributes, unnamed_options = self._parse_options(record)
        has_options = attributes is not None or bool(unnamed_options)
        is_identified = has_options or lossless_fields is not None
        if not (is_first or is_identified or not cells.keys().isdisjoint(IDENTIFYING_VARIANT_COLUMNS)):
            if "image src" in cells:
                return None
            raise InvalidRowError("", "names no variant: fill in its options or its SKU")
        stated_fields = self.layout.present_fields if has_cells else NO_FIELDS
        variant = _build_variant(
            record, self.layout, stated_fields, attributes or {}, has_options=has_options, unnamed_options=unnamed_options
        )
        if lossless_fields:
            variant = replace(
                variant,
                **lossless_fields,
                stated_fields=variant.stated_fields | lossless_fields.keys(),
                unnamed_options={} if "attributes" in lossless_fields else variant.unnamed_options,
            )
            variant = _drop_low_compare_at_price(variant)
        return variant

    def _parse_options(self, record: CsvRecord) -> tuple[dict[str, str] | None, dict[int, str]]:
        """The options of the record, None if it states none, and the values of options without a name."""
        values = [record.cells.get(column, "") for column in _OPTION_VALUE_COLUMNS]
        if not any(values):
            if any(self.option_names) and record["variant price"] and not record["variant sku"]:
                self._raise_missing_value(1)
            return None, {}
        if not any(self.option_names) and values[0].lower() == _NO_OPTION_VALUE and not any(values[1:]):
            return {}, {}
        attributes, unnamed_options = dict[str, str](), dict[int, str]()
        for number, value in enumerate(values, 1):
            name = self._get_option_name(record, number)
            if value and name:
                attributes[name] = value
            elif value:
                unnamed_options[number] = value
            elif name:
                self._raise_missing_value(number)
        return attributes, unnamed_options

    def _raise_missing_value(self, number: int) -> None:
        name = _quote_cell(self.option_names[number - 1])
        raise InvalidRowError(f"option{number} value", f"is missing, every variant needs a value for {name}")

    def _get_option_name(self, record: CsvRecord, number: int) -> str:
        name, repeated_name = self.option_names[number - 1], record[f"option{number} name"]
        if not self.first_record.has_variant:
            return repeated_name
        if repeated_name and repeated_name != name and record is not self.first_record:
            raise InvalidRowError(
                f"option{number} name",
                f"{_quote_cell(repeated_name)} is not the name on line {self.first_record.line}: leave it empty",
            )
        return name

    def _add_variant(self, variant: VariantRow) -> None:
        key, column = _build_variant_key(variant)
        if duplicate := self.variants.get(key):
            text = key if isinstance(key, str) else variant.name
            raise InvalidRowError(column, f"{_quote_cell(text)} is already on line {duplicate.line}: change or remove one")
        if len(self.variants) == MAX_VARIANTS:
            raise InvalidRowError(
                "option1 value", f"a product may have {MAX_VARIANTS} variants, this is number {MAX_VARIANTS + 1}: split it"
            )
        self.variants[key] = variant

    def _parse_images(self, record: CsvRecord) -> dict[str, tuple[int, int]]:
        image_cell, variant_image = record["image src"], record["variant image"]
        if record["image alt text"] and not image_cell:
            raise InvalidRowError("image alt text", "is of no image: fill in its URL, or empty the cell")
        if not image_cell and not variant_image:
            return {}
        position = record["image position"]
        rank = (0, int(position)) if position.isdecimal() and len(position) < 10 else _UNPOSITIONED_RANK
        ranks = {variant_image: _VARIANT_IMAGE_RANK} if variant_image else {}
        ranks |= dict.fromkeys(_parse_urls(image_cell), rank)
        if (count := len(self.image_ranks.keys() | ranks.keys())) > MAX_IMAGES:
            raise InvalidRowError("image src", f"a product may have {MAX_IMAGES} images, this is number {count}: remove some")
        return ranks

    def build_product(self) -> ProductRow:
        variants, first_record = list(self.variants.values()), self.first_record
        # Whether the product counts its stock follows from its variants.
        unstated_fields = {*self.unstated_fields, "track_inventory"}
        # A product without an image in the file keeps those that it has, unless the file is an export of all that it has.
        if not self.has_images and "storefront" not in self.layout.spellings:
            unstated_fields |= {"images", "image_alts"}
        row = ProductRow(
            handle=self.handle,
            line=first_record.line,
            row_count=self.row_count,
            is_complete=self.is_complete,
            images=sorted(self.image_ranks, key=self.image_ranks.__getitem__),
            image_alts=self.image_alts,
            description=None,
            description_html=None,
            raw_html=first_record[DESCRIPTION_CSV_COLUMN.lower()] or None,
            tags=self.tags,
            track_inventory=any(variant.inventory is not None for variant in variants),
            gift_card=self.gift_card,
            status=self.status,
            **_parse_texts(first_record, _PRODUCT_TEXTS),
            variants=variants,
            stated_fields=_exclude_fields(self.layout.present_fields, frozenset(unstated_fields)),
            layout=self.layout,
        )
        if self.lossless_fields:
            lossless_fields = {**self.lossless_fields}
            raw_html = lossless_fields.pop("description_html", row.raw_html)
            stated_fields = row.stated_fields | self.lossless_fields.keys()
            row = replace(row, **lossless_fields, raw_html=raw_html, stated_fields=stated_fields)
        return row


def _build_variant_key(variant: VariantRow) -> tuple[VariantKey, str]:
    """What identifies the variant among the rows of its product, and the column of it."""
    if "attributes" in variant.stated_fields or not variant.sku:
        options = {**variant.attributes, **{str(number): value for number, value in variant.unnamed_options.items()}}
        return fold_attributes(options), "option1 value"
    return variant.sku, "variant sku"


class ProductParser:
    """Groups adjacent rows of one handle into a product.

    `remember_handles`: reject a second group of rows with the same handle, which would overwrite the first, and a second row
    with the same SKU where there are no handles. Without it the consumer of the products has to detect these.
    """

    def __init__(self, layout: SourceLayout, *, remember_handles: bool = True) -> None:
        self._layout, self._remember_handles = layout, remember_handles
        self._identifies_by_sku = "handle" not in layout.spellings
        self._line_by_handle: dict[str, int] = {}
        # The current handle as the source has it, apart from case and spaces.
        self._current_spelling = ""
        self._is_repeated_handle = False
        self._draft: _ProductDraft | None = None

    def add_row(self, row: CsvRecord | RowError) -> Iterator[ProductRow | RowError | Checkpoint]:
        """Add a row. Yields the product that it completes, a checkpoint, and the error if the row is rejected."""
        spelling = "" if isinstance(row, RowError) else "-".join(row["handle"].lower().split())
        handle = _normalize_cell(spelling)
        # A row with an invalid handle may belong to the current product, so it does not end it.
        if isinstance(row, CsvRecord) and self._begins_product(row, spelling, handle):
            yield from self.finish()
            yield Checkpoint({"offset": row.start_offset, "line": row.line, "rows": row.preceding_rows}, row.start_offset)
            if not self._remember_handles:
                self._line_by_handle.clear()
            self._current_spelling, self._is_repeated_handle = spelling, handle in self._line_by_handle
        if row_error := row if isinstance(row, RowError) else self._try_add_record(row, handle):
            if self._draft:
                self._draft.is_complete = False
            yield row_error

    def _begins_product(self, record: CsvRecord, spelling: str, handle: str) -> bool:
        """Whether a record begins a product. Without a column of handles each record is one variant, found by its SKU.

        Two spellings of one handle are two products of the source.
        """
        if self._is_identified_by_sku(record):
            return bool(record["variant sku"])
        return spelling != self._current_spelling and bool(handle)

    def _is_identified_by_sku(self, record: CsvRecord) -> bool:
        return self._identifies_by_sku or (self._layout.makes_handles and not record["handle"] and bool(record["variant sku"]))

    def finish(self) -> Iterator[ProductRow]:
        """Yield the last product, if there is one."""
        if self._draft:
            yield self._draft.build_product()
        self._draft = None

    def _try_add_record(self, record: CsvRecord, handle: str) -> RowError | None:
        try:
            self._add_record(record, handle)
        except InvalidRowError as error:
            return self._layout.build_row_error(record.line, handle, error.column, error.problem)
        return None

    def _add_record(self, record: CsvRecord, handle: str) -> None:
        if self._is_identified_by_sku(record):
            handle = record["variant sku"]
            if not handle:
                raise InvalidRowError("variant sku", "is missing: give every row the SKU of its variant")
            if line := self._line_by_handle.get(handle):
                raise InvalidRowError("variant sku", f"{_quote_cell(handle)} is already on line {line}: change or remove one")
        elif not handle:
            problem = f"{_quote_cell(record['handle'])} has no letter or digit" if record["handle"] else "is missing"
            raise InvalidRowError("handle", f"{problem}: give every row the handle of its product")
        elif len(handle) > MAX_HANDLE_CHARACTERS:
            problem = f"has {len(handle):,} characters, at most {MAX_HANDLE_CHARACTERS} are allowed: shorten it"
            raise InvalidRowError("handle", problem)
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
        status, unstated_fields = _parse_status(record)
        gift_card = _parse_boolean(record, "gift card")
        unstated_fields |= {name for name, value in (("title", record["title"]), ("gift_card", gift_card)) if value in (None, "")}
        # The row of a variant has no cells of its product.
        is_identified_by_sku = self._is_identified_by_sku(record)
        if is_identified_by_sku or (not record["title"] and "title" in self._layout.spellings):
            unstated_fields.update(_list_empty_fields(record))
        draft = _ProductDraft(
            "" if is_identified_by_sku else handle,
            record,
            self._layout,
            _parse_tags(record),
            status,
            gift_card is True,
            _parse_option_names(record),
            unstated_fields,
        )
        draft.add_record(record)
        self._draft = draft


# The rows of a product follow each other.
@lru_cache(8)
def _normalize_cell(cell: str) -> str:
    # A longer cell is rejected as it is.
    return normalize_handle(cell) if len(cell) <= MAX_CELL_LENGTHS["handle"] else cell


def _list_empty_fields(record: CsvRecord) -> Iterator[str]:
    """The fields of products that a record has no cell for."""
    for name in PRODUCT_FIELD_NAMES:
        if not any(column in record.cells for column in COLUMNS_BY_FIELD[name]):
            yield name


def _parse_lossless_cell(record: CsvRecord) -> lossless_cell.LosslessCell:
    if not (cell := record["storefront"]):
        return EMPTY_LOSSLESS_CELL
    try:
        return lossless_cell.parse_cell(cell)
    except ValueError as error:
        raise InvalidRowError("storefront", f"cannot be read ({error}): empty the cell") from None


def _drop_low_compare_at_price(variant: VariantRow) -> VariantRow:
    """The price cell may have been edited in a file whose lossless cell has the compare-at price."""
    is_low = variant.compare_at_price is not None and variant.price is not None and variant.compare_at_price < variant.price
    return replace(variant, compare_at_price=None) if is_low else variant


def _check_record(record: CsvRecord) -> None:
    if record.surplus_cell_count:
        raise InvalidRowError("", "the row has more cells than the header: put quotes around a cell that contains commas")
    cells = record.cells
    if not cells.keys().isdisjoint(SURPLUS_OPTION_COLUMNS):
        for column in filter(cells.get, cells.keys() & SURPLUS_OPTION_COLUMNS):
            raise InvalidRowError(column, f"a product may have {len(OPTION_NUMBERS)} options: leave this one out")
    for column, problem in record.invalid_cells.items():
        raise InvalidRowError(column, problem)
    for column, cell in cells.items():
        # Most are within the limits of all columns.
        if len(cell) > _MIN_CELL_LENGTH or not cell.isascii() or "\0" in cell:
            _check_cell(column, cell)


def _check_cell(column: str, cell: str) -> None:
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


def _parse_status(record: CsvRecord) -> tuple[str, set[str]]:
    """The status, and the fields that the record does not state. What is not published is not shown, whatever its status."""
    status, is_published = _parse_choice(record, "status", STATUS_BY_STATUS_CELL), _parse_boolean(record, "published")
    unstated_fields: set[str] = set() if status else {"status_cell"}
    if status is None and is_published is None:
        unstated_fields.add("status")
    if is_published is False and status != "archived":
        return "inactive", unstated_fields
    return status or "active", unstated_fields


def _parse_choice(record: CsvRecord, column: str, values: Mapping[str, T]) -> T | None:
    """The value of a cell that has one of a few texts, in any case; None if it is empty."""
    if not (cell := record[column]):
        return None
    if (value := values.get(cell.lower())) is None:
        raise InvalidRowError(column, f"{_quote_cell(cell)} is none of {', '.join(filter(None, values))}: use one of them")
    return value


def _parse_policy(record: CsvRecord) -> str | None:
    if (may_continue := BOOLEAN_BY_CELL.get(record["variant inventory policy"].lower())) is not None:
        return "continue" if may_continue else "deny"
    return _parse_choice(record, "variant inventory policy", INVENTORY_POLICY_BY_CELL)


def _parse_boolean(record: CsvRecord, column: str) -> bool | None:
    if not (cell := record[column]):
        return None
    if (value := BOOLEAN_BY_CELL.get(cell.lower())) is None:
        raise InvalidRowError(column, f"{_quote_cell(cell)} is none of true, false: use one of them")
    return value


def _parse_option_names(record: CsvRecord) -> list[str]:
    """The names of all options, empty where there is none."""
    names = [record[f"option{number} name"] for number in OPTION_NUMBERS]
    if names[0].lower() == _NO_OPTION_NAME and record["option1 value"].lower() in {_NO_OPTION_VALUE, ""}:
        names[0] = ""
    for number, name in enumerate(names, 1):
        is_repeated = name and fold_case(name) in map(fold_case, names[: number - 1])
        if is_repeated:
            raise InvalidRowError(f"option{number} name", f"{_quote_cell(name)} names two options: give each option its own name")
        if name and not names[number - 2] and number > 1:
            raise InvalidRowError(f"option{number - 1} name", "is missing before a later option: give each option its own name")
    return names


def _build_variant(
    record: CsvRecord,
    layout: SourceLayout,
    stated_fields: frozenset[str],
    attributes: dict[str, str],
    *,
    has_options: bool,
    unnamed_options: Mapping[int, str],
) -> VariantRow:
    for column in ("variant sku", "variant barcode"):
        if "E+" in record[column]:
            _check_code(record, layout, column)
    price, compare_at_price = _parse_amount(record, "variant price"), _parse_amount(record, "variant compare at price")
    policy = _parse_policy(record)
    inventory, is_inventory_stated = _parse_inventory(record, layout)
    taxable, requires_shipping = (
        _parse_boolean(record, "variant taxable"),
        _parse_boolean(record, "variant requires shipping"),
    )
    if policy == "deny":
        inventory = clamp_inventory(inventory, policy)
    is_stated = {
        "attributes": has_options,
        "inventory": is_inventory_stated,
        "price": price is not None,
        "inventory_policy": policy is not None,
        "taxable": taxable is not None,
        "requires_shipping": requires_shipping is not None,
    }
    unstated_fields = frozenset([name for name, is_field_stated in is_stated.items() if not is_field_stated])
    is_low = compare_at_price is not None and (not compare_at_price or (price is not None and compare_at_price <= price))
    return VariantRow(
        line=record.line,
        name=build_variant_name(attributes),
        price=price,
        compare_at_price=None if is_low else compare_at_price,
        attributes=attributes,
        inventory=inventory,
        inventory_policy=policy or "deny",
        weight=_parse_weight(record),
        cost=_parse_amount(record, "cost per item"),
        taxable=taxable is not False,
        requires_shipping=requires_shipping is not False,
        image=_parse_variant_image(record),
        **_parse_texts(record, _VARIANT_TEXTS),
        stated_fields=_exclude_fields(stated_fields, unstated_fields),
        unnamed_options=unnamed_options,
        kept_cells=record.kept_cells,
    )


# The same for most rows, which then share it.
@lru_cache(100)
def _exclude_fields(fields: frozenset[str], excluded: frozenset[str]) -> frozenset[str]:
    return fields - excluded


def _parse_variant_image(record: CsvRecord) -> str | None:
    if not (cell := record["variant image"]):
        return None
    return _check_url("variant image", cell)


def _parse_urls(cell: str) -> Iterator[str]:
    """The URLs of a cell, which may have a list of them. Raises InvalidRowError."""
    for url in _URL_SEPARATOR.split(cell) if cell else ():
        yield _check_url("image src", url)


def _check_url(column: str, url: str) -> str:
    try:
        return validate_url(url)
    except InvalidValueError as error:
        raise InvalidRowError(column, f"{_quote_cell(url)} {str(error).removesuffix('.')}") from None


def _parse_texts(record: CsvRecord, columns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The texts that are read from one column as they are."""
    cells = record.cells
    return {name: cells.get(column) or None for name, column in columns}


def _parse_amount(record: CsvRecord, column: str) -> Decimal | None:
    if not (cell := record[column]):
        return None
    if not (match := _AMOUNT_PATTERN.fullmatch(cell) or _AMOUNT_PATTERN.fullmatch(remove_spaces_between_groups(cell))):
        raise InvalidRowError(
            column, f"{_quote_cell(cell)} is not an amount of 0 or more: write digits and a point, such as 1299.90"
        )
    whole, decimals = match[1], match[2] or ""
    if len(whole) > MAX_INTEGER_DIGITS:
        raise InvalidRowError(column, f"{_quote_cell(cell)} is too much: it must be below {AMOUNT_LIMIT:,}")
    # Fewer may be allowed by the currency of the store, which `diff.py` knows.
    if len(decimals) > MAX_FRACTION_DIGITS:
        raise InvalidRowError(column, f"{_quote_cell(cell)} has more decimals than any currency: round it")
    return Decimal(f"{whole}.{decimals}")


def clamp_inventory(inventory: int | None, policy: str) -> int | None:
    """Oversold inventory is negative at Shopify; here only where more may be sold than there is."""
    return 0 if inventory is not None and inventory < 0 and policy != "continue" else inventory


def _check_code(record: CsvRecord, layout: SourceLayout, column: str) -> None:
    """Reject a code of which a spreadsheet has left the first digits. A file that was exported here has what is stored."""
    if _ROUNDED_CODE_PATTERN.fullmatch(cell := record[column]) and "storefront" not in layout.spellings:
        raise InvalidRowError(
            column,
            f"{_quote_cell(cell)} is a number that a spreadsheet has rounded: format the column as text, and enter it again",
        )


def is_rounded_form(cell: str, code: str) -> bool:
    """Whether a spreadsheet shows a code so: as a number with an exponent, of which the last digits are left out."""
    shown, number = _ROUNDED_NUMBER_PATTERN.fullmatch(cell), _NUMERIC_CODE_PATTERN.fullmatch(code)
    if not shown or not number:
        return False
    whole, decimals, exponent = shown[1], shown[2] or "", int(shown[3])
    # Digits that are left out.
    if (omitted := exponent - len(decimals)) < 0:
        return False
    unit, value = 10**omitted, int(number[1]) * 10 ** int(number[2] or 0)
    return 2 * abs(int(whole + decimals) * unit - value) <= unit


def _parse_weight(record: CsvRecord) -> dict[str, str] | None:
    """The weight in the unit for display. Zero is none: Shopify writes it for variants without a weight."""
    cell, unit = record["variant grams"], _parse_choice(record, "variant weight unit", WEIGHT_UNIT_BY_CELL) or "gram"
    if not cell:
        return None
    if not _GRAMS_PATTERN.fullmatch(cell):
        cell = remove_spaces_between_groups(cell)
    if not _GRAMS_PATTERN.fullmatch(cell):
        raise InvalidRowError("variant grams", f"{_quote_cell(cell)} is not a weight in grams: write digits, such as 250")
    weight = build_weight(Decimal(cell), unit)
    if weight is None or Decimal(weight["value"]) <= MAX_WEIGHT:
        # Whole grams may round up to the limit.
        return weight and {**weight, "value": str(min(Decimal(weight["value"]), MAX_WEIGHT - Decimal("0.001")))}
    raise InvalidRowError("variant grams", f"{_quote_cell(cell)} is too much: it must be below 10,000,000")


def build_weight(grams: Decimal, unit: str) -> dict[str, str] | None:
    """The weight of so many grams in a unit; None for zero."""
    value = (grams / GRAMS_BY_WEIGHT_UNIT[unit]).quantize(Decimal("0.001"))
    return {"value": str(value), "unit": unit} if value else None


def _parse_inventory(record: CsvRecord, layout: SourceLayout) -> tuple[int | None, bool]:
    """The stock, None if it is not tracked, and whether the record states it. A tracker without a quantity does not."""
    column, tracker_column = "variant inventory qty", "variant inventory tracker"
    cell, tracker = record[column], record[tracker_column].lower()
    if not (match := _QUANTITY_PATTERN.fullmatch(cell or "0") or _QUANTITY_PATTERN.fullmatch(remove_spaces_between_groups(cell))):
        raise InvalidRowError(column, f"{_quote_cell(cell)} is not a whole number: write digits only")
    if (quantity := int(match[1])) > MAX_INT32:
        raise InvalidRowError(column, f"{quantity:,} is too much: at most {MAX_INT32:,} can be counted")
    if tracker_column in layout.spellings and not BOOLEAN_BY_CELL.get(tracker, bool(tracker)):
        return None, True
    return (max(-MAX_INT32, quantity), True) if cell else (None, False)


def _quote_cell(cell: str) -> str:
    return f"“{cell}”" if len(cell) <= 40 else f"“{cell[:39]}…”"
