"""Webhooks as their owners see them. The secret is told when it is made, and never again."""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from typing import cast

import strawberry

from storefront.core.db.database import Row
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.pagination import Connection
from storefront.graph.scalars import Position
from storefront.graph.types import After, First
from storefront.webhooks.topics import Topic

strawberry.enum(
    Topic,
    name="WebhookTopic",
    description="What happened. Messages say it as their type: PRODUCT_CREATED is product.created.",
)


@strawberry.enum(description="As whom a webhook's document is executed, and whose view of the log it is told.")
class WebhookReader(Enum):
    SHOPPER = strawberry.enum_value("shopper", description="Somebody unknown: what is published, and no more.")
    OWNER = strawberry.enum_value("owner", description="The store's owner, as far as this store goes.")


@strawberry.enum(name="WebhookDeliveryState")
class DeliveryState(Enum):
    PENDING = strawberry.enum_value("pending", description="To be sent, or to be tried again.")
    DELIVERED = strawberry.enum_value("delivered", description="Taken: answered with a status from 200 to 299.")
    FAILED = strawberry.enum_value("failed", description="Given up.")


@strawberry.type(description="One time that a message was sent.")
class WebhookAttempt:
    at: datetime
    status_code: int | None = strawberry.field(description="What it was answered with; null without an answer.")
    milliseconds: int
    error: str | None = strawberry.field(description="What was wrong; null if it was taken.")


@strawberry.type(
    description="A message to a webhook. Those about one product are sent one after the other, each once it is its turn."
)
class WebhookDelivery:
    id: strawberry.ID = strawberry.field(description="The webhook-id of the message, the same at each attempt.")
    webhook_id: strawberry.ID
    type: str = strawberry.field(description="Such as product.updated.")
    position: Position = strawberry.field(description="Where the change stands in the store's log.")
    product_id: strawberry.ID | None
    state: DeliveryState
    next_attempt_at: datetime | None = strawberry.field(
        description="When it is sent next; null when it is over, or waits for another one about the same product."
    )
    created_at: datetime
    finished_at: datetime | None

    @strawberry.field(description="How often it was sent.")
    def attempt_count(self) -> int:
        return int(cast(Row, self).attempts)

    @strawberry.field(description="The last 20 times, oldest first.", metadata=costs(size=3))
    def attempts(self) -> list[WebhookAttempt]:
        return [
            WebhookAttempt(
                at=attempt["at"], status_code=attempt["status"], milliseconds=attempt["milliseconds"], error=attempt["error"]
            )
            for attempt in cast(Row, self).tries
        ]


@strawberry.type
class WebhookDeliveryConnection(Connection[WebhookDelivery]):
    """A page of deliveries."""


async def _resolve_deliveries(
    webhooks: Sequence[Row], info: Info, state: DeliveryState | None = None, first: First = 20, after: After = None
) -> Sequence[WebhookDeliveryConnection]:
    window, state_value, context = arguments.build_window(first, after), str(state.value) if state else None, info.context
    # Each by its own key: another field that asks for one of them meanwhile gets the same.
    page_loads = [context.load_many(loaders.load_webhook_deliveries, (row.id,), window, state_value) for row in webhooks]
    return [
        WebhookDeliveryConnection(
            page=(await pages)[0], count=partial(context.load, loaders.count_webhook_deliveries, row.id, state_value)
        )
        for row, pages in zip(webhooks, page_loads, strict=True)
    ]


@strawberry.type(description="An address that is told of what happens in a store.")
class Webhook:
    id: strawberry.ID
    config_id: strawberry.ID
    url: str
    topics: list[Topic]
    query: str | None
    read_as: WebhookReader
    position: Position = strawberry.field(description="The store's log was read up to here: what there is to tell is a delivery.")
    version: int
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = strawberry.field(description="Null when the last message was taken.")
    failures: int = strawberry.field(description="How many attempts failed since one did not.")
    resting_until: datetime | None = strawberry.field(
        description="When it is tried next while nothing gets through at all; null when all is well."
    )
    previous_until: datetime | None = strawberry.field(
        name="previousSecretUntil", description="Until when messages are signed with the secret before, too."
    )

    @strawberry.field(description="Whether it is told anything.")
    def is_enabled(self) -> bool:
        return cast(Row, self).disabled_at is None

    @strawberry.field(description="How many deliveries wait.")
    async def pending(self, info: Info) -> int:
        return await info.context.load(loaders.count_pending_deliveries, str(self.id))

    deliveries: WebhookDeliveryConnection = batch_field(
        _resolve_deliveries, description="What it was told and is to be told, newest first."
    )
