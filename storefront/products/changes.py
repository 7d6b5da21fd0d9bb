"""The log of a store's products for clients: by polling (`productChanges`) or live (`productFeed`), with the same events."""

from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import field
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any, cast

import strawberry

from storefront.core.casing import to_camel_case
from storefront.core.db.database import Database, retry_until_available
from storefront.execution.strawberry_adapter import declare_enum
from storefront.feed.hub import Gap
from storefront.feed.log import GapReason
from storefront.graph import loaders
from storefront.graph.context import Context
from storefront.graph.scalars import Position, format_datetime
from storefront.graph.types.catalogue import Config, Product
from storefront.models.rows import ChangeRow, ConfigRow, ProductRow
from storefront.models.variant_summary import SETTABLE_COLUMNS
from storefront.queries import changes, listing
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Selection, StoreScope
from storefront.queries.memberships import load_memberships
from storefront.queries.visibility import Audience
from storefront.serving.run.fanout import SharedSource, SourceStep

# Results of one subscriber are shared with all that select the same fields of the same event.
SharedResults = strawberry.Private[dict[Any, Any]]


POSITION_DESCRIPTION = "Log position of this event. Resume with `after` set to it."

declare_enum(
    GapReason,
    "FeedResetReason",
    "Why events are missing from a feed. More values may be added.",
    {
        "LOG_EXPIRED": "The log is no longer kept back to the requested position.",
        "TOO_FAR_BEHIND": "More changes were missed than are sent one by one.",
        "VISIBILITY_CHANGED": "The store was published or unpublished.",
        "DATA_REPLACED": "The operator of the server changed data outside the API.",
    },
)


@strawberry.enum(description="Why a product left a feed or list.")
class ProductDeletedReason(Enum):
    REMOVED = strawberry.enum_value("removed", description="It was deleted or is no longer visible to the viewer.")
    FILTERED = strawberry.enum_value("filtered", description="It is still visible but no longer matches the filter.")


@strawberry.enum(description="Kinds of changes that a feed can have. More values may be added.")
class FeedChangeType(Enum):
    PRODUCT = strawberry.enum_value(
        "product",
        description="Products: their creation and deletion, what enters and leaves the filter, and changes of their own fields.",
    )
    VARIANT = strawberry.enum_value("variant", description="Changes of variants, with their prices and stock.")
    REVIEW = strawberry.enum_value("review", description="Changes of reviews.")
    CONFIG = strawberry.enum_value("config", description="Changes of the store itself, as `ConfigUpdated`.")


DEFAULT_CHANGE_TYPES = (FeedChangeType.PRODUCT, FeedChangeType.VARIANT, FeedChangeType.REVIEW)


@strawberry.interface(
    description="An entry of a store's change log, as the viewer sees it. Apply `position` even if the type is unknown: more "
    "types may be added."
)
class ProductFeedEvent:
    position: Position = strawberry.field(description=POSITION_DESCRIPTION)
    shared: SharedResults = field(default_factory=dict)


@strawberry.type
class _Change(ProductFeedEvent):
    """The fields of a change. It is no type of the schema: its fields are inherited."""

    occurred_at: datetime = strawberry.field(description="When the change was committed.")
    client_mutation_id: str | None = strawberry.field(description="The `clientMutationId` of the mutation that caused this.")


@strawberry.type(description="A product was created, became visible to the viewer or came to match the filter.")
class ProductCreated(_Change):
    product: Product = strawberry.field(description="The product as it is now, which may be newer than this event.")


@strawberry.type(description="A product, one of its variants, images or reviews was changed.")
class ProductUpdated(_Change):
    product: Product = strawberry.field(description="The product as it is now, which may be newer than this event.")
    changed_fields: list[str] = strawberry.field(description='What was changed: "price", "variants.price".')


@strawberry.type(description="A product is no longer visible to the viewer or no longer matches the filter.")
class ProductDeleted(_Change):
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")
    # Not `reason`, which `FeedReset` has with another type: a selection of both would need an alias.
    deleted_reason: ProductDeletedReason = strawberry.field(description="Why the product left the feed.")


@strawberry.type(description="The store itself was changed. Sent only if `types` has CONFIG.")
class ConfigUpdated(_Change):
    config: Config = strawberry.field(description="The store as it is now, which may be newer than this event.")
    changed_fields: list[str] = strawberry.field(description='What was changed: "storeName".')


@strawberry.type(
    description="Events are missing. Anything may have changed up to this position: refetch, then continue with the same "
    "subscription."
)
class FeedReset(ProductFeedEvent):
    reason: GapReason = strawberry.field(description="Why events are missing.")


@strawberry.type(description="Sent about every 20 seconds without another event, if the position has moved.")
class FeedHeartbeat(ProductFeedEvent):
    sent_at: datetime = strawberry.field(description="When the heartbeat was sent.")


# Fields return the interface only, so the schema needs the implementing types listed.
FEED_EVENT_TYPES: Sequence[type[ProductFeedEvent]] = (
    ProductCreated,
    ProductUpdated,
    ProductDeleted,
    ConfigUpdated,
    FeedReset,
    FeedHeartbeat,
)


@strawberry.type(description="A part of a store's change log.")
class ProductChangePage:
    changes: list[ProductFeedEvent] = strawberry.field(description="Events in log order.")
    position: Position = strawberry.field(description="Pass this as `after` next time, even if there are no events.")
    has_more: bool = strawberry.field(description="Whether there are more events already.")


async def load_change_page(context: Context, config_id: str, after: int, first: int) -> ProductChangePage:
    """A page of the changes after a position that are visible to the viewer."""
    batch = await changes.load_changes_after(context.read_database, config_id, after, first)
    if batch.gap_reason is not None:
        reset = FeedReset(position=Position(batch.position), reason=batch.gap_reason)
        return ProductChangePage(changes=[reset], position=Position(batch.position), has_more=False)
    events = await build_events(context, config_id, batch.entries, Selection(context.get_audience(config_id)))
    return ProductChangePage(changes=events, position=Position(batch.position), has_more=batch.has_more)


class ProductFeed(SharedSource):
    """The live feed of a store: visible changes after a position, then new ones. Equal subscribers share each event."""

    def __init__(
        self,
        context: Context,
        config_id: str,
        after: int | None,
        selection: Selection,
        types: Iterable[FeedChangeType] = DEFAULT_CHANGE_TYPES,
    ) -> None:
        self._context, self._config_id, self._after, self._selection = context, config_id, after, selection
        self._types = frozenset(types)
        self.key, self.is_public = (config_id, selection, self._types), selection.audience is Audience.SHOPPER

    async def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        """Each log entry with its event for the viewer, None if it is not visible."""
        start = self._after if after is None else after
        # The position of the last event: a heartbeat is due for entries after it, of which the viewer knows nothing.
        event_position, is_open = start, True
        async with aclosing(self._context.feed.hub.stream_batches(self._config_id, start)) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    event = await self._load_event(entry)
                    event_position = entry.position if event is not None else event_position
                    if isinstance(event, FeedReset) and not isinstance(entry, Gap):
                        # The store was unpublished or published: a hidden store does not say how often it changes.
                        is_open = entry.is_visible
                    yield SourceStep(entry.position, event)
                if not batch.entries:
                    is_due = batch.is_heartbeat and is_open and event_position != batch.position
                    event_position = batch.position if is_due or event_position is None else event_position
                    yield SourceStep(batch.position, _build_heartbeat(batch.position) if is_due else None, caught_up=True)

    async def _load_event(self, entry: ChangeRow | Gap) -> ProductFeedEvent | None:
        key = (self.key, entry.position, isinstance(entry, Gap))
        build_event = partial(_build_event, self._context.fresh(), self._config_id, entry, self._selection, self._types)
        # Database outage: the event is delivered once the database is back.
        return await retry_until_available(partial(self._context.feed.events.call, key, build_event))


def _build_heartbeat(position: int) -> FeedHeartbeat:
    return FeedHeartbeat(position=Position(position), sent_at=format_datetime(datetime.now(UTC)))


async def _build_event(
    context: Context, config_id: str, entry: ChangeRow | Gap, selection: Selection, types: Collection[FeedChangeType]
) -> ProductFeedEvent | None:
    if isinstance(entry, Gap):
        return FeedReset(position=Position(entry.position), reason=entry.reason)
    events = await build_events(context, config_id, [entry], selection, types)
    return events[0] if events else None


async def build_events(
    context: Context,
    config_id: str,
    entries: Sequence[ChangeRow],
    selection: Selection,
    types: Collection[FeedChangeType] = DEFAULT_CHANGE_TYPES,
) -> list[ProductFeedEvent]:
    """The events of log entries for the viewer. Products are visible or not now; filters match them at the time of the entry."""
    changes_by_position = await _classify_entries(context, config_id, entries, selection)
    shown = [(entry, kind) for entry in entries if (kind := changes_by_position.get(entry.position)) is not None]
    live_ids = dict.fromkeys(str(entry.product_id) for entry, kind in shown if kind in _KINDS_WITH_PRODUCT)
    products = await load_products_by_ids(context.read_database, config_id, list(live_ids), selection.audience)
    # Null if the store is no longer visible to the viewer.
    is_store_needed = any(
        kind in ("configured", "deleted", "filtered") or (kind in _KINDS_WITH_PRODUCT and str(entry.product_id) not in products)
        for entry, kind in shown
    )
    store = await context.load(loaders.load_configs, config_id) if is_store_needed else None
    events = [_build_change_event(entry, kind, products.get(str(entry.product_id)), store, types) for entry, kind in shown]
    # Shoppers of an unpublished store get, or got, events that its products are gone; later entries concern its owner only.
    return [event for event in events if event is not None and (store is not None or not isinstance(event, ProductDeleted))]


# The kinds of changes whose events have the product.
_KINDS_WITH_PRODUCT = ("created", "updated")
# What a change of a visible product is to a feed with a filter, by whether it matched before and after.
_KIND_BY_MEMBERSHIP = {(False, True): "created", (True, True): "updated", (True, False): "filtered"}


async def _classify_entries(
    context: Context, config_id: str, entries: Sequence[ChangeRow], selection: Selection
) -> dict[int, str | None]:
    """The kind of each entry that concerns the viewer, by its position: those of `classify_entry`, or "filtered"."""
    ids = dict(selection.filters).get("ids")
    kinds: dict[int, str | None] = {
        entry.position: changes.classify_entry(entry, selection.audience)
        for entry in entries
        if ids is None or entry.product_id is None or entry.product_id in ids
    }
    updated = [entry for entry in entries if kinds.get(entry.position) in _KINDS_WITH_PRODUCT]
    if selection.filters and updated:
        memberships = await load_memberships(context.read_database, config_id, updated, selection)
        for position, membership in memberships.items():
            was_member = membership.before and kinds[position] == "updated"
            kinds[position] = _KIND_BY_MEMBERSHIP.get((was_member, membership.after))
    return kinds


async def load_products_by_ids(
    database: Database, config_id: str, ids: Sequence[str], audience: Audience
) -> dict[str, ProductRow]:
    """Those of the products of a store that an audience may see, whole, by id."""
    if not ids:
        return {}
    list_ = Listing(Selection(audience, (("ids", tuple(ids)),)), listing.UNORDERED, Window(len(ids)))
    (result,) = await listing.load_pages(database, [StoreScope(config_id)], list_)
    return {row.id: row for row in result.page.rows}


def _build_change_event(
    entry: ChangeRow, kind: str, product: ProductRow | None, store: ConfigRow | None, types: Collection[FeedChangeType]
) -> ProductFeedEvent | None:
    if kind in ("opened", "closed"):
        return FeedReset(position=Position(entry.position), reason=GapReason.VISIBILITY_CHANGED)
    if _list_types(kind, entry.changed_fields).isdisjoint(types):
        return None
    if kind in _KINDS_WITH_PRODUCT and product is None:
        # Every change yields one event, even if its product is no longer visible.
        kind = "deleted"
    common_fields: dict[str, Any] = {
        "position": entry.position,
        "occurred_at": entry.occurred_at,
        "client_mutation_id": entry.client_mutation_id,
    }
    match kind:
        case "configured":
            return (
                ConfigUpdated(**common_fields, config=cast(Config, store), changed_fields=entry.changed_fields) if store else None
            )
        case "created":
            return ProductCreated(**common_fields, product=cast(Product, product))
        case "updated":
            return ProductUpdated(**common_fields, product=cast(Product, product), changed_fields=entry.changed_fields)
    reason = ProductDeletedReason.FILTERED if kind == "filtered" else ProductDeletedReason.REMOVED
    return ProductDeleted(**common_fields, product_id=strawberry.ID(str(entry.product_id)), deleted_reason=reason)


# Fields of a product that follow its variants, or the other way round.
_SHARED_FIELDS = {*map(to_camel_case, SETTABLE_COLUMNS), "options"}


def _list_types(kind: str, changed_fields: Iterable[str]) -> set[FeedChangeType]:
    """The types that a change is of."""
    if kind == "configured":
        return {FeedChangeType.CONFIG}
    types = set() if kind == "updated" else {FeedChangeType.PRODUCT}
    for field_name in changed_fields:
        match field_name.partition(".")[0]:
            case "variants":
                types.add(FeedChangeType.VARIANT)
            case "reviews":
                types.add(FeedChangeType.REVIEW)
            case name:
                types |= {FeedChangeType.PRODUCT, FeedChangeType.VARIANT} if name in _SHARED_FIELDS else {FeedChangeType.PRODUCT}
    # An entry that names no field is a change of the product.
    return types or {FeedChangeType.PRODUCT}
