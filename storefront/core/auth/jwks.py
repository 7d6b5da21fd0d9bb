"""The public keys of a token issuer: fetched when they are needed, kept while they are fresh, never fetched in a flood."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import httpx
import orjson
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.jws import JWSRegistry

from storefront.core.errors import RequestError
from storefront.core.request_context import for_all

log = logging.getLogger("storefront")

# Signatures with a public key, and no others: a secret that is shared, or none, proves nothing about an issuer.
ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]

# Seconds, for discovery and keys together; bytes of each answer.
TIMEOUT = 5
MOST_BYTES = 256_000
MOST_KEYS = 100
# Seconds between two looks for a key that is not known, between two tries while an issuer that we know does not answer,
# and while one does not of which we know nothing yet.
LOOK_AGAIN = 30
TRY_AGAIN = 30
TRY_COLD = 5
# Seconds for which old keys go on working while their issuer does not answer.
MOST_STALE = 3_600
# Base64 of 2048 bits: shorter RSA keys are not safe any more.
SHORTEST_RSA = 342

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})")

Known = dict[tuple[str | None, str], list[Key]]


class IssuerUnreachable(RequestError):
    """A token that may be good, but cannot be checked now."""

    code = "SERVICE_UNAVAILABLE"


class Unusable(Exception):
    """What an issuer answered instead of its keys."""


class Keys:
    """The keys of one issuer. Without the URL of its keys, the issuer's discovery document names it."""

    def __init__(
        self, issuer: str, url: str | None = None, *, max_age: int = 600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer, self._url, self._max_age, self._clock = issuer, url, max_age, clock
        self._known: Known = {}
        self._fetch_at = self._look_again_at = self._stale_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key of this name that fits the algorithm; raises IssuerUnreachable where none can be known at all."""
        if self._clock() >= self._fetch_at:
            await self._fetched()
        if self._clock() >= self._stale_at:
            raise IssuerUnreachable(
                "The issuer of the bearer token does not answer, so the token cannot be checked. Try again soon."
            )
        found = self._fitting(kid, algorithm)
        if found is None:
            # The issuer may have changed its keys since.
            await self._look_again()
            found = self._fitting(kid, algorithm)
        return found

    def _fitting(self, kid: str | None, algorithm: str) -> Key | None:
        found = self._known.get((kid, algorithm), [])
        # A token that names no key is only clear where there is one.
        return found[0] if found and (kid is not None or len(found) == 1) else None

    async def _look_again(self) -> None:
        if self._fetching is None:
            if self._clock() < self._look_again_at:
                return
            self._look_again_at = self._clock() + LOOK_AGAIN
        await self._fetched()

    async def _fetched(self) -> None:
        """Wait for the one fetch that is under way. A request that is cancelled meanwhile does not take it along."""
        if self._fetching is None:
            self._fetching = for_all(self._fetch())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                known, max_age = await self._download()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, Unusable) as error:
            log.warning("the keys of %s could not be fetched: %s %s", self._issuer, type(error).__name__, error)
            self._fetch_at = self._clock() + (TRY_AGAIN if self._known else TRY_COLD)
        else:
            self._known = known
            self._fetch_at = self._clock() + max_age
            self._stale_at = self._fetch_at + MOST_STALE
        finally:
            self._fetching = None

    async def _download(self) -> tuple[Known, int]:
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            document, headers = await _json(client, self._url or await self._discovered(client))
        known = _imported(document)
        if not known:
            raise Unusable("it has no key that can be used")
        return known, _freshness(headers.get("cache-control", ""), self._max_age)

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        document, _ = await _json(client, self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise Unusable("its discovery document is of another issuer: write STOREFRONT_OIDC_ISSUER exactly as it does")
        url = document.get("jwks_uri")
        # An issuer at https must not send us to fetch its keys where anybody on the way could replace them.
        if not isinstance(url, str) or not url.startswith(("https://", self._issuer.partition("://")[0] + "://")):
            raise Unusable("its discovery document has no jwks_uri that can be used")
        return url


async def _json(client: httpx.AsyncClient, url: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    # Not compressed: a small answer must not be able to unfold into a huge one.
    wanted = {"accept": "application/json", "accept-encoding": "identity"}
    async with client.stream("GET", url, headers=wanted) as response:
        if response.status_code != 200:
            raise Unusable(f"{url} answered with status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MOST_BYTES:
                raise Unusable(f"{url} answered with more than {MOST_BYTES:,} bytes")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise Unusable(f"{url} answered with no JSON object")
    return document, response.headers


def _freshness(cache_control: str, most: int) -> int:
    """Seconds for which keys are fresh: as the issuer says, but no longer than we want and never so short as to hammer it."""
    found = _MAX_AGE.search(cache_control.lower())
    return min(most, max(int(found[1]), LOOK_AGAIN)) if found else most


def _imported(document: Mapping[str, Any]) -> Known:
    given = document.get("keys")
    known: Known = {}
    for jwk in given[:MOST_KEYS] if isinstance(given, list) else []:
        key = _key(jwk)
        if key is None:
            continue
        for name, algorithm in product({key.kid, None}, _algorithms(key)):
            known.setdefault((name, algorithm), []).append(key)
    return known


def _key(jwk: Any) -> Key | None:
    """A key as far as it can be used; the others of its set are not its fault."""
    if not isinstance(jwk, dict) or jwk.get("kty") == "oct" or (jwk.get("kty") == "OKP" and jwk.get("crv") != "Ed25519"):
        return None
    if jwk.get("kty") == "RSA" and len(str(jwk.get("n"))) < SHORTEST_RSA:
        return None
    try:
        key = JWKRegistry.import_key(jwk)
        key.check_key_op("verify")
    except (JoseError, ValueError, TypeError, LookupError):
        return None
    return key


def _algorithms(key: Key) -> list[str]:
    """What a signature by this key may be called, so that none can be passed off as made by another algorithm."""
    return [algorithm.name for algorithm in JWSRegistry.filter_algorithms(key, ALGORITHMS)]
