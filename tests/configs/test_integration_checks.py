"""Checks of a store's integrations: results, permissions and rate limit."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.client import Client
from tests.conftest import fresh, serving
from tests.factories import make_store, make_user
from tests.shopify import DOMAIN, TOKEN, Fault, Shopify, selling

TEST = """mutation($i: TestIntegrationInput!) { testIntegration(input: $i) {
  result { integration isWorking message path shopName mode } userErrors { code path message } } }"""
CONNECT = "mutation($i: UpdateConfigInput!) { updateConfig(input: $i) { userErrors { code path message } } }"


@pytest_asyncio.fixture(scope="module")
async def shopify() -> AsyncIterator[Shopify]:
    async with selling(Shopify()) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module")
async def shop(shopify: Shopify, postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("checks"), shopify_url=shopify.url) as client:
        yield client


@pytest.fixture
async def owned(shop: Client) -> tuple[Client, str]:
    user = await make_user(shop.database)
    return shop.signed_in(user), await make_store(shop.database, user_id=user)


async def connected(owner: Client, store: str, **integrations: Any) -> list[Any]:
    payload = (await owner.ask(CONNECT, i={"id": store, "integrations": integrations}))["updateConfig"]
    return list(payload["userErrors"])


async def tried(owner: Client, store: str, integration: str) -> dict[str, Any]:
    payload = (await owner.ask(TEST, i={"configId": store, "integration": integration}))["testIntegration"]
    assert payload["userErrors"] == []
    return dict(payload["result"])


async def test_working_shop_is_named(owned: tuple[Client, str]) -> None:
    owner, store = owned
    await connected(owner, store, shopify={"domain": DOMAIN, "accessToken": TOKEN})
    found = await tried(owner, store, "SHOPIFY")
    assert (found["integration"], found["isWorking"], found["shopName"], found["path"]) == ("SHOPIFY", True, "Stand-in", [])
    assert "Stand-in" in found["message"] and "USD" in found["message"]


@pytest.mark.parametrize(
    ("fault", "path", "words"),
    [
        (Fault(401), "accessToken", "does not take the access token"),
        (Fault(403), "accessToken", "read_products"),
        (Fault(404), "domain", "there is no shop"),
        (Fault(302, {"location": "https://evil.example/"}), "domain", "status 302"),
        (Fault(200, body={"errors": [{"message": f"said {TOKEN}"}]}), "", "does not answer the question"),
    ],
)
async def test_shopify_error_is_reported(
    owned: tuple[Client, str], shopify: Shopify, fault: Fault, path: str, words: str
) -> None:
    owner, store = owned
    await connected(owner, store, shopify={"domain": DOMAIN, "accessToken": TOKEN})
    shopify.faults.append(fault)
    found = await tried(owner, store, "SHOPIFY")
    assert not found["isWorking"] and found["path"] == ["integrations", "shopify", *filter(None, [path])]
    assert words in found["message"] and TOKEN not in str(found)


async def test_missing_scopes_are_reported(owned: tuple[Client, str], shopify: Shopify) -> None:
    owner, store = owned
    await connected(owner, store, shopify={"domain": DOMAIN, "accessToken": TOKEN})
    shopify.scopes = ("read_products",)
    try:
        found = await tried(owner, store, "SHOPIFY")
    finally:
        shopify.scopes = ("read_products", "read_inventory")
    assert not found["isWorking"] and "read_inventory" in found["message"] and found["path"][-1] == "accessToken"


async def test_missing_or_unreachable_shop_is_reported(owned: tuple[Client, str], shopify: Shopify) -> None:
    owner, store = owned
    assert (await tried(owner, store, "SHOPIFY"))["path"] == ["integrations", "shopify"]
    other = await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])
    await connected(owner, other, shopify={"domain": "evil.example.com", "accessToken": TOKEN})
    number = len(shopify.asked)
    found = await tried(owner, other, "SHOPIFY")
    assert found["path"] == ["integrations", "shopify", "domain"] and len(shopify.asked) == number


@pytest.mark.parametrize(
    ("integration", "given", "is_working", "mode"),
    [
        ("STRIPE", {"stripe": {"publishableKey": "pk_test_12345678"}}, True, "TEST"),
        ("STRIPE", {"stripe": {"publishableKey": "pk_live_12345678"}}, True, "LIVE"),
        ("ANALYTICS", {"analytics": {"googleAnalyticsId": "G-12345678"}}, True, None),
        ("ANALYTICS", {"analytics": {"googleAnalyticsId": "UA-12345-1"}}, False, None),
        ("ANALYTICS", {"analytics": {"googleAnalyticsId": "AW-12345"}}, False, None),
    ],
)
async def test_keys_are_validated(
    owned: tuple[Client, str], integration: str, given: dict[str, Any], is_working: bool, mode: str | None
) -> None:
    owner, store = owned
    assert not (await tried(owner, store, integration))["isWorking"]
    store = await make_store(owner.database, user_id=(await owner.ask("{ me { id } }"))["me"]["id"])
    assert await connected(owner, store, **given) == []
    found = await tried(owner, store, integration)
    assert (found["isWorking"], found["mode"], bool(found["path"])) == (is_working, mode, not is_working)


@pytest.mark.parametrize("key", ["sk_live_0123456789", "sk_test_0123456789", "rk_live_0123456789", " sk_live_0123456789"])
async def test_stripe_secret_key_is_rejected(owned: tuple[Client, str], key: str) -> None:
    owner, store = owned
    [error] = await connected(owner, store, stripe={"publishableKey": key})
    assert error["path"] == ["integrations", "stripe", "publishableKey"]
    assert "Revoke it at Stripe" in error["message"] and key.strip() not in error["message"]
    async with owner.database.transaction() as connection:
        [(kept,)] = await (await connection.raw.execute("SELECT integrations FROM configs WHERE id = %s", [store])).fetchall()
    assert kept is None


async def test_check_is_rate_limited_and_owner_only(shop: Client, owned: tuple[Client, str]) -> None:
    owner, store = owned
    await tried(owner, store, "SHOPIFY")
    again = (await owner.ask(TEST, i={"configId": store, "integration": "SHOPIFY"}))["testIntegration"]
    assert again["result"] is None and again["userErrors"][0]["path"] == ["integration"]
    await tried(owner, store, "STRIPE")
    stranger = shop.signed_in(await make_user(shop.database))
    asked = {"configId": store, "integration": "SHOPIFY"}
    assert (await stranger.refusal(TEST, i=asked))["extensions"]["code"] == "FORBIDDEN"
    assert (await shop.refusal(TEST, i=asked))["extensions"]["code"] == "UNAUTHENTICATED"
