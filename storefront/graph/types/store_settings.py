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


@strawberry.type(description="The access token itself is never readable.")
class ShopifyIntegration:
    domain: str
    is_connected: bool


@strawberry.type
class StripeIntegration:
    publishable_key: str


@strawberry.type
class GoogleAnalyticsIntegration:
    google_analytics_id: str


@strawberry.type(description="Integrations with other services, without their secrets.")
class Integrations:
    shopify: ShopifyIntegration | None = strawberry.field(description="Visible to the owner only.")
    stripe: StripeIntegration | None
    analytics: GoogleAnalyticsIntegration | None


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
