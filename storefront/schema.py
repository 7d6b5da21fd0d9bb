"""The table of contents: every root field, by the slice that has it."""

import strawberry
from strawberry.schema.config import StrawberryConfig

from storefront.configs.api import ConfigQuery
from storefront.graph.scalars import SCALARS
from storefront.products.api import ProductQuery
from storefront.users.api import UserQuery


@strawberry.type
class Query(UserQuery, ConfigQuery, ProductQuery):
    """Everything that can be read."""


schema = strawberry.Schema(query=Query, config=StrawberryConfig(scalar_map=SCALARS))
