"""The items of an import source: products with their variants, errors of rejected rows, and checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
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
class VariantRow:
    """A variant. `inventory` is None if stock is not tracked."""

    line: int
    name: str
    price: Decimal
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRow:
    """A product with its variants, at least one, parsed from `row_count` rows from `line` on.

    `is_complete`: none of its rows was rejected.

    `present_fields`: the fields of product and variants that the source has a column for; the others are unknown.
    """

    handle: str
    line: int
    row_count: int
    is_complete: bool
    present_fields: frozenset[str]
    title: str
    description: str | None
    images: list[str]
    category: str | None
    tags: list[str]
    track_inventory: bool
    seo_title: str | None
    seo_description: str | None
    status: str
    variants: list[VariantRow]


# An item of a source.
SourceItem = ProductRow | RowError | Checkpoint | EarlyStop
