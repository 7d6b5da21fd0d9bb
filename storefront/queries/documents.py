"""Rows that Postgres writes as JSON, with the rows below them: what only passes through is never made into objects of ours.

The parts of a document say what is written under which key. The values are the same, to the letter, as those of rows that are
read one by one: amounts and keys as text, moments in UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import JSON, ColumnElement, DateTime, FromClause, Integer, Numeric, Text, bindparam, func, literal_column, select

from storefront.models import reviews, variants
from storefront.queries import keyset
from storefront.queries.needed import MOST_STATEMENTS
from storefront.queries.visibility import available

# Postgres calls functions with at most 100 arguments, and a key and its value are two.
MOST_PARTS = 50


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the row, under a key. An enum's values are written in upper case."""

    key: str
    name: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return {self.name}

    def value(self, row: FromClause) -> ColumnElement[Any]:
        """What is written."""
        column = row.c[self.name]
        if isinstance(column.type, DateTime):
            return func.replace(func.replace(column.cast(Text), " ", "T"), "+00", "Z")
        if self.name == "status":
            return func.upper(column)
        return column.cast(Text) if isinstance(column.type, Numeric) else column


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same text."""

    key: str
    text: str
    columns: frozenset[str] = frozenset()

    def value(self, _: FromClause) -> ColumnElement[Any]:
        """What is written."""
        return _quoted(self.text).cast(Text)


@dataclass(frozen=True, slots=True)
class Range:
    """The prices of a product: the least and the greatest."""

    key: str
    parts: tuple["Column | Constant", ...]
    columns: frozenset[str] = frozenset({"price", "variants_min_price", "variants_max_price"})

    def value(self, row: FromClause) -> ColumnElement[Any]:
        """What is written."""
        ends = {end: func.coalesce(row.c[f"variants_{end}_price"], row.c.price).cast(Text) for end in ("min", "max")}
        return _object((part.key, ends[part.name] if isinstance(part, Column) else part.value(row)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Variants:
    """The first variants of a product; how many is the parameter `limit`."""

    key: str
    parts: "Parts"
    limit: str
    available_only: bool
    columns: frozenset[str] = frozenset({"id", "track_inventory"})

    def value(self, row: FromClause) -> ColumnElement[Any]:
        """What is written."""
        stocked = (~row.c.track_inventory | (func.coalesce(variants.c.inventory, 1) > 0)).label("in_stock")
        wanted = [variants.c.product_id == row.c.id, *([available()] if self.available_only else [])]
        rows = select(*(stocked if name == "in_stock" else variants.c[name] for name in columns_of(self.parts))).where(*wanted)
        return _list(rows.order_by(variants.c.created_at, variants.c.id), self, row)


@dataclass(frozen=True, slots=True)
class Reviews:
    """The newest reviews of a product; how many is the parameter `limit`."""

    key: str
    parts: "Parts"
    limit: str
    columns: frozenset[str] = frozenset({"id"})

    def value(self, row: FromClause) -> ColumnElement[Any]:
        """What is written."""
        rows = select(*(reviews.c[name] for name in columns_of(self.parts))).where(reviews.c.product_id == row.c.id)
        return _list(rows.order_by(*keyset.order(reviews.c.created_at, reviews.c.id, descending=True)), self, row)


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the same row."""

    key: str
    parts: "Parts"

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return set(columns_of(self.parts))

    def value(self, row: FromClause) -> ColumnElement[Any]:
        """What is written."""
        return _object((part.key, part.value(row)) for part in self.parts)


Part = Column | Constant | Range | Variants | Reviews | Object
Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What is written of each row. There is one of a kind, see `template`: statements are known by it."""

    parts: Parts
    columns: tuple[str, ...]

    def written(self, row: FromClause) -> ColumnElement[Any]:
        """The row as JSON text."""
        return _object((part.key, part.value(row)) for part in self.parts).cast(Text)


@lru_cache(MOST_STATEMENTS)
def template(parts: Parts) -> Template:
    """The template of these parts."""
    return Template(parts, columns_of(parts))


@dataclass(frozen=True, slots=True)
class Document:
    """A template, and the values of its parameters by name."""

    template: Template
    parameters: tuple[tuple[str, Any], ...]


def columns_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """The columns that a row has to have."""
    # Without any column a row would still be one.
    return tuple(sorted({"id"}.union(*(part.columns for part in parts))))


def _object(parts: Any) -> ColumnElement[Any]:
    return func.json_build_object(*chain.from_iterable((_quoted(key), value) for key, value in parts), type_=JSON)


def _list(rows: Any, of: Variants | Reviews, row: FromClause) -> ColumnElement[Any]:
    first = rows.limit(bindparam(of.limit, type_=Integer)).correlate(row).subquery(f"{of.limit}_rows")
    gathered = func.json_agg(_object((part.key, part.value(first)) for part in of.parts))
    return select(func.coalesce(gathered, literal_column("'[]'::json"))).select_from(first).scalar_subquery()


def _quoted(name: str) -> ColumnElement[Any]:
    # Names of GraphQL's: letters, digits and underscores.
    if not name.replace("_", "a").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no name.")
    return literal_column(f"'{name}'")
