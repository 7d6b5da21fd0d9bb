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

from storefront.core.net.network_policy import NetworkPolicy, find_url_problem

HostLookup = Callable[[str, int], Awaitable[Sequence[str]]]

# Seconds for a look-up and a connection together, of all that a request has; addresses of a name.
CONNECT_TIMEOUT_SECONDS, MAX_ADDRESSES = 5.0, 8
# Look-ups at a time, and those of one owner: a name server that does not answer holds a thread for up to half a minute.
MAX_CONCURRENT_LOOKUPS, MAX_CONCURRENT_LOOKUPS_PER_OWNER = 64, 8
# Seconds for one of several addresses: where it does not answer the next one may.
ADDRESS_TIMEOUT_SECONDS = 2.0
# Of an answer that says how long it is, and is short, the body is read too: then the connection can be used again.
MAX_BODY_BYTES, BODY_TIMEOUT_SECONDS = 16_384, 1.0
# The longest that an answer may ask us to wait, in seconds.
MAX_RETRY_AFTER_SECONDS = 3_600


class NonPublicAddressError(Exception):
    """The name leads to nothing that may be connected to."""


@dataclass(frozen=True, slots=True)
class PostResult:
    """What came of a request: a status, or an `error` for people. `wait`: seconds after which it may be tried again, if told."""

    status: int | None
    error: str | None
    milliseconds: int
    retry_after_seconds: int | None = None

    @property
    def is_success(self) -> bool:
        """Whether it was taken."""
        return self.status is not None and 200 <= self.status < 300


class SafeHttpClient:
    """The way out. `plain`: http:// is allowed, too; `timeout`: seconds for a whole request."""

    def __init__(
        self,
        network_policy: NetworkPolicy,
        *,
        allow_http: bool = False,
        timeout: float = 10.0,
        look_up_host: HostLookup | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.timeout = timeout
        self._allow_http, self._network_policy = allow_http, network_policy
        self._resolver = HostResolver()
        self._look_up_host = look_up_host
        self._ssl_context = ssl_context or httpx.create_ssl_context()

    def _create_backend(self, owner: str) -> "GuardedBackend":
        return GuardedBackend(self._network_policy, self._look_up_host or partial(self._resolver.look_up_host, owner))

    async def find_target_problem(self, url: str, owner: str = "") -> str | None:
        """What is wrong with an address to send to, or None. Its name is looked up for this owner."""
        problem = find_url_problem(url, allow_http=self._allow_http)
        if problem is not None:
            return problem
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._create_backend(owner).resolve_allowed_addresses(parts.hostname or "", parts.port or 443)
        except (NonPublicAddressError, OSError, TimeoutError):
            # Which of the two is nobody's business who would like to know the names of a private network.
            return "must have a host that is found, and leads to public addresses only."
        return None

    @asynccontextmanager
    async def session(self, max_connections: int = 1, owner: str = "") -> AsyncIterator["HttpSession"]:
        """Requests of one owner over so many connections, which are used again as long as this lasts."""
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            max_connections=max_connections,
            keepalive_expiry=5.0,
            network_backend=self._create_backend(owner),
        ) as pool:
            yield HttpSession(pool, self.timeout, allow_http=self._allow_http)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let go of the threads in the end."""
        try:
            yield
        finally:
            self._resolver.close()


class HostResolver:
    """Looks names up in threads of its own, few at a time for each owner: others find a thread free whatever one of them does."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_LOOKUPS, thread_name_prefix="lookup")
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look_up_host(self, owner: str, host: str, port: int) -> Sequence[str]:
        """The addresses of a name; raises OSError where there are none."""
        slots = self._slots.setdefault(owner, asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS_PER_OWNER))
        await slots.acquire()
        loop = asyncio.get_running_loop()
        lookup = self._threads.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)

        def release(_: object) -> None:
            # The loop may have ended before the thread.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(slots.release)

        # Not when the caller gives up: the thread is busy until the resolver does.
        lookup.add_done_callback(release)
        address_infos = await asyncio.wrap_future(lookup)
        return list(dict.fromkeys(str(address[0]) for *_, address in address_infos))


class GuardedBackend(AsyncNetworkBackend):
    """Connects to what is allowed only."""

    def __init__(self, network_policy: NetworkPolicy, look_up_host: HostLookup) -> None:
        self._network_policy, self._look_up_host = network_policy, look_up_host
        self._inner = AnyIOBackend()

    async def resolve_allowed_addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name. Raises NotPublic unless all of them may be connected to, and OSError where there are none."""
        try:
            addresses = await self._look_up_host(host, port)
        except UnicodeError:
            # Parts of a name that are too long, or none.
            raise NonPublicAddressError from None
        # One that leads inside, too, is made to be tried again until it does.
        if not addresses or not all(self._network_policy.is_allowed(address) for address in addresses):
            raise NonPublicAddressError
        return addresses[:MAX_ADDRESSES]

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
                return await self._connect_to_first(
                    await self.resolve_allowed_addresses(host, port), port, local_address, socket_options
                )
        except TimeoutError:
            raise httpcore.ConnectTimeout from None

    async def _connect_to_first(
        self, addresses: Sequence[str], port: int, local_address: str | None, options: Iterable[SOCKET_OPTION] | None
    ) -> AsyncNetworkStream:
        last_error: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, ADDRESS_TIMEOUT_SECONDS if len(addresses) > 1 else None, local_address, options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
        raise last_error


class HttpSession:
    """Sends requests."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, timeout: float, *, allow_http: bool) -> None:
        self._pool, self._timeout, self._allow_http = pool, timeout, allow_http

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostResult:
        """Send a body, and see what comes of it. Raises nothing that the other side is the cause of."""
        started_at = monotonic()
        status, retry_after_seconds, error = None, None, find_url_problem(url, allow_http=self._allow_http)
        if error is None:
            try:
                async with asyncio.timeout(self._timeout):
                    status, retry_after_seconds = await self._send_request(url, body, headers)
            except (httpcore.TimeoutException, TimeoutError):
                error = f"no answer within {self._timeout:g} s"
            except (
                NonPublicAddressError,
                OSError,
                httpcore.NetworkError,
                httpcore.ProtocolError,
                httpcore.UnsupportedProtocol,
            ) as network_error:
                error = describe_error(network_error)
        if status is not None and not 200 <= status < 300:
            error = f"answered with status {status}" + (": redirects are not followed" if 300 <= status < 400 else "")
        return PostResult(status, error, round((monotonic() - started_at) * 1000), retry_after_seconds)

    async def _send_request(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, int | None]:
        # Sent as it is, and answered as it is: what is packed small could unfold into much.
        default_headers = {"accept": "*/*", "accept-encoding": "identity", "content-length": str(len(body))}
        all_headers: list[tuple[bytes | str, bytes | str]] = [*default_headers.items(), *headers.items()]
        extensions = {"timeout": {"connect": min(CONNECT_TIMEOUT_SECONDS, self._timeout)}}
        async with self._pool.stream("POST", url, headers=all_headers, content=body, extensions=extensions) as response:
            response_headers = {name.lower(): value for name, value in response.headers}
            length = response_headers.get(b"content-length", b"")
            if length.isdigit() and len(length) < 8 and int(length) <= MAX_BODY_BYTES:
                # Whatever becomes of the body: what counts has been said.
                with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                    async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                        await _drain_body(response)
            return response.status, _parse_retry_after(response_headers.get(b"retry-after", b""))


async def _drain_body(response: httpcore.Response) -> None:
    bytes_left = MAX_BODY_BYTES
    async for chunk in response.aiter_stream():
        bytes_left -= len(chunk)
        if bytes_left < 0:
            return


def _parse_retry_after(text: bytes) -> int | None:
    return min(int(text), MAX_RETRY_AFTER_SECONDS) if text.isdigit() and len(text) < 10 else None


def describe_error(error: BaseException) -> str:
    """A failure in words, for those whose address it is. Nothing of what was sent or came back is in them."""
    cause = _find_root_cause(error)
    if isinstance(cause, NonPublicAddressError):
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


def _find_root_cause(error: BaseException) -> BaseException:
    """What it came of, as far down as it says something."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
