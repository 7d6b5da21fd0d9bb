"""Facets: how many products each further choice would leave. A facet ignores its own filter: siblings keep their counts."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Text, case, column, func, literal, select, true

from storefront.core.database import Database, Row, Statement, compiled
from storefront.models import products, variants
from storefront.queries.grouped import by_parent
from storefront.queries.listing import Scope, Selection, Shape, fits_attributes, parents, within
from storefront.queries.visibility import available

# A facet lists its most frequent values; past these nobody reads on.
MOST = 100

# Which filters a facet leaves out of its own count.
OWN_FILTERS = {
    "category": ("category",),
    "tags": ("tags",),
    "availability": ("in_stock",),
    "price": ("min_price", "max_price"),
    "attributes": ("attributes",),
}


async def values(database: Database, facet: str, scopes: Sequence[Scope], selection: Selection) -> list[list[Row]]:
    """For each scope the facet's rows: `value` and `count`, for attributes also `name`; for price one row `min`, `max`."""
    counted = selection.without(*OWN_FILTERS[facet])
    parameters = counted.parameters(scopes)
    if facet == "attributes":
        parameters |= {"attributes": dict(selection.filters).get("attributes", "{}")}
    rows = await database.fetch(_facet(facet, Shape.of(counted)), parameters)
    return by_parent(rows, [scope.config_id for scope in scopes])


@cache
def _facet(facet: str, shape: Shape) -> Statement:
    parent = parents(shape.searched)
    source, wanted = within(shape, parent)
    counted = _FACETS[facet](source).where(*wanted).correlate(parent).lateral("counted")
    return compiled(select(parent.c.id.label("parent_id"), counted).select_from(parent.join(counted, true())))


def _most_frequent(value: ColumnElement[Any], source: FromClause) -> Select[Any]:
    grouped = select(value.label("value"), func.count().label("count")).select_from(source).group_by(value)
    return grouped.order_by(func.count().desc(), value).limit(literal(MOST))


def _categories(source: FromClause) -> Select[Any]:
    return _most_frequent(products.c.category, source).where(products.c.category.is_not(None))


def _tags(source: FromClause) -> Select[Any]:
    tag = func.jsonb_array_elements_text(products.c.tags).table_valued("value", name="tag")
    return _most_frequent(tag.c.value, source.join(tag, true()))


def _availability(source: FromClause) -> Select[Any]:
    return _most_frequent(case((products.c.in_stock, "IN_STOCK"), else_="OUT_OF_STOCK"), source)


def _price(source: FromClause) -> Select[Any]:
    return select(func.min(products.c.price).label("min"), func.max(products.c.price).label("max")).select_from(source)


def _attributes(source: FromClause) -> Select[Any]:
    pair = func.jsonb_each_text(variants.c.attributes).table_valued(column("key", Text), column("value", Text), name="pair")
    joined = source.join(variants, variants.c.product_id == products.c.id).join(pair, true())
    count = func.count(products.c.id.distinct())
    grouped = select(pair.c.key.label("name"), pair.c.value.label("value"), count.label("count")).select_from(joined)
    # A name is counted under the other names' filters: choosing a size narrows the colours, not the sizes.
    grouped = grouped.where(available(), fits_attributes(but=pair.c.key)).group_by(pair.c.key, pair.c.value)
    return grouped.order_by(count.desc(), pair.c.key, pair.c.value).limit(literal(MOST))


_FACETS = {"category": _categories, "tags": _tags, "availability": _availability, "price": _price, "attributes": _attributes}
