"""Whether what a store is connected to works: asked of Shopify, and read off the keys of the others."""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from storefront.core.encryption import Undecryptable, Vault
from storefront.core.net.shopify_client import Shop, ShopifyError

# Seconds that Shopify has.
PATIENCE = 10.0
# What imports read with.
NEEDED = frozenset({"read_products", "read_inventory"})

Connect = Callable[[str, str], Shop]
Document = Mapping[str, Any]


class Integration(Enum):
    """What a store may be connected to."""

    SHOPIFY = "shopify"
    STRIPE = "stripe"
    ANALYTICS = "analytics"


class Mode(Enum):
    """Whether money moves."""

    TEST = "test"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Check:
    """What came of it, for people, and what there is to mend: the way into the store's fields."""

    is_working: bool
    message: str
    path: tuple[str, ...] = ()
    shop_name: str | None = None
    mode: Mode | None = None


async def check(integration: Integration, integrations: Document | None, vault: Vault, connect: Connect) -> Check:
    """Try one integration of a store."""
    given = (integrations or {}).get(integration.value)
    if not given:
        return _broken("the store has none. Set it with updateConfig.", integration.value)
    if integration is Integration.SHOPIFY:
        return await _shopify(given, vault, connect)
    return (
        _stripe(str(given["publishableKey"]))
        if integration is Integration.STRIPE
        else _analytics(str(given["googleAnalyticsId"]))
    )


async def _shopify(given: Document, vault: Vault, connect: Connect) -> Check:
    if "accessToken" not in given:
        return _broken("there is no access token. Set one with updateConfig.", "shopify", "accessToken")
    try:
        async with asyncio.timeout(PATIENCE), connect(given["domain"], vault.decrypt(given["accessToken"])) as shop:
            about = await shop.about()
    except Undecryptable:
        return _broken("the stored one cannot be read any more. Set it again with updateConfig.", "shopify", "accessToken")
    except TimeoutError:
        return _broken(f"{given['domain']} did not answer within {PATIENCE:g} s. Try again later.", "shopify")
    except ShopifyError as error:
        # It names the field itself.
        return Check(False, str(error), tuple(error.field.split(".")))
    if missing := NEEDED - about.scopes:
        scopes = " and ".join(sorted(missing))
        return _broken(f"it may not do all that imports need. Give the app the scopes {scopes}.", "shopify", "accessToken")
    return Check(True, f"Connected to {about.name} ({about.domain}), which sells in {about.currency}.", shop_name=about.name)


def _stripe(key: str) -> Check:
    mode = Mode.TEST if key.startswith("pk_test_") else Mode.LIVE
    means = "no money moves" if mode is Mode.TEST else "money moves"
    return Check(
        True, f"A publishable key in {mode.value} mode: {means}. Whether Stripe knows it, only a payment shows.", mode=mode
    )


def _analytics(id_: str) -> Check:
    if re.fullmatch(r"(G|GT)-[A-Z0-9]{4,20}", id_):
        return Check(True, "A measurement id of Google Analytics 4. Whether Google knows it, only its reports show.")
    if id_.startswith("UA-"):
        return _broken("is of Universal Analytics, which collects nothing any more. Use one that begins with G-.", *_MEASURED)
    return _broken("is no measurement id of Google Analytics 4: those look like G-AB12CD34EF.", *_MEASURED)


_MEASURED = ("analytics", "googleAnalyticsId")


def _broken(problem: str, *path: str) -> Check:
    way = ("integrations", *path)
    return Check(False, f"{'.'.join(way)}: {problem}", way)
