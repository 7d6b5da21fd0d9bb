"""GraphQL types of webhooks and their deliveries. The secret is returned only when it is created or rotated."""

from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.batches import build_reference_batch, load_for_owned_stores
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.pagination import After, Connection, First
from storefront.graph.rows import as_row
from storefront.graph.scalars import Position
from storefront.graph.types.node import Node
from storefront.models.row_keys import list_keys, make_key_getter
from storefront.models.rows import ConfigRow, DeliveryRow, WebhookRow

if TYPE_CHECKING:
    from storefront.graph.types.catalogue import Config


@strawberry.enum(
    description='What a webhook reports. The `type` of a message is the same in lower case: PRODUCT_CREATED is "product.created".'
)
class WebhookTopic(Enum):
    PRODUCT_CREATED = strawberry.enum_value("product.created", description="A product was created or became visible.")
    PRODUCT_UPDATED = strawberry.enum_value(
        "product.updated", description="A product, one of its variants, images or reviews was changed."
    )
    PRODUCT_DELETED = strawberry.enum_value("product.deleted", description="A product was deleted or is no longer visible.")
    CONFIG_UPDATED = strawberry.enum_value("config.updated", description="The store itself was changed.")
    CONFIG_PUBLISHED = strawberry.enum_value("config.published", description="The store was published.")
    CONFIG_UNPUBLISHED = strawberry.enum_value("config.unpublished", description="The store was unpublished.")


@strawberry.enum(description="Whose permissions the query of a webhook runs with.")
class WebhookReader(Enum):
    SHOPPER = strawberry.enum_value("shopper", description="An anonymous shopper: published data only.")
    OWNER = strawberry.enum_value("owner", description="The owner, limited to this store.")


@strawberry.enum(description="Status of a delivery.")
class WebhookDeliveryStatus(Enum):
    PENDING = strawberry.enum_value("pending", description="Waits for its first or next attempt.")
    DELIVERED = strawberry.enum_value("delivered", description="Was answered with a status from 200 to 299.")
    FAILED = strawberry.enum_value("failed", description="Was given up after the last attempt.")


@strawberry.type(description="An attempt to deliver a message.")
class WebhookAttempt:
    started_at: datetime = strawberry.field(description="When the attempt started.")
    status_code: int | None = strawberry.field(description="HTTP status of the response; null if there was none.")
    duration_ms: int = strawberry.field(description="Duration in milliseconds.")
    error: str | None = strawberry.field(description="What went wrong; null on success.")


@strawberry.type(description="A message to a webhook. Messages about the same product are sent one after the other.")
class WebhookDelivery(Node):
    id: strawberry.ID = strawberry.field(description="Globally unique. The `webhook-id` header of every attempt.")

    webhook: "Webhook" = batch_field(
        build_reference_batch(loaders.load_webhooks, make_key_getter("webhook_id"), "webhook"), description="The webhook."
    )

    type: str = strawberry.field(
        description='Type of the message: "product.updated". Besides topics, "log.reset" and "webhook.test".'
    )
    position: Position = strawberry.field(description="Log position of the change.")
    product_id: strawberry.ID | None = strawberry.field(
        description="ID of the product; null if the message is not about a product."
    )
    state: WebhookDeliveryStatus = strawberry.field(name="status", description="Status of the delivery.")
    next_attempt_at: datetime | None = strawberry.field(
        description="When the message is sent next; null if it is finished or waits for another message about the same product."
    )
    created_at: datetime = strawberry.field(description="When the delivery was created.")
    finished_at: datetime | None = strawberry.field(description="When the message was delivered or given up.")

    @strawberry.field(description="Number of attempts so far.")
    def attempt_count(self) -> int:
        return int(as_row(self, DeliveryRow).attempts)

    @strawberry.field(description="The latest 20 attempts, oldest first.", metadata=costs(size=3))
    def attempts(self) -> list[WebhookAttempt]:
        return [
            WebhookAttempt(
                started_at=attempt["at"],
                status_code=attempt["status"],
                duration_ms=attempt["milliseconds"],
                error=attempt["error"],
            )
            for attempt in as_row(self, DeliveryRow).tries
        ]


@strawberry.type(description="A page of deliveries.")
class WebhookDeliveryConnection(Connection[WebhookDelivery]):
    pass


Status = Annotated[WebhookDeliveryStatus | None, strawberry.argument(description="Limits the deliveries to one status.")]


async def _load_deliveries(
    webhooks: Sequence[WebhookRow], info: Info, status: Status = None, first: First = 20, after: After = None
) -> Sequence[WebhookDeliveryConnection]:
    window, state, context = arguments.build_window(first, after), str(status.value) if status else None, info.context
    # A key per webhook, so that the loader shares results with other fields that load the same page.
    page_loads = [context.load_many(loaders.load_webhook_deliveries, (key,), window, state) for key in list_keys(webhooks)]
    return [
        WebhookDeliveryConnection(
            page=(await pages)[0], count=partial(context.load, loaders.count_webhook_deliveries, key, state)
        )
        for key, pages in zip(list_keys(webhooks), page_loads, strict=True)
    ]


@strawberry.type(description="A subscription of a URL to the changes of a store. Owner only.")
class Webhook(Node):
    config: Annotated["Config", strawberry.lazy("storefront.graph.types.catalogue")] = batch_field(
        build_reference_batch(loaders.load_configs, attrgetter("config_id"), "store"), description="The store."
    )

    url: str = strawberry.field(description="URL that messages are sent to.")
    topics: list[WebhookTopic] = strawberry.field(description="Topics that messages are sent for.")
    query: str | None = strawberry.field(description="GraphQL query whose result is sent as `data`; null to send none.")
    read_as: WebhookReader = strawberry.field(description="Whose permissions `query` runs with, and whose events are sent.")

    @strawberry.field(description="Whether messages are sent.")
    def is_enabled(self) -> bool:
        return as_row(self, WebhookRow).disabled_at is None

    position: Position = strawberry.field(description="Log position up to which changes have been turned into deliveries.")
    version: int = strawberry.field(description="Increases by one with each change.")
    created_at: datetime = strawberry.field(description="When the webhook was created.")
    updated_at: datetime = strawberry.field(description="When the webhook was last changed.")
    disabled_at: datetime | None = strawberry.field(description="When the webhook was disabled; null while it is enabled.")
    disabled_reason: str | None = strawberry.field(description="Human-readable reason why the webhook was disabled.")
    failing_since: datetime | None = strawberry.field(
        description="When deliveries started to fail; null if the latest one succeeded."
    )
    failures: int = strawberry.field(
        name="consecutiveFailures", description="Number of failed attempts since the latest success."
    )
    resting_until: datetime | None = strawberry.field(
        name="suspendedUntil",
        description="When sending is resumed after repeated failures; null if it is not suspended.",
    )
    previous_until: datetime | None = strawberry.field(
        name="previousSecretExpiresAt",
        description="Until when messages are also signed with the previous secret; null if there is none.",
    )

    @strawberry.field(description="Number of deliveries that are pending.")
    async def pending_count(self, info: Info) -> int:
        [key] = list_keys([self])
        return await info.context.load(loaders.count_pending_deliveries, key)

    deliveries: WebhookDeliveryConnection = batch_field(_load_deliveries, description="Deliveries, newest first.")


async def load_webhooks_of_stores(stores: Sequence[ConfigRow], info: Info) -> Sequence[Sequence[WebhookRow] | None]:
    """The webhooks of each store, oldest first; None for stores of others."""
    return await load_for_owned_stores(info, stores, lambda ids: info.context.load_many(loaders.load_config_webhooks, ids))
