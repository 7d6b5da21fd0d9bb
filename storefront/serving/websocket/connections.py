"""GraphQL over WebSocket with the protocol graphql-transport-ws: many concurrent operations per socket, each with an id."""

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
from storefront.core.cooperative import TimeSlice
from storefront.core.errors import LimitExceeded, RequestError, TimedOut, Unauthenticated, Unavailable
from storefront.core.ids import uuid7
from storefront.core.request_context import RequestContext
from storefront.core.tasks import cancel_and_wait
from storefront.serving.documents.document_store import NotExecutableError
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.http.request_body import DEFAULT_BODY_LIMITS
from storefront.serving.protection.rate_limit import DEFAULT_RATE_LIMITER, RateLimited, RateLimiter, RateLimitScope, RequestQuota
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.cancellation import create_shutdown_error
from storefront.serving.run.fanout import TryWrite
from storefront.serving.run.operations import Operations
from storefront.serving.run.prepared_operation import OperationContext
from storefront.serving.run.results import format_request_error, format_result
from storefront.serving.server.graceful_shutdown import DRAIN_TIMEOUT_SECONDS
from storefront.serving.server.websocket_protocol import TRY_WRITE_EXTENSION, UNREAD_BYTES_EXTENSION
from storefront.serving.websocket.protocol import (
    SUBPROTOCOL,
    ClientMessage,
    MalformedMessageError,
    SubscribeMessage,
    dump_message,
    parse_message,
)

# The close codes of the protocol, 1000 and 1001 of WebSocket, and 4430.
CLOSE_NORMAL, CLOSE_GOING_AWAY = 1000, 1001
CLOSE_BAD_MESSAGE, CLOSE_UNAUTHORIZED, CLOSE_FORBIDDEN, CLOSE_BAD_SUBPROTOCOL = 4400, 4401, 4403, 4406
CLOSE_INIT_TIMEOUT, CLOSE_SUBSCRIBER_EXISTS, CLOSE_TOO_MANY_INITS, CLOSE_TOO_MANY = 4408, 4409, 4429, 4430

# The end of the JSON object of a `next` message.
MESSAGE_END = b"}"

# Seconds that running queries and mutations have to finish on graceful shutdown.
REQUEST_DRAIN_SECONDS = DRAIN_TIMEOUT_SECONDS / 2

# What a client with the same token may try again later.
_TEMPORARY_ERRORS = (Unavailable, TimedOut, RateLimited)

Authenticate = Callable[[WebSocket, dict[str, Any]], Awaitable[OperationContext]]


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Limits: seconds until connection_init, operations per socket, sockets per process, bytes and JSON values of a message.

    `unread_bytes`: bytes of results that may wait on a socket for its client to read them (backpressure).
    """

    init_timeout_seconds: float = 10.0
    operations: int = 100
    sockets: int = 10_000
    message_bytes: int = 262_144
    message_values: int = DEFAULT_BODY_LIMITS.max_values
    unread_bytes: int = 32_000_000


class Sockets:
    """The open sockets of this process, up to a maximum. They are drained on graceful shutdown.

    Beyond the maximum the one that has been idle for longest, without a running operation, is closed for a new one.
    """

    def __init__(
        self,
        operations: Operations,
        authenticate: Authenticate,
        limits: SocketLimits,
        revocations: Revocations,
        rate_limiter: RateLimiter = DEFAULT_RATE_LIMITER,
    ) -> None:
        self.operations, self.authenticate, self.limits, self.revocations = operations, authenticate, limits, revocations
        self.rate_limiter = rate_limiter if rate_limiter.has_limit(RateLimitScope.ADDRESS, RateLimitScope.VIEWER) else None
        self._open: set[Socket] = set()
        # The longest idle first.
        self._idle: dict[Socket, None] = {}

    @property
    def count(self) -> int:
        """The number of open sockets."""
        return len(self._open)

    @property
    def running_operations(self) -> int:
        """The number of running operations on all sockets."""
        return sum(socket.running_operations for socket in self._open)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one socket until it closes: a Starlette handler."""
        if SUBPROTOCOL not in websocket.scope.get("subprotocols", []):
            await websocket.accept()
            await _close(websocket, CLOSE_BAD_SUBPROTOCOL, f"Use the subprotocol {SUBPROTOCOL}: no other one is supported.")
            return
        await websocket.accept(subprotocol=SUBPROTOCOL)
        if refusal_reason := await self._make_room(websocket):
            await _close(websocket, CLOSE_TOO_MANY, refusal_reason)
            return
        socket = Socket(websocket, self)
        self._open.add(socket)
        self.set_idle(socket)
        try:
            await socket.serve()
        finally:
            self._remove(socket)

    def set_idle(self, socket: "Socket") -> None:
        """The socket has no running operation any more."""
        if socket in self._open:
            self._idle[socket] = None

    def set_busy(self, socket: "Socket") -> None:
        """An operation begins on the socket."""
        self._idle.pop(socket, None)

    def _remove(self, socket: "Socket") -> None:
        self._open.discard(socket)
        self._idle.pop(socket, None)

    async def _make_room(self, websocket: WebSocket) -> str:
        """Make room for a new socket. Returns why it is rejected (too many, or rate limited); empty if it is accepted."""
        try:
            if quota := self.create_request_quota(websocket):
                await quota.count_requests(1)
        except RateLimited as error:
            return str(error)
        problem = f"This server holds at most {self.limits.sockets} sockets"
        if len(self._open) < self.limits.sockets:
            return ""
        longest_idle = next(iter(self._idle), None)
        if longest_idle is None:
            return f"{problem}. Try again later."
        # Its place is free at once: until its client responds, the connection gives way to others.
        self._remove(longest_idle)
        longest_idle.schedule_close(CLOSE_TOO_MANY, f"{problem}, and this one was idle. Connect again when you need it.")
        return ""

    def create_request_quota(self, websocket: WebSocket) -> RequestQuota | None:
        """The rate limit quota for an operation on a socket; None without rate limits."""
        return RequestQuota(self.rate_limiter, websocket.client.host if websocket.client else None) if self.rate_limiter else None

    async def drain(self) -> None:
        """Graceful shutdown: complete all operations and close all sockets, so that clients resume on another server."""
        await asyncio.gather(*(socket.close_gracefully() for socket in self._open), return_exceptions=True)


class CloseSocketError(Exception):
    """Raised to close a socket with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Socket:
    """One socket: its viewer, who is known after connection_init, and its running operations."""

    def __init__(self, websocket: WebSocket, sockets: Sockets) -> None:
        self._websocket, self._sockets = websocket, sockets
        self._context: OperationContext | None = None
        # The running operations by id, and which of them are subscriptions.
        self._operation_tasks: dict[str, asyncio.Task[None]] = {}
        self._subscription_ids: set[str] = set()
        self._is_draining = False
        self._init_count = 0
        self._close_timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Handle messages until either side closes the socket."""
        loop = asyncio.get_running_loop()
        self._close_timer = loop.call_later(
            self._sockets.limits.init_timeout_seconds, self.schedule_close, CLOSE_INIT_TIMEOUT, "connection_init is late"
        )
        time_slice = TimeSlice()
        try:
            while True:
                await self._handle_message(await self._receive_message())
                # Messages that wait already are received and handled without a pause.
                await time_slice.yield_if_expired()
        except WebSocketDisconnect:
            pass
        except CloseSocketError as closed:
            await self._close(closed.code, closed.reason)
        except MalformedMessageError as malformed:
            await self._close(CLOSE_BAD_MESSAGE, str(malformed))
        finally:
            self._close_timer.cancel()
            if self._context is not None:
                self._sockets.revocations.unwatch(self._context.credentials, self._on_revoked)
            await self._stop_operations()

    @property
    def running_operations(self) -> int:
        """The number of running operations on this socket."""
        return len(self._operation_tasks)

    async def close_gracefully(self) -> None:
        """Complete the subscriptions, end the other operations, and close with 1001 (going away).

        Queries and mutations have REQUEST_DRAIN_SECONDS to finish. Then they end with an error that says that a retry is safe.
        """
        self._is_draining = True
        requests = [task for id_, task in self._operation_tasks.items() if id_ not in self._subscription_ids]
        if requests:
            await asyncio.wait(requests, timeout=REQUEST_DRAIN_SECONDS)
        subscription_ids = self._subscription_ids & self._operation_tasks.keys()
        # Stopped first: no message may follow `complete`.
        await self._stop_operations()
        for id_ in subscription_ids:
            await self._send_message({"id": id_, "type": "complete"})
        await self._close(CLOSE_GOING_AWAY, "the server is going away: connect again and resume")

    async def _receive_message(self) -> ClientMessage:
        received, limits = await self._websocket.receive(), self._sockets.limits
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", CLOSE_NORMAL))
        return parse_message(received.get("text"), limits.message_bytes, limits.message_values)

    async def _handle_message(self, message: ClientMessage) -> None:
        if isinstance(message, SubscribeMessage):
            await self._start_operation(message)
        elif message.type == "complete":
            await self._stop_operation(message.id)
        elif message.type == "ping":
            await self._send_message({"type": "pong"} | ({} if message.payload is None else {"payload": message.payload}))
        elif message.type == "connection_init":
            await self._handle_init(message.payload or {})

    async def _handle_init(self, payload: dict[str, Any]) -> None:
        self._init_count += 1
        if self._init_count > 1:
            raise CloseSocketError(CLOSE_TOO_MANY_INITS, "connection_init may be sent once")
        request_context.register_sensitive(payload)
        try:
            self._context = await self._sockets.authenticate(self._websocket, payload)
        except RequestError as error:
            raise CloseSocketError(_choose_close_code(error), str(error)) from None
        self._watch_expiry(self._context.expires)
        self._sockets.revocations.watch(self._context.credentials, self._on_revoked)
        await self._send_message({"type": "connection_ack"})

    def _watch_expiry(self, expires_at: float | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        if expires_at is not None:
            delay_seconds = max(0.0, expires_at - time.time())
            self._close_timer = asyncio.get_running_loop().call_later(
                delay_seconds, self.schedule_close, CLOSE_FORBIDDEN, "the token has expired"
            )

    def _on_revoked(self) -> None:
        self.schedule_close(CLOSE_FORBIDDEN, "signed out everywhere")

    async def _start_operation(self, message: SubscribeMessage) -> None:
        if self._context is None:
            raise CloseSocketError(CLOSE_UNAUTHORIZED, "send connection_init first")
        if message.id in self._operation_tasks:
            raise CloseSocketError(CLOSE_SUBSCRIBER_EXISTS, f"Subscriber for {message.id[:60]} already exists")
        if len(self._operation_tasks) >= self._sockets.limits.operations:
            raise CloseSocketError(CLOSE_TOO_MANY, f"at most {self._sockets.limits.operations} operations may run on one socket")
        self._sockets.set_busy(self)
        self._operation_tasks[message.id] = asyncio.create_task(self._run_operation(message, self._context))

    async def _run_operation(self, message: SubscribeMessage, context: OperationContext) -> None:
        with RequestContext(str(uuid7()), sensitive_inputs=[message.payload]) as operation_context:
            final_message = await self._run_to_final_message(message, context, operation_context.request_id)
        if final_message is not None:
            with suppress(WebSocketDisconnect):
                await self._send_message(final_message)

    async def _run_to_final_message(
        self, message: SubscribeMessage, context: OperationContext, request_id: str
    ) -> dict[str, Any] | None:
        """Run an operation, and return its `complete` or `error` message; None if the client has disconnected."""
        try:
            quota = self._sockets.create_request_quota(self._websocket)
            if quota:
                await quota.count_requests(1)
            if isinstance(message.operation, RequestError):
                raise message.operation
            await self._execute_operation(message.id, message.operation, await context.reauthenticate(), request_id, quota)
            final_message: dict[str, Any] = {"id": message.id, "type": "complete"}
        except WebSocketDisconnect:
            return None
        except asyncio.CancelledError:
            if not self._is_draining or message.id in self._subscription_ids:
                raise
            final_message = _make_error_message(message.id, create_shutdown_error(), request_id)
        except Exception as error:
            final_message = _make_error_message(message.id, error, request_id)
        finally:
            self._remove_operation(message.id)
            self._subscription_ids.discard(message.id)
        return final_message

    async def _execute_operation(
        self, id_: str, request: GraphQLRequest, context: OperationContext, request_id: str, quota: RequestQuota | None
    ) -> None:
        message_start = b'{"id":%b,"type":"next","payload":' % orjson.dumps(id_)
        operations = self._sockets.operations
        operation = await operations.prepare(request)
        if quota:
            await quota.count_cost(operation.cost)
            await quota.count_viewer(context.viewer_id)
        if operation.kind is OperationType.SUBSCRIPTION:
            self._subscription_ids.add(id_)
            results = operations.stream(operation, context, request_id, self._make_try_write(message_start))
            async with aclosing(results):
                async for result in results:
                    await self._send_result(message_start, result)
            return
        execution_result = await operations.run(operation, context)
        if operation.kind is None:
            # Nothing was executed: operationName is unknown, or missing although there are several operations.
            raise NotExecutableError(execution_result.errors or [])
        encoded = operations.encode_response(format_result(execution_result, request_id), operation.kind)
        # Free the result while the encoded response waits to be sent.
        del execution_result
        await self._send_result(message_start, encoded)

    async def _send_result(self, message_start: bytes, result: bytes) -> None:
        """Send a result. Raises LimitExceeded if the client has too many unread results (backpressure)."""
        count_unread = self._websocket.scope.get("extensions", {}).get(UNREAD_BYTES_EXTENSION)
        unread = count_unread() if count_unread else 0
        max_unread = self._sockets.limits.unread_bytes
        if unread and unread + len(result) > max_unread:
            problem = "Too many unread results on this WebSocket. Read them before you send more operations"
            raise LimitExceeded("unreadBytes", max_unread, unread + len(result), problem, "bytes")
        await self._send_text((message_start + result + MESSAGE_END).decode())

    def _make_try_write(self, message_start: bytes) -> TryWrite | None:
        """A function that writes results without waiting; None if the server does not support it."""
        write = self._websocket.scope.get("extensions", {}).get(TRY_WRITE_EXTENSION)
        return None if write is None else lambda result: write(message_start, result, MESSAGE_END)

    async def _stop_operation(self, id_: str) -> None:
        task = self._remove_operation(id_)
        if task is not None:
            await cancel_and_wait([task])

    def _remove_operation(self, id_: str) -> asyncio.Task[None] | None:
        task = self._operation_tasks.pop(id_, None)
        if task is not None and not self._operation_tasks:
            self._sockets.set_idle(self)
        return task

    async def _stop_operations(self) -> None:
        tasks = list(self._operation_tasks.values())
        self._operation_tasks.clear()
        await cancel_and_wait(tasks)

    def schedule_close(self, code: int, reason: str) -> None:
        """Close the socket soon."""
        # Referenced, because the event loop holds only weak references to tasks.
        self._close_task = asyncio.ensure_future(self._close(code, reason))

    async def _close(self, code: int, reason: str) -> None:
        await _close(self._websocket, code, reason)

    async def _send_message(self, message: dict[str, Any]) -> None:
        await self._send_text(dump_message(message))

    async def _send_text(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except RuntimeError:
            # Starlette raises it for a socket that has been closed in the meantime.
            raise WebSocketDisconnect(CLOSE_NORMAL) from None


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    # The client may have disconnected.
    with suppress(RuntimeError, WebSocketDisconnect):
        await websocket.close(code, _shorten_reason(reason))


def _make_error_message(id_: str, error: Exception, request_id: str) -> dict[str, Any]:
    return {"id": id_, "type": "error", "payload": format_request_error(error, request_id)["errors"]}


def _shorten_reason(reason: str) -> str:
    # A close frame has room for 123 bytes, and none for lone surrogates.
    return reason.encode(errors="replace")[:120].decode(errors="ignore")


def _choose_close_code(error: RequestError) -> int:
    """The close code of a connection_init that failed."""
    if isinstance(error, _TEMPORARY_ERRORS):
        return CLOSE_TOO_MANY
    return CLOSE_UNAUTHORIZED if isinstance(error, Unauthenticated) else CLOSE_FORBIDDEN
