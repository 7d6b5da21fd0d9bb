"""The events of a live list, as types of the schema."""

from collections.abc import Sequence
from dataclasses import field
from datetime import datetime

import strawberry

from storefront.graph.scalars import Position
from storefront.graph.types.catalogue import Product
from storefront.products.changes import ProductDeletedReason, SharedResults

INDEX_DESCRIPTION = "Zero-based index of the product."
PRODUCT_DESCRIPTION = "The product as it is now, which may be newer than this event."
CHANGED_FIELDS_DESCRIPTION = 'What was changed: "price", "variants.price".'
CLIENT_MUTATION_ID_DESCRIPTION = "The `clientMutationId` of the mutation that caused this."


@strawberry.interface(
    description="A change of a live list. Apply events in order; each changes one product. Store `position` and `totalCount` "
    "even if the type is unknown: more types may be added."
)
class ProductListEvent:
    position: Position = strawberry.field(description="Log position up to which the list is current after this event.")
    total_count: int = strawberry.field(description="Number of products in the whole list after this event.")
    shared: SharedResults = field(default_factory=dict)


@strawberry.type(
    description="The list as it is now. Always the first event; sent again to replace the list when changes are not sent one by "
    "one."
)
class ProductListSnapshot(ProductListEvent):
    products: list[Product] = strawberry.field(description="The first products of the list.")


@strawberry.type(description="A product entered the list, or moved up from beyond its end.")
class ProductListEnter(ProductListEvent):
    index: int = strawberry.field(description="Zero-based index to insert the product at.")
    product: Product = strawberry.field(description=PRODUCT_DESCRIPTION)
    client_mutation_id: str | None = strawberry.field(description=CLIENT_MUTATION_ID_DESCRIPTION)


@strawberry.type(description="A product left the list, or was pushed beyond its end by another one.")
class ProductListLeave(ProductListEvent):
    index: int = strawberry.field(description="Zero-based index to remove the product from.")
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")
    reason: ProductDeletedReason | None = strawberry.field(
        description="Why the product left; null if it is still in the list, beyond the requested number."
    )
    client_mutation_id: str | None = strawberry.field(description=CLIENT_MUTATION_ID_DESCRIPTION)


@strawberry.type(description="A product changed its place in the list, and possibly its content.")
class ProductListMove(ProductListEvent):
    from_index: int = strawberry.field(description="Zero-based index to remove the product from.")
    to_index: int = strawberry.field(description="Zero-based index to insert the product at, after its removal.")
    product: Product = strawberry.field(description=PRODUCT_DESCRIPTION)
    changed_fields: list[str] = strawberry.field(description=CHANGED_FIELDS_DESCRIPTION)
    client_mutation_id: str | None = strawberry.field(description=CLIENT_MUTATION_ID_DESCRIPTION)


@strawberry.type(description="A product in the list was changed.")
class ProductListUpdate(ProductListEvent):
    index: int = strawberry.field(description=INDEX_DESCRIPTION)
    product: Product = strawberry.field(description=PRODUCT_DESCRIPTION)
    changed_fields: list[str] = strawberry.field(description=CHANGED_FIELDS_DESCRIPTION)
    client_mutation_id: str | None = strawberry.field(description=CLIENT_MUTATION_ID_DESCRIPTION)


@strawberry.type(
    description="The list is current. Sent when only the total has changed, and about every 20 seconds without another event, if "
    "the position has moved."
)
class ProductListHeartbeat(ProductListEvent):
    sent_at: datetime = strawberry.field(description="When the heartbeat was sent.")


# Fields return the interface only, so the schema needs the implementing types listed.
LIST_EVENT_TYPES: Sequence[type[ProductListEvent]] = (
    ProductListSnapshot,
    ProductListEnter,
    ProductListLeave,
    ProductListMove,
    ProductListUpdate,
    ProductListHeartbeat,
)
