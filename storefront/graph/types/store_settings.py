"""The settings of a store that are JSON documents: theme, layout and integrations."""

from enum import Enum
from typing import Any

import strawberry

from storefront.queries.visibility import Audience

COLOUR_DESCRIPTION = "CSS colour."
FONT_DESCRIPTION = "CSS font family."
HEADER_DESCRIPTION = "Style of the page header."
COLUMNS_DESCRIPTION = "Columns of the product grid: 2, 3 or 4."
PRICES_DESCRIPTION = "Whether product lists show prices."
DESCRIPTIONS_DESCRIPTION = "Whether product lists show descriptions."
SHOPIFY_DOMAIN_DESCRIPTION = 'Domain of the shop: "example.myshopify.com".'
GOOGLE_ANALYTICS_DESCRIPTION = "Measurement ID: G-…."


@strawberry.type(description="Colours and fonts of a store.")
class Theme:
    primary_color: str = strawberry.field(description=COLOUR_DESCRIPTION)
    secondary_color: str = strawberry.field(description=COLOUR_DESCRIPTION)
    font_family: str = strawberry.field(description=FONT_DESCRIPTION)
    custom_css: str | None = strawberry.field(default=None, name="customCSS", description="Additional CSS.")


@strawberry.enum(description="Style of the page header.")
class HeaderStyle(Enum):
    MINIMAL = strawberry.enum_value("minimal", description="Logo and cart only.")
    FULL = strawberry.enum_value("full", description="Logo, navigation, search and cart.")
    CENTERED = strawberry.enum_value("centered", description="Logo in the centre, navigation below.")


@strawberry.type(description="Page layout of a store.")
class Layout:
    header_style: HeaderStyle = strawberry.field(description=HEADER_DESCRIPTION)
    grid_columns: int = strawberry.field(description=COLUMNS_DESCRIPTION)
    show_prices: bool = strawberry.field(description=PRICES_DESCRIPTION)
    show_descriptions: bool = strawberry.field(description=DESCRIPTIONS_DESCRIPTION)


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
    domain: str = strawberry.field(description=SHOPIFY_DOMAIN_DESCRIPTION)
    is_connected: bool = strawberry.field(description="Whether an access token is stored.")


@strawberry.type(description="A connected Stripe account.")
class StripeIntegration:
    publishable_key: str = strawberry.field(description="Publishable key: pk_live_… or pk_test_….")


@strawberry.type(description="A connected Google Analytics property.")
class GoogleAnalyticsIntegration:
    google_analytics_id: str = strawberry.field(description=GOOGLE_ANALYTICS_DESCRIPTION)


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
