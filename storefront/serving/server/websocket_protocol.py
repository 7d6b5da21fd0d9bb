"""Uvicorn's WebSockets with a way past its queue: what many are told is written at once, where nothing has to wait."""

import struct
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from storefront.serving.server.backpressure import WEBSOCKET_CONTROL_BYTES, BackpressureProtocol, WriteLimits

# Uvicorn's options. A compressor takes 40 kB per socket and most of the work of a message, which is more than a change is worth.
UVICORN_OPTIONS: Mapping[str, Any] = {
    "http": "storefront.serving.server.http_protocol:HardenedHTTPProtocol",
    "ws": "storefront.serving.server.websocket_protocol:DirectWriteWebSocketProtocol",
    "ws_per_message_deflate": False,
    # Who comes while the process is busy waits in the kernel, as many as Linux lets wait unless it is told otherwise.
    "backlog": 4_096,
}
# The names of functions in `scope["extensions"]`: `write`, and one that returns the bytes that its client has not read.
TRY_WRITE_EXTENSION, UNREAD_BYTES_EXTENSION = "storefront.write", "storefront.unread"
# Unread bytes on a socket up to which `write` adds more.
MAX_WRITE_AHEAD_BYTES = 65_536

_FINAL_TEXT_FRAME = 0x81
_BAD_HANDSHAKE_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 29\r\nconnection: close\r\n\r\n"
    b"Invalid WebSocket handshake.\n"
)


class DirectWriteWebSocketProtocol(BackpressureProtocol, WebSocketsSansIOProtocol):
    """Offers applications `write`, next to ASGI's `send`: neither task nor event nor copy for each message.

    A client that does not read is neither sent more than one message at a time nor listened to.
    """

    # Bytes of messages that wait in `send`.
    _pending_send_bytes = 0

    @property
    def unread_bytes(self) -> int:
        """Bytes that wait for the client to read, in the transport and in `send`."""
        return super().unread_bytes + self._pending_send_bytes

    def get_max_unread_bytes(self, limits: WriteLimits) -> int:
        """Answers have the budget; what is sent besides them is small."""
        return limits.max_websocket_bytes + WEBSOCKET_CONTROL_BYTES

    def handle_connect(self, event: Request) -> None:
        """The handshake. Compressed messages build on each other, so where they are agreed on `send` remains the only way."""
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
            # Of several that wait, the first one may fill the socket again.
            while not self.writable.is_set():
                await self.writable.wait()
        finally:
            self._pending_send_bytes -= size

    async def receive(self) -> Any:
        """ASGI's `receive`: messages of a client that does not read are left to wait, so that it cannot ask for more."""
        message = await super().receive()
        while message["type"] == "websocket.receive" and not self.writable.is_set():
            await self.writable.wait()
        return message

    def data_received(self, data: bytes) -> None:
        """More from the client. A handshake that cannot be read is refused: the library would neither answer nor close."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            self.transport.write(_BAD_HANDSHAKE_RESPONSE)
            self.transport.close()

    def shutdown(self) -> None:
        """The server goes away."""
        if self.handshake_initiated:
            super().shutdown()
        else:
            # There is nobody to answer: what was sent is no handshake.
            self.transport.close()

    def try_write(self, *chunks: bytes) -> bool:
        """Send the parts as one text message, unless the socket is closing or its client is slow to read: then False."""
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
