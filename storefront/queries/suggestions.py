"""What to offer while somebody types."""

from functools import cache

from sqlalchemy import bindparam, func, select, true

from storefront.core.cache_dependencies import Named
from storefront.core.db.database import Database, Statement, compiled
from storefront.models import products
from storefront.queries.listing import Scope, Selection, Shape, parents, within


async def titles(database: Database, scope: Scope, selection: Selection, limit: int) -> list[str]:
    """Titles of the products that the words typed so far find, the most popular first."""
    parameters = selection.parameters([scope]) | {"limit": limit}
    return [row.title for row in await database.fetch(_titles(Shape.of(selection, [scope])), parameters)]


@cache
def _titles(shape: Shape) -> Statement:
    parent = parents(shape)
    source, wanted = within(shape, parent)
    found = select(products.c.title).select_from(parent.join(source, true())).where(*wanted).group_by(products.c.title)
    return compiled(
        found.order_by(func.max(products.c.popularity).desc(), products.c.title).limit(bindparam("limit")),
        reads=Named("config_ids"),
    )
