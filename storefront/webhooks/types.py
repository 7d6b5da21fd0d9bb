"""GraphQL types of webhooks and their deliveries. The secret is returned only when it is created or rotated."""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from functools import partial

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.pagination import After, Connection, First
from storefront.graph.rows import as_row
from storefront.graph.scalars import Position
from storefront.models.rows import DeliveryRow, WebhookRow
from storefront.webhooks.topics import Topic

strawberry.enum(
    Topic,
    name="WebhookTopic",
    description="An event. It is the `type` of messages, in another spelling: PRODUCT_CREATED is product.created.",
)


@strawberry.enum(description="The viewer that a webhook's query is executed as, and whose view of the log it gets.")
class WebhookReader(Enum):
    SHOPPER = strawberry.enum_value("shopper", description="An anonymous shopper: published data only.")
    OWNER = strawberry.enum_value("owner", description="The owner of the store, with access to this store only.")


@strawberry.enum(name="WebhookDeliveryStatus")
class DeliveryState(Enum):
    PENDING = strawberry.enum_value("pending", description="Waits to be sent, or to be retried.")
    DELIVERED = strawberry.enum_value("delivered", description="The endpoint responded with a status from 200 to 299.")
    FAILED = strawberry.enum_value("failed", description="Dead letter: all attempts have failed. It can be resent.")


@strawberry.type(description="An attempt to send a message.")
class WebhookAttempt:
    at: datetime
    status_code: int | None = strawberry.field(description="Status code of the response; null if there was none.")
    milliseconds: int
    error: str | None = strawberry.field(description="Why the attempt failed; null if it succeeded.")


@strawberry.type(description="A message to a webhook. Messages about one product are sent in order, one at a time.")
class WebhookDelivery:
    id: strawberry.ID = strawberry.field(description="The webhook-id of the message, the same at each attempt.")
    webhook_id: strawberry.ID
    type: str = strawberry.field(description="The type of the message, such as product.updated.")
    position: Position = strawberry.field(description="Position of the change in the store's log.")
    product_id: strawberry.ID | None
    state: DeliveryState
    next_attempt_at: datetime | None = strawberry.field(
        description="When the next attempt is due; null if finished, or while an earlier message about the product is pending."
    )
    created_at: datetime
    finished_at: datetime | None

    @strawberry.field(description="Number of attempts.")
    def attempt_count(self) -> int:
        return int(as_row(self, DeliveryRow).attempts)

    @strawberry.field(description="The last 20 attempts, oldest first.", metadata=costs(size=3))
    def attempts(self) -> list[WebhookAttempt]:
        return [
            WebhookAttempt(
                at=attempt["at"], status_code=attempt["status"], milliseconds=attempt["milliseconds"], error=attempt["error"]
            )
            for attempt in as_row(self, DeliveryRow).tries
        ]


@strawberry.type
class WebhookDeliveryConnection(Connection[WebhookDelivery]):
    """A page of deliveries."""


async def _resolve_deliveries(
    webhooks: Sequence[WebhookRow], info: Info, state: DeliveryState | None = None, first: First = 20, after: After = None
) -> Sequence[WebhookDeliveryConnection]:
    window, state_value, context = arguments.build_window(first, after), str(state.value) if state else None, info.context
    # A key per webhook, so that the loader shares results with other fields that load the same page.
    page_loads = [context.load_many(loaders.load_webhook_deliveries, (row.id,), window, state_value) for row in webhooks]
    return [
        WebhookDeliveryConnection(
            page=(await pages)[0], count=partial(context.load, loaders.count_webhook_deliveries, row.id, state_value)
        )
        for row, pages in zip(webhooks, page_loads, strict=True)
    ]


@strawberry.type(description="A URL that receives a message for each change in a store.")
class Webhook:
    id: strawberry.ID
    config_id: strawberry.ID
    url: str
    topics: list[Topic]
    query: str | None
    read_as: WebhookReader
    position: Position = strawberry.field(
        description="Changes in the store's log up to this position have been turned into deliveries."
    )
    version: int
    created_at: datetime
    updated_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    failing_since: datetime | None = strawberry.field(
        description="Time of the first failure since the last success; null if the last attempt succeeded."
    )
    failures: int = strawberry.field(description="Failed attempts since the last success.")
    resting_until: datetime | None = strawberry.field(
        description="While the webhook is down: when the next attempt is due. Else null."
    )
    previous_until: datetime | None = strawberry.field(
        name="previousSecretUntil", description="Until then messages are also signed with the previous secret."
    )

    @strawberry.field(description="Whether messages are sent.")
    def is_enabled(self) -> bool:
        return as_row(self, WebhookRow).disabled_at is None

    @strawberry.field(description="Number of pending deliveries.")
    async def pending(self, info: Info) -> int:
        return await info.context.load(loaders.count_pending_deliveries, str(self.id))

    deliveries: WebhookDeliveryConnection = batch_field(
        _resolve_deliveries, description="Finished and pending deliveries, newest first."
    )
