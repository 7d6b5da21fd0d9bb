"""A store's log as clients see it."""

from datetime import datetime
from typing import Annotated, cast

import strawberry

from storefront.core.database import Row
from storefront.graph import loaders
from storefront.graph.context import Info
from storefront.graph.scalars import Position
from storefront.graph.types import Product
from storefront.queries import changes
from storefront.queries.changes import SeenChange


@strawberry.type(description="A product that came into view.")
class ProductCreated:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None
    product: Product


@strawberry.type
class ProductUpdated:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None
    product: Product
    changed_fields: list[str]


@strawberry.type(description="A product that left view: deleted, or no longer for sale.")
class ProductDeleted:
    position: Position
    occurred_at: datetime
    client_mutation_id: str | None
    product_id: strawberry.ID


ProductChange = Annotated[ProductCreated | ProductUpdated | ProductDeleted, strawberry.union("ProductChange")]


@strawberry.type
class ProductChangePage:
    changes: list[ProductChange]
    position: Position = strawberry.field(
        description="Read up to here: pass it as `after` next time, even when there are no changes."
    )
    has_more: bool


async def change_page(info: Info, config_id: str, after: int, first: int) -> ProductChangePage:
    """What the asker sees of the log after a position."""
    context = info.context
    seen, position, more = await changes.after(context.database, config_id, after, first, context.audience(config_id))
    products = await _products(info, seen)
    told = [_change(change, products.get(change.entry.product_id)) for change in seen]
    kept = [change for change in told if change is not None]
    return ProductChangePage(changes=kept, position=Position(position), has_more=more)


async def _products(info: Info, seen: list[SeenChange]) -> dict[str, Row]:
    ids = list(dict.fromkeys(changes.live(seen)))
    return {row.id: row for row in await loaders.product(info.context, ids) if row is not None}


def _change(change: SeenChange, product: Row | None) -> ProductChange | None:
    entry = change.entry
    when = {"position": entry.position, "occurred_at": entry.occurred_at, "client_mutation_id": entry.client_mutation_id}
    if change.kind == "deleted":
        return ProductDeleted(**when, product_id=entry.product_id)
    if product is None:
        # It has left view since: the entry that says so is further on, and will be told as its departure.
        return None
    if change.kind == "created":
        return ProductCreated(**when, product=cast(Product, product))
    return ProductUpdated(**when, product=cast(Product, product), changed_fields=entry.changed_fields)
