"""How often the same caller may come: a bucket per caller and door, emptied by requests and filled by time (GCRA).

Processes that share a Redis share the buckets. While it is away each has its own: nobody is kept out, or let in without end,
because of it.
"""

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from math import ceil
from time import monotonic
from typing import Any

from throttled.asyncio import MemoryStore, RedisStore, Throttled
from throttled.asyncio.rate_limiter import Quota
from throttled.rate_limiter.quota_parser import parse

from storefront.core.errors import RequestError

log = logging.getLogger("storefront")

# Callers that a process remembers at a door, the most recent ones: about 200 bytes each.
MOST_CALLERS = 50_000
MOST_REFUSED = 10_000
# The longest address has 45: ::ffff: and so on, written out, with a zone behind it.
MAX_CALLER_CHARACTERS = 64
# Loopback, link-local, private and carrier-grade NAT. IPv6 callers are /64 networks: that of ::1 has no other client.
_PRIVATE = "127.0.0.0/8 10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 169.254.0.0/16 100.64.0.0/10 ::/64 fc00::/7 fe80::/10"
PRIVATE_NETWORKS = tuple(map(ip_network, _PRIVATE.split()))
# Seconds that Redis has to answer, and for which it is left alone when it did not.
PATIENCE, PAUSE = 0.25, 5.0


class Door(Enum):
    """Where callers are counted, and as what."""

    ADDRESS = "address"
    VIEWER = "viewer"
    EVENTS = "events"
    SIGN_IN = "sign-in"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left to a caller at a door, as the fields RateLimit and RateLimit-Policy tell it."""

    door: Door
    quota: Quota
    remaining: int
    reset_after: float

    def headers(self) -> dict[str, str]:
        """Both fields."""
        name, window = self.door.value, self.quota.get_period_sec()
        return {
            "ratelimit-policy": f'"{name}";q={self.quota.get_limit()};w={window}',
            "ratelimit": f'"{name}";r={self.remaining};t={ceil(self.reset_after)}',
        }


class RateLimited(RequestError):
    """Too often. Nothing was done."""

    code = "RATE_LIMITED"

    def __init__(self, allowance: Allowance, retry_after: float) -> None:
        quota, self.retry_after = allowance.quota, max(1, ceil(retry_after))
        often = f"{quota.get_limit():,} in {quota.get_period_sec()} s, and {quota.burst:,} at once"
        super().__init__(f"Too many requests: this {allowance.door.value} has {often}. Try again in {self.retry_after} s.")
        self.allowance = allowance

    @property
    def details(self) -> dict[str, Any]:
        """When to try again, in seconds."""
        return {"retryAfter": self.retry_after}


class Bucket:
    """The callers at one door."""

    def __init__(self, door: Door, quota: Quota, shared: RedisStore | None) -> None:
        self._door, self._quota = door, quota
        self._shared: Throttled | None = None
        self._alone = Throttled(using="gcra", quota=quota, store=MemoryStore(options={"MAX_SIZE": MOST_CALLERS}))
        if shared is not None:
            self._shared = Throttled(using="gcra", quota=quota, store=shared, key_prefix=f"storefront:{door.value}")
        self._away_until = 0.0
        self._refused: OrderedDict[str, tuple[float, Allowance]] = OrderedDict()

    def check(self, caller: str) -> None:
        """Raises RateLimited where it is known that there is nothing left: who comes all the same costs nothing more."""
        until, allowance = self._refused.get(caller, (0.0, None))
        if allowance is not None and until > monotonic():
            raise RateLimited(allowance, until - monotonic())

    async def take(self, caller: str, number: int) -> Allowance:
        """Take so many from the caller's bucket; raises RateLimited where there are not as many, and takes none."""
        self.check(caller)
        # What is more than all of it would never be let through.
        result = await self._limit(caller, min(number, self._quota.burst))
        allowance = Allowance(self._door, self._quota, result.state.remaining, result.state.reset_after)
        if result.limited:
            self._refuse(caller, number, result.state.retry_after, allowance)
            raise RateLimited(allowance, result.state.retry_after)
        return allowance

    def _refuse(self, caller: str, number: int, seconds: float, allowance: Allowance) -> None:
        # Of somebody who asks for more than there is, others may still ask for less.
        if number == 1:
            self._refused[caller] = monotonic() + seconds, allowance
            while len(self._refused) > MOST_REFUSED:
                self._refused.popitem(last=False)

    async def _limit(self, caller: str, number: int) -> Any:
        if self._shared is not None and monotonic() >= self._away_until:
            try:
                return await self._shared.limit(caller, number)
            except Exception:
                # Whatever is wrong with Redis is no reason to be shut.
                self._away_until = monotonic() + PAUSE
                log.warning("rates are counted in this process alone: Redis does not answer", exc_info=True)
        return await self._alone.limit(caller, number)


class Rates:
    """The doors that are watched.

    `per_cost`: how much of an operation's cost counts as one more request; 0: none of it. `public_only`: where loopback and
    private addresses are not counted, as all clients of a proxy that is not known to be one have its address.
    """

    def __init__(
        self,
        quotas: Mapping[Door, str | None],
        url: str | None = None,
        per_cost: int = 1_000,
        public_only: Container[Door] = (),
    ) -> None:
        self._redis = _redis(url) if url and any(quotas.values()) else None
        self._buckets = {door: Bucket(door, parse(quota)[0], self._redis) for door, quota in quotas.items() if quota}
        self._per_cost, self._public_only = per_cost, public_only
        self._has_warned = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While this lasts rates are counted. Afterwards connections are closed."""
        try:
            yield
        finally:
            if self._redis is not None:
                await _close(self._redis)

    def watches(self, *doors: Door) -> bool:
        """Whether anything is counted at any of these doors."""
        return any(door in self._buckets for door in doors)

    def requests_in(self, cost: int) -> int:
        """What an operation counts besides the request that it came in."""
        return cost // self._per_cost if self._per_cost else 0

    async def take(self, door: Door, caller: str | None, number: int = 1) -> Allowance | None:
        """Count a caller, where callers are counted; raises RateLimited."""
        bucket = self._bucket(door, caller)
        if bucket is None or caller is None or not number:
            return None
        try:
            return await bucket.take(caller, number)
        except RateLimited:
            self._warn_of_proxies(door)
            raise

    def check(self, door: Door, caller: str | None) -> None:
        """Raises RateLimited for those of whom it is known already."""
        bucket = self._bucket(door, caller)
        if bucket is not None and caller is not None:
            bucket.check(caller)

    def _warn_of_proxies(self, door: Door) -> None:
        # Once, where nobody chose the rate or named the proxies: a CDN asks from public addresses, each for many clients.
        if door in self._public_only and not self._has_warned:
            self._has_warned = True
            log.warning("an address has used up the default rate: if it is a proxy's, set STOREFRONT_TRUSTED_PROXIES")

    def _bucket(self, door: Door, caller: str | None) -> Bucket | None:
        is_spared = door in self._public_only and caller is not None and is_private(caller)
        return None if is_spared else self._buckets.get(door)


UNLIMITED = Rates({})


class Visit:
    """A request on its way in: its address is counted at the door, what it costs as soon as that is known, then who asks."""

    __slots__ = ("_address", "_number", "_rates", "allowance")

    def __init__(self, rates: Rates, host: str | None) -> None:
        self._rates, self._address, self._number = rates, caller_of(host), 0
        self.allowance: Allowance | None = None

    async def count(self, number: int) -> None:
        """Count so many requests of the address."""
        self._number += number
        await self._take(Door.ADDRESS, self._address, number)

    async def ask(self, cost: int) -> None:
        """Count what an operation costs."""
        await self.count(self._rates.requests_in(cost))

    async def known_as(self, asker: str | None) -> None:
        """Count all of it for who asks, too."""
        await self._take(Door.VIEWER, asker, self._number)

    async def _take(self, door: Door, caller: str | None, number: int) -> None:
        try:
            self.allowance = await self._rates.take(door, caller, number) or self.allowance
        except RateLimited as error:
            self.allowance = error.allowance
            raise


def caller_of(host: str | None) -> str | None:
    """The name under which an address is counted: an IPv4 address itself, of IPv6 the /64 network that a client has to itself."""
    # What proxies forward need not be an address, nor short.
    return None if host is None else _caller_of(host[:MAX_CALLER_CHARACTERS])


@lru_cache(10_000)
def _caller_of(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    # A socket for both versions has IPv4 clients as ::ffff:192.0.2.1, all of them in one /64.
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


@lru_cache(10_000)
def is_private(caller: str) -> bool:
    """Whether a caller is this machine or in a private network: perhaps a proxy. Names that are no address are none."""
    try:
        network = ip_network(caller)
    except ValueError:
        return False
    return any(network.version == private.version and network.subnet_of(private) for private in PRIVATE_NETWORKS)  # type: ignore[arg-type]


async def reach(url: str) -> None:
    """Whether processes can count together there; raises what Redis' client raises where it does not answer."""
    store = _redis(url)
    try:
        await store.exists("storefront")
    finally:
        await _close(store)


async def _close(store: RedisStore) -> None:
    # The library opens connections and has no way to close them.
    client: Any = store._backend.get_client()
    await client.aclose()
    await client.connection_pool.aclose()


def _redis(url: str) -> RedisStore:
    return RedisStore(server=url, options={"SOCKET_TIMEOUT": PATIENCE, "SOCKET_CONNECT_TIMEOUT": PATIENCE})
