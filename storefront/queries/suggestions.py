"""Search suggestions (autocomplete)."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, true

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products
from storefront.queries.listing import Selection, StatementShape, StoreScope, build_parent_rows, build_product_source


async def load_title_suggestions(
    database: Database, scopes: Sequence[StoreScope], selection: Selection, limit: int
) -> list[list[str]]:
    """For each scope, titles of the products that match the words typed so far, the most popular first."""
    parameters = selection.build_parameters(scopes) | {"limit": limit}
    titles: list[list[str]] = [[] for _ in scopes]
    for row in await database.fetch(_select_titles(StatementShape.from_selection(selection, scopes)), parameters):
        titles[row.number - 1].append(row.title)
    return titles


@cache
def _select_titles(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    source, conditions = build_product_source(shape, parent)
    popularity = func.max(products.c.popularity)
    titles = select(products.c.title, popularity.label("popularity")).select_from(source).where(*conditions).correlate(parent)
    first = titles.group_by(products.c.title).order_by(popularity.desc(), products.c.title).limit(bindparam("limit"))
    page = first.lateral("first")
    rows = select(parent.c.number, page.c.title).select_from(parent.join(page, true()))
    return compile_statement(
        rows.order_by(parent.c.number, page.c.popularity.desc(), page.c.title), depends_on=ParameterDependency("config_ids")
    )
