"""Mutations of stores: inputs, payloads and fields."""

from dataclasses import asdict
from functools import partial

import strawberry

from storefront.configs import category_commands, commands, search_commands
from storefront.configs.integration_checks import check_integration
from storefront.core.url_templates import MAX_TEMPLATE_CHARACTERS
from storefront.graph.context import Info
from storefront.graph.inputs import ReviewPolicy
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    HANDLE_FORM_DESCRIPTION,
    ChangePayload,
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
from storefront.graph.scalars import CurrencyCode
from storefront.graph.types.catalogue import Category, Config
from storefront.graph.types.store_settings import (
    COLOUR_DESCRIPTION,
    COLUMNS_DESCRIPTION,
    DESCRIPTIONS_DESCRIPTION,
    FONT_DESCRIPTION,
    GOOGLE_ANALYTICS_DESCRIPTION,
    HEADER_DESCRIPTION,
    PRICES_DESCRIPTION,
    SHOPIFY_DOMAIN_DESCRIPTION,
    HeaderStyle,
    IntegrationKind,
    StripeMode,
)
from storefront.models.categories import split_category
from storefront.models.config import DEFAULT_CURRENCY
from storefront.writes.custom_css import prevalidate_stylesheet


@strawberry.input(description="Colours and fonts of a store. Replaces the stored theme as a whole.")
class ThemeInput:
    primary_color: str = strawberry.field(description=COLOUR_DESCRIPTION)
    secondary_color: str = strawberry.field(description=COLOUR_DESCRIPTION)
    font_family: str = strawberry.field(description=FONT_DESCRIPTION)
    custom_css: str | None = strawberry.field(
        default=strawberry.UNSET,
        name="customCSS",
        description="Additional CSS, at most 50,000 characters. Must not load external resources.",
    )


@strawberry.input(description="Page layout of a store. Replaces the stored layout as a whole.")
class LayoutInput:
    header_style: HeaderStyle = strawberry.field(description=HEADER_DESCRIPTION)
    grid_columns: int = strawberry.field(description=COLUMNS_DESCRIPTION)
    show_prices: bool = strawberry.field(description=PRICES_DESCRIPTION)
    show_descriptions: bool = strawberry.field(description=DESCRIPTIONS_DESCRIPTION)


@strawberry.input(description="A Shopify shop to connect.")
class ShopifyIntegrationInput:
    domain: str = strawberry.field(description=SHOPIFY_DOMAIN_DESCRIPTION)
    access_token: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Admin API access token; stored encrypted, never returned. Omit to keep the stored token; null removes it.",
    )


@strawberry.input(description="A Stripe account to connect.")
class StripeIntegrationInput:
    publishable_key: str = strawberry.field(description="Publishable key: pk_live_… or pk_test_…. Secret keys are refused.")


@strawberry.input(description="A Google Analytics property to connect.")
class GoogleAnalyticsIntegrationInput:
    google_analytics_id: str = strawberry.field(description=GOOGLE_ANALYTICS_DESCRIPTION)


@strawberry.input(description="Connected services. Omitted services stay as they are; null disconnects one.")
class IntegrationsInput:
    shopify: ShopifyIntegrationInput | None = strawberry.field(
        default=strawberry.UNSET, description="Shopify shop to import from."
    )
    stripe: StripeIntegrationInput | None = strawberry.field(default=strawberry.UNSET, description="Stripe account for payments.")
    analytics: GoogleAnalyticsIntegrationInput | None = strawberry.field(
        default=strawberry.UNSET, description="Google Analytics property."
    )


_ID_DESCRIPTION = "ID of the store."
_NAME_DESCRIPTION = "Name shown to shoppers."
_TEXT_DESCRIPTION = "Plain-text description."
_URL_TEMPLATE_DESCRIPTION = (
    'URL of a product in the shop, for product feeds: "https://shop.example/products/{handle}". It has at least one of the '
    f"placeholders `{{handle}}`, `{{productId}}` and `{{variantId}}`, and at most {MAX_TEMPLATE_CHARACTERS:,} characters."
)


@strawberry.input(description="Input of `createConfig`.")
class CreateConfigInput(MutationInput):
    store_name: str = strawberry.field(description=_NAME_DESCRIPTION)
    slug: str = strawberry.field(description=f"Identifies the store in URLs; unique. {HANDLE_FORM_DESCRIPTION}")
    description: str | None = strawberry.field(default=strawberry.UNSET, description=_TEXT_DESCRIPTION)
    currency: CurrencyCode = strawberry.field(
        default=CurrencyCode(DEFAULT_CURRENCY), description="Currency of all prices in the store."
    )
    theme: ThemeInput | None = strawberry.field(default=strawberry.UNSET, description="Colours and fonts.")
    layout: LayoutInput | None = strawberry.field(default=strawberry.UNSET, description="Page layout.")
    integrations: IntegrationsInput | None = strawberry.field(default=strawberry.UNSET, description="Connected services.")
    review_policy: ReviewPolicy = strawberry.field(
        default=ReviewPolicy.PUBLISH, description="How new and edited reviews are published."
    )
    product_url_template: str | None = strawberry.field(default=strawberry.UNSET, description=_URL_TEMPLATE_DESCRIPTION)
    is_published: bool = strawberry.field(default=False, description="Whether shoppers can see the store.")


@strawberry.input(description="Input of `updateConfig`. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateConfigInput(MutationInput, VersionedUpdateInput):
    id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    store_name: str | None = strawberry.field(default=strawberry.UNSET, description=_NAME_DESCRIPTION)
    slug: str | None = strawberry.field(
        default=strawberry.UNSET,
        description=f"Identifies the store in URLs. The former slug keeps leading to the store. {HANDLE_FORM_DESCRIPTION}",
    )
    description: str | None = strawberry.field(default=strawberry.UNSET, description=_TEXT_DESCRIPTION)
    currency: CurrencyCode | None = strawberry.field(
        default=strawberry.UNSET,
        description="Currency of all prices in the store. Prices are not converted. Refused if a price has more fraction digits "
        "than the currency.",
    )
    theme: ThemeInput | None = strawberry.field(default=strawberry.UNSET, description="Colours and fonts; replaced as a whole.")
    layout: LayoutInput | None = strawberry.field(default=strawberry.UNSET, description="Page layout; replaced as a whole.")
    integrations: IntegrationsInput | None = strawberry.field(
        default=strawberry.UNSET, description="Connected services; omitted ones stay as they are."
    )
    review_policy: ReviewPolicy | None = strawberry.field(
        default=strawberry.UNSET,
        description="How new and edited reviews are published. Reviews that wait stay so until they are approved.",
    )
    product_url_template: str | None = strawberry.field(default=strawberry.UNSET, description=_URL_TEMPLATE_DESCRIPTION)


@strawberry.input(description="Input of `publishConfig`.")
class PublishConfigInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input(description="Input of `unpublishConfig`.")
class UnpublishConfigInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input(description="Input of `deleteConfig`.")
class DeleteConfigInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input(description="Input of `updateCategory`. Omitted fields stay as they are; null clears them.")
class UpdateCategoryInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    path: str = strawberry.field(description='Path of the category: "Clothing > Shirts". A product has to be in it or below it.')
    image: str | None = strawberry.field(default=strawberry.UNSET, description="URL of a picture.")
    description: str | None = strawberry.field(default=strawberry.UNSET, description="Plain-text description.")
    seo_title: str | None = strawberry.field(default=strawberry.UNSET, description="Title for search engines.")
    seo_description: str | None = strawberry.field(default=strawberry.UNSET, description="Description for search engines.")


@strawberry.input(description="Input of `updateSearchSettings`.")
class UpdateSearchSettingsInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    synonyms: list[list[str]] = strawberry.field(
        description="Lists of words, or pairs of words, that are searched for each other: "
        f'`[["sofa", "couch", "day bed"]]`. Replaces the stored ones. A list has 2 to {search_commands.MAX_SYNONYMS}.',
        metadata=limits(search_commands.MAX_SYNONYM_LISTS, search_commands.MAX_SYNONYM_CHARACTERS),
    )


@strawberry.input(description="Input of `testIntegration`.")
class TestIntegrationInput(ClientMutationInput):
    config_id: strawberry.ID = strawberry.field(description=_ID_DESCRIPTION)
    integration: IntegrationKind = strawberry.field(description="The service to test.")


@strawberry.type(description="Payload of `createConfig`.")
class CreateConfigPayload(ChangePayload):
    config: Config | None = strawberry.field(description="The store.")


@strawberry.type(description="Payload of `updateConfig`.")
class UpdateConfigPayload(ChangePayload):
    config: Config | None = strawberry.field(description="The store.")


@strawberry.type(description="Payload of `publishConfig`.")
class PublishConfigPayload(ChangePayload):
    config: Config | None = strawberry.field(description="The store.")


@strawberry.type(description="Payload of `unpublishConfig`.")
class UnpublishConfigPayload(ChangePayload):
    config: Config | None = strawberry.field(description="The store.")


@strawberry.type(description="Payload of `updateCategory`.")
class UpdateCategoryPayload(ChangePayload):
    category: Category | None = strawberry.field(description="The category; null if nothing was written.")


@strawberry.type(description="Payload of `updateSearchSettings`.")
class UpdateSearchSettingsPayload(ChangePayload):
    config: Config | None = strawberry.field(description="The store.")


@strawberry.type(description="Payload of `deleteConfig`.")
class DeleteConfigPayload(ReplayablePayload):
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the store; null if it was not deleted.")


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


@strawberry.type(description="Payload of `testIntegration`.")
class TestIntegrationPayload(MutationPayload):
    result: IntegrationTestResult | None = strawberry.field(description="Result of the test.")


@strawberry.type
class ConfigMutation:
    @strawberry.mutation(description="Creates a store that the viewer owns.")
    async def create_config(self, info: Info, input: CreateConfigInput) -> CreateConfigPayload | None:
        await _prevalidate_custom_css(info, input.theme)
        command = partial(commands.create_config, vault=info.context.vault)
        payload = await mutation_payload(info, input, command, CreateConfigPayload, "config")
        if payload.config:
            info.context.add_owned_store(payload.config.id)
        return payload

    @strawberry.mutation(description="Changes a store.")
    async def update_config(self, info: Info, input: UpdateConfigInput) -> UpdateConfigPayload | None:
        await _prevalidate_custom_css(info, input.theme)
        command = partial(commands.update_config, vault=info.context.vault)
        return await mutation_payload(info, input, command, UpdateConfigPayload, "config")

    @strawberry.mutation(description="Makes a store visible to shoppers.")
    async def publish_config(self, info: Info, input: PublishConfigInput) -> PublishConfigPayload | None:
        return await mutation_payload(info, input, commands.publish_config, PublishConfigPayload, "config")

    @strawberry.mutation(description="Hides a store from shoppers.")
    async def unpublish_config(self, info: Info, input: UnpublishConfigInput) -> UnpublishConfigPayload | None:
        return await mutation_payload(info, input, commands.unpublish_config, UnpublishConfigPayload, "config")

    @strawberry.mutation(description="Changes what the owner adds to a category of a store: picture, description, SEO texts.")
    async def update_category(self, info: Info, input: UpdateCategoryInput) -> UpdateCategoryPayload | None:
        result = await mutate(info, input, category_commands.update_category)
        row = result.rows[0] if result.rows else None
        category = Category(config_id=row.config_id, names=split_category(row.path)) if row else None
        return build_payload(UpdateCategoryPayload, result, input, category=category)

    @strawberry.mutation(description="Changes what is searched in a store besides the words as typed. Effective at once.")
    async def update_search_settings(self, info: Info, input: UpdateSearchSettingsInput) -> UpdateSearchSettingsPayload | None:
        return await mutation_payload(info, input, search_commands.update_search_settings, UpdateSearchSettingsPayload, "config")

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

    @strawberry.mutation(description="Deletes a store with its products, reviews, events and change log. Cannot be undone.")
    async def delete_config(self, info: Info, input: DeleteConfigInput) -> DeleteConfigPayload | None:
        return await deletion_payload(info, input, commands.delete_config, DeleteConfigPayload)


async def _prevalidate_custom_css(info: Info, theme: ThemeInput | None) -> None:
    # Before the transaction begins, so that no connection is held during the validation.
    info.context.require_viewer()
    if theme and theme.custom_css:
        await prevalidate_stylesheet(theme.custom_css.strip())
