"""The items of an import source: products with their variants, errors of rejected rows, and checkpoints."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class RowError:
    """The error of a rejected row. `line`: where its record starts; the header is line 1. `problem`: what is wrong, and the fix.

    `column`: the column at fault, as the source spells it; empty if the whole row is. `row_count`: rows rejected with it.
    """

    source_name: str
    line: int
    problem: str
    handle: str | None = None
    column: str = ""
    row_count: int = 1

    @property
    def reason(self) -> str:
        """The problem, after the name of its column."""
        return f"{self.column}: {self.problem}" if self.column else self.problem


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A position between two products from which reading can resume. `progress`: how much of the source is before it."""

    resume_point: Mapping[str, Any]
    progress: int


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The import ends before its source does. `problem` says why; `field` is the input that allows more."""

    problem: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class SourceLayout:
    """The layout of a source: its name, its number of columns, how it spells them, and the fields that it has columns for.

    `makes_handles`: handles are made of titles, and a product is the one that has its SKUs before that of its handle.
    `is_exact`: what a product states of its images is all of them.
    """

    source_name: str
    column_count: int
    spellings: Mapping[str, str]
    present_fields: frozenset[str] = frozenset()
    makes_handles: bool = False
    is_exact: bool = False

    def build_row_error(self, line: int, handle: str | None, column: str, problem: str, row_count: int = 1) -> RowError:
        """The error of a rejected row. Excerpts are truncated, and sanitized for Postgres."""
        spelling = self.spellings.get(column, column.title())
        return RowError(
            self.source_name,
            line,
            sanitize_excerpt(problem, 1_000),
            sanitize_excerpt(handle or "", 255) or None,
            sanitize_excerpt(spelling, 255),
            row_count,
        )


def sanitize_excerpt(text: str, max_length: int) -> str:
    """An excerpt of source text for error messages: truncated, with characters that Postgres cannot store replaced."""
    excerpt = text if len(text) <= max_length else f"{text[: max_length - 1]}…"
    return UNSTORABLE_CHARACTERS.sub("\ufffd", excerpt)


# NUL and lone surrogates.
UNSTORABLE_CHARACTERS = re.compile("[\0\ud800-\udfff]")
NO_FIELDS: frozenset[str] = frozenset()
UNKNOWN_LAYOUT = SourceLayout("", 0, {})


# Not frozen: that would triple the time to build one.
@dataclass(slots=True)
class VariantRow:
    """A variant. `inventory` is None if stock is not tracked, and `price` only if the row does not state it.

    `stated_fields`: the fields that the row states. The others are unknown: they stay as they are stored, and the values here
    are those of a new variant. `unnamed_options`: values by the number of an option whose name the source does not state.
    """

    line: int
    name: str
    price: Decimal | None
    compare_at_price: Decimal | None
    attributes: dict[str, str]
    inventory: int | None
    sku: str | None
    is_available: bool = True
    inventory_policy: str = "deny"
    barcode: str | None = None
    weight: dict[str, str] | None = None
    cost: Decimal | None = None
    taxable: bool = True
    requires_shipping: bool = True
    image: str | None = None
    stated_fields: frozenset[str] = field(default=NO_FIELDS, compare=False)
    unnamed_options: Mapping[int, str] = field(default_factory=dict, compare=False)
    # Cells that have no field, by the column; empty ones clear.
    kept_cells: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(slots=True, kw_only=True)
class ProductRow:
    """A product with its variants, parsed from `row_count` rows from `line` on.

    `is_complete`: none of its rows was rejected. `stated_fields`: as of variants. `layout`: of its source. `handle` is empty for
    a row that identifies a variant by its SKU alone. `raw_html`: the description as the source has it, of which
    `descriptions.py` makes the two fields.
    """

    handle: str
    line: int
    row_count: int
    is_complete: bool
    title: str
    description: str | None
    description_html: str | None
    vendor: str | None
    product_type: str | None
    images: list[str]
    image_alts: dict[str, str]
    category: str | None
    tags: list[str]
    track_inventory: bool
    seo_title: str | None
    seo_description: str | None
    gift_card: bool
    status: str
    variants: list[VariantRow]
    # With their names, values and swatches, in order.
    options: Sequence[Mapping[str, Any]] = field(default=(), compare=False)
    stated_fields: frozenset[str] = field(default=NO_FIELDS, compare=False)
    layout: SourceLayout = field(default=UNKNOWN_LAYOUT, compare=False)
    raw_html: str | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """What identifies the product in its source. No handle has a colon."""
        return self.handle or f"sku:{self.variants[0].sku}"

    def reject(self, problem: str, column: str = "") -> RowError:
        """The error of all rows of the product. `column`: as in `SourceLayout.spellings`."""
        return self.layout.build_row_error(self.line, self.handle, column, problem, self.row_count)

    def reject_row(self, line: int, problem: str, column: str = "") -> RowError:
        """The error of one of its rows."""
        return self.layout.build_row_error(line, self.handle, column, problem)


class UnwritableProductError(Exception):
    """A product that would not come back from an exported file. The message names the field."""


# An item of a source.
SourceItem = ProductRow | RowError | Checkpoint | EarlyStop
