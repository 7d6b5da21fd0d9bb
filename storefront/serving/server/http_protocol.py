"""Uvicorn's HTTP protocol with a header timeout (slowloris), load shedding, and strict message framing (request smuggling).

Stock Uvicorn has none of them.

Framing (RFC 9112): only the parser decides where one request ends and the next begins. A head with an `Upgrade` header makes the
parser stop where the body begins. Unless it is a WebSocket handshake for a WebSocket route, the head is parsed again without that
header (RFC 9110, section 7.8), and its body after it, so that no byte of a body is taken for a request. After anything malformed
the connection is closed.
"""

import asyncio
import fcntl
import re
import struct
import termios
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from storefront.core.ids import new_id
from storefront.serving.observability.request_id import extract_request_id
from storefront.serving.protection.load_shedding import LOAD_SHEDDER_STATE_KEY, LoadShedder, render_overload_response
from storefront.serving.server.backpressure import BackpressureHTTPProtocol
from storefront.serving.server.connection_limit import CONNECTION_LIMIT_STATE_KEY, ConnectionLimit

# Limits of a request's head: bytes (not counting what follows in the same read), and seconds until it is complete (slowloris).
MAX_HEADER_BYTES, HEADER_TIMEOUT_SECONDS = 65_536, 10.0
# Seconds that a client may be silent in the midst of the body of a request while the server shuts down.
DRAIN_SILENCE_SECONDS = 1.0
# The key of the server's state with the paths of WebSocket routes. Without it the application decides about each handshake.
WEBSOCKET_PATHS_STATE_KEY = "storefront.websocket_paths"

# For so many bytes of a body's content, one byte of chunked coding is allowed in addition to `MAX_HEADER_BYTES`: the sizes and
# line ends of chunks, their extensions, and trailers. Parsing costs as much for a chunk of one byte as for one of 64 kB.
CONTENT_BYTES_PER_CODING_BYTE = 8

# Request headers that have one value, and so one line (RFC 9110, section 5.3; RFC 6265; Fetch; WebSocket). Of two, proxies and
# applications would read different ones. `Host` is checked by itself; the parser rejects a second `Content-Length`.
SINGLETON_HEADERS = frozenset(
    b"access-control-request-method authorization content-location content-range content-type cookie date dnt from "
    b"if-modified-since if-range if-unmodified-since last-event-id max-forwards origin proxy-authorization range referer "
    b"sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc sec-websocket-key sec-websocket-version "
    b"user-agent".split()
)

_INVALID_REQUEST_MESSAGE = "Invalid HTTP request received."
_HEAD_MESSAGE = f"The head of a request must have at most {MAX_HEADER_BYTES:,} bytes."
_CODING_MESSAGE = (
    f"Send the body in larger chunks: their sizes and extensions, and trailers, must have at most {MAX_HEADER_BYTES:,} bytes and "
    f"one for {CONTENT_BYTES_PER_CODING_BYTE} of the content."
)
_SHUTDOWN_MESSAGE = "The server shuts down, and the rest of the request did not come in time. Send it again."
# uri-host [ ":" port ], or empty (RFC 9110, section 7.2), with optional white space around it.
_HOST_PATTERN = re.compile(rb"[ \t]*(\[[\w:.%~-]+\]|[\w.~!$&'()*+,;=%-]*)(:\d*)?[ \t]*", re.ASCII)


@lru_cache(maxsize=64)
def _is_valid_host(value: bytes) -> bool:
    return _HOST_PATTERN.fullmatch(value) is not None


class MalformedRequestError(Exception):
    """Raised for a request head that is rejected. Raised in the parser's callbacks, which stops the parser."""

    def __init__(self, message: str, status: int = 400, headers: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class HardenedHTTPProtocol(BackpressureHTTPProtocol):
    """Closes connections whose clients do not complete a request head in time (slowloris), and sheds requests under overload."""

    # When the wait for the rest of a head began, or for the rest of a body whose response has been sent. In the loop's time.
    _header_wait_started_at: float | None = None
    # Bytes since the last boundary of a message, head or body that are not content.
    _non_content_bytes = 0
    _header_timeout_timer: asyncio.TimerHandle | None = None
    # While the server shuts down: runs since the last bytes of an incomplete body.
    _silence_timer: asyncio.TimerHandle | None = None
    # Whether the body of the newest request is incomplete.
    _is_reading_body = False
    # The response to malformed bytes, sent after the responses to all earlier requests. It ends the connection.
    _final_error_response: bytes | None = None
    _connection_limit: ConnectionLimit | None = None
    # Whether the newest head is a WebSocket handshake for a WebSocket route.
    _is_websocket_upgrade = False

    def connection_made(self, transport: Any) -> None:
        """Start the header timeout of a new connection."""
        super().connection_made(transport)
        # Uvicorn goes on parsing after a request with `connection: close`; here the rest is ignored.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._header_wait_started_at = self.loop.time()
        self._check_header_timeout()
        self._connection_limit = self.app_state.get(CONNECTION_LIMIT_STATE_KEY)
        if self._connection_limit is not None and not self._connection_limit.try_open(transport, self._has_unread_request):
            transport.write(render_overload_response(new_id(), keep_alive=False))
            transport.close()

    def _has_unread_request(self) -> bool:
        return not self.transport.is_closing() and _count_unread_bytes(self.transport) > 0

    def parse(self, data: bytes) -> None:
        """Parse received bytes, and enforce the size of heads."""
        self._unset_keepalive_if_required()
        if self._final_error_response is not None:
            return
        self._non_content_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._resume_after_upgrade(memoryview(data)[pause.args[0] :])
        except httptools.HttpParserError as error:
            self._reject_malformed(error)
        else:
            if self._non_content_bytes > MAX_HEADER_BYTES:
                self._reject_malformed(MalformedRequestError(_CODING_MESSAGE if self._is_reading_body else _HEAD_MESSAGE))
        self._start_idle_timeout()

    def _start_idle_timeout(self) -> None:
        # Empty lines between requests end Uvicorn's keep-alive timeout without starting a request.
        if self._header_wait_started_at is None and self.timeout_keep_alive_task is None and self._is_idle():
            self._header_wait_started_at = self.loop.time()

    def _resume_after_upgrade(self, rest: memoryview) -> None:
        """Continue after a head with an `Upgrade` header: upgrade to WebSocket, or parse it again without the header."""
        while True:
            if self._is_websocket_upgrade:
                self._upgrade_to_websocket(rest)
                return
            head = self._render_head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as pause:
                rest = rest[pause.args[0] :]
            except httptools.HttpParserError as error:
                self._reject_malformed(error)
                return
            else:
                return

    def _render_head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def on_message_begin(self) -> None:
        """A request begins: start the header timeout."""
        if self._header_wait_started_at is None:
            self._header_wait_started_at = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is complete: validate it. Raises MalformedRequestError."""
        self._header_wait_started_at, self._non_content_bytes = None, 0
        names = [name for name, _ in self.headers]
        # Fast path: nearly every head has one valid Host, and neither Transfer-Encoding nor Upgrade.
        if names.count(b"host") != 1 or not _is_valid_host(self.headers[names.index(b"host")][1]):
            self._check_host_count(names.count(b"host"))
        if len(set(names)) != len(names):
            _check_singleton_headers(names)
        if b"transfer-encoding" in names:
            self._check_transfer_encoding()
        if self.parser.should_upgrade():
            self._check_upgrade()
            return
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False
        self._is_reading_body = True
        if self._connection_limit is not None:
            self._connection_limit.set_busy(self.transport)
        try:
            super().on_headers_complete()
        except (httptools.HttpParserInvalidURLError, AttributeError):
            # Uvicorn reads a path where there may be none. There is no request that a body could belong to.
            self._is_reading_body = False
            raise MalformedRequestError("The target of the request is not a URL.") from None
        # Trailers of a chunked body must not become headers of the request.
        self.headers = []
        if self._is_draining:
            self._start_silence_timer()

    def on_body(self, body: bytes) -> None:
        """Some content of a body."""
        content_bytes = len(body) + len(body) // CONTENT_BYTES_PER_CODING_BYTE
        self._non_content_bytes = max(0, self._non_content_bytes - content_bytes)
        super().on_body(body)
        if self._silence_timer is not None:
            self._start_silence_timer()

    def on_message_complete(self) -> None:
        """A request is complete, including its body."""
        # The parser also calls this after a head with an `Upgrade` header, whose request has not begun.
        if self._is_reading_body:
            self._header_wait_started_at, self._non_content_bytes, self._is_reading_body = None, 0, False
            self._stop_silence_timer()
            super().on_message_complete()

    def _check_host_count(self, host_count: int) -> None:
        if host_count:
            raise MalformedRequestError("Send one Host header, with the name or address of a host, and its port if it has one.")
        if self.parser.get_http_version() != "1.0":
            raise MalformedRequestError("A request must have a Host header.")

    def _check_transfer_encoding(self) -> None:
        codings = self._get_list_header(b"transfer-encoding")
        if codings != [b"chunked"] or self.parser.get_http_version() != "1.1":
            raise MalformedRequestError("The only supported Transfer-Encoding is chunked, once, in HTTP/1.1.")

    def _check_upgrade(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise MalformedRequestError("This server is not a proxy.", 405, b"allow: GET, HEAD, OPTIONS, POST\r\n")
        self._is_websocket_upgrade = self._is_websocket_handshake()
        if self._is_websocket_upgrade and (
            self._get_list_header(b"transfer-encoding") or self._get_list_header(b"content-length") not in ([], [b"0"])
        ):
            raise MalformedRequestError("A WebSocket handshake must not have a body.")

    def _get_list_header(self, header_name: bytes) -> list[bytes]:
        """The members of a list header over all its lines, in lower case."""
        return [member.strip() for name, value in self.headers if name == header_name for member in value.lower().split(b",")]

    def _is_websocket_handshake(self) -> bool:
        """Whether a head with an `Upgrade` header is a WebSocket handshake for a WebSocket route."""
        is_get = self.parser.get_method() == b"GET" and self.parser.get_http_version() == "1.1"
        if not is_get or b"websocket" not in self._get_list_header(b"upgrade"):
            return False
        path, websocket_paths = httptools.parse_url(self.url).path or b"", self.app_state.get(WEBSOCKET_PATHS_STATE_KEY)
        # Only when idle: a pending response would be sent into the WebSocket.
        return (websocket_paths is None or unquote(path.decode("latin-1")) in websocket_paths) and self._is_idle()

    def _upgrade_to_websocket(self, rest: memoryview) -> None:
        """Pass the connection to the WebSocket protocol. `rest`: bytes after the handshake, which must be none."""
        if rest:
            self._reject_malformed(MalformedRequestError("A client must wait for the response to its WebSocket handshake."))
            return
        if self._header_timeout_timer is not None:
            self._header_timeout_timer.cancel()
        # The hop-by-hop headers are normalized.
        hop_by_hop = (b"upgrade", b"connection", b"content-length")
        headers = [header for header in self.headers if header[0] not in hop_by_hop]
        self.scope["headers"] = [*headers, (b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        self.scope["method"] = "GET"
        url = httptools.parse_url(self.url)
        self.url = b"?".join(component for component in (url.path, url.query) if component)
        if self._connection_limit is not None:
            self._connection_limit.set_busy(self.transport)
        self.handle_websocket_upgrade()

    def _is_idle(self) -> bool:
        """Whether all responses have been sent."""
        return self.cycle is None or self.cycle.response_complete

    def _reject_malformed(self, error: Exception) -> None:
        """Reject malformed bytes, after the responses to earlier requests, and close: the next message boundary is unknown."""
        if self.transport.is_closing():
            return
        cause = error if isinstance(error, MalformedRequestError) else error.__context__
        malformed = cause if isinstance(cause, MalformedRequestError) else MalformedRequestError(_INVALID_REQUEST_MESSAGE)
        response = self._render_error_response(malformed)
        if self._is_reading_body:
            # The malformed bytes belong to the body of the newest request.
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            else:
                response = b"" if self.cycle.response_started else response
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                self.transport.write(response)
                self.transport.close()
                return
        self._final_error_response = response
        if self._is_running_request_complete():
            self._send_final_error_response()

    def _send_final_error_response(self) -> None:
        self.transport.write(self._final_error_response or b"")
        self.transport.close()

    def _render_error_response(self, malformed: MalformedRequestError) -> bytes:
        default_headers = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        body = str(malformed).encode()
        return b"%b%b%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
            STATUS_LINE[malformed.status],
            default_headers,
            malformed.headers,
            len(body),
            body,
        )

    def on_response_complete(self) -> None:
        """A response has been sent."""
        if self._is_reading_body and self._running_cycle is self.cycle:
            # The rest of the body is discarded, within the header timeout.
            self._header_wait_started_at = self.loop.time()
        super().on_response_complete()
        if self._connection_limit is not None and self._is_idle():
            self._connection_limit.set_idle(self.transport, self._has_unread_request)
        if self._final_error_response is not None and not self.transport.is_closing() and self._is_running_request_complete():
            self._send_final_error_response()

    def _is_running_request_complete(self) -> bool:
        # A deferred request has not started: it waits until the client has read earlier responses.
        return self._deferred_request is None and (self._running_cycle is None or self._running_cycle.response_complete)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_draining:
            cycle.keep_alive = False
        if self.transport.is_closing() or self.try_defer(cycle, app):
            # The connection closes, or the request is deferred until the client has read the previous response.
            return
        if cycle.waiting_for_100_continue:
            app = _close_unless_continued(cycle, app)
        load_shedder: LoadShedder | None = self.app_state.get(LOAD_SHEDDER_STATE_KEY)
        if load_shedder is None:
            super()._start_asgi_task(cycle, app)
        elif load_shedder.try_admit(cycle.scope["path"]):
            super()._start_asgi_task(cycle, _release_when_done(load_shedder, app))
        else:
            self._shed_request(cycle)

    def _shed_request(self, cycle: RequestResponseCycle) -> None:
        """Load shedding: respond with 503 immediately. The body is discarded."""
        cycle.response_complete = True
        self.transport.write(render_overload_response(extract_request_id(cycle.scope), keep_alive=cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless a request has arrived and is about to be read: the client would see a reset (RST)."""
        if not self._has_unread_request():
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """The server shuts down: close the connection after the response that is under way, at once if there is none."""
        super().shutdown()
        if self._is_reading_body:
            self._start_silence_timer()

    @property
    def _is_draining(self) -> bool:
        return self._connection_limit is not None and self._connection_limit.is_draining

    def _start_silence_timer(self) -> None:
        self._stop_silence_timer()
        self._silence_timer = self.loop.call_later(DRAIN_SILENCE_SECONDS, self._reject_silent)

    def _stop_silence_timer(self) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None

    def _reject_silent(self) -> None:
        if self.flow.read_paused:
            # The application has yet to read what has come.
            self._start_silence_timer()
        else:
            self._reject_malformed(MalformedRequestError(_SHUTDOWN_MESSAGE, 503, b"retry-after: 1\r\n"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has been closed."""
        self._stop_silence_timer()
        if self._header_timeout_timer is not None:
            self._header_timeout_timer.cancel()
        super().connection_lost(exc)

    def _check_header_timeout(self) -> None:
        # One periodic timer per connection instead of a timer per request.
        if self._header_wait_started_at is not None and self.flow.read_paused:
            # Reading is paused until earlier requests are answered: the client is not to blame for the wait.
            self._header_wait_started_at = self.loop.time()
        if self._header_wait_started_at is not None and self.loop.time() - self._header_wait_started_at >= HEADER_TIMEOUT_SECONDS:
            self.transport.close()
        else:
            self._header_timeout_timer = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self._check_header_timeout)


def _check_singleton_headers(names: Sequence[bytes]) -> None:
    counts = Counter(names)
    repeated = next((name for name in names if counts[name] > 1 and name in SINGLETON_HEADERS), None)
    if repeated is not None:
        raise MalformedRequestError(f"Send one {repeated.decode().title()} header, not {counts[repeated]}.")


def _count_unread_bytes(transport: asyncio.BaseTransport) -> int:
    """The bytes that the kernel has received and that have not been read."""
    (count,) = struct.unpack("i", fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))
    return int(count)


def _release_when_done(load_shedder: LoadShedder, app: Any) -> Any:
    async def run_app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        finally:
            load_shedder.release()

    return run_app


def _close_unless_continued(cycle: RequestResponseCycle, app: Any) -> Any:
    """Close the connection after a final response instead of `100 Continue`: the client may or may not send the body."""

    async def run_app(scope: Any, receive: Any, send: Any) -> None:
        async def send_message(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, send_message)

    return run_app
