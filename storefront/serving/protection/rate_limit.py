"""Rate limiting: a bucket per caller and scope, by the generic cell rate algorithm (GCRA).

Processes with the same Redis share the buckets. While Redis is unavailable each process uses buckets of its own, so an outage
neither blocks callers nor lifts the limits.
"""

import logging
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import ceil
from time import monotonic
from typing import Any

from cachetools import LRUCache
from throttled.asyncio import MemoryStore, RedisStore, Throttled
from throttled.asyncio.rate_limiter import Quota
from throttled.rate_limiter.quota_parser import parse

from storefront.core.errors import RequestError

log = logging.getLogger("storefront")

# The number of callers that a process tracks per scope, the most recent ones: about 200 bytes each.
MAX_TRACKED_CALLERS = 50_000
MAX_LIMITED_CALLERS = 10_000
# Callers are truncated to so many characters. The longest address has 45: an IPv4-mapped one, plus a zone.
MAX_CALLER_CHARACTERS = 64
# Loopback, link-local, private and carrier-grade NAT networks. IPv6 callers are /64 networks: that of ::1 has no other clients.
_PRIVATE = "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 100.64.0.0/10 ::/64 fc00::/7 fe80::/10"
PRIVATE_NETWORKS = tuple(map(ip_network, _PRIVATE.split()))
# The timeout of Redis in seconds, and for how long it is not used after a failure (circuit breaker).
REDIS_TIMEOUT_SECONDS, REDIS_RETRY_SECONDS = 0.25, 5.0


class RateLimitScope(Enum):
    """What is limited, and by which key: an address, a viewer, the events of a caller, or sign-in attempts."""

    ADDRESS = "address"
    VIEWER = "viewer"
    EVENTS = "events"
    SIGN_IN = "sign-in"


@dataclass(frozen=True, slots=True)
class RateLimitState:
    """A caller's state in a scope, as in the headers RateLimit and RateLimit-Policy."""

    scope: RateLimitScope
    quota: Quota
    remaining: int
    reset_after: float

    def to_headers(self) -> dict[str, str]:
        """The headers RateLimit and RateLimit-Policy."""
        name, window = self.scope.value, self.quota.get_period_sec()
        return {
            "ratelimit-policy": f'"{name}";q={self.quota.get_limit()};w={window}',
            "ratelimit": f'"{name}";r={self.remaining};t={ceil(self.reset_after)}',
        }


class RateLimited(RequestError):
    """Raised if a caller exceeds a rate limit. Nothing was executed."""

    code = "RATE_LIMITED"

    def __init__(self, state: RateLimitState, retry_after: float) -> None:
        quota, self.retry_after = state.quota, max(1, ceil(retry_after))
        allowed = f"{quota.get_limit():,} in {quota.get_period_sec()} s, and {quota.burst:,} at once"
        super().__init__(f"Too many requests: this {state.scope.value} has {allowed}. Try again in {self.retry_after} s.")
        self.state = state

    @property
    def details(self) -> dict[str, Any]:
        """`retryAfter`: when to retry, in seconds."""
        return {"retryAfter": self.retry_after}


class ScopeLimiter:
    """The buckets of one scope."""

    def __init__(self, scope: RateLimitScope, quota: Quota, redis_store: RedisStore | None) -> None:
        self._scope, self._quota = scope, quota
        self._redis_limiter: Throttled | None = None
        self._memory_limiter = Throttled(using="gcra", quota=quota, store=MemoryStore(options={"MAX_SIZE": MAX_TRACKED_CALLERS}))
        if redis_store is not None:
            self._redis_limiter = Throttled(using="gcra", quota=quota, store=redis_store, key_prefix=f"storefront:{scope.value}")
        self._redis_down_until = 0.0
        self._limited_callers: LRUCache[str, tuple[float, RateLimitState]] = LRUCache(MAX_LIMITED_CALLERS)

    def check_caller(self, caller: str) -> None:
        """Raise RateLimited if the caller's bucket is known to be empty, without a call to Redis."""
        limited_until, state = self._limited_callers.get(caller, (0.0, None))
        if state is not None and limited_until > monotonic():
            raise RateLimited(state, limited_until - monotonic())

    async def consume(self, caller: str, count: int) -> RateLimitState:
        """Take `count` from the caller's bucket. Raises RateLimited, and takes nothing, if it has fewer."""
        self.check_caller(caller)
        # More than a full bucket could never be taken.
        result = await self._apply_limit(caller, min(count, self._quota.burst))
        state = RateLimitState(self._scope, self._quota, result.state.remaining, result.state.reset_after)
        if result.limited:
            self._remember_limited(caller, count, result.state.retry_after, state)
            raise RateLimited(state, result.state.retry_after)
        return state

    def _remember_limited(self, caller: str, count: int, retry_after: float, state: RateLimitState) -> None:
        # If more than one was requested, the bucket may still have enough for a smaller request.
        if count == 1:
            self._limited_callers[caller] = monotonic() + retry_after, state

    async def _apply_limit(self, caller: str, count: int) -> Any:
        if self._redis_limiter is not None and monotonic() >= self._redis_down_until:
            try:
                return await self._redis_limiter.limit(caller, count)
            except Exception:
                # Fail over to the local buckets: a failure of Redis must not reject requests.
                self._redis_down_until = monotonic() + REDIS_RETRY_SECONDS
                log.warning("rate limits apply per process: Redis does not answer", exc_info=True)
        return await self._memory_limiter.limit(caller, count)


class RateLimiter:
    """The rate limits of all scopes.

    `cost_per_request`: how much of an operation's cost counts as one more request; 0: cost does not count. `public_only_scopes`:
    scopes in which loopback and private addresses are exempt, because all clients of an undeclared proxy have its address.
    """

    def __init__(
        self,
        quotas: Mapping[RateLimitScope, str | None],
        redis_url: str | None = None,
        cost_per_request: int = 1_000,
        public_only_scopes: Container[RateLimitScope] = (),
    ) -> None:
        self._redis = _create_redis_store(redis_url) if redis_url and any(quotas.values()) else None
        self._limiters = {scope: ScopeLimiter(scope, parse(quota)[0], self._redis) for scope, quota in quotas.items() if quota}
        self._cost_per_request, self._public_only_scopes = cost_per_request, public_only_scopes
        self._has_warned_of_proxies = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Close the connections to Redis at the end of the context."""
        try:
            yield
        finally:
            if self._redis is not None:
                await _close_store(self._redis)

    def has_limit(self, *scopes: RateLimitScope) -> bool:
        """Whether any of these scopes has a limit."""
        return any(scope in self._limiters for scope in scopes)

    def convert_cost_to_requests(self, cost: int) -> int:
        """How many additional requests an operation of this cost counts as."""
        return cost // self._cost_per_request if self._cost_per_request else 0

    async def consume(self, scope: RateLimitScope, caller: str | None, count: int = 1) -> RateLimitState | None:
        """Count requests of a caller. Returns None if the scope has no limit. Raises RateLimited."""
        limiter = self._get_limiter(scope, caller)
        if limiter is None or caller is None or not count:
            return None
        try:
            return await limiter.consume(caller, count)
        except RateLimited:
            self._warn_of_proxies(scope)
            raise

    def check_caller(self, scope: RateLimitScope, caller: str | None) -> None:
        """Raise RateLimited if the caller's bucket is known to be empty."""
        limiter = self._get_limiter(scope, caller)
        if limiter is not None and caller is not None:
            limiter.check_caller(caller)

    def _warn_of_proxies(self, scope: RateLimitScope) -> None:
        # Once, and only for default limits without trusted proxies: a CDN sends requests of many clients from public addresses.
        if scope in self._public_only_scopes and not self._has_warned_of_proxies:
            self._has_warned_of_proxies = True
            log.warning("an address has exceeded the default rate limit: if it is a proxy's, set STOREFRONT_TRUSTED_PROXIES")

    def _get_limiter(self, scope: RateLimitScope, caller: str | None) -> ScopeLimiter | None:
        is_exempt = scope in self._public_only_scopes and caller is not None and is_private(caller)
        return None if is_exempt else self._limiters.get(scope)


DEFAULT_RATE_LIMITER = RateLimiter({})


class RequestQuota:
    """Counts one request against the rate limits: first its address, then its cost once that is known, then its viewer."""

    __slots__ = ("_address", "_rate_limiter", "_request_count", "state")

    def __init__(self, rate_limiter: RateLimiter, host: str | None) -> None:
        self._rate_limiter, self._address, self._request_count = rate_limiter, get_caller_key(host), 0
        self.state: RateLimitState | None = None

    async def count_requests(self, count: int) -> None:
        """Count requests against the limit of the address. Raises RateLimited."""
        self._request_count += count
        await self._consume(RateLimitScope.ADDRESS, self._address, count)

    async def count_cost(self, cost: int) -> None:
        """Count the cost of an operation against the limit of the address. Raises RateLimited."""
        await self.count_requests(self._rate_limiter.convert_cost_to_requests(cost))

    async def count_viewer(self, viewer_id: str | None) -> None:
        """Count all requests so far against the limit of the viewer. Raises RateLimited."""
        await self._consume(RateLimitScope.VIEWER, viewer_id, self._request_count)

    async def _consume(self, scope: RateLimitScope, caller: str | None, count: int) -> None:
        try:
            self.state = await self._rate_limiter.consume(scope, caller, count) or self.state
        except RateLimited as error:
            self.state = error.state
            raise


def get_caller_key(host: str | None) -> str | None:
    """The key of an address: the IPv4 address itself, or the /64 network of an IPv6 address, which belongs to one client."""
    # What proxies forward may be long, and need not be an address.
    return None if host is None else _normalize_address(host[:MAX_CALLER_CHARACTERS])


@lru_cache(10_000)
def _normalize_address(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    # On a dual-stack socket IPv4 clients appear as ::ffff:192.0.2.1, all of them in one /64.
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


@lru_cache(10_000)
def is_private(caller: str) -> bool:
    """Whether a caller has a loopback or private address, and so may be a proxy. False for names that are not addresses."""
    try:
        network = ip_network(caller)
    except ValueError:
        return False
    candidates = (private for private in PRIVATE_NETWORKS if private.version == network.version)
    return any(network.subnet_of(private) for private in candidates)  # type: ignore[arg-type]


async def check_redis(url: str) -> None:
    """Check that Redis answers. Raises what its client raises."""
    store = _create_redis_store(url)
    try:
        await store.exists("storefront")
    finally:
        await _close_store(store)


async def _close_store(store: RedisStore) -> None:
    # The library has no method that closes its connections.
    client: Any = store._backend.get_client()
    await client.aclose()
    await client.connection_pool.aclose()


def _create_redis_store(url: str) -> RedisStore:
    return RedisStore(
        server=url, options={"SOCKET_TIMEOUT": REDIS_TIMEOUT_SECONDS, "SOCKET_CONNECT_TIMEOUT": REDIS_TIMEOUT_SECONDS}
    )
