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
from storefront.queries.projection import MAX_CACHED_STATEMENTS
from storefront.queries.visibility import is_variant_available

# Postgres calls functions with at most so many arguments.
MAX_FUNCTION_ARGUMENTS = 100

# JSON text in pieces: what is always the same, and what comes from the row, which is never null.
JsonFragments = Iterable[str | ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class ColumnField:
    """A column of the row, under a key. An enum's values are written in upper case."""

    key: str
    name: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return {self.name}

    def render(self, row: FromClause) -> JsonFragments:
        """The value."""
        return _render_column(row.c[self.name])


@dataclass(frozen=True, slots=True)
class ConstantField:
    """Always the same name."""

    key: str
    text: str
    columns: ClassVar[frozenset[str]] = frozenset()

    def render(self, _: FromClause) -> JsonFragments:
        """The name."""
        return [f'"{_check_name(self.text)}"']


@dataclass(frozen=True, slots=True)
class PriceRangeField:
    """The prices of a product: the least and the greatest."""

    key: str
    fields: tuple[ColumnField | ConstantField, ...]
    columns: ClassVar[frozenset[str]] = frozenset({"price", "variants_min_price", "variants_max_price"})

    def render(self, row: FromClause) -> JsonFragments:
        """Both of them."""
        ends = {end: func.coalesce(row.c[f"variants_{end}_price"], row.c.price) for end in ("min", "max")}
        return _render_figures(self.fields, row, {end: ['"', price, '"'] for end, price in ends.items()})


@dataclass(frozen=True, slots=True)
class ReviewSummaryField:
    """What the reviews of a product come to: how many there are, of each number of stars too, and their average."""

    key: str
    fields: tuple[ColumnField | ConstantField, ...]
    columns: ClassVar[frozenset[str]] = frozenset({"rating", "rating_counts"})

    def render(self, row: FromClause) -> JsonFragments:
        """All of it."""
        counts: Any = row.c.rating_counts
        # Without reviews the rating is 0, to sort by.
        average = func.coalesce(func.nullif(row.c.rating, 0).cast(Text), "null")
        total = counts[1] + counts[2] + counts[3] + counts[4] + counts[5]
        return _render_figures(self.fields, row, {"average": [average], "count": [total], "distribution": [func.to_json(counts)]})


@dataclass(frozen=True, slots=True)
class VariantListField:
    """The first variants of a product; at most `limit`."""

    key: str
    fields: "JsonFields"
    limit: int
    available_only: bool
    columns: ClassVar[frozenset[str]] = frozenset({"id", "track_inventory"})

    def render(self, row: FromClause) -> JsonFragments:
        """A list of them."""
        is_in_stock = (~row.c.track_inventory | (func.coalesce(variants.c.inventory, 1) > 0)).label("in_stock")
        conditions = [variants.c.product_id == row.c.id, *([is_variant_available()] if self.available_only else [])]
        rows = select(*(is_in_stock if name == "in_stock" else variants.c[name] for name in collect_columns(self.fields))).where(
            *conditions
        )
        return _render_list(rows.order_by(variants.c.created_at, variants.c.id), self, row)


@dataclass(frozen=True, slots=True)
class ReviewListField:
    """The newest reviews of a product; at most `limit`."""

    key: str
    fields: "JsonFields"
    limit: int
    columns: ClassVar[frozenset[str]] = frozenset({"id"})

    def render(self, row: FromClause) -> JsonFragments:
        """A list of them."""
        rows = select(*(reviews.c[name] for name in collect_columns(self.fields))).where(reviews.c.product_id == row.c.id)
        return _render_list(rows.order_by(*keyset.order_by_key(reviews.c.created_at, reviews.c.id, descending=True)), self, row)


@dataclass(frozen=True, slots=True)
class RelatedProductsField:
    """What else a shopper of a product may like; at most `limit`."""

    key: str
    fields: "JsonFields"
    limit: int
    columns: ClassVar[frozenset[str]] = related.PARENT_COLUMNS

    def render(self, row: FromClause) -> JsonFragments:
        """A list of them."""
        parent = select(*(row.c[name] for name in sorted(related.PARENT_COLUMNS))).correlate(row).lateral("parent")
        ranked = related.rank_related_products(self.limit)
        ranked_products = parent.join(ranked, true()).join(products, products.c.id == ranked.c.id)
        rows = select(*(products.c[name] for name in collect_columns(self.fields))).select_from(ranked_products)
        return _render_list(rows.order_by(ranked.c.place), self, row)


@dataclass(frozen=True, slots=True)
class ForeignRowField:
    """The row that a key of the row leads to: always there, and to be seen by all who see the row."""

    key: str
    fields: "JsonFields"
    foreign_key: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return {self.foreign_key}

    def render(self, row: FromClause) -> JsonFragments:
        """The one that it is."""
        target = _FOREIGN_TABLES[self.foreign_key].alias()
        return [
            select(_concatenate(_render_fields(self.fields, target)))
            .where(target.c.id == row.c[self.foreign_key])
            .correlate(row)
            .scalar_subquery()
        ]


_FOREIGN_TABLES: Mapping[str, Table] = {"config_id": configs, "user_id": users}


@dataclass(frozen=True, slots=True)
class ObjectField:
    """An object of the same row."""

    key: str
    fields: "JsonFields"

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this takes."""
        return set(collect_columns(self.fields))

    def render(self, row: FromClause) -> JsonFragments:
        """The parts."""
        return _render_fields(self.fields, row)


JsonField = (
    ColumnField
    | ConstantField
    | PriceRangeField
    | ReviewSummaryField
    | VariantListField
    | ReviewListField
    | RelatedProductsField
    | ForeignRowField
    | ObjectField
)
JsonFields = tuple[JsonField, ...]


@dataclass(frozen=True, slots=True, eq=False)
class JsonDocument:
    """What is written of each row. There is one of a kind, see `document`: statements are known by it."""

    fields: JsonFields
    columns: tuple[str, ...]

    def render(self, row: FromClause) -> ColumnElement[Any]:
        """The row as JSON text. It is of a subquery that has these columns."""
        return _concatenate(_render_fields(self.fields, row))


@lru_cache(MAX_CACHED_STATEMENTS)
def build_document(fields: JsonFields) -> JsonDocument:
    """The document of these parts."""
    return JsonDocument(fields, collect_columns(fields))


def collect_columns(fields: Sequence[JsonField]) -> tuple[str, ...]:
    """The columns that a row has to have."""
    # Without any column a row would still be one.
    return tuple(sorted({"id"}.union(*(field.columns for field in fields))))


# ------------------------------------------------------------------------------------------------ as text


def _render_fields(fields: JsonFields, row: FromClause) -> JsonFragments:
    return _render_object((field.key, field.render(row)) for field in fields)


def _render_figures(
    fields: Iterable[ColumnField | ConstantField], row: FromClause, values: Mapping[str, JsonFragments]
) -> JsonFragments:
    return _render_object(
        (field.key, values[field.name] if isinstance(field, ColumnField) else field.render(row)) for field in fields
    )


def _render_object(members: Iterable[tuple[str, JsonFragments]]) -> Iterator[str | ColumnElement[Any]]:
    separator = "{"
    for key, value in members:
        yield f'{separator}"{_check_name(key)}":'
        yield from value
        separator = ","
    yield "{}" if separator == "{" else "}"


def _render_list(
    rows: Select[Any], list_field: VariantListField | ReviewListField | RelatedProductsField, row: FromClause
) -> JsonFragments:
    # Written out: without a number Postgres expects a tenth of all rows, and never keeps its plan.
    limited_rows = rows.limit(literal_column(str(list_field.limit))).correlate(row).subquery()
    items = func.string_agg(_concatenate(_render_fields(list_field.fields, limited_rows)), literal_column("','"))
    # Of no rows this is null, which `concat` takes for nothing.
    return ["[", select(items).select_from(limited_rows).scalar_subquery(), "]"]


def _render_column(column: ColumnElement[Any]) -> JsonFragments:
    if isinstance(column.type, DateTime):
        # Sessions are in UTC.
        return ['"', func.replace(column.cast(TIMESTAMP).cast(Text), _SPACE_SQL, _T_SQL), 'Z"']
    quote = '"' if isinstance(column.type, Numeric | Uuid) or column.key == "status" else ""
    printed = _convert_for_json(column)
    if not getattr(column, "nullable", True):
        return [quote, printed, quote]
    # What is made with null is null.
    quote_sql = literal_column(f"'{quote}'", Text)
    return [func.coalesce(quote_sql + printed.cast(Text) + quote_sql if quote else printed.cast(Text), _NULL_SQL)]


_NULL_SQL, _SPACE_SQL, _T_SQL = (literal_column(f"'{text}'", Text) for text in ("null", " ", "T"))


def _convert_for_json(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if column.key == "status":
        return func.upper(column)
    if isinstance(column.type, Boolean):
        return column.cast(Text)
    return column if isinstance(column.type, JSON | Integer | Numeric | Uuid) else func.to_json(column)


def _concatenate(fragments: JsonFragments) -> ColumnElement[Any]:
    columns: list[ColumnElement[Any]] = []
    for is_constant, group in groupby(fragments, lambda fragment: isinstance(fragment, str)):
        group_fragments: list[Any] = list(group)
        columns += [literal_column(f"'{''.join(group_fragments)}'")] if is_constant else group_fragments
    return _concatenate_columns(columns)


def _concatenate_columns(columns: Sequence[ColumnElement[Any]]) -> ColumnElement[Any]:
    if len(columns) <= MAX_FUNCTION_ARGUMENTS:
        return func.concat(*columns, type_=Text)
    return _concatenate_columns(
        [
            _concatenate_columns(columns[start : start + MAX_FUNCTION_ARGUMENTS])
            for start in range(0, len(columns), MAX_FUNCTION_ARGUMENTS)
        ]
    )


def _check_name(name: str) -> str:
    # Names of GraphQL's, letters, digits and underscores: they need no quoting, and could do no harm.
    if not name.replace("_", "a").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no name.")
    return name
