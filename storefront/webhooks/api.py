"""Fields that find webhooks."""

from typing import cast

import strawberry

from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.permissions import own_store
from storefront.queries import webhooks
from storefront.webhooks.commands import MOST_OF_STORE
from storefront.webhooks.types import Webhook


@strawberry.type
class WebhookQuery:
    @strawberry.field(description="The webhooks of a store of one's own, oldest first.", metadata=costs(size=MOST_OF_STORE))
    async def webhooks(self, info: Info, config_id: strawberry.ID) -> list[Webhook]:
        store = await own_store(info, config_id, "its webhooks")
        return cast(list[Webhook], await webhooks.of_store(info.context.reads, store))

    @strawberry.field(description="A webhook of a store of one's own, or null.")
    async def webhook(self, info: Info, id: strawberry.ID) -> Webhook | None:
        viewer = info.context.signed_in()
        return cast(Webhook | None, await webhooks.own(info.context.reads, arguments.key(id, "id"), [*viewer.owned]))
