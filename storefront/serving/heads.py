"""Uvicorn's HTTP with an end to heads that never do, and a door: it would take them for ever, and any number of requests."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from storefront.serving.admission import STATE, Admission, refusal
from storefront.serving.identifying import id_of

# Bytes of a request's head (what comes with them in the same read aside), and seconds within which all of it has to come.
MOST_BYTES, SECONDS = 65_536, 10.0


class HeadsProtocol(HttpToolsProtocol):
    """Closes connections whose clients never finish a request's head, and refuses requests that there is no room for."""

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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
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
