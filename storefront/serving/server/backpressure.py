"""Backpressure: a write timeout for slow readers, and byte budgets for unread responses.

Uvicorn has neither: what a client does not read stays in its connection's buffer until the client closes it. Nothing is
accounted for while the kernel accepts what is written. The first byte that it does not accept pauses writing, and the connection
is tracked from then on until the kernel has accepted everything. One sweep per process checks the tracked connections.
"""

import asyncio
import logging
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic, perf_counter
from typing import Any

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from storefront.core.cooperative import TIME_SLICE_SECONDS
from storefront.core.memory import get_resident_bytes, return_free_memory
from storefront.serving.server.connection_limit import CONNECTION_LIMIT_STATE_KEY, ConnectionLimit

log = logging.getLogger("storefront")

# The key of the server's state, which each connection has, with the Backpressure.
BACKPRESSURE_STATE_KEY = "storefront.backpressure"
# Seconds between sweeps at most, and between log lines about aborted connections at least.
SWEEP_INTERVAL_SECONDS, LOG_INTERVAL_SECONDS = 1.0, 10.0
# The write timeout during graceful shutdown, in seconds: less than what the server grants to clients that read.
DRAIN_WRITE_TIMEOUT_SECONDS = 2.0
# Bytes above its smallest size so far at which a process returns free memory to the operating system. That takes 10 to 80 ms. The
# seconds between two times grow from the first to the second while little is returned: what has grown is in use.
MEMORY_RETURN_THRESHOLD_BYTES, MEMORY_RETURN_INTERVAL_SECONDS = 16_000_000, (10.0, 600.0)
# The share of the process budget that aborts bring it down to: with less at a time, connections would be sorted for each abort.
PROCESS_BUDGET_TARGET_RATIO = 0.9
# Bytes of pipelined requests that are parsed before the first one is answered, and bytes that are read without being parsed:
# a disconnect is noticed only while the connection is read.
MAX_PIPELINED_PARSE_BYTES, MAX_UNPARSED_BYTES = 2_048, 65_536
# Bytes that a WebSocket may have beyond its budget: pongs, errors and the ends of operations.
WEBSOCKET_CONTROL_BYTES = 1_000_000

# Unsent bytes that the kernel buffers per connection. Without a limit it buffers megabytes for each client that does not read, in
# memory that no process is charged for. Bytes in flight are not limited, so neither is the throughput.
MAX_KERNEL_UNSENT_BYTES = 262_144
# TCP_NOTSENT_LOWAT, which Python's socket module has only since 3.12.
_TCP_NOTSENT_LOWAT = {"linux": 25, "darwin": 0x201}.get(sys.platform)

# SO_LINGER with a timeout of 0: closing sends RST, and the kernel discards unsent bytes.
_LINGER_RESET_OPTION = struct.pack("ii", 1, 0)
# The offset of tcpi_bytes_acked in Linux's struct tcp_info, and the size of the struct up to its end.
_TCPI_BYTES_ACKED, _TCP_INFO_BYTES = struct.Struct("=120xQ"), 128


class AbortReason(StrEnum):
    """Why a connection was aborted."""

    WRITE_TIMEOUT = "timeout"
    CONNECTION_BUDGET = "connection_budget"
    PROCESS_BUDGET = "process_budget"


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """Limits of unread responses.

    `timeout_seconds`: within it a client has to read that many seconds times `min_bytes_per_second`, or everything. The other
    fields: unread bytes of one HTTP connection, of one WebSocket, and of the process.
    """

    timeout_seconds: float = 30.0
    min_bytes_per_second: int = 500
    max_connection_bytes: int = 32_000_000
    max_websocket_bytes: int = 32_000_000
    max_process_bytes: int = 256_000_000


@dataclass(slots=True)
class UnreadConnection:
    """A tracked connection: its unread bytes, and the bytes that its client had acknowledged when the timeout period began."""

    protocol: "BackpressureProtocol"
    period_started_at: float
    acknowledged_bytes_at_start: int
    unread_bytes: int = 0


class Backpressure:
    """Tracks the connections of this process with unread bytes, and aborts those that exceed a limit."""

    def __init__(self, limits: WriteLimits) -> None:
        self.limits = limits
        self._unread_connections: dict[asyncio.Transport, UnreadConnection] = {}
        # Unread bytes of all connections at their last measurement, and how many of these connections have a response that waits
        # between two of its parts.
        self.unread_bytes = self.stalled_count = 0
        self.aborts_by_reason = dict.fromkeys(map(str, AbortReason), 0)
        self._min_resident_bytes, self._memory_returned_at, self._memory_return_interval_seconds = (
            0,
            0.0,
            MEMORY_RETURN_INTERVAL_SECONDS[0],
        )
        self._last_log_at, self._logged_abort_count = -LOG_INTERVAL_SECONDS, 0
        self._sweep_task: asyncio.Task[None] | None = None

    @property
    def connection_count(self) -> int:
        """The number of connections with unread bytes."""
        return len(self._unread_connections)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sweep for the duration of the context."""
        self._sweep_task = asyncio.create_task(self._sweep_forever())
        try:
            yield
        finally:
            self._sweep_task.cancel()

    def drain(self) -> None:
        """Graceful shutdown: shorten the write timeout, so that clients that read nothing do not delay it."""
        self.limits = replace(self.limits, timeout_seconds=min(self.limits.timeout_seconds, DRAIN_WRITE_TIMEOUT_SECONDS))
        for transport, entry in self._unread_connections.items():
            entry.period_started_at, entry.acknowledged_bytes_at_start = monotonic(), _count_acknowledged_bytes(transport)
        if self._sweep_task is not None:
            self._sweep_task.cancel()
            self._sweep_task = asyncio.create_task(self._sweep_forever())

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_INTERVAL_SECONDS, self.limits.timeout_seconds / 4))
            try:
                self.sweep()
            except Exception:
                log.exception("sweeping unread connections failed")

    def track(self, protocol: "BackpressureProtocol") -> None:
        """Track a connection that has unread bytes, or more of them than before."""
        transport = protocol.transport
        entry = self._unread_connections.get(transport)
        if entry is None or entry.protocol is not protocol:
            self.untrack(transport)
            entry = self._unread_connections[transport] = UnreadConnection(
                protocol, monotonic(), _count_acknowledged_bytes(transport)
            )
        self._measure_unread_bytes(entry)
        # Not the connection that is being written to: the next sweep may abort it.
        self._enforce_process_budget(exempt=transport)

    def untrack(self, transport: asyncio.Transport) -> None:
        """Stop tracking: the client has read everything, or the connection is closed."""
        entry = self._unread_connections.pop(transport, None)
        if entry is not None:
            self.unread_bytes -= entry.unread_bytes

    def sweep(self) -> None:
        """Abort connections that exceed the write timeout or a budget."""
        now = monotonic()
        # Memory of connections that the last sweep aborted has been freed by now.
        self._return_memory(now)
        for transport, entry in list(self._unread_connections.items()):
            self._measure_unread_bytes(entry)
            if not entry.unread_bytes:
                self.untrack(transport)
            elif entry.unread_bytes > entry.protocol.max_unread_bytes:
                self._abort(transport, AbortReason.CONNECTION_BUDGET)
            elif now - entry.period_started_at >= self.limits.timeout_seconds:
                self._check_progress(transport, entry, now)
        self._enforce_process_budget()
        self.stalled_count = sum(entry.protocol.is_stalled for entry in self._unread_connections.values())
        self._log_aborts(now)

    def _check_progress(self, transport: asyncio.Transport, entry: UnreadConnection, now: float) -> None:
        acknowledged_bytes = _count_acknowledged_bytes(transport)
        if (
            acknowledged_bytes - entry.acknowledged_bytes_at_start
            < self.limits.timeout_seconds * self.limits.min_bytes_per_second
        ):
            self._abort(transport, AbortReason.WRITE_TIMEOUT)
        entry.period_started_at, entry.acknowledged_bytes_at_start = now, acknowledged_bytes

    def _measure_unread_bytes(self, entry: UnreadConnection) -> None:
        unread_bytes = entry.protocol.unread_bytes
        self.unread_bytes += unread_bytes - entry.unread_bytes
        entry.unread_bytes = unread_bytes

    def _enforce_process_budget(self, exempt: asyncio.Transport | None = None) -> None:
        """If the process budget is exceeded, abort the connections with the longest estimated time to read their bytes."""
        if self.unread_bytes <= self.limits.max_process_bytes:
            return
        now = monotonic()
        for transport in sorted(
            self._unread_connections, key=lambda candidate: self._estimate_drain_seconds(candidate, now), reverse=True
        ):
            if transport is not exempt:
                self._abort(transport, AbortReason.PROCESS_BUDGET)
            if self.unread_bytes <= PROCESS_BUDGET_TARGET_RATIO * self.limits.max_process_bytes:
                return

    def _estimate_drain_seconds(self, transport: asyncio.Transport, now: float) -> float:
        entry = self._unread_connections[transport]
        read_bytes = _count_acknowledged_bytes(transport) - entry.acknowledged_bytes_at_start
        return entry.unread_bytes * max(now - entry.period_started_at, 1.0) / max(read_bytes, 1)

    def _abort(self, transport: asyncio.Transport, reason: AbortReason) -> None:
        self.aborts_by_reason[reason] += 1
        self._memory_return_interval_seconds = MEMORY_RETURN_INTERVAL_SECONDS[0]
        self.untrack(transport)
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET_OPTION)
        transport.abort()

    def _return_memory(self, now: float) -> None:
        if now - self._memory_returned_at < self._memory_return_interval_seconds:
            return
        resident_before = get_resident_bytes()
        self._min_resident_bytes = min(self._min_resident_bytes or resident_before, resident_before)
        if resident_before - self._min_resident_bytes >= MEMORY_RETURN_THRESHOLD_BYTES:
            return_free_memory()
            is_effective = resident_before - get_resident_bytes() >= MEMORY_RETURN_THRESHOLD_BYTES / 4
            min_seconds, max_seconds = MEMORY_RETURN_INTERVAL_SECONDS
            self._memory_returned_at, self._memory_return_interval_seconds = (
                now,
                min_seconds if is_effective else min(2 * self._memory_return_interval_seconds, max_seconds),
            )

    def _log_aborts(self, now: float) -> None:
        total = sum(self.aborts_by_reason.values())
        if total > self._logged_abort_count and now - self._last_log_at >= LOG_INTERVAL_SECONDS:
            counts = ", ".join(f"{reason} {count}" for reason, count in self.aborts_by_reason.items())
            log.warning(
                "aborted %d connections with unread responses; since the start: %s", total - self._logged_abort_count, counts
            )
            self._last_log_at, self._logged_abort_count = now, total


def _count_acknowledged_bytes(transport: asyncio.Transport) -> int:
    """The bytes that the client's kernel has acknowledged so far. It stops soon after the client stops reading."""
    if sys.platform == "linux":
        with suppress(OSError):
            tcp_info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return int(_TCPI_BYTES_ACKED.unpack(tcp_info)[0])
    # Other systems do not report it: what leaves the write buffer has to do.
    return -transport.get_write_buffer_size()


def _disable_nagle(transport: asyncio.Transport) -> None:
    # asyncio leaves Nagle's algorithm on for connections of a listening socket that was created without a protocol number, as
    # Uvicorn's is. A response of two writes would wait for the client's delayed acknowledgement: 40 ms on Linux.
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _limit_kernel_buffer(transport: asyncio.Transport) -> None:
    if _TCP_NOTSENT_LOWAT is not None:
        # Unix sockets do not support it.
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, MAX_KERNEL_UNSENT_BYTES)


class BackpressureProtocol(asyncio.Protocol):
    """Mixin for Uvicorn's protocols: the connection is tracked while it has unread bytes."""

    app_state: dict[str, Any]
    transport: asyncio.Transport
    backpressure: Backpressure | None = None
    # The budget of unread bytes.
    max_unread_bytes = 0

    @property
    def is_stalled(self) -> bool:
        """Whether a response waits between two of its parts for the client to read."""
        return False

    @property
    def unread_bytes(self) -> int:
        """Bytes that wait for the client to read them."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have responses sent at once, and the first byte that waits reported by the transport: a write buffer limit of 0."""
        super().connection_made(transport)
        _disable_nagle(self.transport)
        self.backpressure = self.app_state.get(BACKPRESSURE_STATE_KEY)
        if self.backpressure is not None:
            self.transport.set_write_buffer_limits(high=0)
            _limit_kernel_buffer(self.transport)
            self.max_unread_bytes = self.get_max_unread_bytes(self.backpressure.limits)

    def get_max_unread_bytes(self, limits: WriteLimits) -> int:
        """The budget of unread bytes for a connection of this kind."""
        return limits.max_connection_bytes

    def pause_writing(self) -> None:
        """The kernel's buffer is full: the client reads slower than the server writes, or not at all."""
        super().pause_writing()
        if self.backpressure is not None:
            self.backpressure.track(self)

    def resume_writing(self) -> None:
        """The kernel has accepted everything."""
        super().resume_writing()
        if self.backpressure is not None:
            self.backpressure.untrack(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed: stop tracking."""
        if self.backpressure is not None:
            self.backpressure.untrack(self.transport)
        connection_limit: ConnectionLimit | None = self.app_state.get(CONNECTION_LIMIT_STATE_KEY)
        if connection_limit is not None:
            connection_limit.close(self.transport)
        super().connection_lost(exc)


class PipelineFlowControl(FlowControl):
    """Pauses reading while too many bytes of pipelined requests wait for the responses to earlier ones."""

    def __init__(self, transport: asyncio.Transport, is_unparsed_limit_reached: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._is_unparsed_limit_reached = is_unparsed_limit_reached

    def resume_reading(self) -> None:
        """Resume reading, unless too many bytes wait."""
        if self.read_paused and not self._is_unparsed_limit_reached():
            super().resume_reading()


class BackpressureHTTPProtocol(BackpressureProtocol, HttpToolsProtocol):
    """Uvicorn's HTTP protocol with backpressure: a request starts only when its client has read the previous responses.

    Only a few kilobytes of pipelined requests are parsed ahead, and for one time slice at a time. Stock Uvicorn parses all that
    it has read: up to 256 kB, which have 43,000 chunks of one byte.
    """

    # Received bytes that are not parsed yet; the request that is deferred until the client reads; the request that is being
    # answered, which need not be the newest one, `cycle`.
    _unparsed_data = b""
    _resume_handle: asyncio.Handle | None = None
    _deferred_request: tuple[RequestResponseCycle, Any] | None = None
    _running_cycle: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """Limit reading by the unparsed bytes."""
        super().connection_made(transport)
        self.flow = PipelineFlowControl(transport, self._is_unparsed_limit_reached)

    def _is_unparsed_limit_reached(self) -> bool:
        return len(self._unparsed_data) >= MAX_UNPARSED_BYTES

    @property
    def is_stalled(self) -> bool:
        """Whether a response of known length is being sent. Chunked responses (streams) have a limit of their own."""
        cycle = self._running_cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete and not cycle.chunked_encoding

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, up to the next request that has to wait, and for one time slice at most."""
        if self._unparsed_data:
            self._buffer_unparsed(data)
            return
        if len(data) <= MAX_PIPELINED_PARSE_BYTES and not self.pipeline:
            self.parse(data)
            return
        started_at = perf_counter()
        for start in range(0, len(data), MAX_PIPELINED_PARSE_BYTES):
            if self.pipeline or perf_counter() - started_at > TIME_SLICE_SECONDS:
                self._buffer_unparsed(data[start:])
                self._schedule_parsing()
                return
            self.parse(data[start : start + MAX_PIPELINED_PARSE_BYTES])
            if self.transport.is_closing():
                return
            if self.transport.get_protocol() is not self:
                # Upgraded to WebSocket. The client must not send more before the response to its handshake.
                if data[start + MAX_PIPELINED_PARSE_BYTES :]:
                    self.transport.close()
                return

    def _buffer_unparsed(self, data: bytes) -> None:
        self._unparsed_data += data
        if self._is_unparsed_limit_reached():
            self.flow.pause_reading()

    def parse(self, data: bytes) -> None:
        """Parse some of the received bytes."""
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Resume parsing of pipelined requests that waited for this response."""
        super().on_response_complete()
        self._schedule_parsing()

    def _schedule_parsing(self) -> None:
        if self._unparsed_data and not self.pipeline and self._resume_handle is None:
            self._resume_handle = self.loop.call_soon(self._resume_parsing)

    def _resume_parsing(self) -> None:
        data, self._unparsed_data, self._resume_handle = self._unparsed_data, b"", None
        if data and not self.transport.is_closing():
            self.data_received(data)
            # The rest may be an incomplete request. A body that the application has yet to read resumes reading itself.
            if self.cycle is None or self.cycle.response_complete or len(self.cycle.body) <= HIGH_WATER_LIMIT:
                self.flow.resume_reading()

    def try_defer(self, cycle: RequestResponseCycle, app: Any) -> bool:
        """Defer a request if the client has unread bytes. Returns whether it was deferred."""
        if self.backpressure is not None and self.flow.write_paused:
            self._deferred_request = cycle, app
            return True
        self._running_cycle = cycle
        return False

    def resume_writing(self) -> None:
        """The client has read everything: start the deferred request."""
        super().resume_writing()
        if self._deferred_request is not None:
            (cycle, app), self._deferred_request = self._deferred_request, None
            self._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected. Uvicorn notifies only the newest request, which need not be the running one."""
        self._deferred_request, self._unparsed_data = None, b""
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running_cycle is not None and not self._running_cycle.response_complete:
            self._running_cycle.disconnected = True
            self._running_cycle.message_event.set()
