"""Mutation fields of webhooks, and testWebhook."""

from collections.abc import Mapping
from functools import partial
from typing import cast

import strawberry

from storefront.core.ids import parse_id
from storefront.graph import loaders
from storefront.graph.context import Info
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ClientMutationInput,
    MutationInput,
    MutationPayload,
    ReplayablePayload,
    VersionedUpdateInput,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.scalars import Position
from storefront.graph.types.webhooks import Webhook, WebhookDelivery, WebhookReader, WebhookTopic
from storefront.models.rows import WebhookRow
from storefront.webhooks import commands
from storefront.webhooks.commands import FieldProblems
from storefront.webhooks.ping import send_test
from storefront.webhooks.rendering import find_document_problem

WEBHOOK_ID_DESCRIPTION = "ID of the webhook."
URL_DESCRIPTION = "URL to send messages to. HTTPS, a public address, and port 443, 80 or 1024 and above."
TOPICS_DESCRIPTION = "Topics to send messages for."
QUERY_DESCRIPTION = (
    "GraphQL query whose result is sent as `data`. Available variables: $configId: ID!, $productId: ID!, $position: Position!, "
    "$changedFields: [String!]!. A query that uses $productId runs only for messages about a product."
)
READER_DESCRIPTION = "Whose permissions `query` runs with, and whose events are sent."
STORE_IT = "Store it: it is not returned by any other field."


@strawberry.input
class CreateWebhookInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    url: str = strawberry.field(description=URL_DESCRIPTION)
    topics: list[WebhookTopic] = strawberry.field(description=TOPICS_DESCRIPTION, metadata=limits(items=len(WebhookTopic)))
    query: str | None = strawberry.field(default=None, description=QUERY_DESCRIPTION)
    read_as: WebhookReader = strawberry.field(default=WebhookReader.SHOPPER, description=READER_DESCRIPTION)


@strawberry.input(description="Input of `updateWebhook`. Omitted fields stay as they are; null clears `query`.")
class UpdateWebhookInput(VersionedUpdateInput, MutationInput):
    id: strawberry.ID = strawberry.field(description=WEBHOOK_ID_DESCRIPTION)
    url: str | None = strawberry.field(default=strawberry.UNSET, description=URL_DESCRIPTION)
    topics: list[WebhookTopic] | None = strawberry.field(
        default=strawberry.UNSET, description=TOPICS_DESCRIPTION, metadata=limits(items=len(WebhookTopic))
    )
    query: str | None = strawberry.field(
        default=strawberry.UNSET, description="GraphQL query whose result is sent as `data`. See `CreateWebhookInput.query`."
    )
    read_as: WebhookReader | None = strawberry.field(default=strawberry.UNSET, description=READER_DESCRIPTION)
    is_enabled: bool | None = strawberry.field(
        default=strawberry.UNSET,
        description="Whether messages are sent. When it is enabled again, a webhook continues where it stopped.",
    )


@strawberry.input
class RotateWebhookSecretInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=WEBHOOK_ID_DESCRIPTION)
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input
class DeleteWebhookInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=WEBHOOK_ID_DESCRIPTION)
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input
class ReplayWebhookInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=WEBHOOK_ID_DESCRIPTION)
    after: Position = strawberry.field(description="Sends the changes after this position again.")


@strawberry.input
class ResendWebhookDeliveryInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the delivery.")


@strawberry.input
class TestWebhookInput(ClientMutationInput):
    id: strawberry.ID = strawberry.field(description=WEBHOOK_ID_DESCRIPTION)
    product_id: strawberry.ID | None = strawberry.field(
        default=None, description="Product to run the webhook's query for; the newest one if omitted."
    )


@strawberry.type
class CreateWebhookPayload(ReplayablePayload):
    webhook: Webhook | None = strawberry.field(description="The webhook.")
    secret: str | None = strawberry.field(description=f"Signing secret: whsec_…. {STORE_IT}")


@strawberry.type
class UpdateWebhookPayload(ReplayablePayload):
    webhook: Webhook | None = strawberry.field(description="The webhook.")


@strawberry.type
class RotateWebhookSecretPayload(ReplayablePayload):
    webhook: Webhook | None = strawberry.field(description="The webhook.")
    secret: str | None = strawberry.field(description=f"New signing secret: whsec_…. {STORE_IT}")


@strawberry.type
class DeleteWebhookPayload(ReplayablePayload):
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the webhook; null if it was not deleted.")


@strawberry.type
class ReplayWebhookPayload(ReplayablePayload):
    webhook: Webhook | None = strawberry.field(description="The webhook.")


@strawberry.type
class ResendWebhookDeliveryPayload(ReplayablePayload):
    delivery: WebhookDelivery | None = strawberry.field(description="The delivery.")


@strawberry.type
class TestWebhookPayload(MutationPayload):
    delivery: WebhookDelivery | None = strawberry.field(description="The delivery, with its result.")
    body: str | None = strawberry.field(description="Body of the message.")


@strawberry.type
class WebhookMutation:
    @strawberry.mutation(description="Creates a webhook, which reports changes from now on.")
    async def create_webhook(self, info: Info, input: CreateWebhookInput) -> CreateWebhookPayload | None:
        problems: FieldProblems = ()
        # DNS lookups are done for owners of the store only.
        if parse_id(input.config_id) in info.context.require_viewer().owned_store_ids:
            problems = await _find_problems(info, input.url, input.query)
        result = await mutate(info, input, partial(commands.create_webhook, vault=info.context.vault, problems=problems))
        webhook = result.rows[0] if result.rows else None
        return build_payload(CreateWebhookPayload, result, input, webhook=webhook, secret=_decrypt_secret(info, webhook))

    @strawberry.mutation(description="Changes, enables or disables a webhook.")
    async def update_webhook(self, info: Info, input: UpdateWebhookInput) -> UpdateWebhookPayload | None:
        problems = (
            await _find_problems(info, input.url or None, input.query or None) if await _is_own_webhook(info, input.id) else ()
        )
        command = partial(commands.update_webhook, problems=problems)
        return await mutation_payload(info, input, command, UpdateWebhookPayload, "webhook")

    @strawberry.mutation(description="Creates a new signing secret. Messages are also signed with the previous one for a day.")
    async def rotate_webhook_secret(self, info: Info, input: RotateWebhookSecretInput) -> RotateWebhookSecretPayload | None:
        result = await mutate(info, input, partial(commands.rotate_webhook_secret, vault=info.context.vault))
        webhook = result.rows[0] if result.rows else None
        return build_payload(RotateWebhookSecretPayload, result, input, webhook=webhook, secret=_decrypt_secret(info, webhook))

    @strawberry.mutation(description="Deletes a webhook with all of its deliveries, pending ones included.")
    async def delete_webhook(self, info: Info, input: DeleteWebhookInput) -> DeleteWebhookPayload | None:
        return await deletion_payload(info, input, commands.delete_webhook, DeleteWebhookPayload)

    @strawberry.mutation(description="Sends all changes after a position again, as new messages.")
    async def replay_webhook(self, info: Info, input: ReplayWebhookInput) -> ReplayWebhookPayload | None:
        return await mutation_payload(info, input, commands.replay_webhook, ReplayWebhookPayload, "webhook")

    @strawberry.mutation(description="Sends a message again, with the same ID.")
    async def resend_webhook_delivery(self, info: Info, input: ResendWebhookDeliveryInput) -> ResendWebhookDeliveryPayload | None:
        return await mutation_payload(info, input, commands.resend_webhook_delivery, ResendWebhookDeliveryPayload, "delivery")

    @strawberry.mutation(description='Sends a message of the type "webhook.test" and waits for its result.')
    async def test_webhook(self, info: Info, input: TestWebhookInput) -> TestWebhookPayload | None:
        result = await mutate(info, input, commands.claim_test)
        if not result.rows:
            return build_payload(TestWebhookPayload, result, input, delivery=None, body=None)
        delivery, body = await send_test(info.context, result.rows[0], parse_id(input.product_id or ""))
        return build_payload(TestWebhookPayload, result, input, delivery=cast(WebhookDelivery, delivery), body=body)


def _decrypt_secret(info: Info, webhook: WebhookRow | None) -> str | None:
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
    info.context.require_viewer()
    id_ = parse_id(webhook_id)
    key = await loaders.find_row_key(info.context, id_) if id_ else None
    return key is not None and await info.context.load(loaders.load_webhooks, key) is not None
