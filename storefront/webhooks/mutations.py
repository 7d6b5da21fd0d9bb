"""Fields that write webhooks, and the one that tries them."""

from collections.abc import Mapping
from functools import partial
from typing import cast

import strawberry

from storefront.core.db.database import Row
from storefront.core.ids import parse_id
from storefront.graph.context import Info
from storefront.graph.limits import limits
from storefront.graph.mutations import EXPECTED, DeletePayload, MutationInput, Payload, common, deleted, mutate, paid
from storefront.graph.scalars import Position
from storefront.queries import webhooks
from storefront.webhooks import commands
from storefront.webhooks.commands import Faults
from storefront.webhooks.ping import tested
from storefront.webhooks.rendering import document_fault
from storefront.webhooks.topics import Topic
from storefront.webhooks.types import Webhook, WebhookDelivery, WebhookReader

URL = "https:// with a host that leads to public addresses only, port 443, 80 or from 1024 on."
QUERY = (
    "A query: what it selects is sent as `data`. It may have the variables $configId: ID!, $productId: ID!, $position: Position! "
    "and $changedFields: [String!]!. One with $productId: ID! is executed for what is about a product, and data is null for the "
    "rest. Without a query messages say what happened, and no more."
)


@strawberry.input
class CreateWebhookInput(MutationInput):
    config_id: strawberry.ID
    url: str = strawberry.field(description=URL)
    topics: list[Topic] = strawberry.field(metadata=limits(items=len(Topic)))
    query: str | None = strawberry.field(default=None, description=QUERY)
    read_as: WebhookReader = strawberry.field(default=WebhookReader.SHOPPER, description="OWNER for what shoppers do not see.")


@strawberry.input(description="Fields that are left out stay as they are; null empties `query`.")
class UpdateWebhookInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)
    url: str | None = strawberry.field(default=strawberry.UNSET, description=URL)
    topics: list[Topic] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=len(Topic)))
    query: str | None = strawberry.field(default=strawberry.UNSET, description=QUERY)
    read_as: WebhookReader | None = strawberry.UNSET
    is_enabled: bool | None = strawberry.field(
        default=strawberry.UNSET, description="False: nothing is sent. True: it goes on where it was."
    )


@strawberry.input
class RotateWebhookSecretInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)


@strawberry.input
class DeleteWebhookInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)


@strawberry.input
class ReplayWebhookInput(MutationInput):
    id: strawberry.ID
    after: Position = strawberry.field(description="All that stands in the log behind this position is told once more.")


@strawberry.input
class ResendWebhookDeliveryInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="Of a delivery.")


@strawberry.input
class TestWebhookInput(MutationInput):
    id: strawberry.ID
    product_id: strawberry.ID | None = strawberry.field(
        default=None, description="What to fill the document in with: the store's newest product unless given."
    )


@strawberry.type
class CreateWebhookPayload(Payload):
    webhook: Webhook | None
    secret: str | None = strawberry.field(description="What messages are signed with: whsec_…. It is told here alone: keep it.")


@strawberry.type
class UpdateWebhookPayload(Payload):
    webhook: Webhook | None


@strawberry.type
class RotateWebhookSecretPayload(Payload):
    webhook: Webhook | None
    secret: str | None = strawberry.field(description="The new one. It is told here alone: keep it.")


@strawberry.type
class DeleteWebhookPayload(DeletePayload):
    pass


@strawberry.type
class ReplayWebhookPayload(Payload):
    webhook: Webhook | None


@strawberry.type
class ResendWebhookDeliveryPayload(Payload):
    delivery: WebhookDelivery | None


@strawberry.type
class TestWebhookPayload(Payload):
    delivery: WebhookDelivery | None = strawberry.field(description="What came of it.")
    body: str | None = strawberry.field(description="What was sent.")


@strawberry.type
class WebhookMutation:
    @strawberry.mutation(description="Have an address told of what happens in a store of one's own, from now on.")
    async def create_webhook(self, info: Info, input: CreateWebhookInput) -> CreateWebhookPayload:
        faults: Faults = ()
        # Names are looked up for owners only.
        if parse_id(input.config_id) in info.context.signed_in().owned:
            faults = await _faults(info, input.url, input.query)
        outcome = await mutate(info, input, partial(commands.create_webhook, vault=info.context.vault, faults=faults))
        webhook = outcome.rows[0] if outcome.rows else None
        return CreateWebhookPayload(webhook=webhook, secret=_secret(info, webhook), **common(outcome, input))

    @strawberry.mutation
    async def update_webhook(self, info: Info, input: UpdateWebhookInput) -> UpdateWebhookPayload:
        faults = await _faults(info, input.url or None, input.query or None) if await _owns(info, input.id) else ()
        command = partial(commands.update_webhook, faults=faults)
        return await paid(info, input, command, UpdateWebhookPayload, "webhook")

    @strawberry.mutation(description="A new secret. For a day messages are signed with the one before as well.")
    async def rotate_webhook_secret(self, info: Info, input: RotateWebhookSecretInput) -> RotateWebhookSecretPayload:
        outcome = await mutate(info, input, partial(commands.rotate_webhook_secret, vault=info.context.vault))
        webhook = outcome.rows[0] if outcome.rows else None
        return RotateWebhookSecretPayload(webhook=webhook, secret=_secret(info, webhook), **common(outcome, input))

    @strawberry.mutation(description="With all that it was told, and was to be told.")
    async def delete_webhook(self, info: Info, input: DeleteWebhookInput) -> DeleteWebhookPayload:
        return await deleted(info, input, commands.delete_webhook, DeleteWebhookPayload)

    @strawberry.mutation(description="Tell all that stands in the log behind a position once more, in new messages.")
    async def replay_webhook(self, info: Info, input: ReplayWebhookInput) -> ReplayWebhookPayload:
        return await paid(info, input, commands.replay_webhook, ReplayWebhookPayload, "webhook")

    @strawberry.mutation(description="Send a message once more, as soon as it is its turn.")
    async def resend_webhook_delivery(self, info: Info, input: ResendWebhookDeliveryInput) -> ResendWebhookDeliveryPayload:
        return await paid(info, input, commands.resend_webhook_delivery, ResendWebhookDeliveryPayload, "delivery")

    @strawberry.mutation(description="Send a message of the type webhook.test, and wait for what comes of it.")
    async def test_webhook(self, info: Info, input: TestWebhookInput) -> TestWebhookPayload:
        outcome = await mutate(info, input, commands.claim_test)
        hook = outcome.rows[0] if outcome.rows else None
        if hook is None or outcome.replayed:
            # Under the same key it was tested before.
            last = await webhooks.last_test(info.context.database, hook.id) if hook else None
            return TestWebhookPayload(delivery=cast(WebhookDelivery | None, last), body=None, **common(outcome, input))
        delivery, body = await tested(info.context, hook, parse_id(input.product_id or ""))
        return TestWebhookPayload(delivery=cast(WebhookDelivery, delivery), body=body, **common(outcome, input))


def _secret(info: Info, webhook: Row | None) -> str | None:
    return info.context.vault.decrypt(webhook.secret) if webhook else None


async def _faults(info: Info, url: str | None, query: str | None) -> Faults:
    outside = info.context.way_out()
    is_read = query and len(query) <= commands.LONGEST_QUERY
    found: Mapping[str, str | None] = {
        "url": await outside.outgoing.fault(url, info.context.signed_in().id) if url else None,
        "query": await document_fault(outside.operations, query or "") if is_read else None,
    }
    return [(name, problem) for name, problem in found.items() if problem]


async def _owns(info: Info, webhook_id: str) -> bool:
    key = parse_id(webhook_id)
    owned = [*info.context.signed_in().owned]
    return key is not None and await webhooks.own(info.context.database, key, owned) is not None
