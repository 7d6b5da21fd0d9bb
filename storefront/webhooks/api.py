"""Query fields of webhooks."""

from typing import Annotated, cast

import strawberry

from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.types.webhooks import Webhook


@strawberry.type
class WebhookQuery:
    @strawberry.field(description="A webhook; null if it does not exist. Owner only.")
    async def webhook(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="ID of the webhook.")]
    ) -> Webhook | None:
        info.context.require_viewer()
        key = await loaders.find_row_key(info.context, arguments.check_id(id, "id"))
        return cast(Webhook | None, await info.context.load(loaders.load_webhooks, key) if key else None)
