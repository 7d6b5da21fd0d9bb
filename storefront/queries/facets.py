"""Facets: the number of products per value. A facet ignores its own filter, so that sibling values keep their counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Text, column, func, literal, select, true

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import products, variants
from storefront.queries.batching import group_by_parent
from storefront.queries.listing import (
    Selection,
    StatementShape,
    StoreScope,
    build_parent_rows,
    build_product_source,
    has_requested_attributes,
)
from storefront.queries.visibility import is_variant_available

# A facet lists its most frequent values only.
MAX_FACET_VALUES = 100

# The filters that a facet ignores in its counts.
FILTERS_BY_FACET = {
    "categories": ("categories",),
    "tags": ("tags",),
    "availability": ("in_stock",),
    "price": ("min_price", "max_price"),
    "attributes": ("attributes",),
}


async def load_facet_values(
    database: Database, facet: str, scopes: Sequence[StoreScope], selection: Selection
) -> list[list[Row]]:
    """For each scope the facet's rows: `value` and `count`, for attributes also `name`; for price one row `min`, `max`."""
    counted_selection = selection.without_filters(*FILTERS_BY_FACET[facet])
    parameters = counted_selection.build_parameters(scopes)
    if facet == "attributes":
        parameters |= {"attributes": dict(selection.filters).get("attributes", "{}")}
    rows = await database.fetch(_select_facet(facet, StatementShape.from_selection(counted_selection, scopes)), parameters)
    return group_by_parent(rows, range(1, len(scopes) + 1))


@cache
def _select_facet(facet: str, shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    source, conditions = build_product_source(shape, parent)
    facet_rows = _FACET_BUILDERS[facet](FacetProducts(source, conditions, parent)).lateral("counted")
    return compile_statement(
        select(parent.c.number.label("parent_id"), facet_rows).select_from(parent.join(facet_rows, true())),
        depends_on=ParameterDependency("config_ids"),
    )


@dataclass(frozen=True, slots=True)
class FacetProducts:
    """The products of a parent row that a facet counts."""

    source: FromClause
    conditions: list[ColumnElement[bool]]
    parent: FromClause

    def select(self, *columns: ColumnElement[Any], joined_with: FromClause | None = None) -> Select[Any]:
        """Columns of the products, or of rows joined with them."""
        source = self.source if joined_with is None else self.source.join(joined_with, true())
        return select(*columns).select_from(source).where(*self.conditions).correlate(self.parent)


def _select_categories(facet_products: FacetProducts) -> Select[Any]:
    category = products.c.category
    return _select_most_frequent(facet_products.select(category.label("value")).where(category.is_not(None)))


def _select_tags(facet_products: FacetProducts) -> Select[Any]:
    tag = func.jsonb_array_elements_text(products.c.tags).table_valued("value", name="tag")
    return _select_most_frequent(facet_products.select(tag.c.value, joined_with=tag))


def _select_availability(facet_products: FacetProducts) -> Select[Any]:
    return _select_most_frequent(facet_products.select(products.c.in_stock.label("value")))


def _select_price_range(facet_products: FacetProducts) -> Select[Any]:
    # Of available variants, as the filters.
    ends = func.min(products.c.price).label("min"), func.max(products.c.max_price).label("max")
    return facet_products.select(*ends).where(products.c.variants_available > 0)


def _select_attributes(facet_products: FacetProducts) -> Select[Any]:
    pair = func.jsonb_each_text(variants.c.attributes).table_valued(column("key", Text), column("value", Text), name="pair")
    variant_pairs = variants.join(pair, true())
    # Each pair counts once per product, however many variants have it, and whatever its case. A name is counted under the filters
    # of the other names: choosing a size narrows the colours, not the sizes.
    folded = [func.lower(pair.c.key).label("folded_name"), func.lower(pair.c.value).label("folded_value")]
    spellings = [
        _find_first_written(text, variants.c.id).label(name) for name, text in (("name", pair.c.key), ("value", pair.c.value))
    ]
    pairs = facet_products.select(products.c.id, *folded, *spellings, joined_with=variant_pairs)
    matching_pairs = pairs.where(
        variants.c.product_id == products.c.id, is_variant_available(), has_requested_attributes(excluded_name=folded[0])
    )
    row = matching_pairs.group_by(products.c.id, *folded).subquery("row")
    keys = [row.c.folded_name, row.c.folded_value]
    # Of all values of one name, one spelling.
    first_name = func.min(func.min(row.c.name)).over(partition_by=row.c.folded_name)
    spelled = {"name": first_name, "value": func.min(row.c.value)}
    columns = [func.substring(text, _KEY_CHARACTERS + 1).label(name) for name, text in spelled.items()]
    count = func.count().label("count")
    return select(*columns, count).group_by(*keys).order_by(count.desc(), *keys).limit(literal(MAX_FACET_VALUES))


# Of the text of an id. Ids ascend with time.
_KEY_CHARACTERS = 36


def _find_first_written(text: ColumnElement[str], key: ColumnElement[str]) -> ColumnElement[str]:
    """Aggregate: the text of the row with the lowest key, after that key."""
    return func.min(key.cast(Text) + text)


def _select_most_frequent(rows: Select[Any], *group_names: str) -> Select[Any]:
    grouped_rows = rows.subquery("row")
    columns = [grouped_rows.c[name] for name in group_names or ("value",)]
    count = func.count().label("count")
    return select(*columns, count).group_by(*columns).order_by(count.desc(), *columns).limit(literal(MAX_FACET_VALUES))


_FACET_BUILDERS = {
    "categories": _select_categories,
    "tags": _select_tags,
    "availability": _select_availability,
    "price": _select_price_range,
    "attributes": _select_attributes,
}
