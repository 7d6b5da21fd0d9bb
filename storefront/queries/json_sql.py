"""JSON pushdown: Postgres renders rows and their nested rows as JSON text, and no Python objects are built for them.

The fields of a document map keys to values. The values are equal, byte for byte, to those of rows that are read column by column:
amounts and keys as strings, timestamps in UTC. `concat` builds the text in two thirds of the time that Postgres takes with its
JSON types.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar

from sqlalchemy import (
    CTE,
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
    any_,
    case,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.sql.selectable import TableValuedAlias

from storefront.models import configs, products, reviews, users
from storefront.models.columns import EnumText
from storefront.queries import related
from storefront.queries.fields import (
    PRICE_RANGE_COLUMNS,
    PRODUCT_COLUMNS_OF_VARIANT,
    REVIEW_ORDER,
    REVIEW_SUMMARY_COLUMNS,
    build_variant_columns,
    order_variants,
    select_currency,
    select_review_count,
    select_review_summary,
    select_reviews,
    select_variants,
)
from storefront.queries.options import is_swatch, select_offered_variants, select_swatches
from storefront.queries.projection import MAX_CACHED_STATEMENTS, filter_columns

# The most arguments of a Postgres function call.
MAX_FUNCTION_ARGUMENTS = 100

# JSON text in fragments: constant strings, and expressions over the row that are never null.
JsonFragments = Iterable[str | ColumnElement[Any]]


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A row that fields are rendered of: the subquery with its columns, and its store, to which nested rows are restricted."""

    columns: FromClause
    config_id: ColumnElement[Any]
    # Of the product of a variant (`select_swatches`), if a field of the variant depends on them.
    swatches: ColumnElement[Any] | None = None

    @property
    def c(self) -> ReadOnlyColumnCollection[str, Any]:
        """The columns by name."""
        return self.columns.c


@dataclass(frozen=True, slots=True)
class ColumnField:
    """A column of the row. Enum values are rendered in upper case."""

    key: str
    name: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this field reads."""
        return {self.name}

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the column's value."""
        return _render_column(row.c[self.name])


@dataclass(frozen=True, slots=True)
class ConstantField:
    """A constant name, such as `__typename`."""

    key: str
    text: str
    columns: ClassVar[frozenset[str]] = frozenset()

    def render(self, _: DocumentRow) -> JsonFragments:
        """Render the name."""
        return [f'"{_check_name(self.text)}"']


@dataclass(frozen=True, slots=True)
class PriceRangeField:
    """The price range of a product: `min`, `max` and `currency`."""

    key: str
    fields: tuple[ColumnField | ConstantField, ...]
    columns: ClassVar[frozenset[str]] = frozenset(PRICE_RANGE_COLUMNS)

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the object."""
        values = {"min": row.c.price, "max": row.c.max_price, "currency": select_currency(row.config_id)}
        return _render_figures(self.fields, row, {name: ['"', value, '"'] for name, value in values.items()})


@dataclass(frozen=True, slots=True)
class CurrencyField:
    """The currency of a product's store."""

    key: str
    columns: ClassVar[frozenset[str]] = frozenset({"config_id"})

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the code."""
        return ['"', select_currency(row.config_id), '"']


@dataclass(frozen=True, slots=True)
class RatingCountsField:
    """The numbers of reviews with 1, 2, 3, 4 and 5 stars: a list of objects with `rating` and `count`."""

    key: str
    fields: tuple[ColumnField | ConstantField, ...]
    columns: ClassVar[frozenset[str]] = frozenset(REVIEW_SUMMARY_COLUMNS)

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the list."""
        counts: Any = select_review_summary(row.columns)["distribution"]
        separator = "["
        for rating in range(1, 6):
            yield separator
            yield from _render_figures(self.fields, row, {"rating": [str(rating)], "count": [counts[rating]]})
            separator = ","
        yield "]"


@dataclass(frozen=True, slots=True)
class ReviewSummaryField:
    """The review summary of a product: `average`, `count` and `distribution`."""

    key: str
    fields: tuple[ColumnField | ConstantField | RatingCountsField, ...]
    columns: ClassVar[frozenset[str]] = frozenset(REVIEW_SUMMARY_COLUMNS)

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the object."""
        summary = select_review_summary(row.columns)
        average = func.coalesce(summary["average"].cast(Text), "null")
        values: dict[str, JsonFragments] = {"average": [average], "count": [summary["count"]]}
        return _render_figures(self.fields, row, values)


@dataclass(frozen=True, slots=True)
class WeightField:
    """The weight of a variant: `value` and `unit`, or null."""

    key: str
    fields: tuple[ColumnField | ConstantField, ...]
    columns: ClassVar[frozenset[str]] = frozenset({"weight"})

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the object, or null."""
        values = {name: row.c.weight[name].astext for name in ("value", "unit")}
        members = _render_figures(
            self.fields, row, {"value": ['"', values["value"], '"'], "unit": ['"', func.upper(values["unit"]), '"']}
        )
        return [case((row.c.weight.is_(None), _NULL_SQL), else_=_concatenate(members))]


@dataclass(frozen=True, slots=True)
class SwatchField:
    """The swatch of an option value, without its image, or null."""

    key: str
    fields: tuple[ColumnField | ConstantField, ...]

    def render(self, row: DocumentRow, swatch: ColumnElement[Any]) -> JsonFragments:
        """Render the object, or null."""
        members = _render_figures(self.fields, row, {"color": [swatch["color"]]})
        return [case((is_swatch(swatch), _concatenate(members)), else_=_NULL_SQL)]


@dataclass(frozen=True, slots=True)
class AttributeListField:
    """The attributes of a variant."""

    key: str
    fields: tuple[ColumnField | ConstantField | SwatchField, ...]
    columns: ClassVar[frozenset[str]] = frozenset({"attribute_list"})

    @property
    def has_swatches(self) -> bool:
        """Whether a field depends on the swatches of the product."""
        return any(isinstance(field, SwatchField) for field in self.fields)

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the list."""
        # The names and values have been JSON before, and are not written anew.
        pair = func.json_array_elements(row.c.attribute_list).table_valued(column("value", JSON), name="pair")
        values: dict[str, JsonFragments] = {name: [pair.c.value[name]] for name in ("name", "value")}
        path = array([func.lower(pair.c.value.op("->>", return_type=Text())(name)) for name in ("name", "value")])
        swatches: Any = row.swatches
        members = (
            (
                field.key,
                field.render(row, swatches.op("#>", return_type=JSONB())(path))
                if isinstance(field, SwatchField)
                else _render_figure(field, row, values),
            )
            for field in self.fields
        )
        listed = _select_json_list(members, pair)
        return ["[", listed.correlate_except(pair).scalar_subquery(), "]"]


@dataclass(frozen=True, slots=True)
class OptionValueListField:
    """The values of an option of a product; at most `limit`."""

    key: str
    fields: tuple[ColumnField | ConstantField | SwatchField, ...]
    limit: int

    @property
    def is_matched(self) -> bool:
        """Whether a field depends on variants."""
        names = {field.name for field in self.fields if isinstance(field, ColumnField)}
        return not names.isdisjoint(("exists", "available"))

    def render(self, row: DocumentRow, option: FromClause, matches: CTE | None) -> JsonFragments:
        """Render the list. `matches`: the values that offered variants of the product have, if a field depends on them."""
        value = _unnest_json(option.c.value["values"], "value")
        values: dict[str, JsonFragments] = {
            "id": [value.c.value["id"]],
            "value": [value.c.value["value"]],
            "position": [value.c.number - 1],
        }
        rows: FromClause = value
        if matches is not None:
            of_variant = matches.c.folded_attributes.op("->>", return_type=Text())(func.lower(option.c.value["name"].astext))
            of_variants: Any = func.array_agg(of_variant, type_=ARRAY(Text))
            collected = select(of_variants.label("exists"), of_variants.filter(matches.c.in_stock).label("available"))
            found = collected.select_from(matches).correlate(option).lateral("found")
            folded_value = func.lower(value.c.value["value"].astext)
            for name in ("exists", "available"):
                # Null without variants, or if one of them has no such option.
                values[name] = [(folded_value == any_(found.c[name])).is_(True).cast(Text)]
            rows = value.join(found, true())
        members = (
            (
                field.key,
                field.render(row, value.c.value["swatch"])
                if isinstance(field, SwatchField)
                else _render_figure(field, row, values),
            )
            for field in self.fields
        )
        listed = _select_json_list(members, value).select_from(rows).where(value.c.number <= literal_column(str(self.limit)))
        return ["[", listed.correlate(option).scalar_subquery(), "]"]


@dataclass(frozen=True, slots=True)
class OptionListField:
    """The options of a product with their values, of which none is selected."""

    key: str
    fields: tuple[ColumnField | ConstantField | OptionValueListField, ...]

    @property
    def is_matched(self) -> bool:
        """Whether a field depends on variants."""
        return any(isinstance(field, OptionValueListField) and field.is_matched for field in self.fields)

    @property
    def columns(self) -> set[str]:
        """The columns of the product that this field reads."""
        return {"options"} | ({"id", PRODUCT_COLUMNS_OF_VARIANT["in_stock"]} if self.is_matched else set())

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the list."""
        option = _unnest_json(row.c.options, "option")
        matches = self._select_matches(row) if self.is_matched else None
        values: dict[str, JsonFragments] = {
            "id": [option.c.value["id"]],
            "name": [option.c.value["name"]],
            "position": [option.c.number - 1],
        }
        members = (
            (
                field.key,
                field.render(row, option, matches)
                if isinstance(field, OptionValueListField)
                else _render_figure(field, row, values),
            )
            for field in self.fields
        )
        listed = _select_json_list(members, option).correlate(row.columns)
        return ["[", (listed if matches is None else listed.add_cte(matches, nest_here=True)).scalar_subquery(), "]"]

    def _select_matches(self, row: DocumentRow) -> CTE:
        # Once for each product, not for each option.
        return select_offered_variants(row.config_id, row.columns).cte("matches").prefix_with("MATERIALIZED")


def _unnest_json(items: ColumnElement[Any], name: str) -> TableValuedAlias:
    """The items of a JSON list as rows with `value` and, from 1, `number`."""
    value = column("value", JSONB)
    return func.jsonb_array_elements(items).table_valued(value, with_ordinality="number", name=name).render_derived()


def _select_json_list(members: Iterable[tuple[str, JsonFragments]], item: FromClause) -> Select[Any]:
    """The objects with these members, one per item of `_unnest_json`, as text."""
    # In the order of the list: the function returns its items in it, and nothing sorts them.
    return select(func.string_agg(_concatenate(_render_object(members)), literal_column("','"))).select_from(item)


@dataclass(frozen=True, slots=True)
class VariantListField:
    """The first variants of a product by a sort key; at most `limit`."""

    key: str
    fields: "JsonFields"
    limit: int
    available_only: bool
    sort: str
    is_owner: bool

    @property
    def columns(self) -> set[str]:
        """The columns of the product that this field reads."""
        names = collect_columns(self.fields)
        read_columns = {PRODUCT_COLUMNS_OF_VARIANT[name] for name in names if name in PRODUCT_COLUMNS_OF_VARIANT}
        return {"id"} | read_columns | ({"options"} if self._has_swatches else set())

    @property
    def _has_swatches(self) -> bool:
        return any(isinstance(field, AttributeListField) and field.has_swatches for field in self.fields)

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the list."""
        columns = build_variant_columns(collect_columns(self.fields), row.config_id, row.columns, is_owner=self.is_owner)
        rows = select_variants(columns, row.config_id, row.columns, available_only=self.available_only)
        # Once for each product, not for each variant.
        swatches = select_swatches(row.columns).cte("swatches").prefix_with("MATERIALIZED") if self._has_swatches else None
        return _render_list(rows.order_by(*order_variants(self.sort)), self, row, swatches)


@dataclass(frozen=True, slots=True)
class ReviewListField:
    """The newest reviews of a product, of all or with a number of stars; at most `limit`."""

    key: str
    fields: "JsonFields"
    limit: int
    rating: int | None
    columns: ClassVar[frozenset[str]] = frozenset({"id"})

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the list."""
        columns = filter_columns(reviews.c, collect_columns(self.fields))
        rating = None if self.rating is None else literal_column(str(self.rating), Integer)
        return _render_list(select_reviews(columns, row.config_id, row.columns, rating).order_by(*REVIEW_ORDER), self, row)


@dataclass(frozen=True, slots=True)
class ReviewCountField:
    """The number of reviews of a product, of all or with a number of stars."""

    key: str
    rating: int | None
    columns: ClassVar[frozenset[str]] = frozenset({"rating_counts"})

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the number."""
        return [select_review_count(row.columns, self.rating)]


@dataclass(frozen=True, slots=True)
class RelatedProductsField:
    """The related products of a product; at most `limit`."""

    key: str
    fields: "JsonFields"
    limit: int
    columns: ClassVar[frozenset[str]] = related.PARENT_COLUMNS

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the list."""
        parent = select(*(row.c[name] for name in sorted(related.PARENT_COLUMNS))).correlate(row.columns).lateral("parent")
        ranked = related.rank_related_products(self.limit, row.config_id)
        is_ranked = (products.c.config_id == row.config_id) & (products.c.id == ranked.c.id)
        ranked_products = parent.join(ranked, true()).join(products, is_ranked)
        rows = select(*(products.c[name] for name in collect_columns(self.fields))).select_from(ranked_products)
        return _render_list(rows.order_by(ranked.c.place), self, row)


@dataclass(frozen=True, slots=True)
class ForeignRowField:
    """The row that a foreign key references. It always exists, and is visible to every viewer of the row."""

    key: str
    fields: "JsonFields"
    foreign_key: str

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this field reads."""
        return {self.foreign_key}

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the referenced row."""
        target = _FOREIGN_TABLES[self.foreign_key].alias()
        key = row.config_id if self.foreign_key == "config_id" else row.c[self.foreign_key]
        fields = _render_fields(self.fields, DocumentRow(target, row.config_id))
        return [select(_concatenate(fields)).where(target.c.id == key).correlate_except(target).scalar_subquery()]


_FOREIGN_TABLES: Mapping[str, Table] = {"config_id": configs, "user_id": users}


@dataclass(frozen=True, slots=True)
class ObjectField:
    """A nested object with fields of the same row."""

    key: str
    fields: "JsonFields"

    @property
    def columns(self) -> set[str]:
        """The columns of the row that this field reads."""
        return set(collect_columns(self.fields))

    def render(self, row: DocumentRow) -> JsonFragments:
        """Render the object."""
        return _render_fields(self.fields, row)


JsonField = (
    ColumnField
    | ConstantField
    | CurrencyField
    | PriceRangeField
    | ReviewSummaryField
    | WeightField
    | AttributeListField
    | OptionListField
    | VariantListField
    | ReviewListField
    | ReviewCountField
    | RelatedProductsField
    | ForeignRowField
    | ObjectField
)
JsonFields = tuple[JsonField, ...]


@dataclass(frozen=True, slots=True, eq=False)
class JsonDocument:
    """The document of each row. `build_document` interns it: compiled statements are cached by identity."""

    fields: JsonFields
    columns: tuple[str, ...]

    def render(self, row: DocumentRow) -> ColumnElement[Any]:
        """The row as JSON text; it has `columns`."""
        return _concatenate(_render_fields(self.fields, row))


@lru_cache(MAX_CACHED_STATEMENTS)
def build_document(fields: JsonFields) -> JsonDocument:
    """The document with these fields, one instance per set of fields."""
    return JsonDocument(fields, collect_columns(fields))


def collect_columns(fields: Sequence[JsonField]) -> tuple[str, ...]:
    """The columns that the fields read, sorted."""
    # The id is always selected: a SELECT needs a column.
    return tuple(sorted({"id"}.union(*(field.columns for field in fields))))


# ------------------------------------------------------------------------------------------------ as text


def _render_fields(fields: JsonFields, row: DocumentRow) -> JsonFragments:
    return _render_object((field.key, field.render(row)) for field in fields)


def _render_figures(
    fields: Iterable[ColumnField | ConstantField | RatingCountsField], row: DocumentRow, values: Mapping[str, JsonFragments]
) -> JsonFragments:
    return _render_object((field.key, _render_figure(field, row, values)) for field in fields)


def _render_figure(
    field: ColumnField | ConstantField | RatingCountsField, row: DocumentRow, values: Mapping[str, JsonFragments]
) -> JsonFragments:
    return values[field.name] if isinstance(field, ColumnField) else field.render(row)


def _render_object(members: Iterable[tuple[str, JsonFragments]]) -> Iterator[str | ColumnElement[Any]]:
    separator = "{"
    for key, value in members:
        yield f'{separator}"{_check_name(key)}":'
        yield from value
        separator = ","
    yield "{}" if separator == "{" else "}"


def _render_list(
    rows: Select[Any],
    list_field: VariantListField | ReviewListField | RelatedProductsField,
    row: DocumentRow,
    swatches: CTE | None = None,
) -> JsonFragments:
    # A literal: without one the planner expects a tenth of all rows and never caches a generic plan.
    limited_rows = rows.limit(literal_column(str(list_field.limit))).correlate(row.columns).subquery()
    of_product = None if swatches is None else swatches.c.swatches
    fields = _render_fields(list_field.fields, DocumentRow(limited_rows, row.config_id, of_product))
    listed = select(func.string_agg(_concatenate(fields), literal_column("','")))
    if swatches is None:
        listed = listed.select_from(limited_rows)
    else:
        listed = listed.select_from(limited_rows.join(swatches, true())).add_cte(swatches, nest_here=True)
    # Without rows this is null, which `concat` skips.
    return ["[", listed.scalar_subquery(), "]"]


def _render_column(column: ColumnElement[Any]) -> JsonFragments:
    before = '"' if isinstance(column.type, Numeric | Uuid | EnumText | DateTime) else ""
    # The session time zone is UTC.
    after = 'Z"' if isinstance(column.type, DateTime) else before
    printed = _convert_for_json(column)
    if not getattr(column, "nullable", True):
        return [before, printed, after]
    # Concatenation with null is null.
    before_sql, after_sql = literal_column(f"'{before}'", Text), literal_column(f"'{after}'", Text)
    return [func.coalesce(before_sql + printed.cast(Text) + after_sql if before else printed.cast(Text), _NULL_SQL)]


_NULL_SQL, _SPACE_SQL, _T_SQL = (literal_column(f"'{text}'", Text) for text in ("null", " ", "T"))


def _convert_for_json(column: ColumnElement[Any]) -> ColumnElement[Any]:
    if isinstance(column.type, EnumText):
        return func.upper(column)
    if isinstance(column.type, DateTime):
        return func.replace(column.cast(TIMESTAMP).cast(Text), _SPACE_SQL, _T_SQL)
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
    # GraphQL names need no quoting and cannot inject SQL: letters, digits and underscores.
    if not name.replace("_", "a").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is not a GraphQL name.")
    return name
