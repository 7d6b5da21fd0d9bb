"""The columns of Shopify's product CSV, the limits of their cells, and a record of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from storefront.core.handles import MAX_CHARACTERS_PER_LETTER
from storefront.imports.row_types import UNSTORABLE_CHARACTERS, SourceLayout
from storefront.models import PRODUCT_FIELDS, VARIANT_FIELDS
from storefront.models.variant import INVENTORY_POLICIES
from storefront.models.writable_fields import (
    Amount,
    Html,
    Integer,
    ItemList,
    Slug,
    Text,
    TextMap,
    Url,
    ValueType,
    Weight,
    WritableField,
)

OPTION_NUMBERS = range(1, 4)
OPTION_COLUMNS = tuple(f"option{n} {part}" for n in OPTION_NUMBERS for part in ("name", "value"))
SURPLUS_OPTION_COLUMNS = frozenset(f"option{n} {part}" for n in range(4, 10) for part in ("name", "value"))
DEFAULT_MAX_CELL_LENGTH = 131_072


def _get_max_cell_length(value_type: ValueType) -> int:
    """In characters. Several columns are indexed, and Postgres refuses to index very long values."""
    match value_type:
        case Text() | Html() | Url():
            return value_type.max_characters
        case Slug():
            return value_type.max_characters * MAX_CHARACTERS_PER_LETTER
        case TextMap(Url()):
            # So has each alternative text.
            return value_type.value.max_characters
        case ItemList(Url() as url):
            # Each URL has a cell of its own.
            return url.max_characters
        case ItemList():
            return 65_536
        case Amount() | Integer() | Weight():
            return 64
    return DEFAULT_MAX_CELL_LENGTH


def _list_text_columns(fields: Sequence[WritableField]) -> dict[str, str]:
    """The column of each text that is read from one column as it is."""
    html_columns = {column for field in fields if isinstance(field.value_type, Html) for column in field.csv_columns}
    return {
        field.name: field.csv_columns[0]
        for field in fields
        if isinstance(field.value_type, Text) and len(field.csv_columns) == 1 and not html_columns.intersection(field.csv_columns)
    }


PRODUCT_TEXT_COLUMNS = _list_text_columns(PRODUCT_FIELDS)
VARIANT_TEXT_COLUMNS = _list_text_columns(VARIANT_FIELDS)
# Files identify products by their handle.
PRODUCT_FIELD_NAMES = tuple(field.name for field in PRODUCT_FIELDS if field.name != "handle")
MAX_HANDLE_CHARACTERS = next(field.value_type.max_characters for field in PRODUCT_FIELDS if isinstance(field.value_type, Slug))
VARIANT_FIELD_NAMES = tuple(field.name for field in VARIANT_FIELDS)
# Their decimal separator is that of the file.
NUMBER_COLUMNS = frozenset(
    column.lower()
    for field in VARIANT_FIELDS
    if isinstance(field.value_type, Amount | Integer | Weight)
    for column in field.csv_columns
) - {"variant inventory tracker", "variant weight unit"}
# They may have the sign of the store's currency.
AMOUNT_COLUMNS = frozenset(
    column.lower() for field in VARIANT_FIELDS if isinstance(field.value_type, Amount) for column in field.csv_columns
)
AMOUNT_FIELD_NAMES = frozenset(field.name for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS) if isinstance(field.value_type, Amount))
# A column of several fields is as long as the last one allows: the HTML, of which the description is only the text.
MAX_CELL_LENGTHS = {
    column.lower(): _get_max_cell_length(field.value_type)
    for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS)
    for column in field.csv_columns
} | dict.fromkeys(OPTION_COLUMNS, 255)
COLUMNS = frozenset(MAX_CELL_LENGTHS) | SURPLUS_OPTION_COLUMNS | {"image position", "storefront"}
# The columns that each field is read from: a source states the fields that it has one of these columns for.
COLUMNS_BY_FIELD = {
    field.name: tuple(map(str.lower, field.csv_columns)) or ("storefront",) for field in (*PRODUCT_FIELDS, *VARIANT_FIELDS)
} | {
    "attributes": ("option1 value",),
    # The images of variants are added to the product's.
    "images": ("image src",),
    "weight": ("variant grams",),
    # Not fields of their own: they say how much of the status and the weight is stated.
    "status_cell": ("status",),
    "weight_unit": ("variant weight unit",),
}
# Columns that say nothing without another one, after that.
REQUIRED_COLUMN_BY_COLUMN = {
    "variant weight unit": "variant grams",
    "image position": "image src",
    "image alt text": "image src",
    **{f"option{n} value": f"option{n - 1} value" for n in OPTION_NUMBERS if n > 1},
    **{f"option{n} name": f"option{n} value" for n in OPTION_NUMBERS},
}
# Cells of any other column of a variant are also in rows that have only a further image.
IDENTIFYING_VARIANT_COLUMNS = ("variant sku", "variant price", "variant barcode", "variant inventory qty")
VARIANT_COLUMNS = (
    *(column.lower() for field in VARIANT_FIELDS for column in field.csv_columns),
    *(f"option{n} value" for n in OPTION_NUMBERS),
    "storefront",
)
STATUS_BY_STATUS_CELL = {"active": "active", "draft": "inactive", "archived": "archived", "unlisted": "inactive"}
# As spreadsheets write it in the languages of their users.
TRUE_CELLS = (
    *("true", "yes", "y", "1", "on", "wahr", "ja", "vrai", "oui", "verdadero", "sí", "si", "vero", "verdadeiro", "sim", "waar"),
    *("sant", "sand", "sann", "tosi", "prawda", "tak", "pravda", "ano", "igaz", "igen", "adevărat", "da", "doğru", "evet"),
    *("истина", "да", "так", "αληθης", "αληθής", "ναι"),
)
FALSE_CELLS = (
    *("false", "no", "n", "0", "off", "falsch", "nein", "faux", "non", "falso", "não", "nao", "onwaar", "nee"),
    *("falskt", "falsk", "usann", "epätosi", "fałsz", "nie", "nepravda", "ne", "hamis", "nem", "fals", "nu"),
    # Also without the dotless i of Turkish, whose capital is an I here as elsewhere.
    *("yanlış", "yanliş", "hayır", "hayir", "ложь", "нет", "ні", "ψευδης", "ψευδής", "όχι"),
)
BOOLEAN_BY_CELL = dict.fromkeys(TRUE_CELLS, True) | dict.fromkeys(FALSE_CELLS, False)
INVENTORY_POLICY_BY_CELL = {policy: policy for policy in INVENTORY_POLICIES}
WEIGHT_UNIT_BY_CELL = {"g": "gram", "kg": "kilogram", "oz": "ounce", "lb": "pound"}
GRAMS_BY_WEIGHT_UNIT = {
    "gram": Decimal(1),
    "kilogram": Decimal(1_000),
    "ounce": Decimal("28.349523125"),
    "pound": Decimal("453.59237"),
}


def build_layout(
    source_name: str, column_count: int, spellings: Mapping[str, str], *, makes_handles: bool = False
) -> SourceLayout:
    """The layout of a source with these columns, each with its spelling there."""
    present_fields = frozenset(
        name for name, columns in COLUMNS_BY_FIELD.items() if any(column in spellings for column in columns)
    )
    return SourceLayout(source_name, column_count, spellings, present_fields, makes_handles)


class InvalidRowError(Exception):
    """A row that is rejected, with the column at fault and the problem."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column, self.problem = column, problem


def describe_unstorable_character(text: str) -> str | None:
    """Describe the first character that Postgres cannot store (NUL or a lone surrogate); None if there is none."""
    match = UNSTORABLE_CHARACTERS.search(text)
    if not match:
        return None
    return "a NUL character" if match[0] == "\0" else "half of a surrogate pair"


@dataclass(slots=True)
class CsvRecord:
    """A record: its cells by column, how many cells exceed the header, and where it starts in the file.

    `invalid_cells`: the problem of each cell that cannot be read. `untaken_columns`: the names of those that are not imported of
    this record. `has_variant`: false for a record that has only the product.
    """

    line: int
    cells: Mapping[str, str]
    surplus_cell_count: int = 0
    # In bytes; and the number of rows before it.
    start_offset: int = 0
    preceding_rows: int = 0
    invalid_cells: Mapping[str, str] = field(default_factory=dict)
    untaken_columns: Sequence[str] = ()
    # Of columns without a field; empty ones, too, which clear.
    kept_cells: Mapping[str, str] = field(default_factory=dict)
    has_variant: bool = True

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")
