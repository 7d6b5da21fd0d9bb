"""Fan-out: subscribers with the same operation share a stream, in which one task reads the events, executes each once, and
broadcasts the result.

A subscription's resolver takes part by returning a SharedSource. Each subscriber iterates any other async iterator by itself.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from typing import Any, NamedTuple

# Writes a result to a subscriber without waiting. Returns False if it would have to wait (backpressure).
TryWrite = Callable[[bytes], bool]
ExecuteEvent = Callable[[Any], Awaitable[bytes]]

# Writes per broadcast before the event loop runs other tasks.
MAX_WRITES_PER_BATCH = 250


class SourceStep(NamedTuple):
    """A position in a source, and the event there, if any. `caught_up`: there are no further events for now."""

    position: int
    event: Any = None
    caught_up: bool = False


class SharedSource(ABC):
    """A source of numbered events for many subscribers.

    Sources with the same `key` have the same events at the same positions. The events of a public source are the same for all
    viewers: they are executed for an anonymous viewer, unless the document is personal.
    """

    key: Hashable
    is_public: bool = False

    @abstractmethod
    def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        """The steps after a position, in order; None: after the position that the subscriber requested. Ends with the source.

        Must yield a step that has caught up before each wait.
        """

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        async with aclosing(self.steps()) as steps:
            async for step in steps:
                if step.event is not None:
                    yield step.event


class Subscriber:
    """A subscriber of a shared stream, and the position of the last event that was written to it.

    `detachment` is set when it leaves the stream: True if it has to continue alone, False if the source has ended, or the
    exception that ended the stream.
    """

    __slots__ = ("detachment", "position", "try_write")

    def __init__(self, position: int, try_write: TryWrite) -> None:
        self.position, self.try_write = position, try_write
        self.detachment: asyncio.Future[bool | Exception] = asyncio.get_running_loop().create_future()

    def detach(self, reason: bool | Exception) -> None:
        """Leave the stream. The first reason counts."""
        if not self.detachment.done():
            self.detachment.set_result(reason)


class SharedStream:
    """Subscribers at one position of one source. Runs as long as there are any."""

    def __init__(self, steps: AsyncGenerator[SourceStep, None], position: int, execute: ExecuteEvent) -> None:
        self.position, self.steps = position, steps
        self.subscribers: dict[Subscriber, None] = {}
        self._execute = execute
        self.task = asyncio.create_task(self._run())

    def remove(self, subscriber: Subscriber) -> None:
        """Remove a subscriber. The stream is cancelled when the last one leaves."""
        self.subscribers.pop(subscriber, None)
        if not self.subscribers:
            self.task.cancel()

    async def _run(self) -> None:
        reason: bool | Exception = False
        try:
            async with aclosing(self.steps) as steps:
                async for step in steps:
                    if step.event is not None:
                        await self._broadcast(step.position, await self._execute(step.event))
                    self.position = step.position
        except Exception as error:
            reason = error
        for subscriber in self.subscribers:
            subscriber.detach(reason)
        self.subscribers.clear()

    async def _broadcast(self, position: int, result: bytes) -> None:
        # A subscriber that joins from now on must have this event already.
        self.position = position
        for number, subscriber in enumerate(list(self.subscribers), 1):
            if subscriber in self.subscribers and subscriber.position < position:
                self._deliver(subscriber, position, result)
            if not number % MAX_WRITES_PER_BATCH:
                await asyncio.sleep(0)

    def _deliver(self, subscriber: Subscriber, position: int, result: bytes) -> None:
        if subscriber.try_write(result):
            subscriber.position = position
        else:
            del self.subscribers[subscriber]
            subscriber.detach(True)


class SharedStreams:
    """The shared streams of this process, by key."""

    def __init__(self) -> None:
        self._streams: dict[Hashable, SharedStream] = {}

    def find(self, key: Hashable) -> SharedStream | None:
        """The stream with this key, if it has subscribers."""
        stream = self._streams.get(key)
        return stream if stream is not None and stream.subscribers else None

    def register(self, key: Hashable, stream: SharedStream) -> SharedStream:
        """Register a stream until it ends."""
        self._streams[key] = stream
        stream.task.add_done_callback(lambda _: self._unregister(key, stream))
        return stream

    def _unregister(self, key: Hashable, stream: SharedStream) -> None:
        # By now another stream may be registered under the same key.
        if self._streams.get(key) is stream:
            del self._streams[key]


class SubscriptionReader:
    """Reads a source alone until it has caught up with the shared stream, then follows it while its client reads fast enough."""

    def __init__(
        self, streams: SharedStreams, source: SharedSource, operation_key: Hashable, execute: ExecuteEvent, try_write: TryWrite
    ) -> None:
        self._streams, self._source, self._key = streams, source, (source.key, operation_key)
        self._execute, self._try_write = execute, try_write
        self._position: int | None = None
        self._stream: SharedStream | None = None
        self._subscriber: Subscriber | None = None

    async def iterate_results(self) -> AsyncGenerator[bytes, None]:
        """The results to be sent with backpressure: those that were not written with `try_write`."""
        try:
            while True:
                async with aclosing(self._iterate_alone()) as results:
                    async for result in results:
                        yield result
                if not await self._follow_shared_stream():
                    return
        finally:
            self._leave_shared_stream()

    async def _iterate_alone(self) -> AsyncGenerator[bytes, None]:
        steps = self._source.steps(self._position)
        try:
            async for step in steps:
                self._position = step.position
                if step.event is not None:
                    yield await self._execute(step.event)
                if self._try_join(step, steps):
                    break
        finally:
            if self._stream is None or self._stream.steps is not steps:
                await steps.aclose()

    def _try_join(self, step: SourceStep, steps: AsyncGenerator[SourceStep, None]) -> bool:
        stream = self._streams.find(self._key)
        if stream is None and step.caught_up:
            # The first reader's iterator becomes that of the shared stream.
            stream = self._streams.register(self._key, SharedStream(steps, step.position, self._execute))
        if stream is None or step.position < stream.position:
            return False
        # Without an await in between: a stream without subscribers ends, and no event may be missed.
        self._stream, self._subscriber = stream, Subscriber(step.position, self._try_write)
        stream.subscribers[self._subscriber] = None
        return True

    async def _follow_shared_stream(self) -> bool:
        """Wait until the shared stream detaches this subscriber. Returns whether to continue alone. Raises the stream's error."""
        if self._subscriber is None:
            return False
        reason = await self._subscriber.detachment
        self._position = self._subscriber.position
        self._leave_shared_stream()
        if isinstance(reason, Exception):
            raise reason.with_traceback(None)
        return reason

    def _leave_shared_stream(self) -> None:
        if self._stream is not None and self._subscriber is not None:
            self._stream.remove(self._subscriber)
        self._stream = self._subscriber = None
