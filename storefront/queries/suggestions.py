"""Search suggestions (autocomplete)."""

from functools import cache

from sqlalchemy import bindparam, func, select, true

from storefront.core.cache_dependencies import ParameterDependency
from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import products
from storefront.queries.listing import Selection, StatementShape, StoreScope, build_parent_rows, build_product_source


async def load_title_suggestions(database: Database, scope: StoreScope, selection: Selection, limit: int) -> list[str]:
    """Titles of the products that match the words typed so far, the most popular first."""
    parameters = selection.build_parameters([scope]) | {"limit": limit}
    return [
        row.title for row in await database.fetch(_select_titles(StatementShape.from_selection(selection, [scope])), parameters)
    ]


@cache
def _select_titles(shape: StatementShape) -> Statement:
    parent = build_parent_rows(shape)
    source, conditions = build_product_source(shape, parent)
    query = select(products.c.title).select_from(parent.join(source, true())).where(*conditions).group_by(products.c.title)
    return compile_statement(
        query.order_by(func.max(products.c.popularity).desc(), products.c.title).limit(bindparam("limit")),
        depends_on=ParameterDependency("config_ids"),
    )
