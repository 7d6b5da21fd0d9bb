"""The columns of Shopify's product CSV, the limits of their cells, and a record of them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from storefront.imports.row_types import RowError
from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS
from storefront.models.writable_fields import Amount, Integer, ItemList, Slug, Text, Url, ValueType, Weight, WritableField

OPTION_NUMBERS = range(1, 4)
OPTION_COLUMNS = tuple(f"option{n} {part}" for n in OPTION_NUMBERS for part in ("name", "value"))
SURPLUS_OPTION_COLUMNS = frozenset(f"option{n} {part}" for n in range(4, 10) for part in ("name", "value"))
DEFAULT_MAX_CELL_LENGTH = 131_072


def _get_max_cell_length(value_type: ValueType) -> int:
    """In characters. Several columns are indexed, and Postgres refuses to index very long values."""
    match value_type:
        case Text() | Slug() | Url():
            return value_type.max_characters
        case ItemList(Url() as url):
            # Each URL has a cell of its own.
            return url.max_characters
        case ItemList():
            return 65_536
        case Amount() | Integer() | Weight():
            return 64
    return DEFAULT_MAX_CELL_LENGTH


def _list_text_columns(fields: Iterable[WritableField]) -> dict[str, str]:
    """The column of each text that is read from one column as it is."""
    return {
        field.name: field.csv_columns[0] for field in fields if isinstance(field.value_type, Text) and len(field.csv_columns) == 1
    }


PRODUCT_TEXT_COLUMNS = _list_text_columns(PRODUCT_FIELDS)
VARIANT_TEXT_COLUMNS = _list_text_columns(VARIANT_FIELDS)
# Files identify products by their handle.
PRODUCT_FIELD_NAMES = tuple(field.name for field in PRODUCT_FIELDS if field.name != "handle")
VARIANT_FIELD_NAMES = tuple(field.name for field in VARIANT_FIELDS)
AMOUNT_FIELD_NAMES = frozenset(field.name for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS) if isinstance(field.value_type, Amount))
MAX_CELL_LENGTHS = {
    column.lower(): _get_max_cell_length(field.value_type)
    for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS)
    for column in field.csv_columns
} | dict.fromkeys(OPTION_COLUMNS, 255)
COLUMNS = frozenset(MAX_CELL_LENGTHS) | SURPLUS_OPTION_COLUMNS | {"image position", "storefront"}
# The columns that each field is read from.
COLUMNS_BY_FIELD = {
    field.name: tuple(map(str.lower, field.csv_columns)) or ("storefront",) for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS)
} | {
    # They always have a value: without options a variant has no attributes and a default name.
    "name": ("title",),
    "attributes": ("title",),
    # The unit alone is no weight.
    "weight": ("variant grams",),
}
STATUS_BY_STATUS_CELL = {"active": "active", "draft": "inactive", "archived": "archived"}
INVENTORY_POLICY_BY_CELL = {"": "deny", "deny": "deny", "continue": "continue"}
TRUE_BY_CELL = {"": True, "true": True, "false": False}
WEIGHT_UNIT_BY_CELL = {"": "gram", "g": "gram", "kg": "kilogram", "oz": "ounce", "lb": "pound"}
GRAMS_BY_WEIGHT_UNIT = {
    "gram": Decimal(1),
    "kilogram": Decimal(1_000),
    "ounce": Decimal("28.349523125"),
    "pound": Decimal("453.59237"),
}
STATUS_BY_PUBLISHED_CELL = {"": "active", "true": "active", "false": "inactive"}


class InvalidRowError(Exception):
    """A row that is rejected, with the column at fault and the problem."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column, self.problem = column, problem


@dataclass(frozen=True, slots=True)
class SourceLayout:
    """The layout of a source: its name, its number of columns, and how it spells them."""

    source_name: str
    column_count: int
    spellings: Mapping[str, str]

    @property
    def present_fields(self) -> frozenset[str]:
        """The fields that the source has a column for."""
        return frozenset(
            name for name, columns in COLUMNS_BY_FIELD.items() if any(column in self.spellings for column in columns)
        )

    def build_row_error(self, line: int, handle: str | None, column: str, problem: str) -> RowError:
        """The error of a rejected row. Excerpts are truncated, and sanitized for Postgres."""
        spelling = self.spellings.get(column, column.title())
        return RowError(
            self.source_name,
            line,
            sanitize_excerpt(problem, 1_000),
            sanitize_excerpt(handle or "", 255) or None,
            sanitize_excerpt(spelling, 255),
        )


def sanitize_excerpt(text: str, max_length: int) -> str:
    """An excerpt of source text for error messages: truncated, with characters that Postgres cannot store replaced."""
    excerpt = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    return _UNSTORABLE_CHARACTERS.sub("\ufffd", excerpt)


def describe_unstorable_character(text: str) -> str | None:
    """Describe the first character that Postgres cannot store (NUL or a lone surrogate); None if there is none."""
    match = _UNSTORABLE_CHARACTERS.search(text)
    if not match:
        return None
    return "a NUL character" if match[0] == "\0" else "half of a surrogate pair"


_UNSTORABLE_CHARACTERS = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """A record: its cells by column, how many cells exceed the header, and where it starts in the file."""

    line: int
    cells: Mapping[str, str]
    surplus_cell_count: int = 0
    # In bytes; and the number of rows before it.
    start_offset: int = 0
    preceding_rows: int = 0

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")
