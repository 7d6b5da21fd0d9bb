"""Listeners who are to be told the same are told together: one task reads the events, has each executed once, and hands the
result to all of them.

A subscription's resolver that returns a `Source` takes part. Any other async iterator is read by each listener for itself.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from typing import Any, NamedTuple

# Hands a result to a listener at once; False where it would have to wait.
TryWrite = Callable[[bytes], bool]
ExecuteEvent = Callable[[Any], Awaitable[bytes]]

# Listeners told in one go, before others have their turn.
MAX_WRITES_PER_BATCH = 250


class SourceStep(NamedTuple):
    """How far a source has come, and the event there, if there is one. `is_level`: there is nothing more for now."""

    position: int
    event: Any = None
    caught_up: bool = False


class SharedSource(ABC):
    """Numbered events that many may listen to.

    Sources with the same `key` have the same events at the same positions. Those of a public one are the same to everybody:
    they are executed for nobody in particular, unless the document is personal.
    """

    key: Hashable
    is_public: bool = False

    @abstractmethod
    def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        """The steps after a position, or after that where the listener asked to begin, in order, until there are no more ever.

        A step that is level is due before each wait.
        """

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        async with aclosing(self.steps()) as steps:
            async for step in steps:
                if step.event is not None:
                    yield step.event


class Subscriber:
    """A listener in a crowd: how far it has been told.

    `alone` is when it is one no longer: True if it is to go on by itself, False if there is nothing more, or what went wrong.
    """

    __slots__ = ("detachment", "position", "try_write")

    def __init__(self, position: int, try_write: TryWrite) -> None:
        self.position, self.try_write = position, try_write
        self.detachment: asyncio.Future[bool | Exception] = asyncio.get_running_loop().create_future()

    def detach(self, reason: bool | Exception) -> None:
        """Be one no longer. One who is about to leave need not be told."""
        if not self.detachment.done():
            self.detachment.set_result(reason)


class SharedStream:
    """Listeners at one position of one source. Goes on as long as there are any."""

    def __init__(self, steps: AsyncGenerator[SourceStep, None], position: int, execute: ExecuteEvent) -> None:
        self.position, self.steps = position, steps
        self.subscribers: dict[Subscriber, None] = {}
        self._execute = execute
        self.task = asyncio.create_task(self._run())

    def remove(self, subscriber: Subscriber) -> None:
        """One less; without any it ends."""
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
        # Whoever comes from now on has to have been told already.
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
    """The crowds of this process, each under what its listeners have in common."""

    def __init__(self) -> None:
        self._streams: dict[Hashable, SharedStream] = {}

    def find(self, key: Hashable) -> SharedStream | None:
        """The crowd with this key that still has somebody in it."""
        stream = self._streams.get(key)
        return stream if stream is not None and stream.subscribers else None

    def register(self, key: Hashable, stream: SharedStream) -> SharedStream:
        """Make a crowd known until it ends."""
        self._streams[key] = stream
        stream.task.add_done_callback(lambda _: self._unregister(key, stream))
        return stream

    def _unregister(self, key: Hashable, stream: SharedStream) -> None:
        # By now there may be another one under the same key.
        if self._streams.get(key) is stream:
            del self._streams[key]


class SubscriptionReader:
    """One who listens alone until it is level with those who ask for the same, and then with them as long as it keeps up."""

    def __init__(
        self, streams: SharedStreams, source: SharedSource, operation_key: Hashable, execute: ExecuteEvent, try_write: TryWrite
    ) -> None:
        self._streams, self._source, self._key = streams, source, (source.key, operation_key)
        self._execute, self._try_write = execute, try_write
        self._position: int | None = None
        self._stream: SharedStream | None = None
        self._subscriber: Subscriber | None = None

    async def iterate_results(self) -> AsyncGenerator[bytes, None]:
        """The results that have to be sent with patience: those that `tell` was not given, or did not take."""
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
            # The reader of the first one becomes that of all.
            stream = self._streams.register(self._key, SharedStream(steps, step.position, self._execute))
        if stream is None or step.position < stream.position:
            return False
        # At once: a crowd of nobody ends, and what it tells now has to be heard.
        self._stream, self._subscriber = stream, Subscriber(step.position, self._try_write)
        stream.subscribers[self._subscriber] = None
        return True

    async def _follow_shared_stream(self) -> bool:
        """Be one of the crowd; False when there is nothing to go on with. Raises what went wrong for all of it."""
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
