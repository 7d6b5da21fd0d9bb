"""Root field of the viewer's own user."""

from typing import cast

import strawberry

from storefront.graph import loaders
from storefront.graph.cache_hints import PERSONAL
from storefront.graph.context import Info
from storefront.graph.types.catalogue import User


@strawberry.type
class UserQuery:
    @strawberry.field(description="The signed-in user; null for anonymous requests.", metadata=PERSONAL)
    async def me(self, info: Info) -> User | None:
        viewer = info.context.viewer
        return cast(User | None, await info.context.load(loaders.load_users, viewer.id)) if viewer else None
