"""The facet indexes of a process: which stores have one, and how each follows the log of its store.

A request that finds no index is counted in SQL, and the index is built in the background. An index is at a log position: requests
bring it to that of the database that they read from, by one statement with the position and what has changed since.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic

from cachetools import TTLCache
from pyroaring import BitMap

from storefront.core.cooperative import TimeSlice
from storefront.core.db.database import DATABASE_ERRORS, Database, Row
from storefront.core.tasks import running_tasks
from storefront.queries.facet_index.counting import FacetSnapshot
from storefront.queries.facet_index.postings import StorePostings, UnindexableStoreError
from storefront.queries.facet_index.statements import (
    MAX_CHANGED_VARIANTS,
    MAX_CHANGES,
    count_products,
    load_changed_products,
    reading_store,
)

log = logging.getLogger("storefront")

# The facets of smaller stores take some milliseconds in SQL.
MIN_PRODUCTS = 1_000
# No store takes less memory: one with more products than there is memory for is not read.
MIN_PRODUCT_BYTES = 300
# Seconds for which a store without an index is not looked at again, and for which one is not that cannot have one.
PAUSE_SECONDS, REFUSAL_SECONDS, MAX_PAUSED_STORES = 10.0, 3_600.0, 10_000
# After an index is built, the next one is not begun for so many times as long: where there are more stores than memory for them,
# each that is requested makes another lose its index.
IDLE_PER_BUILD = 4
# Positions of an index that are kept: a replica, or a list that was read a moment ago, may be at an earlier one.
MAX_SNAPSHOTS = 16
# Attempts to read a position that is not passed meanwhile.
MAX_READ_ATTEMPTS = 3
# An index is built anew when this part of its numbers is of products as they were.
MAX_FORMER_PART = 0.5


class StoreIndex:
    """The postings of one store, and its snapshots, oldest first."""

    def __init__(self, postings: StorePostings, snapshot: FacetSnapshot, memory_bytes: int) -> None:
        self._postings, self._bytes_per_product = postings, memory_bytes / max(1, postings.product_count)
        self._snapshots = OrderedDict({snapshot.position: snapshot})
        # Held while the index moves to another position, and never while the database is waited for.
        self.lock = asyncio.Lock()

    @property
    def latest(self) -> FacetSnapshot:
        """The snapshot with the highest position."""
        return next(reversed(self._snapshots.values()))

    def find_snapshot(self, position: int) -> FacetSnapshot | None:
        """The snapshot at this position, if it is kept."""
        return self._snapshots.get(position)

    @property
    def memory_bytes(self) -> int:
        """About what the index takes of the memory."""
        return int(self._postings.product_count * self._bytes_per_product)

    @property
    def is_worn(self) -> bool:
        """Whether too many numbers are of products as they were."""
        return self._postings.product_count - len(self.latest.live) > max(MIN_PRODUCTS, MAX_FORMER_PART * len(self.latest.live))

    async def apply_changes(self, rows: Sequence[Row]) -> FacetSnapshot:
        """Move to the position of rows of `load_changed_products`; returns the snapshot. Raises UnindexableStoreError."""
        postings, time_slice = self._postings, TimeSlice()
        numbers: dict[bytes, int | None] = {}
        for row in rows:
            if row.changed_id is not None:
                numbers[row.changed_id] = None if row.id is None else postings.add_product(row)
                await time_slice.yield_if_expired()
        # From here on at once: nothing sees a part of the changes.
        live = self.latest.live.copy()
        for id_, number in numbers.items():
            if (former := postings.number_by_id.pop(id_, None)) is not None:
                live.discard(former)
            if number is not None:
                postings.number_by_id[id_] = number
                live.add(number)
        snapshot = FacetSnapshot(postings, rows[0].log_position, live, rows[0].is_published)
        self._snapshots[snapshot.position] = snapshot
        if len(self._snapshots) > MAX_SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return snapshot


class FacetIndexes:
    """The indexes of the most recently used stores, within `max_bytes`; 0: none. `primary`: where they are built from."""

    def __init__(self, primary: Database, max_bytes: int, task_name: str | None = None) -> None:
        self._primary, self._max_bytes, self._task_name = primary, max_bytes, task_name
        self._indexes: OrderedDict[str, StoreIndex] = OrderedDict()
        self._requested_ids: dict[str, None] = {}
        self._has_requests = asyncio.Event()
        # Stores that were looked at a short while ago, and stores that cannot have an index.
        self._paused_ids: TTLCache[str, None] = TTLCache(MAX_PAUSED_STORES, PAUSE_SECONDS, monotonic)
        self._refused_ids: TTLCache[str, None] = TTLCache(MAX_PAUSED_STORES, REFUSAL_SECONDS, monotonic)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Build indexes of requested stores while this lasts."""
        async with running_tasks(self._build_requested(), name=self._task_name):
            yield

    @property
    def memory_bytes(self) -> int:
        """About what all indexes take of the memory."""
        return sum(index.memory_bytes for index in self._indexes.values())

    @property
    def store_count(self) -> int:
        """The number of stores that have an index."""
        return len(self._indexes)

    async def load_snapshot(self, database: Database, config_id: str, *, is_replica: bool) -> FacetSnapshot | None:
        """A snapshot of a store at its log position in a database; None if it has no index that gets there.

        Raises DATABASE_ERRORS.
        """
        index = self._indexes.get(config_id)
        if index is None:
            self._request_index(config_id)
            return None
        self._indexes.move_to_end(config_id)
        for _ in range(MAX_READ_ATTEMPTS):
            after = index.latest.position
            rows = await load_changed_products(database, config_id, after)
            async with index.lock:
                snapshot = index.find_snapshot(rows[0].log_position)
                if snapshot is None and after <= rows[0].log_position < index.latest.position:
                    # Another request has moved the index past it meanwhile.
                    continue
                return snapshot or await self._move_index(index, config_id, after, rows, is_replica)
        return None

    async def _move_index(
        self, index: StoreIndex, config_id: str, after: int, rows: Sequence[Row], is_replica: bool
    ) -> FacetSnapshot | None:
        """Apply what has changed since a position that the index had; None if it cannot follow."""
        position, entry_count, snapshot = rows[0].log_position, rows[0].entry_count, None
        # A gap: the log is no longer kept back to the index, or its data were replaced. Positions are gapless otherwise.
        is_followed = entry_count == position - after and entry_count <= MAX_CHANGES and not rows[0].is_reset
        if position > after and is_followed and rows[0].variant_count <= MAX_CHANGED_VARIANTS:
            with suppress(UnindexableStoreError):
                snapshot = await index.apply_changes(rows)
                self._make_room()
        # A replica may be behind an index which is right.
        if snapshot is None and (position > after or not is_replica):
            self._drop_index(config_id, index)
        elif index.is_worn:
            self._request_index(config_id)
        return snapshot

    def _drop_index(self, config_id: str, index: StoreIndex) -> None:
        if self._indexes.get(config_id) is index:
            del self._indexes[config_id]
        self._request_index(config_id)

    def _request_index(self, config_id: str) -> None:
        if self._max_bytes and config_id not in self._paused_ids and config_id not in self._refused_ids:
            self._paused_ids[config_id] = None
            self._requested_ids[config_id] = None
            self._has_requests.set()

    async def _build_requested(self) -> None:
        while True:
            await self._has_requests.wait()
            self._has_requests.clear()
            while self._requested_ids:
                config_id = next(iter(self._requested_ids))
                del self._requested_ids[config_id]
                began = monotonic()
                try:
                    await self._build_index(config_id)
                except DATABASE_ERRORS as error:
                    log.warning("the facet index of store %s could not be built (%s)", config_id, type(error).__name__)
                except Exception:
                    # Its facets are counted in SQL, and other stores get their indexes.
                    log.exception("the facet index of store %s could not be built", config_id)
                await asyncio.sleep(IDLE_PER_BUILD * (monotonic() - began))

    async def _build_index(self, config_id: str) -> None:
        max_products = self._max_bytes // MIN_PRODUCT_BYTES
        if not MIN_PRODUCTS <= await count_products(self._primary, config_id, max_products + 1) <= max_products:
            return
        try:
            index = await build_index(self._primary, config_id)
        except UnindexableStoreError:
            log.info("store %s has attributes whose case this process does not know: its facets are counted in SQL", config_id)
            self._refused_ids[config_id] = None
            return
        if index.memory_bytes > self._max_bytes:
            log.info("the facet index of store %s takes %d bytes, more than all may take", config_id, index.memory_bytes)
            self._refused_ids[config_id] = None
            return
        self._indexes[config_id] = index
        self._indexes.move_to_end(config_id)
        self._make_room()

    def _make_room(self) -> None:
        """Drop the least recently used indexes that take more memory than all may take."""
        while self.memory_bytes > self._max_bytes:
            self._indexes.popitem(last=False)


async def build_index(database: Database, config_id: str) -> StoreIndex:
    """Read the index of a store, from one snapshot of the database. Other tasks run meanwhile. Raises UnindexableStoreError."""
    postings, time_slice, live = StorePostings(), TimeSlice(), BitMap()
    position, is_published = 0, False
    async with reading_store(database, config_id) as batches:
        async for rows in batches:
            position, is_published = rows[0].log_position, rows[0].is_published
            for row in rows:
                if row.id is not None:
                    number = postings.add_product(row)
                    postings.number_by_id[row.id] = number
                    live.add(number)
                await time_slice.yield_if_expired()
    memory_bytes = 0
    for part_bytes in postings.estimate_bytes():
        memory_bytes += part_bytes
        await time_slice.yield_if_expired()
    return StoreIndex(postings, FacetSnapshot(postings, position, live, is_published), memory_bytes)
