"""Live lists: the first products of a list, kept up to date by following the store's log.

A list is read again, by the statement that reads it for `products`, when a change may have altered its rows, their order or its
total; the difference makes the events. So a live list has no rules of its own for filters, search, sort orders and visibility.
All listeners of the same list share its state and events, in each process, and different lists of a store share what they read.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from time import monotonic_ns
from typing import Any, cast

import strawberry

from storefront.core.db.database import DATABASE_ERRORS, Database, is_transient, retry_until_available
from storefront.core.shared_runs import SharedRuns
from storefront.core.single_flight import SingleFlight
from storefront.feed.hub import Gap
from storefront.graph.context import Context
from storefront.graph.scalars import Position, format_datetime
from storefront.graph.types.catalogue import Product
from storefront.models.rows import ChangeRow, ProductRow
from storefront.products.changes import ProductDeletedReason, load_products_by_ids
from storefront.products.list_diff import Enter, Leave, Move, Step, compute_steps
from storefront.products.list_events import (
    ProductListEnter,
    ProductListEvent,
    ProductListHeartbeat,
    ProductListLeave,
    ProductListMove,
    ProductListSnapshot,
    ProductListUpdate,
)
from storefront.products.store_lists import Reading, StoreBatch, StoreLists
from storefront.queries import changes
from storefront.queries.listing import Order, Selection
from storefront.queries.visibility import Audience
from storefront.serving.run.fanout import SharedSource, SourceStep

logger = logging.getLogger("storefront")

# Changes of other products whose membership in the list is looked up one by one. Of more, the list is read again.
MAX_LOOKED_UP_ENTRIES = 20
# Batches of entries that a list keeps until it is evaluated. Of more, it begins again with a snapshot.
MAX_BACKLOG_BATCHES = 20
# How long an evaluation is tried while the database is unavailable or too slow. Then the list ends, and its clients begin again.
MAX_RETRY_SECONDS = 60.0

# The filters and sort keys that a changed field may concern. A field that is not listed may concern all of them.
_VARIANT_DEPENDENCIES = frozenset({"price", "min_price", "max_price", "in_stock", "attributes", "search"})
_DEPENDENCIES_BY_FIELD: dict[str, frozenset[str]] = {
    "handle": frozenset(),
    "images": frozenset(),
    "seoTitle": frozenset(),
    "seoDescription": frozenset(),
    "compareAtPrice": frozenset(),
    "title": frozenset({"name", "search"}),
    "description": frozenset({"search"}),
    "descriptionHtml": frozenset({"search"}),
    "category": frozenset({"categories", "search"}),
    "vendor": frozenset({"vendors", "search"}),
    "productType": frozenset({"product_types", "search"}),
    "tags": frozenset({"tags", "search"}),
    "price": _VARIANT_DEPENDENCIES,
    "inventory": frozenset({"in_stock"}),
    "options": _VARIANT_DEPENDENCIES,
    "variants": _VARIANT_DEPENDENCIES,
    "reviews": frozenset({"rating", "min_rating"}),
    "popularity": frozenset({"popularity"}),
}
_TIME_DEPENDENCIES = frozenset({"updated_at", "updated_since"})
# The log does not tell exactly when a product comes to match these.
_INEXACT_FILTERS = frozenset({"updated_since", "min_rating"})


@dataclass(frozen=True, slots=True)
class ListKey:
    """What identifies a live list: the first products of a selection in an order."""

    config_id: str
    selection: Selection
    order: Order
    limit: int

    @property
    def dependencies(self) -> frozenset[str]:
        """The filters of the list and its sort key; "search" for a search and its relevance."""
        names = {self.order.key, *(name for name, _ in self.selection.filters)}
        return frozenset(names | {"search"} if self.selection.search else names)

    def is_sorted_by(self, changed_fields: Iterable[str]) -> bool:
        """Whether the changed fields of a product in the list may bring it to another place."""
        return self.order.key in ("updated_at", "relevance") or any(
            self.order.key in _get_dependencies(name) for name in changed_fields
        )


class _AllNames(frozenset[str]):
    """Contains every name."""

    def __contains__(self, _: object) -> bool:
        return True

    def isdisjoint(self, _: Iterable[object]) -> bool:
        return False


_ALL_DEPENDENCIES = _AllNames()


def _get_dependencies(field_name: str) -> frozenset[str]:
    return _DEPENDENCIES_BY_FIELD.get(field_name.partition(".")[0], _ALL_DEPENDENCIES)


@dataclass(slots=True)
class _Concerns:
    """What entries mean for a list: entries of products in it, by id, and of other products that it may concern.

    `changed_members`: products in it that may have left it, but have not moved within it.
    """

    in_window: dict[str, list[ChangeRow]] = field(default_factory=dict)
    changed_members: set[str] = field(default_factory=set)
    outside: list[ChangeRow] = field(default_factory=list)
    needs_reading: bool = False
    needs_snapshot: bool = False

    def __bool__(self) -> bool:
        return self.needs_snapshot or self.needs_reading or bool(self.in_window) or bool(self.outside)


def _get_max_events(limit: int) -> int:
    """How many events a list of so many products keeps: a listener that has missed more receives a snapshot, which is less."""
    return max(limit, 2)


class LiveList:
    """The state of a live list in this process. Its events are numbered, in the order in which listeners apply them."""

    def __init__(self, key: ListKey, stores: SharedRuns, build_store: Callable[[], StoreLists]) -> None:
        self._key, self._stores, self._build_store = key, stores, build_store
        self._dependencies = key.dependencies
        self._filtered_ids = dict(key.selection.filters).get("ids")
        self._reading: Reading | None = None
        self._window_ids: frozenset[str] = frozenset()
        self._position = self._event_position = 0
        # Above the numbers of any earlier list with this key: their listeners must not continue here in the midst.
        self._number = monotonic_ns()
        self._events: deque[tuple[int, ProductListEvent]] = deque(maxlen=_get_max_events(key.limit))
        self._snapshots = SingleFlight(1, 1.0)
        # A store that is not published does not say how often it changes.
        self._is_visible = True
        # What has yet to be evaluated. Beyond some batches the list is read again instead.
        self._backlog: list[StoreBatch] = []
        self._is_evaluating = self._has_missed = False
        self._offered = asyncio.Event()
        self.changed = asyncio.Event()
        self.error: Exception | None = None
        self.is_ended = False

    async def run(self) -> None:
        """Follow the log until cancelled, or until the store is deleted."""
        key = self._key
        try:
            async with self._stores.use(key.config_id, self._build_store) as store:
                with store.following(self, key.selection, key.order, key.limit):
                    while not self.is_ended:
                        await self._offered.wait()
                        self._offered.clear()
                        await self._apply_backlog(store)
        except Exception as error:
            self.end(error)

    def offer(self, batch: StoreBatch) -> None:
        """Take the next entries of the log: at once if they do not concern the list, else when it is evaluated."""
        if not (self._is_evaluating or self._backlog or self._classify([batch])):
            self._advance(batch.log.position, is_heartbeat=batch.log.is_heartbeat)
            return
        self._backlog.append(batch)
        if len(self._backlog) > MAX_BACKLOG_BATCHES:
            # Another list object: the evaluation that is under way must not remove what it has not taken.
            self._has_missed, self._backlog = True, [batch]
        self._offered.set()

    def end(self, error: Exception | None) -> None:
        """End the list. Its listeners raise the error, unless it is one of the database, after which they may begin again."""
        self.is_ended = True
        if error is not None and is_transient(error):
            logger.warning("a live list ends: the database did not answer for %g s", MAX_RETRY_SECONDS)
        else:
            self.error = error
        self._offered.set()
        self._notify()

    def get_steps_after(self, number: int) -> Sequence[SourceStep] | None:
        """The events after a number; None if not all of them are kept."""
        if number == self._number:
            return ()
        if not self._events or not self._events[0][0] - 1 <= number < self._number:
            return None
        return [SourceStep(*event) for event in islice(self._events, number + 1 - self._events[0][0], None)]

    async def load_snapshot(self, database: Database) -> Sequence[SourceStep]:
        """The list as it is now, as a step; none if it is about to change, has not been read yet, or has ended."""
        if self._reading is None:
            return ()
        build = partial(self._build_snapshot, database, self._reading, self._position, self._number)
        try:
            return await self._snapshots.call(self._number, build)
        except DATABASE_ERRORS as error:
            self.end(error)
            return ()

    async def _build_snapshot(self, database: Database, reading: Reading, position: int, number: int) -> Sequence[SourceStep]:
        load = partial(load_products_by_ids, database, self._key.config_id, reading.ids, self._key.selection.audience)
        rows = await retry_until_available(load, MAX_RETRY_SECONDS)
        if len(rows) < len(reading.ids):
            # One was deleted or hidden since; its entry is on its way.
            return ()
        products = [cast(Product, rows[id_]) for id_ in reading.ids]
        snapshot = ProductListSnapshot(position=Position(position), total_count=reading.total, products=products)
        return [SourceStep(number, snapshot)]

    async def _apply_backlog(self, store: StoreLists) -> None:
        self._is_evaluating = True
        try:
            while self._backlog and not self.is_ended:
                await retry_until_available(partial(self._evaluate_backlog, store), MAX_RETRY_SECONDS)
        finally:
            self._is_evaluating = False

    async def _evaluate_backlog(self, store: StoreLists) -> None:
        async with store.evaluating():
            # All changes until now, in one evaluation.
            backlog, batches = self._backlog, [*self._backlog]
            position, concerns = batches[-1].log.position, self._classify(batches)
            concerns.needs_snapshot |= self._has_missed
            if concerns:
                await self._evaluate(store, concerns, position)
        self._advance(position, is_heartbeat=any(batch.log.is_heartbeat for batch in batches))
        if self._backlog is backlog:
            # What has come meanwhile is next.
            del backlog[: len(batches)]
            self._has_missed = False

    def _advance(self, position: int, *, is_heartbeat: bool) -> None:
        self._position = position
        if is_heartbeat and self._is_visible and position > self._event_position and self._reading:
            self._append([_build_heartbeat(position, self._reading.total)])

    def _classify(self, batches: Iterable[StoreBatch]) -> _Concerns:
        concerns = _Concerns(needs_snapshot=self._reading is None)
        audience, dependencies = self._key.selection.audience, self._dependencies
        for entry, kind in chain.from_iterable(batch.iterate_kinds(audience) for batch in batches):
            if isinstance(entry, Gap):
                concerns.needs_snapshot = True
            elif entry.product_id is None:
                if kind in ("opened", "closed"):
                    concerns.needs_snapshot, self._is_visible = True, kind == "opened"
                # Such as a refresh of popularity.
                concerns.needs_reading |= _is_concerned(dependencies, entry.changed_fields)
            elif kind is None or (self._filtered_ids is not None and entry.product_id not in self._filtered_ids):
                continue
            elif entry.product_id in self._window_ids:
                self._classify_in_window(concerns, entry, kind)
            elif kind != "updated" or _is_concerned(dependencies, entry.changed_fields):
                concerns.outside.append(entry)
        return concerns

    def _classify_in_window(self, concerns: _Concerns, entry: ChangeRow, kind: str) -> None:
        concerns.in_window.setdefault(str(entry.product_id), []).append(entry)
        if kind != "updated" or self._key.is_sorted_by(entry.changed_fields):
            concerns.needs_reading = True
        elif _is_concerned(self._dependencies, entry.changed_fields):
            concerns.changed_members.add(str(entry.product_id))

    async def _evaluate(self, store: StoreLists, concerns: _Concerns, position: int) -> None:
        old, (audience, limit) = self._reading, (self._key.selection.audience, self._key.limit)
        if old is None or concerns.needs_snapshot:
            self._set_reading(await self._load_window(store, position))
            self._position, self._number = position, self._number + 1
            self._events.clear()
            self._notify()
            return
        needs_reading = concerns.needs_reading or await self._may_alter(store, concerns, position)
        read_position: int | None = position
        while True:
            reading = await self._load_window(store, read_position) if needs_reading else old
            steps = compute_steps(old.ids, reading.ids, concerns.in_window)
            shown = [id_ for id_ in {*concerns.in_window, *(step.id for step in steps)} if id_ in {*reading.ids}]
            left = [step.id for step in steps if isinstance(step, Leave) and step.id in concerns.in_window]
            rows = await store.load_products(audience, [*shown, *left], read_position)
            if all(id_ in rows for id_ in shown):
                break
            # One was deleted or hidden in between: the list without it. What other lists have read will not do.
            needs_reading, read_position = True, None
        has_more = bool(left) and reading.total > len(reading.ids)
        still_listed = await store.find_listed(self._key.selection, left, read_position) if has_more else set[str]()
        self._set_reading(reading)
        events = _EventBuilder(reading.total, concerns.in_window, rows, still_listed).build(old.ids, steps, reading.ids)
        if len(events) > _get_max_events(limit):
            # The client replaces its list, which is less than all of these.
            self._number += 1
            self._events.clear()
            self._position = self._event_position = position
            self._notify()
            return
        if not events and reading.total != old.total:
            events = [_build_heartbeat(position, reading.total)]
        for number, event in enumerate(events, 1):
            # In between, the list is neither what it was nor what it will be.
            event.position = Position(position if number == len(events) else self._position)
        self._append(events)

    async def _load_window(self, store: StoreLists, position: int | None) -> Reading:
        return await store.load_window(self._key.selection, self._key.order, self._key.limit, position)

    def _set_reading(self, reading: Reading) -> None:
        self._reading, self._window_ids = reading, frozenset(reading.ids)

    async def _may_alter(self, store: StoreLists, concerns: _Concerns, position: int) -> bool:
        """Whether products of the list have left it, or changes of other products may alter it or its total."""
        selection, members, entries = self._key.selection, sorted(concerns.changed_members), concerns.outside
        filters = {name for name, _ in selection.filters}
        if not members and not entries:
            return False
        if selection.search:
            return True
        if members and len(await store.find_listed(selection, members, position)) < len(members):
            return True
        if not entries:
            return False
        if not filters or filters & _INEXACT_FILTERS or len(entries) > MAX_LOOKED_UP_ENTRIES:
            return True
        memberships = await store.load_memberships(selection, entries)
        for entry in entries:
            membership = memberships.get(entry.position)
            if membership is None:
                # The product was deleted.
                return True
            is_updated = changes.classify_entry(entry, selection.audience) == "updated"
            is_moved = membership.after and self._key.is_sorted_by(entry.changed_fields)
            if is_moved or (membership.before != membership.after if is_updated else membership.before or membership.after):
                return True
        return False

    def _append(self, events: Sequence[ProductListEvent]) -> None:
        for event in events:
            self._number += 1
            self._event_position = int(event.position)
            self._events.append((self._number, event))
        if events:
            self._notify()

    def _notify(self) -> None:
        previous, self.changed = self.changed, asyncio.Event()
        previous.set()


def _is_concerned(dependencies: frozenset[str], changed_fields: Iterable[str]) -> bool:
    """Whether the changed fields of a product may bring it into a list, out of it or to another place."""
    if not dependencies.isdisjoint(_TIME_DEPENDENCIES):
        return True
    return any(not _get_dependencies(name).isdisjoint(dependencies) for name in changed_fields)


@dataclass(frozen=True, slots=True)
class _EventBuilder:
    """Builds the events of the steps of a list. Positions are set afterwards."""

    total: int
    entries: dict[str, list[ChangeRow]]
    rows: dict[str, ProductRow]
    still_listed: set[str]

    def build(self, old_ids: Sequence[str], steps: Sequence[Step], new_ids: Sequence[str]) -> list[ProductListEvent]:
        """The events of the steps, then those of products that changed at their place."""
        events: list[ProductListEvent] = [self._build_step(step) for step in steps]
        moved, kept = {step.id for step in steps}, {*old_ids}
        for index, id_ in enumerate(new_ids):
            if id_ in self.entries and id_ in kept and id_ not in moved:
                events += [self._build_update(id_, index, entries) for entries in _group_by_mutation(self.entries[id_])]
        return events

    def _build_step(self, step: Step) -> ProductListEvent:
        entries = self.entries.get(step.id, [])
        common_fields: dict[str, Any] = {
            "position": Position(0),
            "total_count": self.total,
            "client_mutation_id": entries[-1].client_mutation_id if entries else None,
        }
        match step:
            case Leave(id_, index):
                return ProductListLeave(**common_fields, index=index, product_id=strawberry.ID(id_), reason=self._get_reason(id_))
            case Enter(id_, index):
                return ProductListEnter(**common_fields, index=index, product=cast(Product, self.rows[id_]))
            case Move(id_, from_index, to_index):
                return ProductListMove(
                    **common_fields,
                    from_index=from_index,
                    to_index=to_index,
                    product=cast(Product, self.rows[id_]),
                    changed_fields=_merge_fields(entries),
                )

    def _get_reason(self, id_: str) -> ProductDeletedReason | None:
        if id_ not in self.entries or id_ in self.still_listed:
            return None
        return ProductDeletedReason.FILTERED if id_ in self.rows else ProductDeletedReason.REMOVED

    def _build_update(self, id_: str, index: int, entries: Sequence[ChangeRow]) -> ProductListEvent:
        return ProductListUpdate(
            position=Position(0),
            total_count=self.total,
            index=index,
            product=cast(Product, self.rows[id_]),
            changed_fields=_merge_fields(entries),
            client_mutation_id=entries[-1].client_mutation_id,
        )


def _merge_fields(entries: Sequence[ChangeRow]) -> list[str]:
    return [*dict.fromkeys(chain.from_iterable(entry.changed_fields for entry in entries))]


def _group_by_mutation(entries: Sequence[ChangeRow]) -> Iterable[list[ChangeRow]]:
    """The entries by `clientMutationId`: a client that waits for its own finds it, whatever else happened at that time."""
    groups: dict[str | None, list[ChangeRow]] = {}
    for entry in entries:
        groups.setdefault(entry.client_mutation_id, []).append(entry)
    return groups.values()


def _build_heartbeat(position: int, total: int) -> ProductListHeartbeat:
    return ProductListHeartbeat(position=Position(position), total_count=total, sent_at=format_datetime(datetime.now(UTC)))


class ProductList(SharedSource):
    """A live list for one subscriber: a snapshot, then its events. Equal subscribers share each of them."""

    def __init__(self, context: Context, key: ListKey) -> None:
        self._feed, self._database = context.feed, context.database
        self._list_key = key
        self.key, self.is_public = key, key.selection.audience is Audience.SHOPPER
        self._feed.live_lists.check_capacity(key)

    def _build_list(self) -> LiveList:
        return LiveList(self._list_key, self._feed.store_lists, self._build_store)

    def _build_store(self) -> StoreLists:
        return StoreLists(self._list_key.config_id, self._database, self._feed.hub, self._feed.list_evaluations)

    async def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        """The events after a number, or a snapshot and the events after it."""
        async with self._feed.live_lists.use(self.key, self._build_list) as live_list:
            number = after
            while not live_list.is_ended:
                changed = live_list.changed
                steps = None if number is None else live_list.get_steps_after(number)
                if steps is None:
                    steps = await live_list.load_snapshot(self._database)
                for step in steps:
                    number = step.position
                    yield step
                if not steps:
                    if number is not None:
                        # Instead of the step before, whose products would stay in memory until the next change.
                        step = SourceStep(number, caught_up=True)
                        yield step
                    await changed.wait()
            if live_list.error is not None:
                raise live_list.error
