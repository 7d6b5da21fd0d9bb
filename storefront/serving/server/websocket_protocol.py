"""Uvicorn's WebSocket protocol with direct writes and backpressure: a broadcast bypasses the send queue if the client reads."""

import struct
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request

from storefront.serving.server.backpressure import WEBSOCKET_CONTROL_BYTES, BackpressureProtocol, WriteLimits
from storefront.serving.server.connection_limit import CONNECTION_LIMIT_STATE_KEY, ConnectionLimit

# Uvicorn's options. Compression is off: it takes 40 kB per socket and most of the work per message, too much for small events.
UVICORN_OPTIONS: Mapping[str, Any] = {
    "http": "storefront.serving.server.http_protocol:HardenedHTTPProtocol",
    "ws": "storefront.serving.server.websocket_protocol:DirectWriteWebSocketProtocol",
    "ws_per_message_deflate": False,
    # Connections that arrive while the process is busy wait in the kernel. This is the default maximum of Linux.
    "backlog": 4_096,
}
# Keys of functions in `scope["extensions"]`: `try_write`, and one that returns the number of bytes that the client has not read.
TRY_WRITE_EXTENSION, UNREAD_BYTES_EXTENSION = "storefront.write", "storefront.unread"
# Bytes that are parsed in one step: 340 frames of the smallest size, which take up to 10 ms.
PARSED_BYTES_PER_STEP = 2_048
# Frames that a message may be fragmented into. Empty ones do not count towards the size of a message.
MAX_MESSAGE_FRAMES = 1_000
# `try_write` returns False if a socket has more unread bytes.
MAX_WRITE_AHEAD_BYTES = 65_536

_FINAL_TEXT_FRAME = 0x81
_BAD_HANDSHAKE_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 29\r\nconnection: close\r\n\r\n"
    b"Invalid WebSocket handshake.\n"
)


class DirectWriteWebSocketProtocol(BackpressureProtocol, WebSocketsSansIOProtocol):
    """Offers `try_write` to applications, next to ASGI's `send`: it needs no task, event or copy per message.

    Backpressure: to a client that does not read, `send` waits after each message, and its own messages are not received.
    """

    # Bytes of messages that wait in `send`; received bytes that are not parsed yet.
    _pending_send_bytes, _unparsed_data = 0, b""

    @property
    def unread_bytes(self) -> int:
        """Bytes that wait for the client to read them, in the transport and in `send`."""
        return super().unread_bytes + self._pending_send_bytes

    def get_max_unread_bytes(self, limits: WriteLimits) -> int:
        """The budget of results, plus that of control messages."""
        return limits.max_websocket_bytes + WEBSOCKET_CONTROL_BYTES

    def handle_connect(self, event: Request) -> None:
        """Accept a handshake. With negotiated compression `try_write` is not offered, as compressed messages share state."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[UNREAD_BYTES_EXTENSION] = lambda: self.unread_bytes
            if not self.conn.extensions:
                extensions[TRY_WRITE_EXTENSION] = self.try_write

    async def send(self, message: Any) -> None:
        """ASGI's `send`: waits until the client has read what was sent before."""
        if not self.writable.is_set():
            await self._wait_until_writable(len(message.get("text") or message.get("bytes") or ()))
        await super().send(message)
        connection_limit: ConnectionLimit | None = self.app_state.get(CONNECTION_LIMIT_STATE_KEY)
        if message["type"] == "websocket.close" and connection_limit is not None:
            # A client that does not respond to the close frame must not keep others out.
            connection_limit.set_idle(self.transport, lambda: False)

    async def _wait_until_writable(self, size: int) -> None:
        self._pending_send_bytes += size
        if self.backpressure is not None:
            self.backpressure.track(self)
        try:
            # Checked again, because another waiting `send` may have filled the socket.
            while not self.writable.is_set():
                await self.writable.wait()
        finally:
            self._pending_send_bytes -= size

    async def receive(self) -> Any:
        """ASGI's `receive`: waits while the client does not read, so that it cannot request more (backpressure)."""
        message = await super().receive()
        if self._unparsed_data:
            self._pause_reading()
        while message["type"] == "websocket.receive" and not self.writable.is_set():
            await self.writable.wait()
        return message

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, some at a time: a flood of small frames must not hold up other connections."""
        if self._unparsed_data:
            self._unparsed_data += data
            self._pause_reading()
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._unparsed_data = data[PARSED_BYTES_PER_STEP:]
        super().data_received(data[:PARSED_BYTES_PER_STEP])
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            # The library would neither respond to a malformed handshake nor close.
            self.transport.write(_BAD_HANDSHAKE_RESPONSE)
            self.transport.close()
        if self.transport.is_closing():
            self._unparsed_data = b""
        elif self._unparsed_data:
            self._pause_reading()
            self.loop.call_soon(self._parse_rest)

    def _parse_rest(self) -> None:
        self._parse(self._unparsed_data)
        if not self._unparsed_data and self.read_paused and self.queue.empty() and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        self.read_paused = True
        self.transport.pause_reading()

    def handle_cont(self, event: Frame) -> None:
        """Add a frame to a fragmented message. Closes the connection of a message of too many frames."""
        super().handle_cont(event)
        if len(self.frames) > MAX_MESSAGE_FRAMES:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message must have at most {MAX_MESSAGE_FRAMES} frames")

    def send_receive_event_to_app(self) -> None:
        """Pass a message on. Closes the connection of a text that is not UTF-8; Uvicorn logs a traceback for each."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "texts must be UTF-8")
        else:
            super().send_receive_event_to_app()

    def _fail(self, code: CloseCode, reason: str) -> None:
        self.frames = []
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def shutdown(self) -> None:
        """Close the connection, because the server shuts down."""
        if self.handshake_initiated:
            super().shutdown()
        else:
            # Without a complete handshake there is nothing to respond to.
            self.transport.close()

    def try_write(self, *chunks: bytes) -> bool:
        """Write the chunks as one text message. Returns False if the socket is closing, or its client reads too slowly."""
        if self.close_sent or self.transport.is_closing():
            return False
        if not self.writable.is_set() and self.unread_bytes > MAX_WRITE_AHEAD_BYTES:
            return False
        self.transport.write(b"".join((_encode_frame_header(sum(map(len, chunks))), *chunks)))
        return True


def _encode_frame_header(size: int) -> bytes:
    if size < 126:
        return struct.pack("!BB", _FINAL_TEXT_FRAME, size)
    return (
        struct.pack("!BBH", _FINAL_TEXT_FRAME, 126, size) if size < 65_536 else struct.pack("!BBQ", _FINAL_TEXT_FRAME, 127, size)
    )
