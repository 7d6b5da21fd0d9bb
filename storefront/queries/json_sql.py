"""Rows that Postgres writes as JSON, with the rows below them: what only passes through is never made into objects of ours.

The parts of a document say what is written under which key. The values are the same, to the letter, as those of rows that are
read one by one: amounts and keys as text, moments in UTC. `concat` puts the text together, in two thirds of the time that
Postgres takes to build it as values of its JSON types.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    TIMESTAMP,
    Boolean,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Numeric,
    Select,
    Table,
    Text,
    Uuid,
    func,
    literal_column,
    select,
    true,
)

from storefront.models import configs, products, reviews, users, variants
from storefront.queries import keyset, related
from storefront.queries.projection import MOST_STATEMENTS
from storefront.queries.visibility import available

# Postgres calls functions with at most so many arguments.
MOST_ARGUMENTS = 100

# JSON text in pieces: what is always the same, and what comes from the row, which is never null.
Written = Iterable[str | ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the row, under a key. An enum's values are written in upper case."""

    key: str
    name: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return {self.name}

    def written(self, row: FromClause) -> Written:
        """The value."""
        return _value(row.c[self.name])


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same name."""

    key: str
    text: str
    columns: ClassVar[frozenset[str]] = frozenset()

    def written(self, _: FromClause) -> Written:
        """The name."""
        return [f'"{_name(self.text)}"']


@dataclass(frozen=True, slots=True)
class Range:
    """The prices of a product: the least and the greatest."""

    key: str
    parts: tuple[Column | Constant, ...]
    columns: ClassVar[frozenset[str]] = frozenset({"price", "variants_min_price", "variants_max_price"})

    def written(self, row: FromClause) -> Written:
        """Both of them."""
        ends = {end: func.coalesce(row.c[f"variants_{end}_price"], row.c.price) for end in ("min", "max")}
        return _figures(self.parts, row, {end: ['"', price, '"'] for end, price in ends.items()})


@dataclass(frozen=True, slots=True)
class Summary:
    """What the reviews of a product come to: how many there are, of each number of stars too, and their average."""

    key: str
    parts: tuple[Column | Constant, ...]
    columns: ClassVar[frozenset[str]] = frozenset({"rating", "rating_counts"})

    def written(self, row: FromClause) -> Written:
        """All of it."""
        counts: Any = row.c.rating_counts
        # Without reviews the rating is 0, to sort by.
        average = func.coalesce(func.nullif(row.c.rating, 0).cast(Text), "null")
        total = counts[1] + counts[2] + counts[3] + counts[4] + counts[5]
        return _figures(self.parts, row, {"average": [average], "count": [total], "distribution": [func.to_json(counts)]})


@dataclass(frozen=True, slots=True)
class Variants:
    """The first variants of a product; at most `limit`."""

    key: str
    parts: "Parts"
    limit: int
    available_only: bool
    columns: ClassVar[frozenset[str]] = frozenset({"id", "track_inventory"})

    def written(self, row: FromClause) -> Written:
        """A list of them."""
        stocked = (~row.c.track_inventory | (func.coalesce(variants.c.inventory, 1) > 0)).label("in_stock")
        wanted = [variants.c.product_id == row.c.id, *([available()] if self.available_only else [])]
        rows = select(*(stocked if name == "in_stock" else variants.c[name] for name in columns_of(self.parts))).where(*wanted)
        return _list(rows.order_by(variants.c.created_at, variants.c.id), self, row)


@dataclass(frozen=True, slots=True)
class Reviews:
    """The newest reviews of a product; at most `limit`."""

    key: str
    parts: "Parts"
    limit: int
    columns: ClassVar[frozenset[str]] = frozenset({"id"})

    def written(self, row: FromClause) -> Written:
        """A list of them."""
        rows = select(*(reviews.c[name] for name in columns_of(self.parts))).where(reviews.c.product_id == row.c.id)
        return _list(rows.order_by(*keyset.order(reviews.c.created_at, reviews.c.id, descending=True)), self, row)


@dataclass(frozen=True, slots=True)
class Related:
    """What else a shopper of a product may like; at most `limit`."""

    key: str
    parts: "Parts"
    limit: int
    columns: ClassVar[frozenset[str]] = related.PARENT

    def written(self, row: FromClause) -> Written:
        """A list of them."""
        parent = select(*(row.c[name] for name in sorted(related.PARENT))).correlate(row).lateral("parent")
        best = related.best(self.limit)
        found = parent.join(best, true()).join(products, products.c.id == best.c.id)
        rows = select(*(products.c[name] for name in columns_of(self.parts))).select_from(found)
        return _list(rows.order_by(best.c.place), self, row)


@dataclass(frozen=True, slots=True)
class Target:
    """The row that a key of the row leads to: always there, and to be seen by all who see the row."""

    key: str
    parts: "Parts"
    by: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return {self.by}

    def written(self, row: FromClause) -> Written:
        """The one that it is."""
        target = _TARGETS[self.by].alias()
        return [select(_text(_parts(self.parts, target))).where(target.c.id == row.c[self.by]).correlate(row).scalar_subquery()]


_TARGETS: Mapping[str, Table] = {"config_id": configs, "user_id": users}


@dataclass(frozen=True, slots=True)
class Object:
    """An object of the same row."""

    key: str
    parts: "Parts"

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return set(columns_of(self.parts))

    def written(self, row: FromClause) -> Written:
        """The parts."""
        return _parts(self.parts, row)


Part = Column | Constant | Range | Summary | Variants | Reviews | Related | Target | Object
Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """What is written of each row. There is one of a kind, see `document`: statements are known by it."""

    parts: Parts
    columns: tuple[str, ...]

    def written(self, row: FromClause) -> ColumnElement[Any]:
        """The row as JSON text. It is of a subquery that has these columns."""
        return _text(_parts(self.parts, row))


@lru_cache(MOST_STATEMENTS)
def document(parts: Parts) -> Document:
    """The document of these parts."""
    return Document(parts, columns_of(parts))


def columns_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """The columns that a row has to have."""
    # Without any column a row would still be one.
    return tuple(sorted({"id"}.union(*(part.columns for part in parts))))


# ------------------------------------------------------------------------------------------------ as text


def _parts(parts: Parts, row: FromClause) -> Written:
    return _object((part.key, part.written(row)) for part in parts)


def _figures(parts: Iterable[Column | Constant], row: FromClause, values: Mapping[str, Written]) -> Written:
    return _object((part.key, values[part.name] if isinstance(part, Column) else part.written(row)) for part in parts)


def _object(members: Iterable[tuple[str, Written]]) -> Iterator[str | ColumnElement[Any]]:
    before = "{"
    for key, value in members:
        yield f'{before}"{_name(key)}":'
        yield from value
        before = ","
    yield "{}" if before == "{" else "}"


def _list(rows: Select[Any], of: Variants | Reviews | Related, row: FromClause) -> Written:
    # Written out: without a number Postgres expects a tenth of all rows, and never keeps its plan.
    first = rows.limit(literal_column(str(of.limit))).correlate(row).subquery()
    items = func.string_agg(_text(_parts(of.parts, first)), literal_column("','"))
    # Of no rows this is null, which `concat` takes for nothing.
    return ["[", select(items).select_from(first).scalar_subquery(), "]"]


def _value(column: ColumnElement[Any]) -> Written:
    if isinstance(column.type, DateTime):
        # Sessions are in UTC.
        return ['"', func.replace(column.cast(TIMESTAMP).cast(Text), _BLANK, _T), 'Z"']
    quote = '"' if isinstance(column.type, Numeric | Uuid) or column.key == "status" else ""
    text = _printed(column)
    if not getattr(column, "nullable", True):
        return [quote, text, quote]
    # What is made with null is null.
    around = literal_column(f"'{quote}'", Text)
    return [func.coalesce(around + text.cast(Text) + around if quote else text.cast(Text), _NULL)]


_NULL, _BLANK, _T = (literal_column(f"'{text}'", Text) for text in ("null", " ", "T"))


def _printed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if column.key == "status":
        return func.upper(column)
    if isinstance(column.type, Boolean):
        return column.cast(Text)
    return column if isinstance(column.type, JSON | Integer | Numeric | Uuid) else func.to_json(column)


def _text(written: Written) -> ColumnElement[Any]:
    pieces: list[ColumnElement[Any]] = []
    for is_constant, group in groupby(written, lambda piece: isinstance(piece, str)):
        told: list[Any] = list(group)
        pieces += [literal_column(f"'{''.join(told)}'")] if is_constant else told
    return _joined(pieces)


def _joined(pieces: Sequence[ColumnElement[Any]]) -> ColumnElement[Any]:
    if len(pieces) <= MOST_ARGUMENTS:
        return func.concat(*pieces, type_=Text)
    return _joined([_joined(pieces[start : start + MOST_ARGUMENTS]) for start in range(0, len(pieces), MOST_ARGUMENTS)])


def _name(name: str) -> str:
    # Names of GraphQL's, letters, digits and underscores: they need no quoting, and could do no harm.
    if not name.replace("_", "a").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no name.")
    return name
