"""GraphQL over WebSocket, by the protocol graphql-transport-ws: many operations on one socket, each by an id of its own."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import orjson
from graphql import OperationType
from starlette.websockets import WebSocket, WebSocketDisconnect

from storefront.core import request_context
from storefront.core.errors import LimitExceeded, RequestError, Unauthenticated
from storefront.core.ids import uuid7
from storefront.core.request_context import Activity
from storefront.serving.documents.document_store import NotExecutable
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.http.request_body import ROOMY
from storefront.serving.protection.rate_limit import UNLIMITED, Door, RateLimited, Rates, Visit
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.fanout import Tell
from storefront.serving.run.operations import Operations, Renewable, answer, refused
from storefront.serving.server.websocket_protocol import UNREAD, WRITE
from storefront.serving.websocket.protocol import PROTOCOL, MalformedMessage, Message, Subscribe, dump_message, parse_message

# The protocol's close codes, and two of ours.
NORMAL, GOING_AWAY = 1000, 1001
BAD_MESSAGE, UNAUTHORIZED, FORBIDDEN, BAD_PROTOCOL = 4400, 4401, 4403, 4406
INIT_TIMEOUT, SUBSCRIBER_EXISTS, TOO_MANY_INITS, TOO_MANY = 4408, 4409, 4429, 4430

# What closes the object that a result is put into.
END = b"}"

Authenticate = Callable[[WebSocket, dict[str, Any]], Awaitable[Renewable]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds until connection_init has to come, operations per socket, sockets per process, bytes of a message, values in it.

    `unread`: bytes of answers that may wait on a socket for its client to read them.
    """

    init_timeout: float = 10.0
    operations: int = 100
    sockets: int = 10_000
    message: int = 262_144
    values: int = ROOMY.values
    unread: int = 32_000_000


class Sockets:
    """The open sockets of this process."""

    def __init__(
        self,
        operations: Operations,
        authenticate: Authenticate,
        limits: Limits,
        revocations: Revocations,
        rates: Rates = UNLIMITED,
    ) -> None:
        self.operations, self.authenticate, self.limits, self.revocations = operations, authenticate, limits, revocations
        self.rates = rates if rates.watches(Door.ADDRESS, Door.VIEWER) else None
        self._open: set[Socket] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def operations_running(self) -> int:
        """How many operations run on them."""
        return sum(socket.running for socket in self._open)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it closes: a Starlette handler."""
        if PROTOCOL not in websocket.scope.get("subprotocols", []):
            await websocket.accept()
            await websocket.close(BAD_PROTOCOL, f"Speak {PROTOCOL}: no other subprotocol is served.")
            return
        await websocket.accept(subprotocol=PROTOCOL)
        if refusal := await self._refusal(websocket):
            await websocket.close(TOO_MANY, _shorten(refusal))
            return
        socket = Socket(websocket, self)
        self._open.add(socket)
        try:
            await socket.serve()
        finally:
            self._open.discard(socket)

    async def _refusal(self, websocket: WebSocket) -> str:
        """Why there is no room for one more, where that is so."""
        if len(self._open) >= self.limits.sockets:
            return f"This server holds at most {self.limits.sockets} sockets. Try again later."
        try:
            if visit := self.visit(websocket):
                await visit.count(1)
        except RateLimited as error:
            return str(error)
        return ""

    def visit(self, websocket: WebSocket) -> Visit | None:
        """By whom a socket is used, where that is counted."""
        return Visit(self.rates, websocket.client.host if websocket.client else None) if self.rates else None

    async def drain(self) -> None:
        """Complete every operation and close every socket, so that listeners go on elsewhere from their positions."""
        await asyncio.gather(*(socket.leave() for socket in self._open), return_exceptions=True)


class Closed(Exception):
    """Ends a socket with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Socket:
    """One socket: its asker, known from connection_init on, and its running operations."""

    def __init__(self, websocket: WebSocket, sockets: Sockets) -> None:
        self._websocket, self._sockets = websocket, sockets
        self._context: Renewable | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._inits = 0
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Answer messages until either side leaves."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(
            self._sockets.limits.init_timeout, self._close_soon, INIT_TIMEOUT, "connection_init is late"
        )
        try:
            while True:
                await self._answer(await self._receive())
        except WebSocketDisconnect:
            pass
        except Closed as closed:
            await self._close(closed.code, closed.reason)
        except MalformedMessage as malformed:
            await self._close(BAD_MESSAGE, str(malformed))
        finally:
            self._timer.cancel()
            if self._context is not None:
                self._sockets.revocations.forget(self._context.proof, self._revoked)
            await self._stop_all()

    @property
    def running(self) -> int:
        """How many operations run on it."""
        return len(self._running)

    async def leave(self) -> None:
        """Complete what runs and close: the server is going away."""
        running = list(self._running)
        # Nothing may come after the word that there is nothing more.
        await self._stop_all()
        for id_ in running:
            await self._send({"id": id_, "type": "complete"})
        await self._close(GOING_AWAY, "the server is going away: connect again and resume")

    async def _receive(self) -> Message:
        received, limits = await self._websocket.receive(), self._sockets.limits
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", NORMAL))
        return parse_message(received.get("text"), limits.message, limits.values)

    async def _answer(self, message: Message) -> None:
        if isinstance(message, Subscribe):
            await self._subscribe(message)
        elif message.type == "complete":
            await self._stop(message.id)
        elif message.type == "ping":
            await self._send({"type": "pong"} | ({} if message.payload is None else {"payload": message.payload}))
        elif message.type == "connection_init":
            await self._init(message.payload or {})

    async def _init(self, payload: dict[str, Any]) -> None:
        self._inits += 1
        if self._inits > 1:
            raise Closed(TOO_MANY_INITS, "connection_init may be sent once")
        request_context.confide(payload)
        try:
            self._context = await self._sockets.authenticate(self._websocket, payload)
        except RequestError as error:
            unauthorized = isinstance(error, Unauthenticated)
            raise Closed(UNAUTHORIZED if unauthorized else FORBIDDEN, str(error)) from None
        self._watch_expiry(self._context.expires)
        self._sockets.revocations.watch(self._context.proof, self._revoked)
        await self._send({"type": "connection_ack"})

    def _watch_expiry(self, expires: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if expires is not None:
            wait = max(0.0, expires - time.time())
            self._timer = asyncio.get_running_loop().call_later(wait, self._close_soon, FORBIDDEN, "the token has expired")

    def _revoked(self) -> None:
        self._close_soon(FORBIDDEN, "signed out everywhere")

    async def _subscribe(self, message: Subscribe) -> None:
        if self._context is None:
            raise Closed(UNAUTHORIZED, "send connection_init first")
        if message.id in self._running:
            raise Closed(SUBSCRIBER_EXISTS, f"Subscriber for {message.id[:60]} already exists")
        if len(self._running) >= self._sockets.limits.operations:
            raise Closed(TOO_MANY, f"at most {self._sockets.limits.operations} operations may run on one socket")
        self._running[message.id] = asyncio.create_task(self._run(message, self._context))

    async def _run(self, message: Subscribe, context: Renewable) -> None:
        with Activity(str(uuid7()), asked=[message.payload]) as running:
            last = await self._last(message, context, running.request_id)
        if last is not None:
            with suppress(WebSocketDisconnect):
                await self._send(last)

    async def _last(self, message: Subscribe, context: Renewable, request_id: str) -> dict[str, Any] | None:
        """Run an operation, and return the message that ends it; None once the client has gone."""
        try:
            visit = self._sockets.visit(self._websocket)
            if visit:
                await visit.count(1)
            if isinstance(message.operation, RequestError):
                raise message.operation
            await self._execute(message.id, message.operation, await context.current(), request_id, visit)
            last: dict[str, Any] = {"id": message.id, "type": "complete"}
        except WebSocketDisconnect:
            return None
        except Exception as error:
            last = {"id": message.id, "type": "error", "payload": refused(error, request_id)["errors"]}
        finally:
            self._running.pop(message.id, None)
        return last

    async def _execute(self, id_: str, request: GraphQLRequest, context: Renewable, request_id: str, visit: Visit | None) -> None:
        start = b'{"id":%b,"type":"next","payload":' % orjson.dumps(id_)
        operations = self._sockets.operations
        operation = await operations.prepared(request)
        if visit:
            await visit.ask(operation.cost)
            await visit.known_as(context.asker)
        if operation.kind is OperationType.SUBSCRIPTION:
            results = operations.stream(operation, context, request_id, self._tell(start))
            async with aclosing(results):
                async for result in results:
                    await self._send_result(start, result)
            return
        whole = await operations.run(operation, context)
        if operation.kind is None:
            # Nothing ran: operationName names no operation, or not which of several.
            raise NotExecutable(whole.errors or [])
        encoded = operations.encode(answer(whole, request_id), operation.kind)
        # Nothing else holds the answer while it waits to be sent.
        del whole
        await self._send_result(start, encoded)

    async def _send_result(self, start: bytes, result: bytes) -> None:
        """Send a result. Raises LimitExceeded where the client has to read others first."""
        count_unread = self._websocket.scope.get("extensions", {}).get(UNREAD)
        unread = count_unread() if count_unread else 0
        most = self._sockets.limits.unread
        if unread and unread + len(result) > most:
            problem = "Too much waits on this WebSocket. Read the answers before you ask for more"
            raise LimitExceeded("unreadBytes", most, unread + len(result), problem, "bytes")
        await self._send_text((start + result + END).decode())

    def _tell(self, start: bytes) -> Tell | None:
        """How results are sent without waiting, where the server lets us."""
        write = self._websocket.scope.get("extensions", {}).get(WRITE)
        return None if write is None else lambda result: write(start, result, END)

    async def _stop(self, id_: str) -> None:
        task = self._running.pop(id_, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _stop_all(self) -> None:
        tasks = list(self._running.values())
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _close_soon(self, code: int, reason: str) -> None:
        # Kept, because the loop itself keeps tasks only weakly.
        self._closing = asyncio.ensure_future(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._websocket.close(code, _shorten(reason))

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(dump_message(message))

    async def _send_text(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except RuntimeError:
            # Starlette's word for a socket that was closed in between.
            raise WebSocketDisconnect(NORMAL) from None


def _shorten(reason: str) -> str:
    # A close frame has room for 123 bytes, and none for lone surrogates.
    return reason.encode(errors="replace")[:120].decode(errors="ignore")
