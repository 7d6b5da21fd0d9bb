"""Fields that write stores."""

from functools import partial

import strawberry

from storefront.configs import commands
from storefront.graph.context import Info
from storefront.graph.mutations import EXPECTED, DeletePayload, MutationInput, Payload, deleted, paid
from storefront.graph.types import Config, HeaderStyle


@strawberry.input
class ThemeInput:
    primary_color: str = strawberry.field(description="A CSS colour.")
    secondary_color: str = strawberry.field(description="A CSS colour.")
    font_family: str
    custom_css: str | None = strawberry.field(
        default=strawberry.UNSET,
        name="customCSS",
        description="CSS that loads nothing from elsewhere, at most 50,000 characters.",
    )


@strawberry.input
class LayoutInput:
    header_style: HeaderStyle
    grid_columns: int = strawberry.field(description="2, 3 or 4.")
    show_prices: bool
    show_descriptions: bool


@strawberry.input
class ShopifyIntegrationInput:
    domain: str
    access_token: str | None = strawberry.field(
        default=strawberry.UNSET, description="Written, never read. Left out, the stored one is kept; null removes it."
    )


@strawberry.input
class StripeIntegrationInput:
    publishable_key: str


@strawberry.input
class GoogleAnalyticsIntegrationInput:
    google_analytics_id: str


@strawberry.input(description="Those left out stay as they are; null removes one.")
class IntegrationsInput:
    shopify: ShopifyIntegrationInput | None = strawberry.UNSET
    stripe: StripeIntegrationInput | None = strawberry.UNSET
    analytics: GoogleAnalyticsIntegrationInput | None = strawberry.UNSET


@strawberry.input
class CreateConfigInput(MutationInput):
    store_name: str
    slug: str = strawberry.field(description="Its name in URLs: lower-case letters, digits and hyphens.")
    description: str | None = strawberry.UNSET
    currency: str = strawberry.field(default="USD", description="ISO 4217.")
    theme: ThemeInput | None = strawberry.UNSET
    layout: LayoutInput | None = strawberry.UNSET
    integrations: IntegrationsInput | None = strawberry.UNSET
    is_published: bool = False


@strawberry.input(description="Fields that are left out stay as they are; null empties those that may be empty.")
class UpdateConfigInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)
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
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)
    is_published: bool = strawberry.field(default=True, description="False takes the store off again.")


@strawberry.input
class DeleteConfigInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)


@strawberry.type
class CreateConfigPayload(Payload):
    config: Config | None


@strawberry.type
class UpdateConfigPayload(Payload):
    config: Config | None


@strawberry.type
class PublishConfigPayload(Payload):
    config: Config | None


@strawberry.type
class DeleteConfigPayload(DeletePayload):
    pass


@strawberry.type
class ConfigMutation:
    @strawberry.mutation(description="A store of one's own, closed to shoppers unless published.")
    async def create_config(self, info: Info, input: CreateConfigInput) -> CreateConfigPayload:
        command = partial(commands.create_config, vault=info.context.vault)
        payload = await paid(info, input, command, CreateConfigPayload, "config")
        if payload.config:
            info.context.now_owns(payload.config.id)
        return payload

    @strawberry.mutation
    async def update_config(self, info: Info, input: UpdateConfigInput) -> UpdateConfigPayload:
        command = partial(commands.update_config, vault=info.context.vault)
        return await paid(info, input, command, UpdateConfigPayload, "config")

    @strawberry.mutation(description="Open a store to shoppers, or close it.")
    async def publish_config(self, info: Info, input: PublishConfigInput) -> PublishConfigPayload:
        return await paid(info, input, commands.publish_config, PublishConfigPayload, "config")

    @strawberry.mutation(description="With its products, reviews, events and log.")
    async def delete_config(self, info: Info, input: DeleteConfigInput) -> DeleteConfigPayload:
        return await deleted(info, input, commands.delete_config, DeleteConfigPayload)
