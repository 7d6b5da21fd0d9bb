"""The client of Shopify's Admin API over a real socket: responses, permanent failures, retries, throttling."""

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import pytest

from storefront.core.net.shopify_client import (
    QueryTooCostlyError,
    ShopifyClient,
    ShopifyError,
    ShopifyRefusedError,
    ShopifyUnavailableError,
    _parse_retry_after,
    is_shop_domain,
)
from tests.shopify import DOMAIN, TOKEN, Fault, Shopify, product, selling

PAGE = "query Page($first: Int!) { products(first: $first) { nodes { id handle } pageInfo { hasNextPage } } }"


@pytest.fixture
async def shopify() -> AsyncIterator[Shopify]:
    async with selling(Shopify([product(number) for number in range(1, 4)])) as shop:
        yield shop


def create_client(shopify: Shopify, token: str = TOKEN) -> ShopifyClient:
    return ShopifyClient(DOMAIN, token, base_url=shopify.url, backoff_seconds=0.01)


async def fetch_page(shopify: Shopify, first: int = 2, token: str = TOKEN) -> Any:
    async with create_client(shopify, token) as shop:
        return (await shop.execute_query(PAGE, {"first": first}))["products"]


async def test_query_returns_data(shopify: Shopify) -> None:
    found = await fetch_page(shopify)
    assert [node["handle"] for node in found["nodes"]] == ["product-1", "product-2"]
    assert found["pageInfo"]["hasNextPage"]


async def test_shop_info_is_fetched(shopify: Shopify) -> None:
    async with create_client(shopify) as shop:
        about = await shop.fetch_shop_info()
    assert (about.name, about.domain, about.currency) == ("Stand-in", DOMAIN, "USD")
    assert "read_products" in about.scopes


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "my-shop.myshopify.com.evil.example",
        "evil.example/my-shop.myshopify.com",
        "evil.example#.myshopify.com",
        "a@b.myshopify.com",
        "my-shop.myshopify.com:8080",
        ".myshopify.com",
        "-a.myshopify.com",
        "MY-SHOP.myshopify.com",
        "my-shop.myshopify.com\n",
        "127.0.0.1",
    ],
)
def test_tokens_go_to_shopify_domains_only(host: str) -> None:
    assert not is_shop_domain(host)
    with pytest.raises(ShopifyRefusedError, match=r"integrations\.shopify\.domain"):
        ShopifyClient(host, TOKEN)


def test_token_goes_to_the_shops_host() -> None:
    assert ShopifyClient(DOMAIN, TOKEN)._url.startswith(f"https://{DOMAIN}/admin/api/20")


@pytest.mark.parametrize("token", ["shpat\r\nx: y", "shpat_ü", "shpat\x00"])
def test_invalid_token_is_rejected_without_quoting_it(token: str) -> None:
    with pytest.raises(ShopifyRefusedError) as refusal:
        ShopifyClient(DOMAIN, token)
    assert token not in str(refusal.value)


@pytest.mark.parametrize("status", [500, 502, 503, None])
async def test_failure_is_retried(shopify: Shopify, status: int | None) -> None:
    shopify.faults = [Fault(status), Fault(status)]
    assert len((await fetch_page(shopify))["nodes"]) == 2
    assert len(shopify.asked) == 3


async def test_repeated_failure_raises_unavailable(shopify: Shopify) -> None:
    shopify.faults = [Fault(503)] * 20
    with pytest.raises(ShopifyUnavailableError, match="status 503"):
        await fetch_page(shopify)
    assert len(shopify.asked) == 7


async def test_refused_connection_raises_unavailable() -> None:
    async with ShopifyClient(DOMAIN, TOKEN, base_url="http://127.0.0.1:9", backoff_seconds=0.001) as shop:
        with pytest.raises(ShopifyUnavailableError, match="cannot be reached"):
            await shop.execute_query(PAGE, {"first": 1})


async def test_retry_after_is_respected(shopify: Shopify) -> None:
    shopify.faults = [Fault(429, {"retry-after": "0.3"})]
    began = monotonic()
    await fetch_page(shopify)
    assert monotonic() - began >= 0.3


async def test_throttle_delays_before_bucket_is_empty(shopify: Shopify) -> None:
    shopify.restore_rate = 200
    async with create_client(shopify) as shop:
        for _ in range(8):
            await shop.execute_query(PAGE, {"first": 150})
    # 8 times 152 of 1,000 points, which come back at 200 a second: not throttled, because responses state the points left.
    assert shopify.throttled == 0
    assert len(shopify.asked) == 8


async def test_throttled_response_is_retried(shopify: Shopify) -> None:
    # The bucket is refilled too slowly for the second request.
    shopify.restore_rate, shopify.most = 200, 300
    assert len((await fetch_page(shopify, 150))["nodes"]) == 3
    shopify._available = 0
    assert len((await fetch_page(shopify, 150))["nodes"]) == 3
    assert shopify.throttled >= 1


async def test_too_costly_query_raises(shopify: Shopify) -> None:
    with pytest.raises(QueryTooCostlyError):
        await fetch_page(shopify, 1_100)


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (401, "accessToken"),
        (403, "accessToken"),
        (404, "domain"),
        (402, "domain"),
        (423, "domain"),
        (301, "domain"),
        (400, "domain"),
    ],
)
async def test_permanent_failure_is_not_retried(shopify: Shopify, status: int, field: str) -> None:
    shopify.faults = [Fault(status, {"location": f"{shopify.url}/elsewhere"})]
    with pytest.raises(ShopifyRefusedError) as refusal:
        await fetch_page(shopify)
    assert refusal.value.field == f"integrations.shopify.{field}"
    assert len(shopify.asked) == 1


async def test_expired_token_is_redacted(shopify: Shopify, log_lines: list[dict[str, Any]]) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    with pytest.raises(ShopifyRefusedError) as refusal:
        await fetch_page(shopify, token="shpat_expired")
    assert "accessToken" in str(refusal.value)
    assert "shpat_expired" not in repr(refusal.value) + str(refusal.value) + str(log_lines)


async def test_missing_scope_is_named(shopify: Shopify) -> None:
    shopify.scopes = ["read_orders"]
    with pytest.raises(ShopifyRefusedError, match="read_products"):
        await fetch_page(shopify)


async def test_unknown_field_raises_with_shopify_message(shopify: Shopify) -> None:
    async with create_client(shopify) as shop:
        with pytest.raises(ShopifyError, match="colour"):
            await shop.execute_query("{ shop { colour } }", {})


async def test_non_graphql_response_is_retried(shopify: Shopify) -> None:
    shopify.faults = [Fault(200, body=["a list"]), Fault(200, body={"data": None})]
    assert len((await fetch_page(shopify))["nodes"]) == 2


@asynccontextmanager
async def serve_response(head: bytes, part: bytes) -> AsyncIterator[str]:
    """Run a server that sends `head`, then `part` repeatedly until the client closes; yields its URL."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + head + b"\r\n")
            while True:
                writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                await writer.drain()
                await asyncio.sleep(0.001)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_endless_response_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.core.net.shopify_client.REQUEST_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("storefront.core.net.shopify_client.MAX_ATTEMPTS", 2)
    async with serve_response(b"", b" ") as url, ShopifyClient(DOMAIN, TOKEN, base_url=url, backoff_seconds=0.001) as shop:
        with pytest.raises(ShopifyUnavailableError, match="does not complete its response"):
            await shop.execute_query(PAGE, {"first": 1})


async def test_oversized_response_raises_too_costly() -> None:
    async with serve_response(b"", b" " * 65_536) as url, ShopifyClient(DOMAIN, TOKEN, base_url=url) as shop:
        with pytest.raises(QueryTooCostlyError, match="more than 2,000,000 bytes"):
            await shop.execute_query(PAGE, {"first": 1})


async def test_compressed_response_is_not_decompressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.core.net.shopify_client.MAX_ATTEMPTS", 1)
    bomb = gzip.compress(bytes(10_000_000))
    async with serve_response(b"content-encoding: gzip\r\n", bomb) as url, ShopifyClient(DOMAIN, TOKEN, base_url=url) as shop:
        with pytest.raises(ShopifyUnavailableError, match="compressed"):
            await shop.execute_query(PAGE, {"first": 1})


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-5", "soon"])
async def test_retry_after_is_clamped(value: str) -> None:
    assert 0.05 <= _parse_retry_after(value) <= 300
