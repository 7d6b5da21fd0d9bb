"""Uvicorn's HTTP with an end to what comes before a body: its parser would take headers for ever, as slowly as they come."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes of a request's head (what comes with them in the same read aside), and seconds within which all of it has to come.
MOST_BYTES, SECONDS = 65_536, 10.0


class HeadsProtocol(HttpToolsProtocol):
    """Closes connections whose clients never finish a request's head."""

    # Since when a head is awaited, in the loop's time, and what has come of it.
    _since: float | None = None
    _bytes = 0
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has come."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._look_again()

    def data_received(self, data: bytes) -> None:
        """More of a head, or of a body."""
        super().data_received(data)
        if self._since is not None:
            self._bytes += len(data)
            if self._bytes > MOST_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The head of a request must have at most {MOST_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        """The first word of a request."""
        if self._since is None:
            self._since, self._bytes = self.loop.time(), 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._since = None
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        # A look now and then instead of a timer for each request.
        if self._since is not None and self.loop.time() - self._since >= SECONDS:
            self.transport.close()
        else:
            self._look = self.loop.call_later(SECONDS, self._look_again)
