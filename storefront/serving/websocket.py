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

from storefront.core.activity import Activity
from storefront.core.errors import LimitExceeded, RequestError, Unauthenticated
from storefront.core.ids import uuid7
from storefront.serving import halves
from storefront.serving.bodies import HTTPError, torn_json_of
from storefront.serving.crowds import Tell
from storefront.serving.frames import WRITE
from storefront.serving.operations import Operations, Renewable, answer, refused
from storefront.serving.rates import UNLIMITED, Door, RateLimited, Rates, Visit
from storefront.serving.requests import BadRequest, GraphQLRequest, checked_request
from storefront.serving.revocations import Revocations

PROTOCOL = "graphql-transport-ws"

# The protocol's close codes, and two of ours.
NORMAL, GOING_AWAY = 1000, 1001
BAD_MESSAGE, UNAUTHORIZED, FORBIDDEN, BAD_PROTOCOL = 4400, 4401, 4403, 4406
INIT_TIMEOUT, SUBSCRIBER_EXISTS, TOO_MANY_INITS, TOO_MANY = 4408, 4409, 4429, 4430

# What closes the object that a result is put into.
END = b"}"

Authenticate = Callable[[WebSocket, dict[str, Any]], Awaitable[Renewable]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds until connection_init has to come, operations per socket, sockets per process, and bytes of a message."""

    init_timeout: float = 10.0
    operations: int = 100
    sockets: int = 10_000
    message: int = 262_144


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
            await websocket.close(TOO_MANY, _short(refusal))
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
                await self._answer(*_message(await self._websocket.receive(), self._sockets.limits.message))
        except WebSocketDisconnect:
            pass
        except Closed as closed:
            await self._close(closed.code, closed.reason)
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

    async def _answer(self, message: dict[str, Any], may_be_torn: bool) -> None:
        kind = message.get("type")
        if kind == "ping":
            await self._send({"type": "pong"} | ({"payload": message["payload"]} if "payload" in message else {}))
        elif kind == "connection_init":
            await self._init(message.get("payload") or {})
        elif kind == "subscribe":
            await self._subscribe(message, may_be_torn)
        elif kind == "complete":
            await self._stop(message.get("id"))
        elif kind != "pong":
            raise Closed(BAD_MESSAGE, "unknown message type")

    async def _init(self, payload: Any) -> None:
        self._inits += 1
        if self._inits > 1:
            raise Closed(TOO_MANY_INITS, "connection_init may be sent once")
        if not isinstance(payload, dict):
            raise Closed(BAD_MESSAGE, "the payload of connection_init must be an object")
        try:
            self._context = await self._sockets.authenticate(self._websocket, payload)
        except RequestError as error:
            unauthorized = isinstance(error, Unauthenticated)
            raise Closed(UNAUTHORIZED if unauthorized else FORBIDDEN, _short(str(error))) from None
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

    async def _subscribe(self, message: dict[str, Any], may_be_torn: bool) -> None:
        if self._context is None:
            raise Closed(UNAUTHORIZED, "send connection_init first")
        id_ = message.get("id")
        if not isinstance(id_, str) or not id_ or len(id_) > 200:
            raise Closed(BAD_MESSAGE, "subscribe needs an id")
        if id_ in self._running:
            raise Closed(SUBSCRIBER_EXISTS, f"Subscriber for {_short(id_)} already exists")
        if len(self._running) >= self._sockets.limits.operations:
            raise Closed(TOO_MANY, f"at most {self._sockets.limits.operations} operations may run on one socket")
        try:
            request = checked_request(message.get("payload"), may_be_torn=may_be_torn)
        except BadRequest as error:
            raise Closed(BAD_MESSAGE, _short(str(error))) from None
        self._running[id_] = asyncio.create_task(self._run(id_, request, self._context))

    async def _run(self, id_: str, request: GraphQLRequest, context: Renewable) -> None:
        with Activity(str(uuid7()), asked=[request.variables]) as activity:
            last = await self._last(id_, request, context, activity.request_id)
        if last is not None:
            with suppress(WebSocketDisconnect):
                await self._send(last)

    async def _last(self, id_: str, request: GraphQLRequest, context: Renewable, request_id: str) -> dict[str, Any] | None:
        """Run an operation; what is told of it last, where there is still somebody."""
        try:
            visit = self._sockets.visit(self._websocket)
            if visit:
                await visit.count(1)
            await self._execute(id_, request, await context.current(), request_id, visit)
            last: dict[str, Any] = {"id": id_, "type": "complete"}
        except WebSocketDisconnect:
            return None
        except Exception as error:
            last = {"id": id_, "type": "error", "payload": refused(error, request_id)["errors"]}
        finally:
            self._running.pop(id_, None)
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
                    await self._send_text((start + result + END).decode())
        else:
            whole = answer(await operations.run(operation, context), request_id)
            await self._send_text((start + orjson.dumps(whole) + END).decode())

    def _tell(self, start: bytes) -> Tell | None:
        """How results are sent without waiting, where the server lets us."""
        write = self._websocket.scope.get("extensions", {}).get(WRITE)
        return None if write is None else lambda result: write(start, result, END)

    async def _stop(self, id_: Any) -> None:
        task = self._running.pop(id_, None) if isinstance(id_, str) else None
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
            await self._websocket.close(code, reason)

    async def _send(self, message: dict[str, Any]) -> None:
        await self._send_text(orjson.dumps(message).decode())

    async def _send_text(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except RuntimeError:
            # Starlette's word for a socket that was closed in between.
            raise WebSocketDisconnect(NORMAL) from None


def _message(received: Any, most: int) -> tuple[dict[str, Any], bool]:
    """A message, and whether its variables may hold what only JSON can: the operation is refused for that, by its id."""
    try:
        message, may_be_torn = torn_json_of(_text(received, most), "the message")
        if may_be_torn:
            halves.check_request(message, ("payload", "variables"))
    except HTTPError:
        raise Closed(BAD_MESSAGE, "messages must be JSON") from None
    except (LimitExceeded, BadRequest) as error:
        raise Closed(BAD_MESSAGE, _short(str(error))) from None
    if not isinstance(message, dict):
        raise Closed(BAD_MESSAGE, "messages must be JSON objects")
    if may_be_torn and message.get("type") != "subscribe":
        raise Closed(BAD_MESSAGE, "numbers must fit a double, and characters must be whole")
    return message, may_be_torn


def _text(received: Any, most: int) -> str:
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", NORMAL))
    text: str | None = received.get("text")
    # No text has more bytes than four for each character: only long ones need to be counted.
    if text is None or len(text) > most or (4 * len(text) > most and len(text.encode()) > most):
        raise Closed(BAD_MESSAGE, f"messages must be text of at most {most} bytes")
    return text


def _short(text: str) -> str:
    # A close frame has room for 123 bytes.
    return text.encode()[:120].decode(errors="ignore")
