"""A client of Shopify's GraphQL Admin API: it respects the throttle (leaky bucket of cost points) and retries failures."""

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
import orjson

from storefront.core.net.tls import load_tls_context
from storefront.core.streams import read_bounded

# Shopify releases a version each quarter and supports it for a year. Test a newer one before it is set here.
API_VERSION = "2026-10"
ACCESS_SCOPES_URL = "https://shopify.dev/docs/api/usage/access-scopes"

# Timeouts of one network operation, of a whole request, and of all waits between the attempts of one query; maximum failures.
STEP_TIMEOUT_SECONDS, REQUEST_TIMEOUT_SECONDS, MAX_WAIT_SECONDS, MAX_ATTEMPTS = 30.0, 60.0, 300.0, 7
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0
# A response is parsed as a whole. Callers repeat the query of a longer page with fewer products.
MAX_RESPONSE_BYTES = 2_000_000

_SHOP_DOMAIN_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\.myshopify\.com")
_TOKEN_FIELD, _DOMAIN_FIELD = "integrations.shopify.accessToken", "integrations.shopify.domain"


class ShopifyError(Exception):
    """A query failed. The message is for the store's owner; `field` is the field of the store to correct."""

    def __init__(self, problem: str, field: str = "integrations.shopify") -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class ShopifyRefusedError(ShopifyError):
    """A permanent failure: retrying is useless until the owner has corrected something."""


class ShopifyUnavailableError(ShopifyError):
    """A temporary failure: all retries failed."""


class QueryTooCostlyError(ShopifyError):
    """The query exceeds Shopify's maximum cost or our maximum response size. Request fewer items."""


class _RetryableError(Exception):
    """An attempt failed and may be retried, after `retry_after_seconds` where Shopify gives a time."""

    def __init__(self, problem: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class ShopInfo:
    """A shop: its name, its domain, the ISO 4217 code of its currency, and the scopes of the access token."""

    name: str
    domain: str
    currency: str
    scopes: frozenset[str]


@dataclass(slots=True)
class _ThrottleStatus:
    """The cost points available in Shopify's leaky bucket, as of the last response."""

    available: float
    restore_rate: float
    maximum: float
    updated_at: float

    def compute_wait_seconds(self, cost: float) -> float:
        """Seconds until `cost` points are available."""
        current_points = min(self.maximum, self.available + (monotonic() - self.updated_at) * self.restore_rate)
        return max(0.0, min(cost, self.maximum) - current_points) / max(self.restore_rate, 1.0)


def is_shop_domain(domain: str) -> bool:
    """Whether a host is a *.myshopify.com domain: access tokens are sent to no other host."""
    return _SHOP_DOMAIN_PATTERN.fullmatch(domain) is not None


class ShopifyClient:
    """The Admin API of one shop, with an access token. An async context manager; one query at a time.

    `base_url` replaces the shop's own URL: a stub or a proxy that the operator of this server configures. It receives the token,
    so it must never come from a store's owner. `backoff_seconds`: the base of exponential backoff with full jitter.
    """

    def __init__(
        self,
        domain: str,
        token: str,
        *,
        version: str = API_VERSION,
        base_url: str | None = None,
        backoff_seconds: float = MIN_BACKOFF_SECONDS,
    ) -> None:
        if not is_shop_domain(domain):
            raise ShopifyRefusedError('must be the shop\'s own host at Shopify, such as "my-shop.myshopify.com".', _DOMAIN_FIELD)
        if not token.isascii() or not token.isprintable():
            raise ShopifyRefusedError("has characters that no access token has. Copy it from Shopify again.", _TOKEN_FIELD)
        self.domain = domain
        self._url = f"{(base_url or f'https://{domain}').rstrip('/')}/admin/api/{version}/graphql.json"
        self._token, self._backoff_seconds = token, backoff_seconds
        self._throttle: _ThrottleStatus | None = None
        self._costs: dict[str, float] = {}
        # Redirects are not followed: they would send the token to another host.
        self._http_client = httpx.AsyncClient(verify=load_tls_context(), timeout=STEP_TIMEOUT_SECONDS, follow_redirects=False)

    async def __aenter__(self) -> "ShopifyClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http_client.aclose()

    async def fetch_shop_info(self) -> ShopInfo:
        """Name, domain, currency and scopes: the cheapest query that verifies the token."""
        data = await self.execute_query(_SHOP_INFO_QUERY, {})
        shop, app = data["shop"], data["currentAppInstallation"]
        scopes = frozenset(scope["handle"] for scope in app["accessScopes"])
        return ShopInfo(shop["name"], shop["myshopifyDomain"], shop["currencyCode"], scopes)

    async def execute_query(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The data of a response without errors, after retries.

        Raises ShopifyRefusedError, QueryTooCostlyError, ShopifyUnavailableError, or another ShopifyError.
        """
        deadline, failures = monotonic() + MAX_WAIT_SECONDS, 0
        while True:
            if self._throttle is not None:
                await asyncio.sleep(min(self._throttle.compute_wait_seconds(self._costs.get(document, 0.0)), MAX_WAIT_SECONDS))
            try:
                return await self._execute_once(document, variables)
            except _RetryableError as error:
                failures += error.retry_after_seconds is None
                seconds = self._draw_backoff_seconds(failures) if error.retry_after_seconds is None else error.retry_after_seconds
                if failures >= MAX_ATTEMPTS or monotonic() + seconds > deadline:
                    raise ShopifyUnavailableError(
                        f"{self.domain} {error}, and did so again and again. Try again later."
                    ) from None
            await asyncio.sleep(seconds)

    def _draw_backoff_seconds(self, failures: int) -> float:
        # Exponential backoff with full jitter, so that clients that failed together do not retry together.
        return random.uniform(0, min(self._backoff_seconds * 2**failures, MAX_BACKOFF_SECONDS))  # noqa: S311  jitter, no secret

    async def _execute_once(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        status, headers, body = await self._post_query({"query": document, "variables": variables})
        self._raise_for_status(status, headers)
        try:
            response = orjson.loads(body)
            errors, cost = response.get("errors"), (response.get("extensions") or {}).get("cost") or {}
        except (ValueError, AttributeError):
            raise _RetryableError("answered with something that is not GraphQL") from None
        self._update_throttle(document, cost)
        if errors:
            self._raise_for_errors(errors if isinstance(errors, list) else [{"message": str(errors)}], cost)
        if not isinstance(response.get("data"), dict):
            raise _RetryableError("answered without data")
        return dict(response["data"])

    async def _post_query(self, payload: Mapping[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        # Uncompressed: a small response must not expand to a huge one (decompression bomb).
        headers = {"accept": "application/json", "accept-encoding": "identity", "x-shopify-access-token": self._token}
        headers["content-type"], content = "application/json", orjson.dumps(payload)
        try:
            async with (
                asyncio.timeout(REQUEST_TIMEOUT_SECONDS),
                self._http_client.stream("POST", self._url, content=content, headers=headers) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise _RetryableError("answers compressed, although that is not accepted")
                body = await read_bounded(response.aiter_raw(), MAX_RESPONSE_BYTES)
                if body is None:
                    raise QueryTooCostlyError(
                        f"{self.domain} answers with more than {MAX_RESPONSE_BYTES:,} bytes to one request."
                    )
                return response.status_code, response.headers, body
        except TimeoutError:
            raise _RetryableError("does not complete its response in time") from None
        except httpx.HTTPError as error:
            raise _RetryableError(f"cannot be reached ({type(error).__name__})") from None

    def _raise_for_status(self, status: int, headers: httpx.Headers) -> None:
        """Raise the error that a status stands for."""
        if status == 429:
            raise _RetryableError("has had too many requests", _parse_retry_after(headers.get("retry-after")))
        if status >= 500:
            raise _RetryableError(f"answers with status {status}")
        if status in _PROBLEMS_BY_STATUS:
            field, problem = _PROBLEMS_BY_STATUS[status]
            raise ShopifyRefusedError(problem.format(domain=self.domain), field)
        if status != 200:
            raise ShopifyRefusedError(
                f"{self.domain} answers with status {status}. Is it the host of a shop that is open?", _DOMAIN_FIELD
            )

    def _update_throttle(self, document: str, cost: Mapping[str, Any]) -> None:
        with suppress(KeyError, TypeError, ValueError):
            self._costs[document] = float(cost["requestedQueryCost"])
            status = cost["throttleStatus"]
            available, rate = float(status["currentlyAvailable"]), float(status["restoreRate"])
            self._throttle = _ThrottleStatus(available, rate, float(status["maximumAvailable"]), monotonic())

    def _raise_for_errors(self, errors: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]) -> None:
        """Raise the exception for the GraphQL errors of a response, by their codes."""
        codes = {(error.get("extensions") or {}).get("code") for error in errors}
        # Shopify's messages name scopes and fields. They are truncated, and the token is redacted.
        messages = "; ".join(str(error.get("message", "")) for error in errors)[:500].replace(self._token, "[hidden]")
        if "THROTTLED" in codes:
            wait_seconds = (
                self._throttle.compute_wait_seconds(float(cost.get("requestedQueryCost") or 0)) if self._throttle else 0
            )
            raise _RetryableError("has had too many requests", max(wait_seconds, self._backoff_seconds))
        if "MAX_COST_EXCEEDED" in codes:
            raise QueryTooCostlyError(f"{self.domain} was asked for too much at a time: {messages}")
        if "ACCESS_DENIED" in codes:
            raise ShopifyRefusedError(
                f"may not read all that is needed of {self.domain}. Give the app the scope read_products ({messages})",
                _TOKEN_FIELD,
            )
        if "SHOP_INACTIVE" in codes:
            raise ShopifyRefusedError(f"the shop {self.domain} is closed.", _DOMAIN_FIELD)
        if "INTERNAL_SERVER_ERROR" in codes or "TIMEOUT" in codes:
            raise _RetryableError("answers with an error of its own")
        raise ShopifyError(f"{self.domain} does not answer the question: {messages}")


_PROBLEMS_BY_STATUS = {
    401: (
        _TOKEN_FIELD,
        "{domain} does not take the access token: it has expired, was withdrawn or is another shop's. "
        "Make a new one at Shopify and set it with updateConfig.",
    ),
    402: (_DOMAIN_FIELD, "the shop {domain} is frozen: its bill at Shopify has to be paid first."),
    403: (
        _TOKEN_FIELD,
        f"{{domain}} does not let the access token read. Give the app the scope read_products: {ACCESS_SCOPES_URL}.",
    ),
    404: (_DOMAIN_FIELD, "there is no shop at {domain}. Is it the name that it has at Shopify, without a domain of its own?"),
    423: (_DOMAIN_FIELD, "the shop {domain} is locked at Shopify. Its owner has to see to that first."),
}

_SHOP_INFO_QUERY = """
query About { shop { name myshopifyDomain currencyCode } currentAppInstallation { accessScopes { handle } } }
"""


def _parse_retry_after(retry_after: str | None) -> float:
    try:
        # In this order, NaN becomes the longest wait.
        return max(0.05, min(MAX_WAIT_SECONDS, float(retry_after or 1)))
    except ValueError:
        # An HTTP date is valid, too, but Shopify sends seconds.
        return 1.0
