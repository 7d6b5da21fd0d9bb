"""Backpressure: a write timeout, and byte budgets for answers that clients have not read.

Uvicorn has neither: what a client does not read stays in its connection's buffer until the client closes it. Nothing is
counted while the kernel takes what is written. The first byte that it does not take pauses the connection, which is accounted
for from then on until the kernel has taken all. One sweep per process looks at those connections.
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
from time import monotonic
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from storefront.core.memory import resident_bytes, return_free_memory

log = logging.getLogger("storefront")

# Where a server's state, and so each connection, has it.
STATE = "storefront.backpressure"
# Seconds between sweeps at most, and between lines in the log about aborted connections at least.
SWEEP_SECONDS, LOG_SECONDS = 1.0, 10.0
# Seconds that a client which reads nothing is waited for once the server stops: less than what it grants to those that read.
DRAIN_TIMEOUT = 2.0
# Bytes above its smallest size so far at which a process returns free memory to the operating system. That takes 10 to 80 ms. The
# seconds between two times grow from the first to the second while little is returned: what has grown is in use.
RETURN_BYTES, RETURN_SECONDS = 16_000_000, (10.0, 600.0)
# What the budget of a process is brought down to when it is exceeded: aborting one by one would sort them for each.
RELIEVED_PART = 0.9
# Bytes of pipelined requests that are parsed before the first of them is answered, and those that are read without being parsed:
# only while a connection is read is it known that its client has gone.
PARSE_BYTES, UNPARSED_BYTES = 2_048, 65_536
# Bytes that a WebSocket may have beyond its budget: pongs, errors and the ends of operations.
CONTROL_BYTES = 1_000_000

# Bytes that the kernel takes of a connection beyond what it has sent. Without such a limit it takes megabytes from each client
# that does not read, in memory that no process is charged for. What is on its way is not limited, so neither is the throughput.
KERNEL_UNSENT_BYTES = 262_144
# TCP_NOTSENT_LOWAT, which Python has no name for before 3.12.
_UNSENT = {"linux": 25, "darwin": 0x201}.get(sys.platform)

# SO_LINGER with a timeout of 0: closing sends RST, and the kernel forgets what it still has to send.
_RESET = struct.pack("ii", 1, 0)
# The place of tcpi_bytes_acked in Linux's struct tcp_info, and the bytes up to its end.
_ACKNOWLEDGED, _TCP_INFO_BYTES = struct.Struct("=120xQ"), 128


class Reason(StrEnum):
    """Why a connection was aborted."""

    TIMEOUT = "timeout"
    CONNECTION = "connection_budget"
    PROCESS = "process_budget"


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """What may wait for clients to read it.

    `timeout`: seconds within which a client has to read `timeout` times `min_rate` bytes, or all that waits. `connection`,
    `websocket` and `process`: bytes that may wait on one HTTP connection, on one WebSocket and in one process.
    """

    timeout: float = 30.0
    min_rate: int = 500
    connection: int = 32_000_000
    websocket: int = 32_000_000
    process: int = 256_000_000


@dataclass(slots=True)
class Unread:
    """What one connection's client has not read: bytes, and how far it had come when its time began."""

    protocol: "BackpressureProtocol"
    since: float
    acknowledged: int
    bytes: int = 0


class Backpressure:
    """The connections of this process with unread bytes, and what aborts them."""

    def __init__(self, limits: WriteLimits) -> None:
        self.limits = limits
        self._unread: dict[asyncio.Transport, Unread] = {}
        # Unread bytes of all connections as they were last measured, and how many of these connections send a response in
        # parts, which waits for its client to read.
        self.bytes = self.stalled = 0
        self.aborted = dict.fromkeys(map(str, Reason), 0)
        self._smallest, self._returned_at, self._return_seconds = 0, 0.0, RETURN_SECONDS[0]
        self._logged_at, self._logged = -LOG_SECONDS, 0
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many connections have unread bytes."""
        return len(self._unread)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sweep while this lasts."""
        self._sweeping = asyncio.create_task(self._sweep_always())
        try:
            yield
        finally:
            self._sweeping.cancel()

    def drain(self) -> None:
        """The server stops: abort clients that read nothing from now on, so that it need not wait for them."""
        self.limits = replace(self.limits, timeout=min(self.limits.timeout, DRAIN_TIMEOUT))
        for transport, entry in self._unread.items():
            entry.since, entry.acknowledged = monotonic(), _count_acknowledged(transport)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = asyncio.create_task(self._sweep_always())

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self.limits.timeout / 4))
            try:
                self.sweep()
            except Exception:
                log.exception("sweeping unread connections failed")

    def watch(self, protocol: "BackpressureProtocol") -> None:
        """Account for a connection that has unread bytes, or more of them."""
        transport = protocol.transport
        entry = self._unread.get(transport)
        if entry is None or entry.protocol is not protocol:
            self.forget(transport)
            entry = self._unread[transport] = Unread(protocol, monotonic(), _count_acknowledged(transport))
        self._measure(entry)
        # This one is being written to: the next sweep may abort it.
        self._relieve(spared=transport)

    def forget(self, transport: asyncio.Transport) -> None:
        """Its client has read everything, or the connection is closed."""
        entry = self._unread.pop(transport, None)
        if entry is not None:
            self.bytes -= entry.bytes

    def sweep(self) -> None:
        """Abort the connections whose clients read nothing, and those beyond a budget."""
        now = monotonic()
        # What the last sweep aborted has been freed since.
        self._return_memory(now)
        for transport, entry in list(self._unread.items()):
            self._measure(entry)
            if not entry.bytes:
                self.forget(transport)
            elif entry.bytes > entry.protocol.max_unread:
                self._abort(transport, Reason.CONNECTION)
            elif now - entry.since >= self.limits.timeout:
                self._check_progress(transport, entry, now)
        self._relieve()
        self.stalled = sum(entry.protocol.is_stalled for entry in self._unread.values())
        self._log(now)

    def _check_progress(self, transport: asyncio.Transport, entry: Unread, now: float) -> None:
        acknowledged = _count_acknowledged(transport)
        if acknowledged - entry.acknowledged < self.limits.timeout * self.limits.min_rate:
            self._abort(transport, Reason.TIMEOUT)
        entry.since, entry.acknowledged = now, acknowledged

    def _measure(self, entry: Unread) -> None:
        found = entry.protocol.unread
        self.bytes += found - entry.bytes
        entry.bytes = found

    def _relieve(self, spared: asyncio.Transport | None = None) -> None:
        """Within the budget of the process, abort the connections that would take longest to read what they have."""
        if self.bytes <= self.limits.process:
            return
        now = monotonic()
        for transport in sorted(self._unread, key=lambda each: self._seconds_left(each, now), reverse=True):
            if transport is not spared:
                self._abort(transport, Reason.PROCESS)
            if self.bytes <= RELIEVED_PART * self.limits.process:
                return

    def _seconds_left(self, transport: asyncio.Transport, now: float) -> float:
        entry = self._unread[transport]
        read = _count_acknowledged(transport) - entry.acknowledged
        return entry.bytes * max(now - entry.since, 1.0) / max(read, 1)

    def _abort(self, transport: asyncio.Transport, reason: Reason) -> None:
        self.aborted[reason] += 1
        self._return_seconds = RETURN_SECONDS[0]
        self.forget(transport)
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()

    def _return_memory(self, now: float) -> None:
        if now - self._returned_at < self._return_seconds:
            return
        resident = resident_bytes()
        self._smallest = min(self._smallest or resident, resident)
        if resident - self._smallest >= RETURN_BYTES:
            return_free_memory()
            is_much = resident - resident_bytes() >= RETURN_BYTES / 4
            first, last = RETURN_SECONDS
            self._returned_at, self._return_seconds = now, first if is_much else min(2 * self._return_seconds, last)

    def _log(self, now: float) -> None:
        total = sum(self.aborted.values())
        if total > self._logged and now - self._logged_at >= LOG_SECONDS:
            counts = ", ".join(f"{reason} {count}" for reason, count in self.aborted.items())
            log.warning("aborted %d connections with unread answers; since the start: %s", total - self._logged, counts)
            self._logged_at, self._logged = now, total


def _count_acknowledged(transport: asyncio.Transport) -> int:
    """How many bytes the client's kernel has acknowledged so far. It stops doing so soon after the client stops reading."""
    if sys.platform == "linux":
        with suppress(OSError):
            info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return int(_ACKNOWLEDGED.unpack(info)[0])
    # Elsewhere only what leaves our own buffer is known.
    return -transport.get_write_buffer_size()


def _limit_kernel_buffer(transport: asyncio.Transport) -> None:
    if _UNSENT is not None:
        # Not every socket is one of TCP.
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _UNSENT, KERNEL_UNSENT_BYTES)


class BackpressureProtocol(asyncio.Protocol):
    """What Uvicorn's protocols have in common here: they are accounted for while they have unread bytes."""

    app_state: dict[str, Any]
    transport: asyncio.Transport
    backpressure: Backpressure | None = None
    # Bytes that may wait.
    max_unread = 0

    @property
    def is_stalled(self) -> bool:
        """Whether a response waits between two of its parts."""
        return False

    @property
    def unread(self) -> int:
        """Bytes that wait for the client to read."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the transport report the first byte that waits."""
        super().connection_made(transport)
        self.backpressure = self.app_state.get(STATE)
        if self.backpressure is not None:
            self.transport.set_write_buffer_limits(high=0)
            _limit_kernel_buffer(self.transport)
            self.max_unread = self.max_unread_of(self.backpressure.limits)

    def max_unread_of(self, limits: WriteLimits) -> int:
        """Bytes that may wait on a connection of this kind."""
        return limits.connection

    def pause_writing(self) -> None:
        """The kernel takes no more: the client does not read, or not as fast as we write."""
        super().pause_writing()
        if self.backpressure is not None:
            self.backpressure.watch(self)

    def resume_writing(self) -> None:
        """The kernel has taken everything."""
        super().resume_writing()
        if self.backpressure is not None:
            self.backpressure.forget(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing waits on a closed connection."""
        if self.backpressure is not None:
            self.backpressure.forget(self.transport)
        super().connection_lost(exc)


class PipelineFlowControl(FlowControl):
    """Reads nothing more from a client while too much of it waits for the answers to earlier requests."""

    def __init__(self, transport: asyncio.Transport, has_much_unparsed: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._has_much_unparsed = has_much_unparsed

    def resume_reading(self) -> None:
        """Read on, unless too much waits."""
        if self.read_paused and not self._has_much_unparsed():
            super().resume_reading()


class BackpressureHTTPProtocol(BackpressureProtocol, HttpToolsProtocol):
    """Uvicorn's HTTP protocol, where a request is begun only when its client has read the answers before.

    Of pipelined requests as many are parsed as a few kilobytes hold; stock Uvicorn parses all that come.
    """

    # What has come of the client and is not parsed yet; the request that waits for the client to read; the one that is being
    # answered, which need not be the newest, `cycle`.
    _unparsed = b""
    _deferred: tuple[RequestResponseCycle, Any] | None = None
    _running: RequestResponseCycle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self.flow = PipelineFlowControl(transport, self._has_much_unparsed)

    def _has_much_unparsed(self) -> bool:
        return len(self._unparsed) >= UNPARSED_BYTES

    @property
    def is_stalled(self) -> bool:
        """Whether a response of known length is under way. Those that go on have a limit of their own."""
        running = self._running
        return running is not None and running.response_started and not running.response_complete and not running.chunked_encoding

    def data_received(self, data: bytes) -> None:
        """Parse what has come, up to the next request that has to wait."""
        if len(data) <= PARSE_BYTES and not self.pipeline and not self._unparsed:
            self.parse(data)
            return
        if self._unparsed:
            self._put_off(data)
            return
        for start in range(0, len(data), PARSE_BYTES):
            if self.pipeline:
                self._put_off(data[start:])
                return
            self.parse(data[start : start + PARSE_BYTES])
            if self.transport.is_closing():
                return
            if self.transport.get_protocol() is not self:
                # Another protocol goes on, whose client did not wait for the answer to its handshake.
                if data[start + PARSE_BYTES :]:
                    self.transport.close()
                return

    def _put_off(self, data: bytes) -> None:
        self._unparsed += data
        if self._has_much_unparsed():
            self.flow.pause_reading()

    def parse(self, data: bytes) -> None:
        """Parse some of what has come."""
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Go on with what waits for this."""
        super().on_response_complete()
        if self._unparsed and not self.pipeline:
            self.loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        data, self._unparsed = self._unparsed, b""
        if data and not self.transport.is_closing():
            self.data_received(data)
            # What is left may be the beginning of a request.
            self.flow.resume_reading()

    def defer(self, cycle: RequestResponseCycle, app: Any) -> bool:
        """Whether a request is put off until the client has read what waits for it."""
        if self.backpressure is not None and self.flow.write_paused:
            self._deferred = cycle, app
            return True
        self._running = cycle
        return False

    def resume_writing(self) -> None:
        """The client has read everything: begin the request that waited for that."""
        super().resume_writing()
        if self._deferred is not None:
            (cycle, app), self._deferred = self._deferred, None
            self._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone. Uvicorn notifies the request that came last, which need not be the one that runs."""
        self._deferred, self._unparsed = None, b""
        self.pipeline.clear()
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
