"""The public keys (JWKS) of a token issuer: fetched on demand, cached while fresh, with a limit on how often they are fetched."""

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
from storefront.core.net.tls import load_tls_context
from storefront.core.request_context import create_detached_task
from storefront.core.streams import read_bounded
from storefront.core.tasks import share

log = logging.getLogger("storefront")

# Asymmetric algorithms only: an HMAC with a public key as its secret, or "none", proves nothing (algorithm confusion).
ALGORITHMS = ["RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]

# Seconds, for discovery and keys together; bytes of each response.
FETCH_TIMEOUT_SECONDS = 5
MAX_RESPONSE_BYTES = 256_000
MAX_KEYS = 100
# Seconds between two fetches for an unknown key, between two retries while an issuer with cached keys does not respond, and
# while an issuer without cached keys does not.
MIN_REFETCH_SECONDS = 30
RETRY_SECONDS = 30
INITIAL_RETRY_SECONDS = 5
# Seconds for which stale keys are used while their issuer does not respond (stale-if-error).
MAX_STALE_SECONDS = 3_600
# Base64 of 2048 bits: shorter RSA keys are insecure.
MIN_RSA_MODULUS_CHARACTERS = 342

_MAX_AGE = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})")

KeysByName = dict[tuple[str | None, str], list[Key]]


class IssuerUnreachableError(RequestError):
    """A token may be valid, but cannot be verified while its issuer does not respond."""

    code = "SERVICE_UNAVAILABLE"


class InvalidKeySetError(Exception):
    """The response of an issuer has no usable keys. The message says why."""


class IssuerKeys:
    """The keys of one issuer. Without `url`, their URL is found by OpenID Connect Discovery.

    `max_age`: maximum seconds for which keys are cached; `clock`: a monotonic clock in seconds.
    """

    def __init__(
        self, issuer: str, url: str | None = None, *, max_age: int = 600, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer, self._url, self._max_age, self._clock = issuer, url, max_age, clock
        self._keys: KeysByName = {}
        self._fetch_at = self._refetch_at = self._stale_at = float("-inf")
        self._fetch_task: asyncio.Task[None] | None = None

    async def find_key(self, kid: str | None, algorithm: str) -> Key | None:
        """The key with this key id for the algorithm, or None. Raises IssuerUnreachableError where no keys are cached."""
        if self._clock() >= self._fetch_at:
            await self._join_fetch()
        if self._clock() >= self._stale_at:
            raise IssuerUnreachableError(
                "The issuer of the bearer token does not answer, so the token cannot be checked. Try again soon."
            )
        key = self._select_key(kid, algorithm)
        if key is None:
            # The issuer may have rotated its keys.
            await self._refetch_if_due()
            key = self._select_key(kid, algorithm)
        return key

    def _select_key(self, kid: str | None, algorithm: str) -> Key | None:
        candidates = self._keys.get((kid, algorithm), [])
        # A token without a key id is unambiguous only where one key fits.
        return candidates[0] if candidates and (kid is not None or len(candidates) == 1) else None

    async def _refetch_if_due(self) -> None:
        if self._fetch_task is None:
            if self._clock() < self._refetch_at:
                return
            self._refetch_at = self._clock() + MIN_REFETCH_SECONDS
        await self._join_fetch()

    async def _join_fetch(self) -> None:
        """Wait for the fetch in flight, or start one (single-flight). Cancelling a waiter does not cancel the fetch."""
        if self._fetch_task is None:
            self._fetch_task = create_detached_task(self._fetch())
        await share(self._fetch_task)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                keys, max_age = await self._download()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, InvalidKeySetError) as error:
            log.warning("the keys of %s could not be fetched: %s %s", self._issuer, type(error).__name__, error)
            self._fetch_at = self._clock() + (RETRY_SECONDS if self._keys else INITIAL_RETRY_SECONDS)
        else:
            self._keys = keys
            self._fetch_at = self._clock() + max_age
            self._stale_at = self._fetch_at + MAX_STALE_SECONDS
        finally:
            self._fetch_task = None

    async def _download(self) -> tuple[KeysByName, int]:
        async with httpx.AsyncClient(verify=load_tls_context(), timeout=FETCH_TIMEOUT_SECONDS) as client:
            document, headers = await _fetch_json(client, self._url or await self._discover_url(client))
        keys = _import_keys(document)
        if not keys:
            raise InvalidKeySetError("its key set has no usable key")
        return keys, _parse_max_age(headers.get("cache-control", ""), self._max_age)

    async def _discover_url(self, client: httpx.AsyncClient) -> str:
        document, _ = await _fetch_json(client, self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise InvalidKeySetError(
                "its discovery document has another issuer: set STOREFRONT_OIDC_ISSUER to exactly that value"
            )
        url = document.get("jwks_uri")
        # An https issuer must not downgrade to http, where an attacker on the network could replace the keys.
        if not isinstance(url, str) or not url.startswith(("https://", self._issuer.partition("://")[0] + "://")):
            raise InvalidKeySetError("its discovery document has no usable jwks_uri")
        return url


async def _fetch_json(client: httpx.AsyncClient, url: str) -> tuple[dict[str, Any], Mapping[str, str]]:
    # Uncompressed: a small response must not expand to a huge one (decompression bomb).
    request_headers = {"accept": "application/json", "accept-encoding": "identity"}
    async with client.stream("GET", url, headers=request_headers) as response:
        if response.status_code != 200:
            raise InvalidKeySetError(f"{url} answered with status {response.status_code}")
        body = await read_bounded(response.aiter_raw(), MAX_RESPONSE_BYTES)
    if body is None:
        raise InvalidKeySetError(f"{url} answered with more than {MAX_RESPONSE_BYTES:,} bytes")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise InvalidKeySetError(f"{url} answered with no JSON object")
    return document, response.headers


def _parse_max_age(cache_control: str, maximum: int) -> int:
    """Seconds for which keys are fresh: max-age of the issuer, at least MIN_REFETCH_SECONDS and at most `maximum`."""
    match = _MAX_AGE.search(cache_control.lower())
    return min(maximum, max(int(match[1]), MIN_REFETCH_SECONDS)) if match else maximum


def _import_keys(document: Mapping[str, Any]) -> KeysByName:
    jwks = document.get("keys")
    keys: KeysByName = {}
    for jwk in jwks[:MAX_KEYS] if isinstance(jwks, list) else []:
        key = _import_key(jwk)
        if key is None:
            continue
        for name, algorithm in product({key.kid, None}, _list_algorithms(key)):
            keys.setdefault((name, algorithm), []).append(key)
    return keys


def _import_key(jwk: Any) -> Key | None:
    """The key, or None where it cannot be used: other keys of the set may still be valid."""
    if not isinstance(jwk, dict) or jwk.get("kty") == "oct" or (jwk.get("kty") == "OKP" and jwk.get("crv") != "Ed25519"):
        return None
    if jwk.get("kty") == "RSA" and len(str(jwk.get("n"))) < MIN_RSA_MODULUS_CHARACTERS:
        return None
    try:
        key = JWKRegistry.import_key(jwk)
        key.check_key_op("verify")
    except (JoseError, ValueError, TypeError, LookupError):
        return None
    return key


def _list_algorithms(key: Key) -> list[str]:
    """The algorithms that this key may verify: a token must not choose another (algorithm confusion)."""
    return [algorithm.name for algorithm in JWSRegistry.filter_algorithms(key, ALGORITHMS)]
