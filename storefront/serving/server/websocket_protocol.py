"""Uvicorn's WebSockets with a way past its queue: what many are told is written at once, where nothing has to wait."""

import struct
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from storefront.serving.server.backpressure import CONTROL_BYTES, BackpressureProtocol, WriteLimits

# Uvicorn's options. A compressor takes 40 kB per socket and most of the work of a message, which is more than a change is worth.
OPTIONS: Mapping[str, Any] = {
    "http": "storefront.serving.server.http_protocol:HeadsProtocol",
    "ws": "storefront.serving.server.websocket_protocol:FramesProtocol",
    "ws_per_message_deflate": False,
    # Who comes while the process is busy waits in the kernel, as many as Linux lets wait unless it is told otherwise.
    "backlog": 4_096,
}
# The names of functions in `scope["extensions"]`: `write`, and one that returns the bytes that its client has not read.
WRITE, UNREAD = "storefront.write", "storefront.unread"
# Unread bytes on a socket up to which `write` adds more.
MAX_WRITE_AHEAD_BYTES = 65_536

_TEXT = 0x81
_BAD_HANDSHAKE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 29\r\nconnection: close\r\n\r\n"
    b"Invalid WebSocket handshake.\n"
)


class FramesProtocol(BackpressureProtocol, WebSocketsSansIOProtocol):
    """Offers applications `write`, next to ASGI's `send`: neither task nor event nor copy for each message.

    A client that does not read is neither sent more than one message at a time nor listened to.
    """

    # Bytes of messages that wait in `send`.
    _waiting = 0

    @property
    def unread(self) -> int:
        """Bytes that wait for the client to read, in the transport and in `send`."""
        return super().unread + self._waiting

    def max_unread_of(self, limits: WriteLimits) -> int:
        """Answers have the budget; what is sent besides them is small."""
        return limits.websocket + CONTROL_BYTES

    def handle_connect(self, event: Request) -> None:
        """The handshake. Compressed messages build on each other, so where they are agreed on `send` remains the only way."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[UNREAD] = lambda: self.unread
            if not self.conn.extensions:
                extensions[WRITE] = self.write

    async def send(self, message: Any) -> None:
        """ASGI's `send`: waits until the client has read what was sent before."""
        if not self.writable.is_set():
            await self._wait_until_writable(len(message.get("text") or message.get("bytes") or ()))
        await super().send(message)

    async def _wait_until_writable(self, size: int) -> None:
        self._waiting += size
        if self.backpressure is not None:
            self.backpressure.watch(self)
        try:
            # Of several that wait, the first one may fill the socket again.
            while not self.writable.is_set():
                await self.writable.wait()
        finally:
            self._waiting -= size

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
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    def shutdown(self) -> None:
        """The server goes away."""
        if self.handshake_initiated:
            super().shutdown()
        else:
            # There is nobody to answer: what was sent is no handshake.
            self.transport.close()

    def write(self, *parts: bytes) -> bool:
        """Send the parts as one text message, unless the socket is closing or its client is slow to read: then False."""
        if self.close_sent or self.transport.is_closing():
            return False
        if not self.writable.is_set() and self.unread > MAX_WRITE_AHEAD_BYTES:
            return False
        self.transport.write(b"".join((_head(sum(map(len, parts))), *parts)))
        return True


def _head(size: int) -> bytes:
    if size < 126:
        return struct.pack("!BB", _TEXT, size)
    return struct.pack("!BBH", _TEXT, 126, size) if size < 65_536 else struct.pack("!BBQ", _TEXT, 127, size)
