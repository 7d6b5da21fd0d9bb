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
Tell = Callable[[bytes], bool]
Execute = Callable[[Any], Awaitable[bytes]]

# Listeners told in one go, before others have their turn.
AT_ONCE = 250


class Step(NamedTuple):
    """How far a source has come, and the event there, if there is one. `is_level`: there is nothing more for now."""

    position: int
    event: Any = None
    is_level: bool = False


class Source(ABC):
    """Numbered events that many may listen to.

    Sources with the same `key` have the same events at the same positions. Those of a public one are the same to everybody:
    they are executed for nobody in particular, unless the document is personal.
    """

    key: Hashable
    is_public: bool = False

    @abstractmethod
    def steps(self, after: int | None = None) -> AsyncGenerator[Step, None]:
        """The steps after a position, or after that where the listener asked to begin, in order, until there are no more ever.

        A step that is level is due before each wait.
        """

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        async with aclosing(self.steps()) as steps:
            async for step in steps:
                if step.event is not None:
                    yield step.event


class Member:
    """A listener in a crowd: how far it has been told.

    `alone` is when it is one no longer: True if it is to go on by itself, False if there is nothing more, or what went wrong.
    """

    __slots__ = ("alone", "position", "tell")

    def __init__(self, position: int, tell: Tell) -> None:
        self.position, self.tell = position, tell
        self.alone: asyncio.Future[bool | Exception] = asyncio.get_running_loop().create_future()

    def part(self, why: bool | Exception) -> None:
        """Be one no longer. One who is about to leave need not be told."""
        if not self.alone.done():
            self.alone.set_result(why)


class Crowd:
    """Listeners at one position of one source. Goes on as long as there are any."""

    def __init__(self, steps: AsyncGenerator[Step, None], position: int, execute: Execute) -> None:
        self.position, self.steps = position, steps
        self.members: dict[Member, None] = {}
        self._execute = execute
        self.task = asyncio.create_task(self._go_on())

    def leave(self, member: Member) -> None:
        """One less; without any it ends."""
        self.members.pop(member, None)
        if not self.members:
            self.task.cancel()

    async def _go_on(self) -> None:
        why: bool | Exception = False
        try:
            async with aclosing(self.steps) as steps:
                async for step in steps:
                    if step.event is not None:
                        await self._tell_all(step.position, await self._execute(step.event))
                    self.position = step.position
        except Exception as error:
            why = error
        for member in self.members:
            member.part(why)
        self.members.clear()

    async def _tell_all(self, position: int, result: bytes) -> None:
        # Whoever comes from now on has to have been told already.
        self.position = position
        for number, member in enumerate(list(self.members), 1):
            if member in self.members and member.position < position:
                self._tell(member, position, result)
            if not number % AT_ONCE:
                await asyncio.sleep(0)

    def _tell(self, member: Member, position: int, result: bytes) -> None:
        if member.tell(result):
            member.position = position
        else:
            del self.members[member]
            member.part(True)


class Crowds:
    """The crowds of this process, each under what its listeners have in common."""

    def __init__(self) -> None:
        self._crowds: dict[Hashable, Crowd] = {}

    def find(self, key: Hashable) -> Crowd | None:
        """The crowd with this key that still has somebody in it."""
        crowd = self._crowds.get(key)
        return crowd if crowd is not None and crowd.members else None

    def begin(self, key: Hashable, crowd: Crowd) -> Crowd:
        """Make a crowd known until it ends."""
        self._crowds[key] = crowd
        crowd.task.add_done_callback(lambda _: self._end(key, crowd))
        return crowd

    def _end(self, key: Hashable, crowd: Crowd) -> None:
        # By now there may be another one under the same key.
        if self._crowds.get(key) is crowd:
            del self._crowds[key]


class Listener:
    """One who listens alone until it is level with those who ask for the same, and then with them as long as it keeps up."""

    def __init__(self, crowds: Crowds, source: Source, asked: Hashable, execute: Execute, tell: Tell) -> None:
        self._crowds, self._source, self._key = crowds, source, (source.key, asked)
        self._execute, self._tell = execute, tell
        self._position: int | None = None
        self._crowd: Crowd | None = None
        self._member: Member | None = None

    async def results(self) -> AsyncGenerator[bytes, None]:
        """The results that have to be sent with patience: those that `tell` was not given, or did not take."""
        try:
            while True:
                async with aclosing(self._alone()) as results:
                    async for result in results:
                        yield result
                if not await self._together():
                    return
        finally:
            self._leave()

    async def _alone(self) -> AsyncGenerator[bytes, None]:
        steps = self._source.steps(self._position)
        try:
            async for step in steps:
                self._position = step.position
                if step.event is not None:
                    yield await self._execute(step.event)
                if self._joins(step, steps):
                    break
        finally:
            if self._crowd is None or self._crowd.steps is not steps:
                await steps.aclose()

    def _joins(self, step: Step, steps: AsyncGenerator[Step, None]) -> bool:
        crowd = self._crowds.find(self._key)
        if crowd is None and step.is_level:
            # The reader of the first one becomes that of all.
            crowd = self._crowds.begin(self._key, Crowd(steps, step.position, self._execute))
        if crowd is None or step.position < crowd.position:
            return False
        # At once: a crowd of nobody ends, and what it tells now has to be heard.
        self._crowd, self._member = crowd, Member(step.position, self._tell)
        crowd.members[self._member] = None
        return True

    async def _together(self) -> bool:
        """Be one of the crowd; False when there is nothing to go on with. Raises what went wrong for all of it."""
        if self._member is None:
            return False
        why = await self._member.alone
        self._position = self._member.position
        self._leave()
        if isinstance(why, Exception):
            raise why.with_traceback(None)
        return why

    def _leave(self) -> None:
        if self._crowd is not None and self._member is not None:
            self._crowd.leave(self._member)
        self._crowd = self._member = None
