"""Shopify's Admin API, asked over a real socket: what it grants, what it refuses, and when it has to be waited for."""

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


def asking(shopify: Shopify, token: str = TOKEN) -> ShopifyClient:
    return ShopifyClient(DOMAIN, token, base_url=shopify.url, backoff_seconds=0.01)


async def page(shopify: Shopify, first: int = 2, token: str = TOKEN) -> Any:
    async with asking(shopify, token) as shop:
        return (await shop.execute_query(PAGE, {"first": first}))["products"]


async def test_a_question_is_answered(shopify: Shopify) -> None:
    found = await page(shopify)
    assert [node["handle"] for node in found["nodes"]] == ["product-1", "product-2"]
    assert found["pageInfo"]["hasNextPage"]


async def test_a_shop_tells_of_itself(shopify: Shopify) -> None:
    async with asking(shopify) as shop:
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
def test_tokens_are_told_to_shops_at_shopify_alone(host: str) -> None:
    assert not is_shop_domain(host)
    with pytest.raises(ShopifyRefusedError, match=r"integrations\.shopify\.domain"):
        ShopifyClient(host, TOKEN)


def test_a_shops_own_host_is_where_the_token_goes() -> None:
    assert ShopifyClient(DOMAIN, TOKEN)._url.startswith(f"https://{DOMAIN}/admin/api/20")


@pytest.mark.parametrize("token", ["shpat\r\nx: y", "shpat_ü", "shpat\x00"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ShopifyRefusedError) as refusal:
        ShopifyClient(DOMAIN, token)
    assert token not in str(refusal.value)


@pytest.mark.parametrize("status", [500, 502, 503, None])
async def test_what_fails_is_asked_again(shopify: Shopify, status: int | None) -> None:
    shopify.faults = [Fault(status), Fault(status)]
    assert len((await page(shopify))["nodes"]) == 2
    assert len(shopify.asked) == 3


async def test_what_fails_again_and_again_is_given_up(shopify: Shopify) -> None:
    shopify.faults = [Fault(503)] * 20
    with pytest.raises(ShopifyUnavailableError, match="status 503"):
        await page(shopify)
    assert len(shopify.asked) == 7


async def test_nobody_there_is_told_as_such() -> None:
    async with ShopifyClient(DOMAIN, TOKEN, base_url="http://127.0.0.1:9", backoff_seconds=0.001) as shop:
        with pytest.raises(ShopifyUnavailableError, match="cannot be reached"):
            await shop.execute_query(PAGE, {"first": 1})


async def test_too_many_requests_wait_as_long_as_they_are_told(shopify: Shopify) -> None:
    shopify.faults = [Fault(429, {"retry-after": "0.3"})]
    began = monotonic()
    await page(shopify)
    assert monotonic() - began >= 0.3


async def test_the_bucket_is_waited_for_before_it_is_empty(shopify: Shopify) -> None:
    shopify.restore_rate = 200
    async with asking(shopify) as shop:
        for _ in range(8):
            await shop.execute_query(PAGE, {"first": 150})
    # 8 times 152 of 1,000 points, which come back at 200 a second: no refusal, because each answer says how it stands.
    assert shopify.throttled == 0
    assert len(shopify.asked) == 8


async def test_who_shares_a_bucket_may_find_it_empty(shopify: Shopify) -> None:
    # Too slow to be refilled before the second request comes.
    shopify.restore_rate, shopify.most = 200, 300
    assert len((await page(shopify, 150))["nodes"]) == 3
    shopify._available = 0
    assert len((await page(shopify, 150))["nodes"]) == 3
    assert shopify.throttled >= 1


async def test_more_than_may_be_asked_at_a_time_is_told(shopify: Shopify) -> None:
    with pytest.raises(QueryTooCostlyError):
        await page(shopify, 1_100)


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
async def test_a_refusal_is_not_asked_again_and_names_what_to_mend(shopify: Shopify, status: int, field: str) -> None:
    shopify.faults = [Fault(status, {"location": f"{shopify.url}/elsewhere"})]
    with pytest.raises(ShopifyRefusedError) as refusal:
        await page(shopify)
    assert refusal.value.field == f"integrations.shopify.{field}"
    assert len(shopify.asked) == 1


async def test_an_expired_token_is_nowhere_to_be_seen(shopify: Shopify, log_lines: list[dict[str, Any]]) -> None:
    logging.getLogger().setLevel(logging.DEBUG)
    with pytest.raises(ShopifyRefusedError) as refusal:
        await page(shopify, token="shpat_expired")
    assert "accessToken" in str(refusal.value)
    assert "shpat_expired" not in repr(refusal.value) + str(refusal.value) + str(log_lines)


async def test_a_missing_scope_is_named(shopify: Shopify) -> None:
    shopify.scopes = ["read_orders"]
    with pytest.raises(ShopifyRefusedError, match="read_products"):
        await page(shopify)


async def test_a_question_that_it_does_not_know_is_an_error_with_its_words(shopify: Shopify) -> None:
    async with asking(shopify) as shop:
        with pytest.raises(ShopifyError, match="colour"):
            await shop.execute_query("{ shop { colour } }", {})


async def test_what_is_not_graphql_is_asked_again(shopify: Shopify) -> None:
    shopify.faults = [Fault(200, body=["a list"]), Fault(200, body={"data": None})]
    assert len((await page(shopify))["nodes"]) == 2


@asynccontextmanager
async def answering(head: bytes, part: bytes) -> AsyncIterator[str]:
    """The address of a server that answers with this, and with the part over and over until nobody reads it any more."""

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


async def test_answer_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.core.net.shopify_client.REQUEST_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("storefront.core.net.shopify_client.MAX_ATTEMPTS", 2)
    async with answering(b"", b" ") as url, ShopifyClient(DOMAIN, TOKEN, base_url=url, backoff_seconds=0.001) as shop:
        with pytest.raises(ShopifyUnavailableError, match="does not come to the end"):
            await shop.execute_query(PAGE, {"first": 1})


async def test_answer_that_is_too_long_is_too_costly() -> None:
    async with answering(b"", b" " * 65_536) as url, ShopifyClient(DOMAIN, TOKEN, base_url=url) as shop:
        with pytest.raises(QueryTooCostlyError, match="more than 2,000,000 bytes"):
            await shop.execute_query(PAGE, {"first": 1})


async def test_compressed_answer_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storefront.core.net.shopify_client.MAX_ATTEMPTS", 1)
    bomb = gzip.compress(bytes(10_000_000))
    async with answering(b"content-encoding: gzip\r\n", bomb) as url, ShopifyClient(DOMAIN, TOKEN, base_url=url) as shop:
        with pytest.raises(ShopifyUnavailableError, match="compressed"):
            await shop.execute_query(PAGE, {"first": 1})


@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "-5", "soon"])
async def test_retry_after_is_a_sane_wait(value: str) -> None:
    assert 0.05 <= _parse_retry_after(value) <= 300
