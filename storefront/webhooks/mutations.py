"""Mutation fields of webhooks, and testWebhook."""

from collections.abc import Mapping
from functools import partial
from typing import cast

import strawberry

from storefront.core.ids import parse_id
from storefront.graph.context import Info
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ClientMutationInput,
    MutationInput,
    MutationPayload,
    ReplayablePayload,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.scalars import Position
from storefront.models.rows import WebhookRow
from storefront.queries import webhooks
from storefront.webhooks import commands
from storefront.webhooks.commands import FieldProblems
from storefront.webhooks.ping import send_test
from storefront.webhooks.rendering import find_document_problem
from storefront.webhooks.topics import Topic
from storefront.webhooks.types import Webhook, WebhookDelivery, WebhookReader

URL_DESCRIPTION = "An https:// URL whose host resolves to public addresses only, with port 443, 80 or at least 1024."
QUERY_DESCRIPTION = (
    "A query whose result is sent as `data`. It may have the variables $configId: ID!, $productId: ID!, $position: Position! and "
    "$changedFields: [String!]!. With $productId: ID! it is executed only for changes of products; `data` is null for others. "
    "Without a query messages have only the fields that describe the change."
)


@strawberry.input
class CreateWebhookInput(MutationInput):
    config_id: strawberry.ID
    url: str = strawberry.field(description=URL_DESCRIPTION)
    topics: list[Topic] = strawberry.field(metadata=limits(items=len(Topic)))
    query: str | None = strawberry.field(default=None, description=QUERY_DESCRIPTION)
    read_as: WebhookReader = strawberry.field(
        default=WebhookReader.SHOPPER, description="OWNER to include data that is not published."
    )


@strawberry.input(description="Fields that are left out stay as they are; null empties `query`.")
class UpdateWebhookInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    url: str | None = strawberry.field(default=strawberry.UNSET, description=URL_DESCRIPTION)
    topics: list[Topic] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=len(Topic)))
    query: str | None = strawberry.field(default=strawberry.UNSET, description=QUERY_DESCRIPTION)
    read_as: WebhookReader | None = strawberry.UNSET
    is_enabled: bool | None = strawberry.field(
        default=strawberry.UNSET, description="False: no messages are sent. True: delivery resumes from where it stopped."
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
    after: Position = strawberry.field(description="Changes after this position in the log are sent again.")


@strawberry.input
class ResendWebhookDeliveryInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="The id of a delivery.")


@strawberry.input
class TestWebhookInput(ClientMutationInput):
    id: strawberry.ID
    product_id: strawberry.ID | None = strawberry.field(
        default=None, description="What to fill the document in with: the store's newest product unless given."
    )


@strawberry.type
class CreateWebhookPayload(ReplayablePayload):
    webhook: Webhook | None
    secret: str | None = strawberry.field(
        description="The secret that messages are signed with: whsec_…. It is returned only here: store it."
    )


@strawberry.type
class UpdateWebhookPayload(ReplayablePayload):
    webhook: Webhook | None


@strawberry.type
class RotateWebhookSecretPayload(ReplayablePayload):
    webhook: Webhook | None
    secret: str | None = strawberry.field(description="The new secret. It is returned only here: store it.")


@strawberry.type
class DeleteWebhookPayload(ReplayablePayload):
    deleted_id: strawberry.ID | None


@strawberry.type
class ReplayWebhookPayload(ReplayablePayload):
    webhook: Webhook | None


@strawberry.type
class ResendWebhookDeliveryPayload(ReplayablePayload):
    delivery: WebhookDelivery | None


@strawberry.type
class TestWebhookPayload(MutationPayload):
    delivery: WebhookDelivery | None = strawberry.field(description="The result of the test.")
    body: str | None = strawberry.field(description="The body that was sent.")


@strawberry.type
class WebhookMutation:
    @strawberry.mutation(description="Create a webhook for a store that the viewer owns. It receives changes from now on.")
    async def create_webhook(self, info: Info, input: CreateWebhookInput) -> CreateWebhookPayload | None:
        problems: FieldProblems = ()
        # DNS lookups are done for owners of the store only.
        if parse_id(input.config_id) in info.context.require_viewer().owned_store_ids:
            problems = await _find_problems(info, input.url, input.query)
        result = await mutate(info, input, partial(commands.create_webhook, vault=info.context.vault, problems=problems))
        webhook = result.rows[0] if result.rows else None
        return build_payload(CreateWebhookPayload, result, input, webhook=webhook, secret=_decrypt_secret(info, webhook))

    @strawberry.mutation
    async def update_webhook(self, info: Info, input: UpdateWebhookInput) -> UpdateWebhookPayload | None:
        problems = (
            await _find_problems(info, input.url or None, input.query or None) if await _is_own_webhook(info, input.id) else ()
        )
        command = partial(commands.update_webhook, problems=problems)
        return await mutation_payload(info, input, command, UpdateWebhookPayload, "webhook")

    @strawberry.mutation(description="Rotate the secret. For a day messages are also signed with the previous secret.")
    async def rotate_webhook_secret(self, info: Info, input: RotateWebhookSecretInput) -> RotateWebhookSecretPayload | None:
        result = await mutate(info, input, partial(commands.rotate_webhook_secret, vault=info.context.vault))
        webhook = result.rows[0] if result.rows else None
        return build_payload(RotateWebhookSecretPayload, result, input, webhook=webhook, secret=_decrypt_secret(info, webhook))

    @strawberry.mutation(description="Delete a webhook with all of its deliveries.")
    async def delete_webhook(self, info: Info, input: DeleteWebhookInput) -> DeleteWebhookPayload | None:
        return await deletion_payload(info, input, commands.delete_webhook, DeleteWebhookPayload)

    @strawberry.mutation(description="Replay: send the changes after a position in the log again, as new messages.")
    async def replay_webhook(self, info: Info, input: ReplayWebhookInput) -> ReplayWebhookPayload | None:
        return await mutation_payload(info, input, commands.replay_webhook, ReplayWebhookPayload, "webhook")

    @strawberry.mutation(description="Resend a message without waiting for its next attempt. The order per product is kept.")
    async def resend_webhook_delivery(self, info: Info, input: ResendWebhookDeliveryInput) -> ResendWebhookDeliveryPayload | None:
        return await mutation_payload(info, input, commands.resend_webhook_delivery, ResendWebhookDeliveryPayload, "delivery")

    @strawberry.mutation(description="Send a message of the type webhook.test, and wait for the response.")
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
    key = parse_id(webhook_id)
    owned_store_ids = [*info.context.require_viewer().owned_store_ids]
    return key is not None and await webhooks.load_own_webhook(info.context.database, key, owned_store_ids) is not None
