"""Fields that write webhooks, and the one that tries them."""

from collections.abc import Mapping
from functools import partial
from typing import cast

import strawberry

from storefront.core.db.database import Row
from storefront.core.ids import parse_id
from storefront.graph.context import Info
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    DeletePayload,
    MutationInput,
    Payload,
    common_payload_fields,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.scalars import Position
from storefront.queries import webhooks
from storefront.webhooks import commands
from storefront.webhooks.commands import FieldProblems
from storefront.webhooks.ping import send_test
from storefront.webhooks.rendering import find_document_problem
from storefront.webhooks.topics import Topic
from storefront.webhooks.types import Webhook, WebhookDelivery, WebhookReader

URL_DESCRIPTION = "https:// with a host that leads to public addresses only, port 443, 80 or from 1024 on."
QUERY_DESCRIPTION = (
    "A query: what it selects is sent as `data`. It may have the variables $configId: ID!, $productId: ID!, $position: Position! "
    "and $changedFields: [String!]!. One with $productId: ID! is executed for what is about a product, and data is null for the "
    "rest. Without a query messages say what happened, and no more."
)


@strawberry.input
class CreateWebhookInput(MutationInput):
    config_id: strawberry.ID
    url: str = strawberry.field(description=URL_DESCRIPTION)
    topics: list[Topic] = strawberry.field(metadata=limits(items=len(Topic)))
    query: str | None = strawberry.field(default=None, description=QUERY_DESCRIPTION)
    read_as: WebhookReader = strawberry.field(default=WebhookReader.SHOPPER, description="OWNER for what shoppers do not see.")


@strawberry.input(description="Fields that are left out stay as they are; null empties `query`.")
class UpdateWebhookInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    url: str | None = strawberry.field(default=strawberry.UNSET, description=URL_DESCRIPTION)
    topics: list[Topic] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=len(Topic)))
    query: str | None = strawberry.field(default=strawberry.UNSET, description=QUERY_DESCRIPTION)
    read_as: WebhookReader | None = strawberry.UNSET
    is_enabled: bool | None = strawberry.field(
        default=strawberry.UNSET, description="False: nothing is sent. True: it goes on where it was."
    )


@strawberry.input
class RotateWebhookSecretInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input
class DeleteWebhookInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


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
        problems: FieldProblems = ()
        # Names are looked up for owners only.
        if parse_id(input.config_id) in info.context.require_viewer().owned_store_ids:
            problems = await _find_problems(info, input.url, input.query)
        result = await mutate(info, input, partial(commands.create_webhook, vault=info.context.vault, problems=problems))
        webhook = result.rows[0] if result.rows else None
        return CreateWebhookPayload(
            webhook=webhook, secret=_decrypt_secret(info, webhook), **common_payload_fields(result, input)
        )

    @strawberry.mutation
    async def update_webhook(self, info: Info, input: UpdateWebhookInput) -> UpdateWebhookPayload:
        problems = (
            await _find_problems(info, input.url or None, input.query or None) if await _is_own_webhook(info, input.id) else ()
        )
        command = partial(commands.update_webhook, problems=problems)
        return await mutation_payload(info, input, command, UpdateWebhookPayload, "webhook")

    @strawberry.mutation(description="A new secret. For a day messages are signed with the one before as well.")
    async def rotate_webhook_secret(self, info: Info, input: RotateWebhookSecretInput) -> RotateWebhookSecretPayload:
        result = await mutate(info, input, partial(commands.rotate_webhook_secret, vault=info.context.vault))
        webhook = result.rows[0] if result.rows else None
        return RotateWebhookSecretPayload(
            webhook=webhook, secret=_decrypt_secret(info, webhook), **common_payload_fields(result, input)
        )

    @strawberry.mutation(description="With all that it was told, and was to be told.")
    async def delete_webhook(self, info: Info, input: DeleteWebhookInput) -> DeleteWebhookPayload:
        return await deletion_payload(info, input, commands.delete_webhook, DeleteWebhookPayload)

    @strawberry.mutation(description="Tell all that stands in the log behind a position once more, in new messages.")
    async def replay_webhook(self, info: Info, input: ReplayWebhookInput) -> ReplayWebhookPayload:
        return await mutation_payload(info, input, commands.replay_webhook, ReplayWebhookPayload, "webhook")

    @strawberry.mutation(description="Send a message once more, as soon as it is its turn.")
    async def resend_webhook_delivery(self, info: Info, input: ResendWebhookDeliveryInput) -> ResendWebhookDeliveryPayload:
        return await mutation_payload(info, input, commands.resend_webhook_delivery, ResendWebhookDeliveryPayload, "delivery")

    @strawberry.mutation(description="Send a message of the type webhook.test, and wait for what comes of it.")
    async def test_webhook(self, info: Info, input: TestWebhookInput) -> TestWebhookPayload:
        result = await mutate(info, input, commands.claim_test)
        hook = result.rows[0] if result.rows else None
        if hook is None or result.is_replayed:
            # Under the same key it was tested before.
            last = await webhooks.load_last_test(info.context.database, hook.id) if hook else None
            return TestWebhookPayload(
                delivery=cast(WebhookDelivery | None, last), body=None, **common_payload_fields(result, input)
            )
        delivery, body = await send_test(info.context, hook, parse_id(input.product_id or ""))
        return TestWebhookPayload(delivery=cast(WebhookDelivery, delivery), body=body, **common_payload_fields(result, input))


def _decrypt_secret(info: Info, webhook: Row | None) -> str | None:
    return info.context.vault.decrypt(webhook.secret) if webhook else None


async def _find_problems(info: Info, url: str | None, query: str | None) -> FieldProblems:
    outbound = info.context.require_outbound()
    is_query_checked = query and len(query) <= commands.MAX_QUERY_LENGTH
    problems: Mapping[str, str | None] = {
        "url": await outbound.http_client.find_target_problem(url, info.context.require_viewer().id) if url else None,
        "query": await find_document_problem(outbound.operations, query or "") if is_query_checked else None,
    }
    return [(name, problem) for name, problem in problems.items() if problem]


async def _is_own_webhook(info: Info, webhook_id: str) -> bool:
    key = parse_id(webhook_id)
    owned_store_ids = [*info.context.require_viewer().owned_store_ids]
    return key is not None and await webhooks.load_own_webhook(info.context.database, key, owned_store_ids) is not None
