"""Facets: how many products each further choice would leave. A facet ignores its own filter: siblings keep their counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Text, case, column, func, literal, select, true

from storefront.core.cache_dependencies import Named
from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import products, variants
from storefront.queries.batching import by_parent
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
    rows = await database.fetch(_facet(facet, Shape.of(counted, scopes)), parameters)
    return by_parent(rows, range(1, len(scopes) + 1))


@cache
def _facet(facet: str, shape: Shape) -> Statement:
    parent = parents(shape)
    source, wanted = within(shape, parent)
    counted = _FACETS[facet](Products(source, wanted, parent)).lateral("counted")
    return compiled(
        select(parent.c.number.label("parent_id"), counted).select_from(parent.join(counted, true())),
        reads=Named("config_ids"),
    )


@dataclass(frozen=True, slots=True)
class Products:
    """The products of a parent row that a facet counts."""

    source: FromClause
    wanted: list[ColumnElement[bool]]
    parent: FromClause

    def select(self, *columns: ColumnElement[Any], beside: FromClause | None = None) -> Select[Any]:
        """Columns of the products, or of what stands beside each of them."""
        source = self.source if beside is None else self.source.join(beside, true())
        return select(*columns).select_from(source).where(*self.wanted).correlate(self.parent)


def _categories(of: Products) -> Select[Any]:
    category = products.c.category
    return _most_frequent(of.select(category.label("value")).where(category.is_not(None)))


def _tags(of: Products) -> Select[Any]:
    tag = func.jsonb_array_elements_text(products.c.tags).table_valued("value", name="tag")
    return _most_frequent(of.select(tag.c.value, beside=tag))


def _availability(of: Products) -> Select[Any]:
    return _most_frequent(of.select(case((products.c.in_stock, "IN_STOCK"), else_="OUT_OF_STOCK").label("value")))


def _price(of: Products) -> Select[Any]:
    return of.select(func.min(products.c.price).label("min"), func.max(products.c.price).label("max"))


def _attributes(of: Products) -> Select[Any]:
    pair = func.jsonb_each_text(variants.c.attributes).table_valued(column("key", Text), column("value", Text), name="pair")
    forms = variants.join(pair, true())
    # Each pair once per product, however many of its variants have it. A name is counted under the other names' filters:
    # choosing a size narrows the colours, not the sizes.
    pairs = of.select(products.c.id, pair.c.key.label("name"), pair.c.value, beside=forms).distinct()
    found = pairs.where(variants.c.product_id == products.c.id, available(), fits_attributes(but=pair.c.key))
    return _most_frequent(found, "name", "value")


def _most_frequent(rows: Select[Any], *by: str) -> Select[Any]:
    counted = rows.subquery("row")
    columns = [counted.c[name] for name in by or ("value",)]
    count = func.count().label("count")
    return select(*columns, count).group_by(*columns).order_by(count.desc(), *columns).limit(literal(MOST))


_FACETS = {"category": _categories, "tags": _tags, "availability": _availability, "price": _price, "attributes": _attributes}
