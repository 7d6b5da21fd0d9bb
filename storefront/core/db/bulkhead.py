"""Bulkhead: bounds the concurrency of writers of each key (a store), so that none of them can take all connections.

Writers of a store whose rows are locked wait for as long as the database allows. With several such stores, they would hold all
slots for that time. So only some slots are patient. In another one a writer waits for a lock for a short time only; then it gives
its slot to others, and waits here for a patient one, as all writers of its key do from then on.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import asynccontextmanager
from typing import Any

from storefront.core.errors import LockTimeout, Unavailable
from storefront.core.tasks import share

FindKey = Callable[[], Coroutine[Any, Any, Hashable]]

# The key of a writer before it is looked up.
_UNKNOWN_KEY = object()
_CROWDED_MESSAGE = "Too many concurrent writes. Nothing was done: try again soon."


class Slot:
    """The slot of a writer, or its wait for one. The key is looked up when it matters.

    `is_patient`: whether the writer may wait for locks for as long as the database allows.
    """

    def __init__(self, find_key: FindKey, deadline: float) -> None:
        self.find_key, self.deadline = find_key, deadline
        self.key: Hashable = _UNKNOWN_KEY
        self.admitted: asyncio.Future[bool] | None = None
        self.is_patient, self.has_given_way = True, False
        self._lookup: asyncio.Task[Hashable] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits. One that has just timed out or been cancelled does not, although it is still in the list."""
        return self.admitted is not None and not self.admitted.done()

    async def look_up_key(self) -> None:
        """Look up the key, once for all who need it. Raises what the lookup raises."""
        if self._lookup is None or self._lookup.done():
            self._lookup = asyncio.create_task(self.find_key())
        self.key = await share(self._lookup)


class Bulkhead:
    """At most `limit` writers of each key and `total` of all keys at a time; the last slot is for a key without a writer.

    Writers beyond that wait, first those whose key has no slot; after `timeout` seconds, Unavailable is raised. It is also raised
    for one of them if more than `max_waiting` wait (0: no limit): one of the key that most wait for, of a locked one first. Keys
    are not looked up while there are fewer than `limit` slots in use: the lookup may be expensive. At most `limit` slots of all
    keys are patient.
    """

    def __init__(self, limit: int, total: int, timeout: float, max_waiting: int = 0) -> None:
        self._limit, self._total, self._timeout, self._max_waiting = limit, max(limit, total), timeout, max_waiting
        self._slots: list[Slot] = []
        self._waiters: list[Slot] = []
        # How many wait, or look up their key before.
        self._waiting_count = 0
        # Keys of which a writer has waited for a lock in vain, and until when they count as locked.
        self._locked_until: dict[Hashable, float] = {}

    @asynccontextmanager
    async def hold(self, find_key: FindKey) -> AsyncIterator[Slot]:
        """Hold a slot inside the context. Raises Unavailable."""
        slot = Slot(find_key, asyncio.get_running_loop().time() + self._timeout)
        if len(self._slots) < self._limit and not self._waiters:
            self._slots.append(slot)
        else:
            await self._wait_for_slot(slot)
        try:
            yield slot
            self._locked_until.pop(slot.key, None)
        except LockTimeout:
            self._mark_locked(slot)
            raise
        finally:
            self._release(slot)

    async def give_way(self, slot: Slot) -> None:
        """Give the slot to others after a short wait for a lock, and wait for a patient one. Raises Unavailable."""
        self._mark_locked(slot)
        slot.has_given_way = True
        self._release(slot)
        await self._wait_for_slot(slot)

    def _release(self, slot: Slot) -> None:
        # It has none if it waited in vain after it gave way.
        if slot in self._slots:
            self._slots.remove(slot)
            self._admit_waiters()

    def _mark_locked(self, slot: Slot) -> None:
        now = asyncio.get_running_loop().time()
        self._locked_until = {key: until for key, until in self._locked_until.items() if until > now}
        if slot.key is not _UNKNOWN_KEY:
            self._locked_until[slot.key] = now + self._timeout

    def _is_locked(self, key: Hashable) -> bool:
        return self._locked_until.get(key, 0) > asyncio.get_running_loop().time()

    async def _wait_for_slot(self, slot: Slot) -> None:
        self._waiting_count += 1
        try:
            if self._max_waiting and self._waiting_count > self._max_waiting:
                self._shed_waiter()
            async with asyncio.timeout_at(slot.deadline):
                await self._look_up_keys(slot)
                slot.admitted = asyncio.get_running_loop().create_future()
                self._waiters.append(slot)
                self._admit_waiters()
                if not await slot.admitted:
                    raise Unavailable(_CROWDED_MESSAGE)
        except BaseException as error:
            if slot in self._waiters:
                self._waiters.remove(slot)
            # Admitted at the moment of the timeout or of a cancellation.
            self._release(slot)
            if isinstance(error, TimeoutError):
                raise Unavailable(_CROWDED_MESSAGE) from None
            raise
        finally:
            self._waiting_count -= 1

    async def _look_up_keys(self, slot: Slot) -> None:
        """Look up the keys of this slot and of all in use, also of those that are taken during the lookups."""
        while unknown := [other for other in (slot, *self._slots) if other.key is _UNKNOWN_KEY]:
            await unknown[0].look_up_key()

    def _shed_waiter(self) -> None:
        """End the wait of one of the key that most wait for, the last of them. Raises Unavailable if all look up their keys."""
        waiting = [waiter for waiter in self._waiters if waiter.is_waiting]
        if not waiting:
            raise Unavailable(_CROWDED_MESSAGE)
        counts = Counter(waiter.key for waiter in waiting)
        crowded_key = max(counts, key=lambda key: (self._is_locked(key), counts[key]))
        last = next(waiter for waiter in reversed(waiting) if waiter.key == crowded_key)
        if last.admitted is not None:
            last.admitted.set_result(False)

    def _admit_waiters(self) -> None:
        counts, patient_count = Counter(slot.key for slot in self._slots), sum(slot.is_patient for slot in self._slots)
        # The sort is stable: first come, first served.
        for waiter in sorted(filter(lambda one: one.is_waiting, self._waiters), key=lambda one: counts[one.key] > 0):
            count, is_patient = counts[waiter.key], patient_count < self._limit
            needs_long_wait = waiter.has_given_way or self._is_locked(waiter.key)
            has_room = count < self._limit and len(self._slots) < self._total - (1 if count else 0)
            if has_room and (is_patient or not needs_long_wait) and waiter.admitted is not None:
                counts[waiter.key] += 1
                patient_count += is_patient
                waiter.is_patient = is_patient
                self._waiters.remove(waiter)
                self._slots.append(waiter)
                waiter.admitted.set_result(True)
