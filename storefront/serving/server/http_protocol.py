"""Uvicorn's HTTP protocol with a header timeout (slowloris), load shedding, and strict message framing; stock Uvicorn has none.

Framing (RFC 9112): where one request ends and the next begins is decided once, by the parser, and never guessed. A head that asks
for another protocol makes the parser stop where its body begins. Unless it is a WebSocket handshake for a WebSocket route, it is
parsed again without the `Upgrade` header (RFC 9110, section 7.8), and its body after it: no byte of a body is ever taken for a
request. After anything malformed the connection is closed.
"""

import asyncio
import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from storefront.serving.observability.request_id import id_of
from storefront.serving.protection.load_shedding import STATE, Admission, refusal
from storefront.serving.server.backpressure import BackpressureHTTPProtocol

# Bytes of a request's head (what comes with them in the same read aside), and seconds within which all of it has to come.
MOST_BYTES, SECONDS = 65_536, 10.0
# Where a server's state has the paths on which WebSockets are served. Without them the application decides about each handshake.
WEBSOCKET_PATHS = "storefront.websocket_paths"

# Bytes of chunked coding that are allowed for each read of content: its size, its line ends, and short extensions.
CHUNK_OVERHEAD_BYTES = 16

_INVALID = "Invalid HTTP request received."
# uri-host [ ":" port ], or nothing (RFC 9110, section 7.2), with the white space that may surround a header's value.
_HOST = re.compile(rb"[ \t]*(\[[\w:.%~-]+\]|[\w.~!$&'()*+,;=%-]*)(:\d*)?[ \t]*", re.ASCII)


@lru_cache(maxsize=64)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None


class InvalidRequest(Exception):
    """A head that is refused before its request is one. Raised in the parser's callbacks, which makes the parser stop."""

    def __init__(self, message: str, status: int = 400, headers: bytes = b"") -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class HeadsProtocol(BackpressureHTTPProtocol):
    """Closes connections whose clients never finish a request's head, and refuses requests that there is no room for."""

    # Since when the client owes the rest of a head, or of a body that is answered already, in the loop's time.
    _since: float | None = None
    # Bytes since the last boundary between messages, head and body that are no content.
    _bytes = 0
    _look: asyncio.TimerHandle | None = None
    # Whether the body of the newest request is still to come.
    _in_body = False
    # The response to what is malformed, once all requests before it are answered. It ends the connection.
    _last_response: bytes | None = None
    # Whether the head that was just read is a WebSocket handshake for us.
    _is_handshake = False

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        # Uvicorn parses on after a request that closes the connection; what follows one is nothing to us.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=False)
        self._since = self.loop.time()
        self._look_again()

    def parse(self, data: bytes) -> None:
        """More of a head, or of a body."""
        self._unset_keepalive_if_required()
        if self._last_response is not None:
            return
        self._bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._read_on(memoryview(data)[pause.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_rest(error)
        else:
            if self._bytes > MOST_BYTES:
                self._refuse_rest(InvalidRequest(f"The head of a request must have at most {MOST_BYTES:,} bytes."))
        self._watch_silence()

    def _watch_silence(self) -> None:
        # Empty lines between requests are no request, and end Uvicorn's keep-alive timeout.
        if self._since is None and self.timeout_keep_alive_task is None and self._is_idle():
            self._since = self.loop.time()

    def _read_on(self, rest: memoryview) -> None:
        """Go on after a head that names another protocol: with that of WebSockets, or as if it named none."""
        while True:
            if self._is_handshake:
                self._upgrade_to_websocket(rest)
                return
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            try:
                self.parser.feed_data(head)
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as pause:
                rest = rest[pause.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse_rest(error)
                return
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def on_message_begin(self) -> None:
        """The first word of a request."""
        if self._since is None:
            self._since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there. Raises InvalidRequest."""
        self._since, self._bytes = None, 0
        names = [name for name, _ in self.headers]
        # Nearly every head has one Host and neither of the others: only those that differ are looked at more closely.
        if names.count(b"host") != 1 or not _is_host(self.headers[names.index(b"host")][1]):
            self._check_hosts(names.count(b"host"))
        if b"transfer-encoding" in names:
            self._check_transfer_encoding()
        if self.parser.should_upgrade():
            self._check_upgrade()
            return
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False
        self._in_body = True
        super().on_headers_complete()
        # The trailers of a chunked body are no headers of the request.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """Some of a body's content."""
        self._bytes = max(0, self._bytes - len(body) - CHUNK_OVERHEAD_BYTES)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request, its body included."""
        # A head that asks for an upgrade ends as a message, too, and none has begun.
        if self._in_body:
            self._since, self._bytes, self._in_body = None, 0, False
            super().on_message_complete()

    def _check_hosts(self, number: int) -> None:
        if number:
            raise InvalidRequest("Send one Host header, with the name or address of a host, and its port if it has one.")
        if self.parser.get_http_version() != "1.0":
            raise InvalidRequest("A request must have a Host header.")

    def _check_transfer_encoding(self) -> None:
        codings = self._values(b"transfer-encoding")
        if codings != [b"chunked"] or self.parser.get_http_version() != "1.1":
            raise InvalidRequest("The only Transfer-Encoding that is read is chunked, once, in HTTP/1.1.")

    def _check_upgrade(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            raise InvalidRequest("This server is no proxy.", 405, b"allow: GET, HEAD, OPTIONS, POST\r\n")
        self._is_handshake = self._is_websocket_handshake()
        if self._is_handshake and (self._values(b"transfer-encoding") or self._values(b"content-length") not in ([], [b"0"])):
            raise InvalidRequest("A WebSocket handshake has no body.")

    def _values(self, wanted: bytes) -> list[bytes]:
        """The members of a list header, in lower case, over all its lines."""
        return [member.strip() for name, value in self.headers if name == wanted for member in value.lower().split(b",")]

    def _is_websocket_handshake(self) -> bool:
        """Whether a head that asks for an upgrade asks for one that is served: the WebSocket protocol, on a route of it."""
        is_get = self.parser.get_method() == b"GET" and self.parser.get_http_version() == "1.1"
        if not is_get or b"websocket" not in self._values(b"upgrade"):
            return False
        path, served = httptools.parse_url(self.url).path or b"", self.app_state.get(WEBSOCKET_PATHS)
        # An answer that is still to be given would come into the midst of the WebSocket.
        return (served is None or unquote(path.decode("latin-1")) in served) and self._is_idle()

    def _upgrade_to_websocket(self, rest: memoryview) -> None:
        """Hand the connection over. `rest` is what came with the handshake: there must be nothing before it is answered."""
        if rest:
            self._refuse_rest(InvalidRequest("A client must wait for the answer to its WebSocket handshake."))
            return
        if self._look is not None:
            self._look.cancel()
        # As both sides mean it, whatever else the headers name.
        hop_by_hop = (b"upgrade", b"connection", b"content-length")
        headers = [header for header in self.headers if header[0] not in hop_by_hop]
        self.scope["headers"] = [*headers, (b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
        self.scope["method"] = "GET"
        url = httptools.parse_url(self.url)
        self.url = b"?".join(part for part in (url.path, url.query) if part)
        self.handle_websocket_upgrade()

    def _is_idle(self) -> bool:
        """Whether all requests are answered."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse_rest(self, error: Exception) -> None:
        """Answer what is no request, in its turn, and close the connection: where the next request begins is not known."""
        if self.transport.is_closing():
            return
        cause = error if isinstance(error, InvalidRequest) else error.__context__
        invalid = cause if isinstance(cause, InvalidRequest) else InvalidRequest(_INVALID)
        response = self._response_to(invalid)
        if self._in_body:
            # It is the newest request that is malformed.
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            else:
                response = b"" if self.cycle.response_started else response
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                self.transport.write(response)
                self.transport.close()
                return
        self._last_response = response
        if self._is_running_over():
            self._send_last_response()

    def _send_last_response(self) -> None:
        self.transport.write(self._last_response or b"")
        self.transport.close()

    def _response_to(self, invalid: InvalidRequest) -> bytes:
        defaults = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
        body = str(invalid).encode()
        return b"%b%b%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (
            STATUS_LINE[invalid.status],
            defaults,
            invalid.headers,
            len(body),
            body,
        )

    def on_response_complete(self) -> None:
        """A request is answered."""
        if self._in_body and self._running is self.cycle:
            # What is left of the body is read over, but not for long.
            self._since = self.loop.time()
        super().on_response_complete()
        if self._last_response is not None and not self.transport.is_closing() and self._is_running_over():
            self._send_last_response()

    def _is_running_over(self) -> bool:
        # One that waits for its client to read what comes before it has not begun.
        return self._deferred is None and (self._running is None or self._running.response_complete)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.transport.is_closing() or self.defer(cycle, app):
            # The response before was the last, or the client has to read it first.
            return
        if cycle.waiting_for_100_continue:
            app = _closing_unless_continued(cycle, app)
        admission: Admission | None = self.app_state.get(STATE)
        if admission is None:
            super()._start_asgi_task(cycle, app)
        elif admission.admits(cycle.scope["path"]):
            super()._start_asgi_task(cycle, _leaving(admission, app))
        else:
            self._refuse(cycle)

    def _refuse(self, cycle: RequestResponseCycle) -> None:
        """Answer at once. What may come of a body is read over."""
        cycle.response_complete = True
        self.transport.write(refusal(id_of(cycle.scope), keeps_open=cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        # A look now and then instead of a timer for each request.
        if self._since is not None and self.flow.read_paused:
            # The rest of the head is not read before the requests in front of it are answered.
            self._since = self.loop.time()
        if self._since is not None and self.loop.time() - self._since >= SECONDS:
            self.transport.close()
        else:
            self._look = self.loop.call_later(SECONDS, self._look_again)


def _leaving(admission: Admission, app: Any) -> Any:
    async def inside(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        finally:
            admission.leave()

    return inside


def _closing_unless_continued(cycle: RequestResponseCycle, app: Any) -> Any:
    """Close the connection where a final answer comes instead of `100 Continue`: the client may send the body, or not."""

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        async def send_message(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, receive, send_message)

    return inside
