"""Fan-out: each subscriber gets every event once and in order, whenever it joins, leaves or reads slowly."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from storefront.serving.run.fanout import SharedSource, SharedStreams, SourceStep, SubscriptionReader


class Tape:
    """What has happened so far, and who reads it."""

    def __init__(self) -> None:
        self.length, self.over, self.failure = 0, False, False
        self.moved = asyncio.Event()
        self.readers = self.most_readers = 0
        self.executed: list[int] = []

    def record(self, count: int = 1) -> None:
        self.length += count
        self.stir()

    def end(self) -> None:
        self.over = True
        self.stir()

    def fail(self) -> None:
        self.failure = True
        self.stir()

    def stir(self) -> None:
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()

    async def execute(self, event: int) -> bytes:
        self.executed.append(event)
        await asyncio.sleep(random.random() / 1_000)
        return b"%d" % event


class Reading(SharedSource):
    """A tape as a source. At every third position there is nothing to tell."""

    def __init__(self, tape: Tape, after: int | None = None) -> None:
        self.key, self._tape, self._after = tape, tape, after

    async def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        tape = self._tape
        begin = self._after if after is None else after
        position = tape.length if begin is None else begin
        tape.readers += 1
        tape.most_readers = max(tape.readers, tape.most_readers)
        try:
            while not tape.over:
                moved = tape.moved
                while position < tape.length:
                    position += 1
                    await asyncio.sleep(0)
                    yield SourceStep(position, position if position % 3 else None)
                if tape.failure:
                    raise ZeroDivisionError
                yield SourceStep(position, caught_up=True)
                await moved.wait()
        finally:
            tape.readers -= 1


everyone: list["Ear"] = []


@pytest.fixture(autouse=True)
async def left() -> AsyncIterator[None]:
    yield
    for ear in everyone:
        await ear.leave()
    everyone.clear()


class Ear:
    """One who listens; `is_free` says whether it takes something at once."""

    def __init__(
        self,
        crowds: SharedStreams,
        tape: Tape,
        after: int | None = None,
        is_free: Callable[[], bool] = lambda: True,
        asked: str = "",
    ) -> None:
        self.heard: list[int] = []
        self.alone = 0
        self._is_free = is_free
        self._listener = SubscriptionReader(crowds, Reading(tape, after), asked, tape.execute, self._tell)
        self.task = asyncio.create_task(self._listen())
        everyone.append(self)

    def _tell(self, result: bytes) -> bool:
        if not self._is_free():
            return False
        self.heard.append(int(result))
        return True

    async def _listen(self) -> None:
        async with aclosing(self._listener.iterate_results()) as results:
            async for result in results:
                await asyncio.sleep(random.random() / 500)
                self.heard.append(int(result))
                self.alone += 1

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def received(first: int, last: int) -> list[int]:
    return [n for n in range(first, last + 1) if n % 3]


async def settled() -> None:
    await asyncio.sleep(0.05)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_identical_subscribers_share_reader_and_execution() -> None:
    crowds, tape = SharedStreams(), Tape()
    ears = [Ear(crowds, tape) for _ in range(600)]
    await settled()
    assert tape.readers == 1
    tape.record(10)
    await until(lambda: all(ear.heard == received(1, 10) for ear in ears))
    assert tape.executed == received(1, 10) and not any(ear.alone for ear in ears)
    for ear in ears:
        await ear.leave()
    assert (tape.readers == 0 and not crowds._streams) or crowds.find((tape, "")) is None


async def test_different_operations_do_not_share() -> None:
    crowds, tape = SharedStreams(), Tape()
    ears = [Ear(crowds, tape, asked=asked) for asked in "abab"]
    await settled()
    assert tape.readers == 2
    tape.record()
    await until(lambda: all(ear.heard == [1] for ear in ears))
    assert tape.executed == [1, 1]


async def test_stream_survives_its_first_subscriber() -> None:
    crowds, tape = SharedStreams(), Tape()
    first, second = Ear(crowds, tape), Ear(crowds, tape)
    await settled()
    await first.leave()
    tape.record()
    await until(lambda: second.heard == [1])
    await second.leave()
    await settled()
    assert tape.readers == 0
    third = Ear(crowds, tape)
    await settled()
    tape.record()
    await until(lambda: third.heard == [2])


async def test_late_subscriber_catches_up_then_joins() -> None:
    crowds, tape = SharedStreams(), Tape()
    ears = [Ear(crowds, tape)]
    await settled()
    tape.record(300)
    ears.append(Ear(crowds, tape, after=100))
    await until(lambda: ears[1].heard == received(101, 300))
    await settled()
    assert tape.readers == 1
    ears.append(Ear(crowds, tape, after=302))
    await settled()
    tape.record(5)
    await until(lambda: [ear.heard[-1:] for ear in ears] == [[305]] * 3)
    assert [ear.heard for ear in ears] == [received(1, 305), received(101, 305), received(303, 305)]


async def test_slow_subscriber_delays_nobody_and_misses_nothing() -> None:
    crowds, tape, busy = SharedStreams(), Tape(), [True]
    quick, slow = Ear(crowds, tape), Ear(crowds, tape, is_free=lambda: not busy[0])
    await settled()
    tape.record(20)
    await until(lambda: quick.heard == received(1, 20))
    await until(lambda: slow.heard == received(1, 20))
    assert slow.alone
    busy[0], alone = False, slow.alone
    await settled()
    tape.record(20)
    await until(lambda: slow.heard == received(1, 40))
    assert slow.alone == alone and tape.readers == 1


async def test_end_and_failure_reach_all_subscribers() -> None:
    for act, outcome in ((Tape.end, None), (Tape.fail, ZeroDivisionError)):
        crowds, tape = SharedStreams(), Tape()
        ears = [Ear(crowds, tape) for _ in range(5)]
        await settled()
        act(tape)
        found = await asyncio.wait_for(asyncio.gather(*(ear.task for ear in ears), return_exceptions=True), 5)
        assert [type(one) if one else None for one in found] == [outcome] * 5
        assert tape.readers == 0 and crowds._streams == {}


class Bustle:
    """Listeners who come and go, at any position and of any slowness, while things happen."""

    def __init__(self, seed: int) -> None:
        self.chance, self.tape, self.crowds = random.Random(seed), Tape(), SharedStreams()
        self.ears: dict[Ear, int] = {}

    async def go_on(self) -> None:
        while True:
            await asyncio.sleep(self.chance.random() / 100)
            if len(self.ears) > 30 and self.chance.random() < 0.5:
                await self._one_goes()
            self._one_comes()

    def _one_comes(self) -> None:
        begin = self.chance.choice([self.tape.length, self.chance.randint(0, self.tape.length)])
        slowness = self.chance.choice([0, 0, 0.1, 0.9])
        self.ears[Ear(self.crowds, self.tape, begin, lambda: self.chance.random() >= slowness)] = begin

    async def _one_goes(self) -> None:
        gone = self.chance.choice(list(self.ears))
        # Before it leaves: this may be the last that happens, and broken off.
        begin = self.ears.pop(gone)
        await gone.leave()
        assert gone.heard == received(begin + 1, gone.heard[-1] if gone.heard else 0)


@pytest.mark.parametrize("seed", range(6))
async def test_subscribers_get_every_event_once_in_order(seed: int) -> None:
    bustle = Bustle(seed)
    going_on = asyncio.create_task(bustle.go_on())
    for _ in range(60):
        bustle.tape.record(bustle.chance.randint(1, 8))
        await asyncio.sleep(bustle.chance.random() / 50)
    going_on.cancel()
    await asyncio.gather(going_on, return_exceptions=True)
    assert going_on.cancelled(), "somebody who left had not heard what they should"
    assert len(bustle.ears) > 20
    await until(lambda: all(ear.heard == received(begin + 1, bustle.tape.length) for ear, begin in bustle.ears.items()))
    for ear in bustle.ears:
        await ear.leave()
    await settled()
    assert bustle.tape.readers == 0 and bustle.crowds._streams == {}
