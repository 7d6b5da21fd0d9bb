"""One Shopify shop's Admin API (GraphQL): asked no faster than its throttle allows, and again where it only had no time."""

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

# Shopify brings a version out each quarter and serves it for a year. A newer one is tried before it is written here.
VERSION = "2026-10"
DOCUMENTATION = "https://shopify.dev/docs/api/usage/access-scopes"

# Seconds for one step of a request, and for all of it with its answer; those that all the waiting for one answer may take; how
# often it is asked for after failures.
TIMEOUT, REQUEST_TIMEOUT_SECONDS, PATIENCE, TRIES = 30.0, 60.0, 300.0, 7
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# An answer is parsed in one piece. A page that is longer is asked for again with fewer products.
MAX_RESPONSE_BYTES = 2_000_000

_SHOP = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\.myshopify\.com")
_TOKEN, _DOMAIN = "integrations.shopify.accessToken", "integrations.shopify.domain"


class ShopifyError(Exception):
    """What a shop answered instead. The message is for its owner; `field` is what of the store there is to mend."""

    def __init__(self, problem: str, field: str = "integrations.shopify") -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class ShopifyRefused(ShopifyError):
    """No: asking again is of no use before the owner has mended something."""


class ShopifyUnavailable(ShopifyError):
    """Not now: it was asked again and again."""


class TooCostly(ShopifyError):
    """More in one question than Shopify answers at a time. To be asked for less."""


class _Later(Exception):
    """Ask again, after so many seconds where that was said."""

    def __init__(self, problem: str, seconds: float | None = None) -> None:
        super().__init__(problem)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class About:
    """What a shop says of itself: its name, the ISO 4217 code of its prices, and what the access token may do."""

    name: str
    domain: str
    currency: str
    scopes: frozenset[str]


@dataclass(slots=True)
class _Throttle:
    """How many points there are to spend, as the last answer said it."""

    available: float
    restore_rate: float
    most: float
    seen: float

    def wait(self, cost: float) -> float:
        """Seconds until there are so many points."""
        there_are = min(self.most, self.available + (monotonic() - self.seen) * self.restore_rate)
        return max(0.0, min(cost, self.most) - there_are) / max(self.restore_rate, 1.0)


def is_shop(domain: str) -> bool:
    """Whether a host is a shop's own at Shopify: tokens are told to no other."""
    return _SHOP.fullmatch(domain) is not None


class Shop:
    """The Admin API of one shop, with an access token of it. To be entered; one question at a time.

    `base` stands in for the shop's own address, which is where the token is sent otherwise: for a stand-in or a proxy that the
    operator of this server names. Nothing that an owner of a store can write gets there. `pause`: seconds before the first new
    try after a failure; they double.
    """

    def __init__(
        self, domain: str, token: str, *, version: str = VERSION, base: str | None = None, pause: float = SHORTEST_PAUSE
    ) -> None:
        if not is_shop(domain):
            raise ShopifyRefused('must be the shop\'s own host at Shopify, such as "my-shop.myshopify.com".', _DOMAIN)
        if not token.isascii() or not token.isprintable():
            raise ShopifyRefused("has characters that no access token has. Copy it from Shopify again.", _TOKEN)
        self.domain = domain
        self._url = f"{(base or f'https://{domain}').rstrip('/')}/admin/api/{version}/graphql.json"
        self._token, self._pause = token, pause
        self._throttle: _Throttle | None = None
        self._costs: dict[str, float] = {}
        # A redirect is not followed: it would take the token along to wherever it leads.
        self._http = httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False)

    async def __aenter__(self) -> "Shop":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def about(self) -> About:
        """What it says of itself: the shortest question that shows whether the token is good."""
        data = await self.ask(_ABOUT, {})
        shop, app = data["shop"], data["currentAppInstallation"]
        scopes = frozenset(scope["handle"] for scope in app["accessScopes"])
        return About(shop["name"], shop["myshopifyDomain"], shop["currencyCode"], scopes)

    async def ask(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The data of an answer without errors. Raises ShopifyRefused, TooCostly, ShopifyUnavailable, or another ShopifyError."""
        ends, failures = monotonic() + PATIENCE, 0
        while True:
            if self._throttle is not None:
                await asyncio.sleep(min(self._throttle.wait(self._costs.get(document, 0.0)), PATIENCE))
            try:
                return await self._asked(document, variables)
            except _Later as later:
                failures += later.seconds is None
                seconds = self._backoff(failures) if later.seconds is None else later.seconds
                if failures >= TRIES or monotonic() + seconds > ends:
                    raise ShopifyUnavailable(f"{self.domain} {later}, and did so again and again. Try again later.") from None
            await asyncio.sleep(seconds)

    def _backoff(self, failures: int) -> float:
        # All of the pause is left to chance, so that those who failed together do not come back together.
        return random.uniform(0, min(self._pause * 2**failures, LONGEST_PAUSE))  # noqa: S311  nobody gains by guessing it

    async def _asked(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        status, headers, body = await self._posted({"query": document, "variables": variables})
        self._judge(status, headers)
        try:
            answer = orjson.loads(body)
            errors, cost = answer.get("errors"), (answer.get("extensions") or {}).get("cost") or {}
        except (ValueError, AttributeError):
            raise _Later("answered with something that is not GraphQL") from None
        self._note(document, cost)
        if errors:
            self._judge_errors(errors if isinstance(errors, list) else [{"message": str(errors)}], cost)
        if not isinstance(answer.get("data"), dict):
            raise _Later("answered without data")
        return dict(answer["data"])

    async def _posted(self, question: Mapping[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        # Uncompressed: of a compressed answer a few bytes may unfold into more memory than there is.
        headers = {"accept": "application/json", "accept-encoding": "identity", "x-shopify-access-token": self._token}
        headers["content-type"], content = "application/json", orjson.dumps(question)
        body = bytearray()
        try:
            async with (
                asyncio.timeout(REQUEST_TIMEOUT_SECONDS),
                self._http.stream("POST", self._url, content=content, headers=headers) as response,
            ):
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise _Later("answers compressed although it was asked not to")
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_RESPONSE_BYTES:
                        problem = f"{self.domain} answers with more than {MAX_RESPONSE_BYTES:,} bytes to one request."
                        raise TooCostly(problem)
                return response.status_code, response.headers, bytes(body)
        except TimeoutError:
            raise _Later("does not come to the end of an answer") from None
        except httpx.HTTPError as error:
            raise _Later(f"cannot be reached ({type(error).__name__})") from None

    def _judge(self, status: int, headers: httpx.Headers) -> None:
        """Raise what a status means."""
        if status == 429:
            raise _Later("has had too many requests", _seconds(headers.get("retry-after")))
        if status >= 500:
            raise _Later(f"answers with status {status}")
        if status in _REFUSALS:
            field, problem = _REFUSALS[status]
            raise ShopifyRefused(problem.format(domain=self.domain), field)
        if status != 200:
            raise ShopifyRefused(f"{self.domain} answers with status {status}. Is it the host of a shop that is open?", _DOMAIN)

    def _note(self, document: str, cost: Mapping[str, Any]) -> None:
        with suppress(KeyError, TypeError, ValueError):
            self._costs[document] = float(cost["requestedQueryCost"])
            status = cost["throttleStatus"]
            available, rate = float(status["currentlyAvailable"]), float(status["restoreRate"])
            self._throttle = _Throttle(available, rate, float(status["maximumAvailable"]), monotonic())

    def _judge_errors(self, errors: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]) -> None:
        """Raise what the errors of an answer mean."""
        codes = {(error.get("extensions") or {}).get("code") for error in errors}
        # Shopify's own words: they name scopes and fields. Bounded, and without what must not be told.
        said = "; ".join(str(error.get("message", "")) for error in errors)[:500].replace(self._token, "[hidden]")
        if "THROTTLED" in codes:
            wanted = self._throttle.wait(float(cost.get("requestedQueryCost") or 0)) if self._throttle else 0
            raise _Later("has had too many requests", max(wanted, self._pause))
        if "MAX_COST_EXCEEDED" in codes:
            raise TooCostly(f"{self.domain} was asked for too much at a time: {said}")
        if "ACCESS_DENIED" in codes:
            raise ShopifyRefused(
                f"may not read all that is needed of {self.domain}. Give the app the scope read_products ({said})", _TOKEN
            )
        if "SHOP_INACTIVE" in codes:
            raise ShopifyRefused(f"the shop {self.domain} is closed.", _DOMAIN)
        if "INTERNAL_SERVER_ERROR" in codes or "TIMEOUT" in codes:
            raise _Later("answers with an error of its own")
        raise ShopifyError(f"{self.domain} does not answer the question: {said}")


_REFUSALS = {
    401: (
        _TOKEN,
        "{domain} does not take the access token: it has expired, was withdrawn or is another shop's. "
        "Make a new one at Shopify and set it with updateConfig.",
    ),
    402: (_DOMAIN, "the shop {domain} is frozen: its bill at Shopify has to be paid first."),
    403: (_TOKEN, f"{{domain}} does not let the access token read. Give the app the scope read_products: {DOCUMENTATION}."),
    404: (_DOMAIN, "there is no shop at {domain}. Is it the name that it has at Shopify, without a domain of its own?"),
    423: (_DOMAIN, "the shop {domain} is locked at Shopify. Its owner has to see to that first."),
}

_ABOUT = """
query About { shop { name myshopifyDomain currencyCode } currentAppInstallation { accessScopes { handle } } }
"""


def _seconds(retry_after: str | None) -> float:
    try:
        # In this order NaN is the longest wait.
        return max(0.05, min(PATIENCE, float(retry_after or 1)))
    except ValueError:
        # A date would do as well; Shopify has never sent one.
        return 1.0
