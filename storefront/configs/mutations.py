"""Mutations of stores: inputs, payloads and fields."""

from dataclasses import asdict
from functools import partial

import strawberry

from storefront.configs import commands
from storefront.configs.integration_checks import check_integration
from storefront.graph.context import Info
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    ClientMutationInput,
    MutationInput,
    MutationPayload,
    ReplayablePayload,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.types.catalogue import Config
from storefront.graph.types.store_settings import HeaderStyle, IntegrationKind, StripeMode
from storefront.writes.custom_css import prevalidate_stylesheet


@strawberry.input
class ThemeInput:
    primary_color: str = strawberry.field(description="A CSS colour.")
    secondary_color: str = strawberry.field(description="A CSS colour.")
    font_family: str
    custom_css: str | None = strawberry.field(
        default=strawberry.UNSET,
        name="customCSS",
        description="CSS with allow-listed rules and functions that loads no URLs but data:image/, at most 50,000 characters.",
    )


@strawberry.input
class LayoutInput:
    header_style: HeaderStyle
    grid_columns: int = strawberry.field(description="2, 3 or 4.")
    show_prices: bool
    show_descriptions: bool


@strawberry.input(description="A Shopify shop to connect.")
class ShopifyIntegrationInput:
    domain: str = strawberry.field(description='Domain of the shop: "example.myshopify.com".')
    access_token: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Admin API access token; stored encrypted, never returned. Omit to keep the stored token; null removes it.",
    )


@strawberry.input(description="A Stripe account to connect.")
class StripeIntegrationInput:
    publishable_key: str = strawberry.field(description="Publishable key: pk_live_… or pk_test_…. Secret keys are refused.")


@strawberry.input(description="A Google Analytics property to connect.")
class GoogleAnalyticsIntegrationInput:
    google_analytics_id: str = strawberry.field(description="Measurement ID: G-….")


@strawberry.input(description="Connected services. Omitted services stay as they are; null disconnects one.")
class IntegrationsInput:
    shopify: ShopifyIntegrationInput | None = strawberry.field(
        default=strawberry.UNSET, description="Shopify shop to import from."
    )
    stripe: StripeIntegrationInput | None = strawberry.field(default=strawberry.UNSET, description="Stripe account for payments.")
    analytics: GoogleAnalyticsIntegrationInput | None = strawberry.field(
        default=strawberry.UNSET, description="Google Analytics property."
    )


@strawberry.input
class CreateConfigInput(MutationInput):
    store_name: str
    slug: str = strawberry.field(description="Name in URLs: lower-case letters, digits and hyphens.")
    description: str | None = strawberry.UNSET
    currency: str = strawberry.field(default="USD", description="ISO 4217.")
    theme: ThemeInput | None = strawberry.UNSET
    layout: LayoutInput | None = strawberry.UNSET
    integrations: IntegrationsInput | None = strawberry.UNSET
    is_published: bool = False


@strawberry.input(description="Fields that are left out stay unchanged; null clears nullable ones.")
class UpdateConfigInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    store_name: str | None = strawberry.UNSET
    slug: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    currency: str | None = strawberry.UNSET
    theme: ThemeInput | None = strawberry.UNSET
    layout: LayoutInput | None = strawberry.UNSET
    integrations: IntegrationsInput | None = strawberry.UNSET


@strawberry.input
class PublishConfigInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    is_published: bool = strawberry.field(default=True, description="False unpublishes the store.")


@strawberry.input
class DeleteConfigInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input
class TestIntegrationInput(ClientMutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    integration: IntegrationKind = strawberry.field(description="The service to test.")


@strawberry.type
class CreateConfigPayload(ChangePayload):
    config: Config | None


@strawberry.type
class UpdateConfigPayload(ChangePayload):
    config: Config | None


@strawberry.type
class PublishConfigPayload(ChangePayload):
    config: Config | None


@strawberry.type
class DeleteConfigPayload(ReplayablePayload):
    deleted_id: strawberry.ID | None


@strawberry.type(description="Result of testing the connection to a service.")
class IntegrationTestResult:
    integration: IntegrationKind = strawberry.field(description="The service that was tested.")
    is_working: bool = strawberry.field(description="Whether the connection works.")
    message: str = strawberry.field(
        description="Human-readable: what the store is connected to, or what is wrong and how to correct it."
    )
    path: list[str] = strawberry.field(
        description='The setting to correct: ["integrations", "shopify", "accessToken"]. Empty if the connection works.'
    )
    shop_name: str | None = strawberry.field(description="Name of the Shopify shop; null for other services.")
    mode: StripeMode | None = strawberry.field(description="Mode of the Stripe key; null for other services.")


@strawberry.type
class TestIntegrationPayload(MutationPayload):
    result: IntegrationTestResult | None = strawberry.field(description="Result of the test.")


@strawberry.type
class ConfigMutation:
    @strawberry.mutation(description="Create a store, which the viewer owns. It is unpublished by default.")
    async def create_config(self, info: Info, input: CreateConfigInput) -> CreateConfigPayload | None:
        await _prevalidate_custom_css(info, input.theme)
        command = partial(commands.create_config, vault=info.context.vault)
        payload = await mutation_payload(info, input, command, CreateConfigPayload, "config")
        if payload.config:
            info.context.add_owned_store(payload.config.id)
        return payload

    @strawberry.mutation
    async def update_config(self, info: Info, input: UpdateConfigInput) -> UpdateConfigPayload | None:
        await _prevalidate_custom_css(info, input.theme)
        command = partial(commands.update_config, vault=info.context.vault)
        return await mutation_payload(info, input, command, UpdateConfigPayload, "config")

    @strawberry.mutation(description="Publish or unpublish a store.")
    async def publish_config(self, info: Info, input: PublishConfigInput) -> PublishConfigPayload | None:
        return await mutation_payload(info, input, commands.publish_config, PublishConfigPayload, "config")

    @strawberry.mutation(
        description="Tests a connected service. Shopify is asked with the stored token; Stripe and Google Analytics keys are "
        "checked for their form."
    )
    async def test_integration(self, info: Info, input: TestIntegrationInput) -> TestIntegrationPayload | None:
        mutation_result = await mutate(info, input, commands.claim_check)
        store = mutation_result.rows[0] if mutation_result.rows else None
        connect_shop = info.context.require_outbound().connect_shop
        integration_check = (
            await check_integration(input.integration, store.integrations, info.context.vault, connect_shop) if store else None
        )
        result = (
            IntegrationTestResult(
                **asdict(integration_check) | {"integration": input.integration, "path": list(integration_check.path)}
            )
            if integration_check
            else None
        )
        return build_payload(TestIntegrationPayload, mutation_result, input, result=result)

    @strawberry.mutation(description="Delete a store with its products, reviews, events and log.")
    async def delete_config(self, info: Info, input: DeleteConfigInput) -> DeleteConfigPayload | None:
        return await deletion_payload(info, input, commands.delete_config, DeleteConfigPayload)


async def _prevalidate_custom_css(info: Info, theme: ThemeInput | None) -> None:
    # Before the transaction begins, so that no connection is held during the validation.
    info.context.require_viewer()
    if theme and theme.custom_css:
        await prevalidate_stylesheet(theme.custom_css.strip())
