"""The columns of Shopify's product CSV: what is known of them, how long a cell may be, and a row of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from storefront.imports.row_types import Rejection

OPTIONS = range(1, 4)
SURPLUS_OPTIONS = frozenset(f"option{n} {part}" for n in range(4, 10) for part in ("name", "value"))
# In characters. Several of these columns are indexed, and Postgres refuses to index very long values.
LONGEST = {
    **{f"option{n} {part}": 255 for n in OPTIONS for part in ("name", "value")},
    **dict.fromkeys(("handle", "title", "type", "product category", "variant sku", "seo title"), 255),
    **dict.fromkeys(("body (html)", "seo description", "tags"), 65_536),
    **dict.fromkeys(("image src", "variant image"), 2_048),
    **dict.fromkeys(("variant price", "variant compare at price", "variant inventory qty"), 64),
}
OTHERS = {"status", "published", "image position", "variant inventory tracker", "storefront"}
COLUMNS = frozenset(LONGEST) | SURPLUS_OPTIONS | OTHERS
# Which columns a field comes from. Title and price are always there.
SOURCES = {
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
CELL = 131_072
TAGS = IMAGES = 250
TAG_LENGTH = 255
VARIANTS = 2_048
QUANTITY = 2_147_483_647
STATUSES = {"active": "active", "draft": "inactive", "archived": "archived"}
PUBLISHED = {"": "active", "true": "active", "false": "inactive"}


class Unusable(Exception):
    """A row that cannot be taken, and the column that is to blame."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column, self.problem = column, problem


@dataclass(frozen=True, slots=True)
class Layout:
    """Whose rows they are, how many cells one may have, and how its columns are spelt."""

    file: str
    width: int
    spellings: Mapping[str, str]

    @property
    def given(self) -> frozenset[str]:
        """The fields that there is a column for."""
        return frozenset(name for name, columns in SOURCES.items() if any(column in self.spellings for column in columns))

    def rejection(self, line: int, handle: str | None, column: str, problem: str) -> Rejection:
        """A row that is left out. What it quotes is cut, and made fit to be stored."""
        spelling = self.spellings.get(column, column.title())
        return Rejection(self.file, line, quoted(problem, 1_000), quoted(handle or "", 255) or None, quoted(spelling, 255))


def quoted(text: str, most: int) -> str:
    """Text of a source as it is told again: at most so long, without what Postgres does not store."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return _UNSTORABLE.sub("\ufffd", cut)


def unstorable(text: str) -> str | None:
    """What of a text Postgres does not store, in words; None where it stores all of it."""
    found = _UNSTORABLE.search(text)
    if not found:
        return None
    return "a NUL character" if found[0] == "\0" else "half of a surrogate pair"


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Record:
    """A row: its cells by column, how many there are beyond the header, and the place where it begins."""

    line: int
    cells: Mapping[str, str]
    surplus: int = 0
    # In bytes, and how many rows are before it.
    start: int = 0
    number: int = 0

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")
