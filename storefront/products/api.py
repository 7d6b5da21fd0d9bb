"""Fields that find products, and what changed."""

from collections.abc import AsyncIterable
from decimal import Decimal
from enum import Enum
from typing import Annotated, cast

import strawberry

from storefront.core.db.database import Row
from storefront.core.errors import InvalidInput, NotFound
from storefront.graph import arguments, inputs, loaders
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.inputs import ProductFilter, ProductSort, SortOrder
from storefront.graph.json_pushdown import product_of, written
from storefront.graph.limits import ROWS, SEARCH, rows
from storefront.graph.projection import columns_of
from storefront.graph.scalars import Position
from storefront.graph.types import (
    After,
    Before,
    First,
    MaybeFirst,
    MaybeLast,
    Product,
    ProductConnection,
    Searched,
    product_connection,
)
from storefront.products.changes import ProductChangePage, ProductFeed, ProductFeedEvent, change_page
from storefront.queries import listing, products, search, suggestions
from storefront.queries.json_sql import Document
from storefront.queries.listing import Listing, Order, Scope, Selection

# Changes that are read at a time.
MOST_CHANGES = 500

Changes = Annotated[int, strawberry.argument(description="How many, 1 to 500.", metadata=rows(MOST_CHANGES))]
Prefix = Annotated[str, strawberry.argument(metadata=SEARCH)]


@strawberry.input
class HandleInStore:
    config_id: strawberry.ID
    handle: str


@strawberry.input
class SkuInStore:
    config_id: strawberry.ID
    sku: str


@strawberry.input(one_of=True, description="One of the three.")
class ProductBy:
    id: strawberry.ID | None = strawberry.UNSET
    handle: HandleInStore | None = strawberry.UNSET
    sku: SkuInStore | None = strawberry.UNSET


@strawberry.enum
class ProductSearchSort(Enum):
    CREATED = "created_at"
    PRICE = "price"
    NAME = "name"
    POPULARITY = "popularity"


@strawberry.input(description="A page by number, for clients that count rows. `products` has pages that do not shift.")
class ProductSearchInput:
    config_id: strawberry.ID
    q: str | None = strawberry.field(default=None, metadata=SEARCH)
    category: str | None = None
    min_price: Decimal | None = None
    max_price: Decimal | None = None
    limit: int = strawberry.field(default=20, description="1 to 100.", metadata=ROWS)
    offset: int = strawberry.field(default=0, description="Rows to skip, 0 to 100,000.")
    sort_by: ProductSearchSort = ProductSearchSort.CREATED
    sort_order: SortOrder = SortOrder.DESC


@strawberry.type
class Pagination:
    total: int
    page: int
    limit: int
    has_next: bool


@strawberry.type
class ProductSearchPage:
    products: list[Product]
    pagination: Pagination
    corrected_search: str | None = strawberry.field(
        description="What was searched for instead, where the words as typed find nothing."
    )


@strawberry.type
class ProductQuery:
    @strawberry.field(description="A product that the asker may see, or null.")
    async def product(self, info: Info, by: ProductBy) -> Product | None:
        # Of stores of their own the asker may see more than a document for shoppers says.
        document = None if info.context.owned else product_of(info, is_owner=False)
        row = await _found(info, by, document)
        return cast(Product | None, row if row is None or document is None else written(row))

    @strawberry.field(
        description="A store's products. Pages by cursor do not shift when others are added.", metadata=costs(size=20)
    )
    async def products(
        self,
        info: Info,
        config_id: strawberry.ID,
        filter: ProductFilter | None = None,
        search: Searched = None,
        sort: ProductSort | None = None,
        first: MaybeFirst = None,
        after: After = None,
        last: MaybeLast = None,
        before: Before = None,
    ) -> ProductConnection:
        store = arguments.key(config_id, "configId")
        chosen = inputs.selection(filter, search, info.context.audience(store))
        listing = Listing(chosen, inputs.order(sort, chosen), arguments.window(first, after, last, before))
        connection = await product_connection(info, store, listing)
        if not connection.page.rows:
            await visible_store(info, store)
        return connection

    @strawberry.field(
        description="A page by number, for clients that count rows.", metadata=costs(10, size=20, by=("input.limit",))
    )
    async def search_products(self, info: Info, input: ProductSearchInput) -> ProductSearchPage:
        store = await visible_store(info, arguments.key(input.config_id, "input.configId"))
        limit, offset = arguments.first(input.limit, "input.limit"), _offset(input.offset)
        chosen = _searched(input, info, store)
        scope, total = await _counted(info, Scope(store), chosen)
        order = Order(input.sort_by.value, input.sort_order is SortOrder.DESC)
        rows = await listing.offset_page(info.context.reads, scope, chosen, order, limit, offset, columns_of(info, Product))
        page = Pagination(total=total, page=offset // limit + 1, limit=limit, has_next=offset + limit < total)
        mended = scope.mended.text if scope.mended else None
        return ProductSearchPage(products=cast(list[Product], rows), pagination=page, corrected_search=mended)

    @strawberry.field(description="Titles to offer while somebody types, the most popular first.", metadata=costs(20))
    async def suggest(self, info: Info, config_id: strawberry.ID, prefix: Prefix, first: First = 8) -> list[str]:
        store = await visible_store(info, arguments.key(config_id, "configId"))
        limit = arguments.first(first)
        typed = search.parse(arguments.text(prefix, "prefix"))
        chosen = Selection(info.context.audience(store), search=typed)
        found = await suggestions.titles(info.context.reads, Scope(store), chosen, limit)
        if found:
            return found
        context = info.context
        again = await context.vocabularies.mended(context.reads, [Scope(store)], chosen, context.corrections)
        return await suggestions.titles(info.context.reads, again[0], chosen, limit) if again else found

    @strawberry.field(
        description="What happened to a store's products after a position: the log behind the live feed, to read at leisure.",
        metadata=costs(most=MOST_CHANGES),
    )
    async def product_changes(
        self,
        info: Info,
        config_id: strawberry.ID,
        after: Annotated[Position, strawberry.argument(description='The last position already known; "0" for all that is kept.')],
        first: Changes = 100,
    ) -> ProductChangePage:
        store = await visible_store(info, arguments.key(config_id, "configId"))
        return await change_page(info.context, store, after, arguments.first(first, most=MOST_CHANGES))


@strawberry.type
class ProductSubscription:
    @strawberry.subscription(description="What happens to a store's products: what was missed since a position, then live.")
    async def product_feed(
        self,
        info: Info,
        config_id: strawberry.ID,
        after: Annotated[
            Position | None, strawberry.argument(description="The last position already known. Left out: from now on.")
        ] = None,
        filter: ProductFilter | None = None,
    ) -> AsyncIterable[ProductFeedEvent]:
        store = await visible_store(info, arguments.key(config_id, "configId"))
        chosen = inputs.selection(filter, None, info.context.audience(store))
        return ProductFeed(info.context, store, after, chosen)


async def visible_store(info: Info, config_id: str) -> str:
    """The store's id, once it is known that the asker may see the store; raises NotFound."""
    if await info.context.load(loaders.config, config_id) is None:
        raise NotFound(f"configId: no published store has the id {config_id}.", "configId")
    return config_id


async def _found(info: Info, by: ProductBy, document: Document | None) -> Row | None:
    database, owned = info.context.reads, [*info.context.owned]
    if isinstance(by.id, str):
        key = arguments.key(by.id, "by.id")
        load = info.context.load
        return await (load(loaders.product_document, key, document) if document else load(loaders.product, key))
    if by.handle:
        store, handle = (
            arguments.key(by.handle.config_id, "by.handle.configId"),
            arguments.text(by.handle.handle, "by.handle.handle"),
        )
        return await products.by_handle(database, store, handle, owned, document)
    if by.sku:
        store, sku = arguments.key(by.sku.config_id, "by.sku.configId"), arguments.text(by.sku.sku, "by.sku.sku")
        return await products.by_sku(database, store, sku, owned, document)
    raise InvalidInput("by", "give one of id, handle or sku, and not null.")


def _offset(number: int) -> int:
    if not 0 <= number <= 100_000:
        raise InvalidInput("input.offset", f"must be between 0 and 100000, not {number}. To go further use `products`.")
    return number


def _searched(input: ProductSearchInput, info: Info, store: str) -> Selection:
    category = [input.category] if input.category is not None else None
    given = ProductFilter(category=category, min_price=input.min_price, max_price=input.max_price)
    typed = arguments.text(input.q, "input.q") if input.q else None
    return inputs.selection(given, typed, info.context.audience(store), "input")


async def _counted(info: Info, scope: Scope, chosen: Selection) -> tuple[Scope, int]:
    (total,) = await listing.counts(info.context.reads, [scope], chosen)
    again = [] if total else await info.context.vocabularies.mended(info.context.reads, [scope], chosen, info.context.corrections)
    if not again:
        return scope, total
    return again[0], (await listing.counts(info.context.reads, again, chosen))[0]
