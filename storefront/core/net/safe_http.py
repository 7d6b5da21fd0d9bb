"""An HTTP client for URLs that users choose, protected against SSRF.

The host is resolved once per connection, and the connection goes to the very address that the network policy has checked: DNS
rebinding gains nothing. TLS verifies the host name, not the address. Proxy variables of the environment are ignored, and each
request has a deadline. Of a response to POST only status and headers are used, and redirects are not followed. Those of GET are,
a few of them, each to an address that is checked again.
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
from urllib.parse import urldefrag, urljoin, urlsplit
from weakref import WeakValueDictionary

import httpcore
from httpcore import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream

from storefront.core.net.network_policy import NetworkPolicy, find_url_problem
from storefront.core.net.tls import load_tls_context
from storefront.core.streams import read_bounded

HostLookup = Callable[[str, int], Awaitable[Sequence[str]]]

# Timeout of DNS lookup and connection together, within the timeout of the request; maximum addresses of a host.
CONNECT_TIMEOUT_SECONDS, MAX_ADDRESSES = 5.0, 8
# Concurrent DNS lookups, and those of one owner: a name server that does not respond blocks a thread for up to 30 seconds.
MAX_CONCURRENT_LOOKUPS, MAX_CONCURRENT_LOOKUPS_PER_OWNER = 64, 8
# Timeout of one of several addresses, before the next one is tried.
ADDRESS_TIMEOUT_SECONDS = 2.0
# A body with a short Content-Length is read, so that the connection can be reused.
MAX_BODY_BYTES, BODY_TIMEOUT_SECONDS = 16_384, 1.0
# Redirects of a GET request that are followed.
MAX_REDIRECTS = 3
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
# Maximum Retry-After that is respected.
MAX_RETRY_AFTER_SECONDS = 3_600


class NonPublicAddressError(Exception):
    """The host resolves to an address that the network policy forbids, or to none."""


@dataclass(frozen=True, slots=True)
class PostResult:
    """The result of a request: a status, an `error` message for people, its duration, and Retry-After where it was sent."""

    status: int | None
    error: str | None
    milliseconds: int
    retry_after_seconds: int | None = None

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class GetResult:
    """The result of a GET request: the content, or an `error` message for people. `is_unreachable`: the host did not respond."""

    content: bytes | None = None
    error: str = ""
    is_unreachable: bool = False


class SafeHttpClient:
    """An HTTP client with SSRF protection. `allow_http`: http:// is allowed, too; `timeout`: seconds for a whole request."""

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
        self._ssl_context = ssl_context or load_tls_context()

    def _create_backend(self, owner: str) -> "GuardedBackend":
        return GuardedBackend(self._network_policy, self._look_up_host or partial(self._resolver.look_up_host, owner))

    async def find_target_problem(self, url: str, owner: str = "") -> str | None:
        """What is wrong with a target URL, or None. Its host is resolved within the lookup limit of this owner."""
        problem = find_url_problem(url, allow_http=self._allow_http)
        if problem is not None:
            return problem
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self._create_backend(owner).resolve_allowed_addresses(parts.hostname or "", parts.port or 443)
        except (NonPublicAddressError, OSError, TimeoutError):
            # One message for all causes: a caller must not be able to enumerate the names of a private network.
            return "must have a host that resolves, to public addresses only, or to those in STOREFRONT_WEBHOOK_NETWORKS."
        return None

    @asynccontextmanager
    async def session(
        self, max_connections: int = 1, owner: str = "", *, allow_http: bool | None = None, timeout_seconds: float | None = None
    ) -> AsyncIterator["HttpSession"]:
        """A session of one owner with a connection pool of this size. The other arguments override those of the client."""
        async with httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            max_connections=max_connections,
            keepalive_expiry=5.0,
            network_backend=self._create_backend(owner),
        ) as pool:
            allow_http = self._allow_http if allow_http is None else allow_http
            yield HttpSession(pool, timeout_seconds or self.timeout, allow_http=allow_http)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Stop the lookup threads at the end."""
        try:
            yield
        finally:
            self._resolver.close()


class HostResolver:
    """Resolves hosts in a thread pool, with a limit for each owner (bulkhead): one owner cannot block the lookups of others."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_LOOKUPS, thread_name_prefix="lookup")
        self._slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def close(self) -> None:
        """Stop the threads; queued lookups are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look_up_host(self, owner: str, host: str, port: int) -> Sequence[str]:
        """The addresses of a host; raises OSError where it does not resolve."""
        slots = self._slots.setdefault(owner, asyncio.Semaphore(MAX_CONCURRENT_LOOKUPS_PER_OWNER))
        await slots.acquire()
        loop = asyncio.get_running_loop()
        lookup = self._threads.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)

        def release(_: object) -> None:
            # The event loop may be closed before the thread ends.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(slots.release)

        # Released when the thread ends, not when the caller is cancelled: the thread stays busy until then.
        lookup.add_done_callback(release)
        address_infos = await asyncio.wrap_future(lookup)
        return list(dict.fromkeys(str(address[0]) for *_, address in address_infos))


class GuardedBackend(AsyncNetworkBackend):
    """A network backend of httpcore that connects only to addresses that the network policy allows."""

    def __init__(self, network_policy: NetworkPolicy, look_up_host: HostLookup) -> None:
        self._network_policy, self._look_up_host = network_policy, look_up_host
        self._inner = AnyIOBackend()

    async def resolve_allowed_addresses(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host. Raises NonPublicAddressError unless all are allowed, and OSError where it does not resolve."""
        try:
            addresses = await self._look_up_host(host, port)
        except UnicodeError:
            # Labels that are empty or too long.
            raise NonPublicAddressError from None
        # A host with both public and private addresses may be an attack: retries would reach the private one in the end.
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
        """A connection to the first address of a host that accepts one."""
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


_TIMEOUTS = (httpcore.TimeoutException, TimeoutError)
_NETWORK_ERRORS = (
    NonPublicAddressError,
    OSError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


class HttpSession:
    """Sends requests over a connection pool."""

    def __init__(self, pool: httpcore.AsyncConnectionPool, timeout: float, *, allow_http: bool) -> None:
        self._pool, self._timeout, self._allow_http = pool, timeout, allow_http

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> PostResult:
        """Send a POST request. Failures of the network and of the receiver are in the result, not raised."""
        started_at = monotonic()
        status, retry_after_seconds, error = None, None, find_url_problem(url, allow_http=self._allow_http)
        if error is None:
            try:
                async with asyncio.timeout(self._timeout):
                    status, retry_after_seconds = await self._send_request(url, body, headers)
            except _TIMEOUTS:
                error = f"no answer within {self._timeout:g} s"
            except _NETWORK_ERRORS as network_error:
                error = describe_error(network_error)
        if status is not None and not 200 <= status < 300:
            error = f"answered with status {status}" + (": redirects are not followed" if 300 <= status < 400 else "")
        return PostResult(status, error, round((monotonic() - started_at) * 1000), retry_after_seconds)

    async def get(self, url: str, max_bytes: int, headers: Mapping[str, str]) -> GetResult:
        """Send a GET request, and read at most so many bytes. Failures are in the result, not raised."""
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(MAX_REDIRECTS + 1):
                    if problem := find_url_problem(url, allow_http=self._allow_http):
                        return GetResult(error=f"its address {problem}")
                    result = await self._fetch(url, max_bytes, headers)
                    if isinstance(result, GetResult):
                        return result
                    url = result
        except _TIMEOUTS:
            return GetResult(error=f"was not received within {self._timeout:g} s", is_unreachable=True)
        except _NETWORK_ERRORS as network_error:
            return GetResult(error=f"could not be fetched: {describe_error(network_error)}", is_unreachable=True)
        return GetResult(error=f"was redirected more than {MAX_REDIRECTS} times")

    async def _fetch(self, url: str, max_bytes: int, headers: Mapping[str, str]) -> GetResult | str:
        """The result, or the address of a redirect."""
        all_headers: list[tuple[bytes | str, bytes | str]] = [("accept-encoding", "identity"), *headers.items()]
        extensions = {"timeout": {"connect": min(CONNECT_TIMEOUT_SECONDS, self._timeout)}}
        async with self._pool.stream("GET", url, headers=all_headers, extensions=extensions) as response:
            response_headers = {name.lower(): value for name, value in response.headers}
            if response.status in REDIRECT_STATUSES and (location := response_headers.get(b"location")):
                return urldefrag(urljoin(url, location.decode("latin-1"))).url
            if response.status != 200:
                return GetResult(error=f"was not received: its host answered with status {response.status}")
            length = response_headers.get(b"content-length", b"")
            is_long = length.isdigit() and (len(length) > 15 or int(length) > max_bytes)
            content = None if is_long else await read_bounded(response.aiter_stream(), max_bytes)
        return GetResult(error=f"has more than {max_bytes:,} bytes") if content is None else GetResult(content)

    async def _send_request(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, int | None]:
        # Uncompressed: a small response must not expand to a huge one (decompression bomb).
        default_headers = {"accept": "*/*", "accept-encoding": "identity", "content-length": str(len(body))}
        all_headers: list[tuple[bytes | str, bytes | str]] = [*default_headers.items(), *headers.items()]
        extensions = {"timeout": {"connect": min(CONNECT_TIMEOUT_SECONDS, self._timeout)}}
        async with self._pool.stream("POST", url, headers=all_headers, content=body, extensions=extensions) as response:
            response_headers = {name.lower(): value for name, value in response.headers}
            length = response_headers.get(b"content-length", b"")
            if length.isdigit() and len(length) < 8 and int(length) <= MAX_BODY_BYTES:
                # A failure while the body is read does not matter: the status is known.
                with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                    async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                        await read_bounded(response.aiter_stream(), MAX_BODY_BYTES)
            return response.status, _parse_retry_after(response_headers.get(b"retry-after", b""))


def _parse_retry_after(text: bytes) -> int | None:
    return min(int(text), MAX_RETRY_AFTER_SECONDS) if text.isdigit() and len(text) < 10 else None


def describe_error(error: BaseException) -> str:
    """A message about a failure for the owner of the URL. It quotes nothing of the request or the response."""
    cause = _find_root_cause(error)
    if isinstance(cause, NonPublicAddressError):
        return "the host resolves to an address that is neither public nor in STOREFRONT_WEBHOOK_NETWORKS"
    if isinstance(cause, socket.gaierror):
        return "the host was not found"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate is invalid: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "the TLS handshake failed"
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused"
    return "could not connect" if isinstance(error, httpcore.ConnectError) else "the connection ended before an answer came"


def _find_root_cause(error: BaseException) -> BaseException:
    """The innermost exception of the chain of causes."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
