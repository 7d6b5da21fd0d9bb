"""The columns of Shopify's product CSV, the limits of their cells, and a record of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from storefront.imports.row_types import RowError

OPTION_NUMBERS = range(1, 4)
SURPLUS_OPTION_COLUMNS = frozenset(f"option{n} {part}" for n in range(4, 10) for part in ("name", "value"))
# In characters. Several of these columns are indexed, and Postgres refuses to index very long values.
MAX_CELL_LENGTHS = {
    **{f"option{n} {part}": 255 for n in OPTION_NUMBERS for part in ("name", "value")},
    **dict.fromkeys(("handle", "title", "type", "product category", "variant sku", "seo title"), 255),
    **dict.fromkeys(("body (html)", "seo description", "tags"), 65_536),
    **dict.fromkeys(("image src", "variant image"), 2_048),
    **dict.fromkeys(("variant price", "variant compare at price", "variant inventory qty"), 64),
}
OTHER_COLUMNS = {"status", "published", "image position", "variant inventory tracker", "storefront"}
COLUMNS = frozenset(MAX_CELL_LENGTHS) | SURPLUS_OPTION_COLUMNS | OTHER_COLUMNS
# The columns that each field is read from. `title` is required; price, name and attributes always have a value.
COLUMNS_BY_FIELD = {
    "title": ("title",),
    "price": ("title",),
    "name": ("title",),
    "attributes": ("title",),
    "description": ("body (html)",),
    "compare_at_price": ("variant compare at price",),
    "images": ("image src", "variant image"),
    "category": ("type", "product category"),
    "tags": ("tags",),
    "inventory": ("variant inventory qty", "variant inventory tracker"),
    "track_inventory": ("variant inventory qty", "variant inventory tracker"),
    "seo_title": ("seo title",),
    "seo_description": ("seo description",),
    "status": ("status", "published"),
    "sku": ("variant sku",),
    "is_available": ("storefront",),
}
DEFAULT_MAX_CELL_LENGTH = 131_072
MAX_TAGS = MAX_IMAGES = 250
MAX_TAG_LENGTH = 255
MAX_VARIANTS = 2_048
MAX_QUANTITY = 2_147_483_647
STATUS_BY_STATUS_CELL = {"active": "active", "draft": "inactive", "archived": "archived"}
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
