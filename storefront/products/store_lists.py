"""What the live lists of a store share in a process: one reader of its log, and what they read after a change."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from storefront.core.db.database import Database
from storefront.core.tasks import retrieve_exception, share
from storefront.feed.hub import Gap, Hub, LogBatch
from storefront.models.rows import ChangeRow, ProductRow
from storefront.products.changes import load_products_by_ids
from storefront.queries import changes, listing
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Selection, StoreScope
from storefront.queries.memberships import Membership, load_memberships
from storefront.queries.visibility import Audience

T = TypeVar("T")

# Lists of a store that are evaluated at a time: half of what all stores of a process have, so that the lists of one store do not
# delay those of another.
MAX_STORE_EVALUATIONS = 2
# Seconds for which a result is kept for the lists that have yet to be evaluated after the same change.
READ_MAX_AGE_SECONDS = 1.0


@dataclass(slots=True)
class StoreBatch:
    """The next entries of a store's log, with their kinds, which are those of all lists of an audience."""

    log: LogBatch
    _kinds: dict[Audience, list[str | None]] = field(default_factory=dict)

    def iterate_kinds(self, audience: Audience) -> Iterator[tuple[ChangeRow | Gap, str | None]]:
        """The entries, each with its kind for an audience; a gap has none."""
        kinds = self._kinds.get(audience)
        if kinds is None:
            kinds = self._kinds[audience] = [
                None if isinstance(entry, Gap) else changes.classify_entry(entry, audience) for entry in self.log.entries
            ]
        return zip(self.log.entries, kinds, strict=True)


class FollowingList(Protocol):
    """A list that follows a store."""

    def offer(self, batch: StoreBatch) -> None:
        """Take the next entries of the log, without waiting."""

    def end(self, error: Exception | None) -> None:
        """No further entries come, because of an error or because the store was deleted."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A list as it was read: the ids of its first products in order, and its total."""

    ids: Sequence[str]
    total: int


class SharedReads:
    """Reads by key, each shared by all that ask for the state at the position at which it began, or at an earlier one."""

    def __init__(self) -> None:
        self._reads: dict[Hashable, tuple[int, asyncio.Future[Any]]] = {}

    def find(self, key: Hashable, position: int | None) -> "asyncio.Future[Any] | None":
        """A read that includes all changes up to a position; None: no read that has begun yet will do."""
        began_at, future = self._reads.get(key, (-1, None))
        return future if position is not None and began_at >= position else None

    def start(self, keys: Sequence[Hashable], position: int, work: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        """Start a read at a position, the result of which is kept for a while under these keys. Failures are not kept."""
        future = asyncio.ensure_future(work())
        self._reads |= dict.fromkeys(keys, (position, future))
        future.add_done_callback(retrieve_exception)
        future.add_done_callback(partial(self._expire, keys))
        return future

    def _expire(self, keys: Sequence[Hashable], future: "asyncio.Future[Any]") -> None:
        if future.cancelled() or future.exception() is not None:
            self._drop(keys, future)
        else:
            asyncio.get_running_loop().call_later(READ_MAX_AGE_SECONDS, self._drop, keys, future)

    def _drop(self, keys: Sequence[Hashable], future: "asyncio.Future[Any]") -> None:
        for key in keys:
            # By now there may be a newer one.
            if self._reads.get(key, (0, None))[1] is future:
                del self._reads[key]


class StoreLists:
    """The live lists of a store in this process.

    What is read for one of them is read once for all that need it after the same change: the first products of lists that differ
    in their length only, memberships in lists with the same filters, and products, which all lists of an audience share.
    """

    def __init__(self, config_id: str, database: Database, hub: Hub, evaluations: asyncio.Semaphore) -> None:
        self._config_id, self._database, self._hub = config_id, database, hub
        self._evaluations, self._own_evaluations = evaluations, asyncio.Semaphore(MAX_STORE_EVALUATIONS)
        self._lists: dict[FollowingList, None] = {}
        self._limits: dict[tuple[Selection, Order], Counter[int]] = {}
        self._reads = SharedReads()
        self._position: int | None = None
        self._error: Exception | None = None
        self._is_ended = False

    async def run(self) -> None:
        """Follow the log until cancelled, or until the store is deleted."""
        try:
            async with aclosing(self._hub.stream_batches(self._config_id, None)) as batches:
                async for batch in batches:
                    if self._position == batch.position and not batch.is_heartbeat:
                        # It has caught up, which the lists have as well.
                        continue
                    self._position = batch.position
                    shared_batch = StoreBatch(batch)
                    for live_list in [*self._lists]:
                        live_list.offer(shared_batch)
        except Exception as error:
            # Listeners raise it.
            self._error = error
        self._is_ended = True
        for live_list in [*self._lists]:
            live_list.end(self._error)

    @contextmanager
    def following(self, live_list: FollowingList, selection: Selection, order: Order, limit: int) -> Iterator[None]:
        """Offer the log to a list inside the context, beginning with a batch without entries."""
        self._lists[live_list] = None
        limits = self._limits.setdefault((selection, order), Counter())
        limits[limit] += 1
        try:
            if self._is_ended:
                live_list.end(self._error)
            elif self._position is not None:
                live_list.offer(StoreBatch(LogBatch(self._position)))
            yield
        finally:
            del self._lists[live_list]
            limits[limit] -= 1
            if not limits[limit]:
                del limits[limit]
            if not limits:
                del self._limits[selection, order]

    @asynccontextmanager
    async def evaluating(self) -> AsyncIterator[None]:
        """Hold one of the evaluations that may run at a time, of this store and of all stores."""
        async with self._own_evaluations, self._evaluations:
            yield

    async def load_window(self, selection: Selection, order: Order, limit: int, position: int | None) -> Reading:
        """The first products of a list, as they are at a position or later; None: now."""
        longest = max(self._limits[selection, order])
        found = await self._read((selection, order, longest), position, partial(self._load_window, selection, order, longest))
        return Reading(found.ids[:limit], found.total)

    async def load_memberships(self, selection: Selection, entries: Sequence[ChangeRow]) -> Mapping[int, Membership]:
        """Whether the products of entries matched the filters of a selection, by the entry's position."""
        # Of the filters only: audience and search are no matter of memberships.
        key, positions = ("memberships", selection.filters), tuple(entry.position for entry in entries)
        work = partial(load_memberships, self._database, self._config_id, entries, selection)
        return await self._read((key, positions), positions[-1], work)

    async def find_listed(self, selection: Selection, ids: Sequence[str], position: int | None) -> set[str]:
        """Those of some products that a list has, as it is at a position or later; None: now."""
        key = ("listed", selection, tuple(sorted(ids)))
        return await self._read(key, position, partial(self._find_listed, selection, ids))

    async def load_products(self, audience: Audience, ids: Sequence[str], position: int | None) -> dict[str, ProductRow]:
        """Those of some products that an audience may see, whole, by id, as they are at a position or later; None: now."""
        reads = {id_: self._reads.find((audience, id_), position) for id_ in ids}
        if missing := [id_ for id_, read in reads.items() if read is None]:
            work = partial(load_products_by_ids, self._database, self._config_id, missing, audience)
            reads |= dict.fromkeys(missing, self._start([(audience, id_) for id_ in missing], work))
        rows: dict[str, ProductRow] = {}
        for read in {*reads.values()}:
            rows |= await share(cast("asyncio.Future[dict[str, ProductRow]]", read))
        return {id_: rows[id_] for id_ in reads if id_ in rows}

    async def _read(self, key: Hashable, position: int | None, work: Callable[[], Awaitable[T]]) -> T:
        # The cancellation of one list must not cancel what others wait for.
        return await share(self._reads.find(key, position) or self._start([key], work))

    def _start(self, keys: Sequence[Hashable], work: Callable[[], Awaitable[T]]) -> "asyncio.Future[T]":
        # All entries up to here are committed: the read includes them.
        return self._reads.start(keys, self._position or 0, work)

    async def _load_window(self, selection: Selection, order: Order, limit: int) -> Reading:
        window = Listing(selection, order, Window(limit), columns=("id",), with_total=True)
        (result,) = await listing.load_pages(self._database, [StoreScope(self._config_id)], window)
        rows = result.page.rows
        # Without a cursor there are no rows only if there are none in the list.
        return Reading([row.id for row in rows], int(rows[0].total) if rows else 0)

    async def _find_listed(self, selection: Selection, ids: Sequence[str]) -> set[str]:
        filters = {**dict(selection.filters), "ids": tuple(ids)}
        listed = Selection(selection.audience, tuple(sorted(filters.items())), selection.search)
        window = Listing(listed, listing.UNORDERED, Window(len(ids)), columns=("id",))
        (result,) = await listing.load_pages(self._database, [StoreScope(self._config_id)], window)
        return {row.id for row in result.page.rows}
