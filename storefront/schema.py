"""The table of contents: every root field, by the slice that has it."""

import strawberry
from strawberry.schema.config import StrawberryConfig

from storefront.analytics.api import AnalyticsQuery
from storefront.configs.api import ConfigQuery
from storefront.configs.mutations import ConfigMutation
from storefront.graph.errors import ERROR_TYPES
from storefront.graph.scalars import SCALARS
from storefront.products.api import ProductQuery, ProductSubscription
from storefront.products.mutations import ProductMutation
from storefront.reviews.mutations import ReviewMutation
from storefront.users.api import UserQuery
from storefront.users.mutations import UserMutation
from storefront.variants.mutations import VariantMutation


@strawberry.type
class Query(UserQuery, ConfigQuery, ProductQuery, AnalyticsQuery):
    """Everything that can be read."""


@strawberry.type
class Mutation(UserMutation, ConfigMutation, ProductMutation, VariantMutation, ReviewMutation):
    """Everything that can be written."""


@strawberry.type
class Subscription(ProductSubscription):
    """Everything that can be listened to."""


schema = strawberry.Schema(Query, Mutation, Subscription, types=ERROR_TYPES, config=StrawberryConfig(scalar_map=SCALARS))
