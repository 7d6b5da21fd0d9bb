"""Query fields of webhooks."""

from typing import cast

import strawberry

from storefront.graph import arguments
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.permissions import require_own_store
from storefront.queries import webhooks
from storefront.webhooks.commands import MAX_WEBHOOKS_PER_STORE
from storefront.webhooks.types import Webhook


@strawberry.type
class WebhookQuery:
    @strawberry.field(
        description="The webhooks of a store that the viewer owns, oldest first.", metadata=costs(size=MAX_WEBHOOKS_PER_STORE)
    )
    async def webhooks(self, info: Info, config_id: strawberry.ID) -> list[Webhook] | None:
        store = await require_own_store(info, config_id, "its webhooks")
        return cast(list[Webhook], await webhooks.load_webhooks_of_store(info.context.read_database, store))

    @strawberry.field(description="A webhook of a store that the viewer owns, or null.")
    async def webhook(self, info: Info, id: strawberry.ID) -> Webhook | None:
        viewer = info.context.require_viewer()
        return cast(
            Webhook | None,
            await webhooks.load_own_webhook(info.context.read_database, arguments.check_id(id, "id"), [*viewer.owned_store_ids]),
        )
