"""Requests to addresses that somebody else has chosen: connected to only where that is allowed, and over within their time.

The name is looked up once for each connection, and what is connected to is the very address that was judged. So nobody gains by
a name that leads elsewhere the next time. TLS is for the name, not for the address. Redirects are not followed, proxies of the
environment are not asked, and of an answer no more is read than its head.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import httpcore
import httpx
from httpcore import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from storefront.core.net.network_policy import Networks, url_fault

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

# Seconds for a look-up and a connection together, of all that a request has; addresses of a name.
CONNECT, MOST_ADDRESSES = 5.0, 8
# Look-ups at a time, and those of one owner: a name server that does not answer holds a thread for up to half a minute.
MAX_LOOKUPS, MAX_OWNER_LOOKUPS = 64, 8
# Seconds for one of several addresses: where it does not answer the next one may.
EACH = 2.0
# Of an answer that says how long it is, and is short, the body is read too: then the connection can be used again.
SHORT, PATIENCE = 16_384, 1.0
# The longest that an answer may ask us to wait, in seconds.
LONGEST_WAIT = 3_600


class NotPublic(Exception):
    """The name leads to nothing that may be connected to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a status, or an `error` for people. `wait`: seconds after which it may be tried again, if told."""

    status: int | None
    error: str | None
    milliseconds: int
    wait: int | None = None

    @property
    def is_success(self) -> bool:
        """Whether it was taken."""
        return self.status is not None and 200 <= self.status < 300


class Outgoing:
    """The way out. `plain`: http:// is allowed, too; `timeout`: seconds for a whole request."""

    def __init__(
        self,
        networks: Networks,
        *,
        plain: bool = False,
        timeout: float = 10.0,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout = timeout
        self._plain, self._networks = plain, networks
        self._resolver = Resolver()
        self._lookup = lookup
        self._tls = tls or httpx.create_ssl_context()

    def _backend(self, owner: str) -> "Guarded":
        return Guarded(self._networks, self._lookup or partial(self._resolver.look_up, owner))

    async def fault(self, url: str, owner: str = "") -> str | None:
        """What is wrong with an address to send to, or None. Its name is looked up for this owner."""
        found = url_fault(url, plain=self._plain)
        if found is not None:
            return found
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(CONNECT):
                await self._backend(owner).addresses(parts.hostname or "", parts.port or 443)
        except (NotPublic, OSError, TimeoutError):
            # Which of the two is nobody's business who would like to know the names of a private network.
            return "must have a host that is found, and leads to public addresses only."
        return None

    @asynccontextmanager
    async def session(self, connections: int = 1, owner: str = "") -> AsyncIterator["Session"]:
        """Requests of one owner over so many connections, which are used again as long as this lasts."""
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._tls, max_connections=connections, keepalive_expiry=5.0, network_backend=self._backend(owner)
        ) as pool:
            yield Session(pool, self.timeout, plain=self._plain)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let go of the threads in the end."""
        try:
            yield
        finally:
            self._resolver.close()


class Resolver:
    """Looks names up in threads of its own, few at a time for each owner: others find a thread free whatever one of them does."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_LOOKUPS, thread_name_prefix="lookup")
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look_up(self, owner: str, host: str, port: int) -> Sequence[str]:
        """The addresses of a name; raises OSError where there are none."""
        slots = self._slots.setdefault(owner, asyncio.Semaphore(MAX_OWNER_LOOKUPS))
        await slots.acquire()
        loop = asyncio.get_running_loop()
        lookup = self._threads.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)

        def release(_: object) -> None:
            # The loop may have ended before the thread.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(slots.release)

        # Not when the caller gives up: the thread is busy until the resolver does.
        lookup.add_done_callback(release)
        found = await asyncio.wrap_future(lookup)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Guarded(AsyncNetworkBackend):
    """Connects to what is allowed only."""

    def __init__(self, networks: Networks, lookup: Lookup) -> None:
        self._networks, self._lookup = networks, lookup
        self._inner = AnyIOBackend()

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name. Raises NotPublic unless all of them may be connected to, and OSError where there are none."""
        try:
            found = await self._lookup(host, port)
        except UnicodeError:
            # Parts of a name that are too long, or none.
            raise NotPublic from None
        # One that leads inside, too, is made to be tried again until it does.
        if not found or not all(self._networks.permit(address) for address in found):
            raise NotPublic
        return found[:MOST_ADDRESSES]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """A connection to one of the addresses of a name, the first that answers."""
        try:
            async with asyncio.timeout(timeout):
                return await self._connected(await self.addresses(host, port), port, local_address, socket_options)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None

    async def _connected(
        self, addresses: Sequence[str], port: int, local_address: str | None, options: Iterable[SOCKET_OPTION] | None
    ) -> AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                return await self._inner.connect_tcp(address, port, EACH if len(addresses) > 1 else None, local_address, options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class Session:
    """Sends requests."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, timeout: float, *, plain: bool) -> None:
        self._pool, self._timeout, self._plain = pool, timeout, plain

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a body, and see what comes of it. Raises nothing that the other side is the cause of."""
        began = monotonic()
        status, wait, error = None, None, url_fault(url, plain=self._plain)
        if error is None:
            try:
                async with asyncio.timeout(self._timeout):
                    status, wait = await self._sent(url, body, headers)
            except (httpcore.TimeoutException, TimeoutError):
                error = f"no answer within {self._timeout:g} s"
            except (NotPublic, OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as failure:
                error = told(failure)
        if status is not None and not 200 <= status < 300:
            error = f"answered with status {status}" + (": redirects are not followed" if 300 <= status < 400 else "")
        return Answer(status, error, round((monotonic() - began) * 1000), wait)

    async def _sent(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, int | None]:
        # Sent as it is, and answered as it is: what is packed small could unfold into much.
        own = {"accept": "*/*", "accept-encoding": "identity", "content-length": str(len(body))}
        head: list[tuple[bytes | str, bytes | str]] = [*own.items(), *headers.items()]
        limits = {"timeout": {"connect": min(CONNECT, self._timeout)}}
        async with self._pool.stream("POST", url, headers=head, content=body, extensions=limits) as response:
            told_ = {name.lower(): value for name, value in response.headers}
            length = told_.get(b"content-length", b"")
            if length.isdigit() and len(length) < 8 and int(length) <= SHORT:
                # Whatever becomes of the body: what counts has been said.
                with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                    async with asyncio.timeout(PATIENCE):
                        await _read(response)
            return response.status, _wait(told_.get(b"retry-after", b""))


async def _read(response: httpcore.Response) -> None:
    left = SHORT
    async for part in response.aiter_stream():
        left -= len(part)
        if left < 0:
            return


def _wait(text: bytes) -> int | None:
    return min(int(text), LONGEST_WAIT) if text.isdigit() and len(text) < 10 else None


def told(error: BaseException) -> str:
    """A failure in words, for those whose address it is. Nothing of what was sent or came back is in them."""
    cause = _root(error)
    if isinstance(cause, NotPublic):
        return "the host leads to an address that is not public"
    if isinstance(cause, socket.gaierror):
        return "the host was not found"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate does not hold: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "no TLS connection could be made"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused"
    return "could not connect" if isinstance(error, httpcore.ConnectError) else "the connection ended before an answer came"


def _root(error: BaseException) -> BaseException:
    """What it came of, as far down as it says something."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error
