"""The settings of a store that are JSON documents: theme, layout and integrations."""

from enum import Enum
from typing import Any

import strawberry

from storefront.queries.visibility import Audience


@strawberry.type
class Theme:
    primary_color: str
    secondary_color: str
    font_family: str
    custom_css: str | None = strawberry.field(default=None, name="customCSS")


@strawberry.enum
class HeaderStyle(Enum):
    MINIMAL = "minimal"
    FULL = "full"
    CENTERED = "centered"


@strawberry.type
class Layout:
    header_style: HeaderStyle
    grid_columns: int = strawberry.field(description="2, 3 or 4.")
    show_prices: bool
    show_descriptions: bool


@strawberry.enum(description="A service that a store can be connected to.")
class IntegrationKind(Enum):
    SHOPIFY = strawberry.enum_value("shopify", description="`integrations.shopify`")
    STRIPE = strawberry.enum_value("stripe", description="`integrations.stripe`")
    ANALYTICS = strawberry.enum_value("analytics", description="`integrations.analytics`")


@strawberry.enum(description="Mode of a Stripe key.")
class StripeMode(Enum):
    TEST = strawberry.enum_value("test", description="No real payments.")
    LIVE = strawberry.enum_value("live", description="Real payments.")


@strawberry.type(description="A connected Shopify shop. Its access token can be written but not read.")
class ShopifyIntegration:
    domain: str = strawberry.field(description='Domain of the shop: "example.myshopify.com".')
    is_connected: bool = strawberry.field(description="Whether an access token is stored.")


@strawberry.type(description="A connected Stripe account.")
class StripeIntegration:
    publishable_key: str = strawberry.field(description="Publishable key: pk_live_… or pk_test_….")


@strawberry.type(description="A connected Google Analytics property.")
class GoogleAnalyticsIntegration:
    google_analytics_id: str = strawberry.field(description="Measurement ID: G-….")


@strawberry.type(description="Connected services.")
class Integrations:
    shopify: ShopifyIntegration | None = strawberry.field(description="Shopify shop to import from. Owner only; null for others.")
    stripe: StripeIntegration | None = strawberry.field(description="Stripe account for payments.")
    analytics: GoogleAnalyticsIntegration | None = strawberry.field(description="Google Analytics property.")


_THEME_FIELDS = {
    "primaryColor": "primary_color",
    "secondaryColor": "secondary_color",
    "fontFamily": "font_family",
    "customCSS": "custom_css",
}
_LAYOUT_FIELDS = {
    "headerStyle": "header_style",
    "gridColumns": "grid_columns",
    "showPrices": "show_prices",
    "showDescriptions": "show_descriptions",
}


def build_theme(document: dict[str, Any]) -> Theme:
    """The theme of a store from its JSON document."""
    return Theme(**_rename_keys(document, _THEME_FIELDS))


def build_layout(document: dict[str, Any]) -> Layout:
    """The layout of a store from its JSON document."""
    return Layout(**_rename_keys(document, _LAYOUT_FIELDS))


def build_integrations(document: dict[str, Any], audience: Audience) -> Integrations:
    shopify, stripe, analytics = (document.get(name) for name in ("shopify", "stripe", "analytics"))
    if audience is not Audience.OWNER:
        shopify = None
    return Integrations(
        shopify=ShopifyIntegration(domain=shopify["domain"], is_connected="accessToken" in shopify) if shopify else None,
        stripe=StripeIntegration(publishable_key=stripe["publishableKey"]) if stripe else None,
        analytics=GoogleAnalyticsIntegration(google_analytics_id=analytics["googleAnalyticsId"]) if analytics else None,
    )


def _rename_keys(document: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {field_name: document.get(json_name) for json_name, field_name in names.items()}
