"""What an import is made of: products with their variants, rows that were left out, and places to go on from."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that was left out. `line` is where its record starts, the header being line 1; `reason` says how to mend it.

    `column` is the one that the reason is about, as the source spells it; none where it is about the whole row. `rows`: how many
    rows are left out with it.
    """

    source_name: str
    line: int
    problem: str
    handle: str | None = None
    column: str = ""
    row_count: int = 1

    @property
    def reason(self) -> str:
        """What is wrong with which column."""
        return f"{self.column}: {self.problem}" if self.column else self.problem


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place between two products: all before it is told, and reading may begin there anew. `done`: how far that is."""

    resume_point: Mapping[str, Any]
    progress: int


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The end of what is imported although the source goes on. `problem` says why; `field` is the input that allows more."""

    problem: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant. `inventory` is None where stock is not tracked."""

    line: int
    name: str
    price: Decimal
    compare_at_price: Decimal | None
    attributes: dict[str, str]
    inventory: int | None
    sku: str | None
    is_available: bool = True


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One product, made of `rows` rows from `line` on. Not `complete`: some of its rows were rejected.

    `given` names the fields, of it and of its variants, that the source has: of the others it says nothing.
    """

    handle: str
    line: int
    row_count: int
    is_complete: bool
    present_fields: frozenset[str]
    title: str
    description: str | None
    price: Decimal
    compare_at_price: Decimal | None
    images: list[str]
    category: str | None
    tags: list[str]
    inventory: int | None
    track_inventory: bool
    seo_title: str | None
    seo_description: str | None
    status: str
    variants: list[VariantRow]


# What a source consists of.
SourceItem = ProductRow | RowError | Checkpoint | EarlyStop
