"""Checks of a store's integrations: Shopify is connected to; of Stripe and Google Analytics the keys are validated."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from storefront.core.encryption import DecryptionError, Vault
from storefront.core.net.shopify_client import ShopifyClient, ShopifyError
from storefront.graph.types.store_settings import IntegrationKind, StripeMode

SHOPIFY_TIMEOUT_SECONDS = 10.0
# The OAuth scopes that imports need.
REQUIRED_SCOPES = frozenset({"read_products", "read_inventory"})

ConnectShop = Callable[[str, str], ShopifyClient]
JSONObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IntegrationCheck:
    """The result of a check: a message for people, and the path of the store's field to fix."""

    is_working: bool
    message: str
    path: tuple[str, ...] = ()
    shop_name: str | None = None
    mode: StripeMode | None = None


async def check_integration(
    integration: IntegrationKind, integrations: JSONObject | None, vault: Vault, connect: ConnectShop
) -> IntegrationCheck:
    """Check one integration of a store."""
    name = str(integration.value)
    integration_values = (integrations or {}).get(name)
    if not integration_values:
        return _build_failure("the store has none. Set it with updateConfig.", name)
    if integration is IntegrationKind.SHOPIFY:
        return await _check_shopify(integration_values, vault, connect)
    return (
        _check_stripe(str(integration_values["publishableKey"]))
        if integration is IntegrationKind.STRIPE
        else _check_analytics(str(integration_values["googleAnalyticsId"]))
    )


async def _check_shopify(integration_values: JSONObject, vault: Vault, connect: ConnectShop) -> IntegrationCheck:
    if "accessToken" not in integration_values:
        return _build_failure("there is no access token. Set one with updateConfig.", "shopify", "accessToken")
    try:
        async with (
            asyncio.timeout(SHOPIFY_TIMEOUT_SECONDS),
            connect(integration_values["domain"], vault.decrypt(integration_values["accessToken"])) as shop,
        ):
            about = await shop.fetch_shop_info()
    except DecryptionError:
        return _build_failure("the stored one cannot be decrypted. Set it again with updateConfig.", "shopify", "accessToken")
    except TimeoutError:
        return _build_failure(
            f"{integration_values['domain']} did not answer within {SHOPIFY_TIMEOUT_SECONDS:g} s. Try again later.", "shopify"
        )
    except ShopifyError as error:
        # The message names the field already.
        return IntegrationCheck(False, str(error), tuple(error.field.split(".")))
    if missing := REQUIRED_SCOPES - about.scopes:
        scopes = " and ".join(sorted(missing))
        return _build_failure(
            f"it lacks permissions that imports need. Give the app the scopes {scopes}.", "shopify", "accessToken"
        )
    return IntegrationCheck(
        True, f"Connected to {about.name} ({about.domain}), which sells in {about.currency}.", shop_name=about.name
    )


def _check_stripe(key: str) -> IntegrationCheck:
    mode = StripeMode.TEST if key.startswith("pk_test_") else StripeMode.LIVE
    consequence = "no money moves" if mode is StripeMode.TEST else "money moves"
    return IntegrationCheck(
        True, f"A publishable key in {mode.value} mode: {consequence}. Whether Stripe knows it, only a payment shows.", mode=mode
    )


def _check_analytics(id_: str) -> IntegrationCheck:
    if re.fullmatch(r"(G|GT)-[A-Z0-9]{4,20}", id_):
        return IntegrationCheck(True, "A measurement id of Google Analytics 4. Whether Google knows it, only its reports show.")
    if id_.startswith("UA-"):
        return _build_failure(
            "belongs to Universal Analytics, which Google has shut down. Use an id that begins with G-.", *_MEASUREMENT_ID_PATH
        )
    return _build_failure("is not a measurement id of Google Analytics 4, such as G-AB12CD34EF.", *_MEASUREMENT_ID_PATH)


_MEASUREMENT_ID_PATH = ("analytics", "googleAnalyticsId")


def _build_failure(problem: str, *path: str) -> IntegrationCheck:
    full_path = ("integrations", *path)
    return IntegrationCheck(False, f"{'.'.join(full_path)}: {problem}", full_path)
