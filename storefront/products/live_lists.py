"""Live lists: the first products of a list, kept up to date by following the store's log.

A list is read again, by the statement that reads it for `products`, when a change may have altered its rows, their order or its
total; the difference makes the events. So a live list has no rules of its own for filters, search, sort orders and visibility.
All listeners of the same list share its state and events, in each process.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from time import monotonic_ns
from typing import Any, cast

import strawberry

from storefront.core.db.database import Database, retry_until_available
from storefront.core.single_flight import SingleFlight
from storefront.feed.hub import Gap, Hub, LogBatch
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
from storefront.queries import changes, listing
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Selection, StoreScope
from storefront.queries.memberships import load_memberships
from storefront.queries.visibility import Audience
from storefront.serving.run.fanout import SharedSource, SourceStep

# Changes of other products whose membership in the list is looked up one by one. Of more, the list is read again.
MAX_LOOKED_UP_ENTRIES = 20

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

    def is_concerned(self, changed_fields: Iterable[str]) -> bool:
        """Whether the changed fields of a product may bring it into the list, out of it or to another place."""
        dependencies = self.dependencies
        if dependencies & _TIME_DEPENDENCIES:
            return True
        return any(not _get_dependencies(name).isdisjoint(dependencies) for name in changed_fields)

    def is_sorted_by(self, changed_fields: Iterable[str]) -> bool:
        """Whether the changed fields of a product in the list may bring it to another place."""
        return self.order.key == "updated_at" or any(self.order.key in _get_dependencies(name) for name in changed_fields)


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
    """What entries mean for a list: entries of products in it, by id, and of other products that it may concern."""

    in_window: dict[str, list[ChangeRow]] = field(default_factory=dict)
    outside: list[ChangeRow] = field(default_factory=list)
    needs_reading: bool = False
    needs_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class _Reading:
    """A list as it was read: the ids of its first products in order, and its total."""

    ids: Sequence[str]
    total: int


def _get_max_events(limit: int) -> int:
    """How many events a list of so many products keeps: a listener that has missed more receives a snapshot, which is less."""
    return max(limit, 2)


class LiveList:
    """The state of a live list in this process. Its events are numbered, in the order in which listeners apply them."""

    def __init__(self, key: ListKey, database: Database, hub: Hub, evaluations: asyncio.Semaphore) -> None:
        self._key, self._database, self._hub, self._evaluations = key, database, hub, evaluations
        self._reading: _Reading | None = None
        self._position = self._event_position = 0
        # Above the numbers of any earlier list with this key: their listeners must not continue here in the midst.
        self._number = monotonic_ns()
        self._events: deque[tuple[int, ProductListEvent]] = deque(maxlen=_get_max_events(key.limit))
        self._snapshots = SingleFlight(1, 1.0)
        # A store that is not published does not say how often it changes.
        self._is_visible = True
        self.changed = asyncio.Event()
        self.error: Exception | None = None
        self.is_ended = False

    async def run(self) -> None:
        """Follow the log until cancelled, or until the store is deleted."""
        try:
            async with aclosing(self._hub.stream_batches(self._key.config_id, None)) as batches:
                async for batch in batches:
                    await retry_until_available(partial(self._apply, batch))
        except Exception as error:
            # Listeners raise it.
            self.error = error
        self.is_ended = True
        self._notify()

    def get_steps_after(self, number: int) -> Sequence[SourceStep] | None:
        """The events after a number; None if not all of them are kept."""
        if number == self._number:
            return ()
        if not self._events or not self._events[0][0] - 1 <= number < self._number:
            return None
        return [SourceStep(*event) for event in islice(self._events, number + 1 - self._events[0][0], None)]

    async def load_snapshot(self) -> Sequence[SourceStep]:
        """The list as it is now, as a step; none if it is about to change, or has not been read yet."""
        if self._reading is None:
            return ()
        return await self._snapshots.call(
            self._number, partial(self._build_snapshot, self._reading, self._position, self._number)
        )

    async def _build_snapshot(self, reading: _Reading, position: int, number: int) -> Sequence[SourceStep]:
        load = partial(load_products_by_ids, self._database, self._key.config_id, reading.ids, self._key.selection.audience)
        rows = await retry_until_available(load)
        if len(rows) < len(reading.ids):
            # One was deleted or hidden since; its entry is on its way.
            return ()
        products = [cast(Product, rows[id_]) for id_ in reading.ids]
        snapshot = ProductListSnapshot(position=Position(position), total_count=reading.total, products=products)
        return [SourceStep(number, snapshot)]

    async def _apply(self, batch: LogBatch) -> None:
        reading = self._reading
        concerns = self._classify(batch.entries) if reading else _Concerns(needs_snapshot=True)
        if concerns.needs_snapshot or concerns.needs_reading or concerns.in_window or concerns.outside:
            async with self._evaluations:
                await self._evaluate(concerns, batch.position)
        elif batch.is_heartbeat and self._is_visible and batch.position > self._event_position and reading:
            self._append([_build_heartbeat(batch.position, reading.total)])
        self._position = batch.position

    def _classify(self, entries: Sequence[ChangeRow | Gap]) -> _Concerns:
        concerns, ids = _Concerns(), self._reading.ids if self._reading else ()
        filtered_ids = dict(self._key.selection.filters).get("ids")
        for entry in entries:
            if isinstance(entry, Gap):
                concerns.needs_snapshot = True
                continue
            kind = changes.classify_entry(entry, self._key.selection.audience)
            if entry.product_id is None:
                if kind in ("opened", "closed"):
                    concerns.needs_snapshot, self._is_visible = True, kind == "opened"
                # Such as a refresh of popularity.
                concerns.needs_reading |= self._key.is_concerned(entry.changed_fields)
            elif kind is None or (filtered_ids is not None and entry.product_id not in filtered_ids):
                continue
            elif entry.product_id in ids:
                concerns.in_window.setdefault(str(entry.product_id), []).append(entry)
                concerns.needs_reading |= kind != "updated" or self._key.is_concerned(entry.changed_fields)
            elif kind != "updated" or self._key.is_concerned(entry.changed_fields):
                concerns.outside.append(entry)
        return concerns

    async def _evaluate(self, concerns: _Concerns, position: int) -> None:
        old = self._reading
        if old is None or concerns.needs_snapshot:
            self._reading = await self._load_window()
            self._position, self._number = position, self._number + 1
            self._events.clear()
            self._notify()
            return
        needs_reading = concerns.needs_reading or await self._may_concern(concerns.outside)
        while True:
            reading = await self._load_window() if needs_reading else old
            steps = compute_steps(old.ids, reading.ids, concerns.in_window)
            shown = [id_ for id_ in {*concerns.in_window, *(step.id for step in steps)} if id_ in {*reading.ids}]
            left = [step.id for step in steps if isinstance(step, Leave) and step.id in concerns.in_window]
            rows = await load_products_by_ids(self._database, self._key.config_id, [*shown, *left], self._key.selection.audience)
            if all(id_ in rows for id_ in shown):
                break
            # One was deleted or hidden in between: the list without it.
            needs_reading = True
        still_listed = await self._find_listed(left, reading)
        self._reading = reading
        events = _EventBuilder(reading.total, concerns.in_window, rows, still_listed).build(old.ids, steps, reading.ids)
        if len(events) > _get_max_events(self._key.limit):
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

    async def _load_window(self) -> _Reading:
        window = Listing(self._key.selection, self._key.order, Window(self._key.limit), columns=("id",), with_total=True)
        (result,) = await listing.load_pages(self._database, [StoreScope(self._key.config_id)], window)
        rows = result.page.rows
        # Without a cursor there are no rows only if there are none in the list.
        return _Reading([row.id for row in rows], int(rows[0].total) if rows else 0)

    async def _may_concern(self, entries: Sequence[ChangeRow]) -> bool:
        """Whether changes of products that are not among the first may alter the list or its total."""
        selection = self._key.selection
        if not entries:
            return False
        filters = {name for name, _ in selection.filters}
        if not filters or selection.search or filters & _INEXACT_FILTERS or len(entries) > MAX_LOOKED_UP_ENTRIES:
            return True
        memberships = await load_memberships(self._database, self._key.config_id, entries, selection)
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

    async def _find_listed(self, ids: Sequence[str], reading: _Reading) -> set[str]:
        """Those of products that left the window that are in the list, beyond it."""
        if not ids or reading.total <= len(reading.ids):
            return set()
        filters = {**dict(self._key.selection.filters), "ids": tuple(ids)}
        selection = Selection(self._key.selection.audience, tuple(sorted(filters.items())), self._key.selection.search)
        window = Listing(selection, listing.UNORDERED, Window(len(ids)), columns=("id",))
        (result,) = await listing.load_pages(self._database, [StoreScope(self._key.config_id)], window)
        return {row.id for row in result.page.rows}

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
        self.key, self.is_public = key, key.selection.audience is Audience.SHOPPER
        self._feed.live_lists.check_capacity(key, "live lists")

    def _build_list(self) -> LiveList:
        return LiveList(cast(ListKey, self.key), self._database, self._feed.hub, self._feed.list_evaluations)

    async def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        """The events after a number, or a snapshot and the events after it."""
        async with self._feed.live_lists.use(self.key, self._build_list) as live_list:
            number = after
            while not live_list.is_ended:
                changed = live_list.changed
                steps = None if number is None else live_list.get_steps_after(number)
                if steps is None:
                    steps = await live_list.load_snapshot()
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
