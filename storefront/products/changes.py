"""The log of a store's products for clients: by polling (`productChanges`) or live (`productFeed`), with the same events."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, cast

import strawberry

from storefront.core.casing import to_snake_case
from storefront.core.db.database import retry_until_available
from storefront.feed.hub import Gap
from storefront.graph import loaders
from storefront.graph.context import Context
from storefront.graph.scalars import Position
from storefront.graph.types.catalogue import Product
from storefront.models.rows import ChangeRow, ProductRow
from storefront.queries import changes, listing
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Selection, StoreScope
from storefront.queries.visibility import Audience
from storefront.serving.run.fanout import SharedSource, SourceStep

# Results of one subscriber are shared with all that select the same fields of the same event.
SharedResults = strawberry.Private[dict[Any, Any]]


@strawberry.type(description="A product became visible: created, published, or matching the filter now.")
class ProductCreated:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None = strawberry.field(description="The clientMutationId of the mutation that caused the change.")
    product: Product
    shared: SharedResults = field(default_factory=dict)


@strawberry.type
class ProductUpdated:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None = strawberry.field(description="The clientMutationId of the mutation that caused the change.")
    product: Product = strawberry.field(description="The current product, which may be newer than the change.")
    changed_fields: list[str] = strawberry.field(description="Such as price, or variants.price.")
    shared: SharedResults = field(default_factory=dict)


@strawberry.type(description="A product is no longer visible: deleted, no longer for sale, or no longer matching the filter.")
class ProductDeleted:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None = strawberry.field(description="The clientMutationId of the mutation that caused the change.")
    product_id: strawberry.ID
    shared: SharedResults = field(default_factory=dict)


@strawberry.type(description="Anything may have changed up to this position: refetch, then resume from here.")
class FeedReset:
    position: Position
    reason: str
    shared: SharedResults = field(default_factory=dict)


ProductFeedEvent = Annotated[ProductCreated | ProductUpdated | ProductDeleted | FeedReset, strawberry.union("ProductFeedEvent")]


@strawberry.type
class ProductChangePage:
    changes: list[ProductFeedEvent]
    position: Position = strawberry.field(
        description="Position of the last entry read. Pass it as `after` next time, even if there are no changes."
    )
    has_more: bool


async def load_change_page(context: Context, config_id: str, after: int, first: int) -> ProductChangePage:
    """A page of the changes after a position that are visible to the viewer."""
    batch = await changes.load_changes_after(context.read_database, config_id, after, first)
    if batch.has_gap:
        reset = FeedReset(position=Position(batch.position), reason=changes.EXPIRED_POSITION_REASON)
        return ProductChangePage(changes=[reset], position=Position(batch.position), has_more=False)
    events = await build_events(context, config_id, batch.entries, Selection(context.get_audience(config_id)))
    return ProductChangePage(changes=events, position=Position(batch.position), has_more=batch.has_more)


class ProductFeed(SharedSource):
    """The live feed of a store: visible changes after a position, then new ones. Equal subscribers share each event."""

    def __init__(self, context: Context, config_id: str, after: int | None, selection: Selection) -> None:
        self._context, self._config_id, self._after, self._selection = context, config_id, after, selection
        self.key, self.is_public = (config_id, selection), selection.audience is Audience.SHOPPER

    async def steps(self, after: int | None = None) -> AsyncGenerator[SourceStep, None]:
        """Each log entry with its event for the viewer, None if it is not visible."""
        start = self._after if after is None else after
        async with aclosing(self._context.feed.hub.stream_batches(self._config_id, start)) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    yield SourceStep(entry.position, await self._load_event(entry))
                if not batch.entries:
                    yield SourceStep(batch.position, caught_up=True)

    async def _load_event(self, entry: ChangeRow | Gap) -> ProductFeedEvent | None:
        key = (self.key, entry.position, isinstance(entry, Gap))
        build_event = partial(_build_event, self._context.fresh(), self._config_id, entry, self._selection)
        # Database outage: the event is delivered once the database is back.
        return await retry_until_available(partial(self._context.feed.events.call, key, build_event))


async def _build_event(context: Context, config_id: str, entry: ChangeRow | Gap, selection: Selection) -> ProductFeedEvent | None:
    if isinstance(entry, Gap):
        return FeedReset(position=Position(entry.position), reason=entry.reason)
    events = await build_events(context, config_id, [entry], selection)
    return events[0] if events else None


async def build_events(
    context: Context, config_id: str, entries: Sequence[ChangeRow], selection: Selection
) -> list[ProductFeedEvent]:
    """The events of log entries for the viewer. Visibility is checked now, at delivery."""
    visible_entries = [
        (entry, kind) for entry in entries if (kind := changes.classify_entry(entry, selection.audience)) is not None
    ]
    live_ids = dict.fromkeys(str(entry.product_id) for entry, kind in visible_entries if kind in ("created", "updated"))
    products = await _load_products(context, config_id, list(live_ids), selection)
    events = [
        _build_product_event(entry, kind, products.get(str(entry.product_id)), selection) for entry, kind in visible_entries
    ]
    is_closed = any(isinstance(event, ProductDeleted) for event in events) and await _is_closed(context, config_id)
    # Shoppers of an unpublished store get, or got, events that its products are gone; later entries concern its owner only.
    return [event for event in events if event is not None and not (is_closed and isinstance(event, ProductDeleted))]


async def _is_closed(context: Context, config_id: str) -> bool:
    """Whether the store is no longer visible to the viewer."""
    return await context.load(loaders.load_configs, config_id) is None


async def _load_products(context: Context, config_id: str, ids: list[str], selection: Selection) -> dict[str, ProductRow]:
    allowed = dict(selection.filters).get("ids", ids)
    selected_ids = tuple(id_ for id_ in ids if id_ in allowed)
    if not selected_ids:
        return {}
    product_selection = Selection(selection.audience, (*selection.without_filters("ids").filters, ("ids", selected_ids)))
    list_ = Listing(product_selection, listing.UNORDERED, Window(len(selected_ids)))
    (result,) = await listing.load_pages(context.read_database, [StoreScope(config_id)], list_)
    return {row.id: row for row in result.page.rows}


def _build_product_event(
    entry: ChangeRow, kind: str, product: ProductRow | None, selection: Selection
) -> ProductFeedEvent | None:
    if kind in ("opened", "closed"):
        reason = changes.STORE_OPENED_REASON if kind == "opened" else changes.STORE_CLOSED_REASON
        return FeedReset(position=Position(entry.position), reason=reason)
    common_fields: dict[str, Any] = {
        "position": entry.position,
        "occurred_at": entry.occurred_at,
        "client_mutation_id": entry.client_mutation_id,
    }
    if kind == "deleted" or product is None:
        # Every change yields one event, even if its product is no longer visible.
        return (
            ProductDeleted(**common_fields, product_id=strawberry.ID(str(entry.product_id)))
            if _may_leave_view(entry, kind, selection)
            else None
        )
    if kind == "created":
        return ProductCreated(**common_fields, product=cast(Product, product))
    return ProductUpdated(**common_fields, product=cast(Product, product), changed_fields=entry.changed_fields)


# The product fields that each filter depends on. Filters not listed depend on nothing that a change can alter.
_FIELDS_BY_FILTER = {
    "categories": "category",
    "statuses": "status",
    "min_price": "price",
    "max_price": "price",
    "attributes": "variants",
    "in_stock": "inventory",
}


def _may_leave_view(entry: ChangeRow, kind: str, selection: Selection) -> bool:
    """Whether a product that does not match the filter may have matched it before the change."""
    if kind == "deleted" or not selection.filters:
        return True
    changed = {to_snake_case(name).partition(".")[0] for name in entry.changed_fields} | {
        segment for name in entry.changed_fields for segment in name.split(".")
    }
    return any(_FIELDS_BY_FILTER.get(name, name) in changed for name, _ in selection.filters)
