"""A store's log as clients see it, read at leisure or live: the same events with the same positions."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import field
from datetime import datetime
from functools import partial
from typing import Annotated, Any, cast

import strawberry

from storefront.core.casing import snake
from storefront.core.db.database import Row, retry_until_available
from storefront.feed.hub import Gap
from storefront.graph import loaders
from storefront.graph.context import Context
from storefront.graph.scalars import Position
from storefront.graph.types import Product
from storefront.queries import changes, listing
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Scope, Selection
from storefront.queries.visibility import Audience
from storefront.serving.run.fanout import Source, Step

# What was executed for one listener serves all that ask for the same of the same event.
Shared = strawberry.Private[dict[Any, Any]]


@strawberry.type(description="A product that came into view.")
class ProductCreated:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None = strawberry.field(description="As the client that caused the change named it.")
    product: Product
    shared: Shared = field(default_factory=dict)


@strawberry.type
class ProductUpdated:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None = strawberry.field(description="As the client that caused the change named it.")
    product: Product = strawberry.field(description="As it is when this is told, perhaps newer than the change.")
    changed_fields: list[str] = strawberry.field(description="Such as price, or variants.price.")
    shared: Shared = field(default_factory=dict)


@strawberry.type(description="A product that left view: deleted, no longer for sale, or no longer what the filter asks for.")
class ProductDeleted:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None = strawberry.field(description="As the client that caused the change named it.")
    product_id: strawberry.ID
    shared: Shared = field(default_factory=dict)


@strawberry.type(description="Anything may have changed up to this position: refetch, then resume from here.")
class FeedReset:
    position: Position
    reason: str
    shared: Shared = field(default_factory=dict)


ProductFeedEvent = Annotated[ProductCreated | ProductUpdated | ProductDeleted | FeedReset, strawberry.union("ProductFeedEvent")]


@strawberry.type
class ProductChangePage:
    changes: list[ProductFeedEvent]
    position: Position = strawberry.field(
        description="Read up to here: pass it as `after` next time, even when there are no changes."
    )
    has_more: bool


async def change_page(context: Context, config_id: str, after: int, first: int) -> ProductChangePage:
    """What the asker sees of the log after a position."""
    part = await changes.after(context.reads, config_id, after, first)
    if part.is_lost:
        reset = FeedReset(position=Position(part.position), reason=changes.TOO_LATE)
        return ProductChangePage(changes=[reset], position=Position(part.position), has_more=False)
    told = await events(context, config_id, part.entries, Selection(context.audience(config_id)))
    return ProductChangePage(changes=told, position=Position(part.position), has_more=part.has_more)


class ProductFeed(Source):
    """What the asker sees of the log after a position, then as it happens. Listeners who see the same share each event."""

    def __init__(self, context: Context, config_id: str, after: int | None, chosen: Selection) -> None:
        self._context, self._config_id, self._after, self._chosen = context, config_id, after, chosen
        self.key, self.is_public = (config_id, chosen), chosen.audience is Audience.SHOPPER

    async def steps(self, after: int | None = None) -> AsyncGenerator[Step, None]:
        """Each entry of the log, with the event that it is to the asker, if it is one."""
        begin = self._after if after is None else after
        async with aclosing(self._context.feed.hub.parts(self._config_id, begin)) as parts:
            async for part in parts:
                for entry in part.entries:
                    yield Step(entry.position, await self._event(entry))
                if not part.entries:
                    yield Step(part.position, is_level=True)

    async def _event(self, entry: Row | Gap) -> ProductFeedEvent | None:
        key = (self.key, entry.position, isinstance(entry, Gap))
        make = partial(_event, self._context.renewed(), self._config_id, entry, self._chosen)
        # The event is not lost because the database is away: the listener hears of it when it is back.
        return await retry_until_available(partial(self._context.feed.events.call, key, make))


async def _event(context: Context, config_id: str, entry: Row | Gap, chosen: Selection) -> ProductFeedEvent | None:
    if isinstance(entry, Gap):
        return FeedReset(position=Position(entry.position), reason=entry.reason)
    told = await events(context, config_id, [entry], chosen)
    return told[0] if told else None


async def events(context: Context, config_id: str, entries: Sequence[Row], chosen: Selection) -> list[ProductFeedEvent]:
    """The entries as the asker sees them. Whether they still may see a product is judged now, when it is told."""
    seen = [(entry, kind) for entry in entries if (kind := changes.seen_as(entry, chosen.audience)) is not None]
    alive = dict.fromkeys(entry.product_id for entry, kind in seen if kind in ("created", "updated"))
    products = await _products(context, config_id, list(alive), chosen)
    told = [_told(entry, kind, products.get(entry.product_id), chosen) for entry, kind in seen]
    is_closed = any(isinstance(event, ProductDeleted) for event in told) and await _is_closed(context, config_id)
    # Shoppers of a closed store have been told, or are about to be, that all of it is gone: the rest is its owner's affair.
    return [event for event in told if event is not None and not (is_closed and isinstance(event, ProductDeleted))]


async def _is_closed(context: Context, config_id: str) -> bool:
    """Whether the asker does not see the store any more."""
    return await context.load(loaders.config, config_id) is None


async def _products(context: Context, config_id: str, ids: list[str], chosen: Selection) -> dict[str, Row]:
    allowed = dict(chosen.filters).get("ids", ids)
    wanted = tuple(id_ for id_ in ids if id_ in allowed)
    if not wanted:
        return {}
    selection = Selection(chosen.audience, (*chosen.without("ids").filters, ("ids", wanted)))
    list_ = Listing(selection, listing.UNORDERED, Window(len(wanted)))
    (found,) = await listing.pages(context.reads, [Scope(config_id)], list_)
    return {row.id: row for row in found.page.rows}


def _told(entry: Row, kind: str, product: Row | None, chosen: Selection) -> ProductFeedEvent | None:
    if kind in ("opened", "closed"):
        reason = changes.OPENED if kind == "opened" else changes.CLOSED
        return FeedReset(position=entry.position, reason=reason)
    when = {"position": entry.position, "occurred_at": entry.occurred_at, "client_mutation_id": entry.client_mutation_id}
    if kind == "deleted" or product is None:
        # Every change is told once, also one whose product has left view since.
        return ProductDeleted(**when, product_id=entry.product_id) if _concerns(entry, kind, chosen) else None
    if kind == "created":
        return ProductCreated(**when, product=cast(Product, product))
    return ProductUpdated(**when, product=cast(Product, product), changed_fields=entry.changed_fields)


# Which fields of a product decide about each filter; a filter that is not here asks for nothing that a change may change.
_DECIDING = {"min_price": "price", "max_price": "price", "attributes": "variants", "in_stock": "inventory"}


def _concerns(entry: Row, kind: str, chosen: Selection) -> bool:
    """Whether a product that is not in the filtered view may have been in it before the change."""
    if kind == "deleted" or not chosen.filters:
        return True
    changed = {snake(name).partition(".")[0] for name in entry.changed_fields} | {
        part for name in entry.changed_fields for part in name.split(".")
    }
    return any(_DECIDING.get(name, name) in changed for name, _ in chosen.filters)
