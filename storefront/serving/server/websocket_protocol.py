"""Uvicorn's WebSocket protocol with direct writes and backpressure: a broadcast bypasses the send queue if the client reads."""

import struct
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from storefront.serving.server.backpressure import WEBSOCKET_CONTROL_BYTES, BackpressureProtocol, WriteLimits

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

    # Bytes of messages that wait in `send`.
    _pending_send_bytes = 0

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
        while message["type"] == "websocket.receive" and not self.writable.is_set():
            await self.writable.wait()
        return message

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. Rejects a malformed handshake with 400: the library would neither respond nor close."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            self.transport.write(_BAD_HANDSHAKE_RESPONSE)
            self.transport.close()

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
