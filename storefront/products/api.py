"""Root fields that read products, and the feed of their changes."""

from collections.abc import AsyncIterable
from decimal import Decimal
from typing import Annotated, cast

import strawberry

from storefront.core.errors import InvalidInput
from storefront.core.ids import parse_id
from storefront.graph import arguments, inputs, loaders
from storefront.graph.at_least import AtLeast, read_at_least
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.inputs import (
    MaybeFilter,
    MaybeSort,
    ProductFilterInput,
    ProductSortInput,
    ProductSortKey,
    SearchText,
    SortOrder,
)
from storefront.graph.json_pushdown import build_product_document
from storefront.graph.limits import ROW_LIMITS, SEARCH_LIMITS, limits, row_limits
from storefront.graph.pagination import After, Before, MaybeFirst, MaybeLast
from storefront.graph.permissions import require_visible_store
from storefront.graph.projection import get_selected_columns
from storefront.graph.rows import wrap_json_rows
from storefront.graph.scalars import Position
from storefront.graph.types.catalogue import (
    DID_YOU_MEAN_DESCRIPTION,
    Product,
    ProductConnection,
    ProductVariant,
    load_product_connection,
)
from storefront.models.rows import ProductRow
from storefront.products.changes import (
    DEFAULT_CHANGE_TYPES,
    FeedChangeType,
    ProductChangePage,
    ProductFeed,
    ProductFeedEvent,
    load_change_page,
)
from storefront.products.list_events import ProductListEvent
from storefront.products.live_lists import ListKey, ProductList
from storefront.queries import listing, products, variants
from storefront.queries.json_sql import JsonDocument
from storefront.queries.listing import Listing, Selection, StoreScope

# Changes per page.
MAX_CHANGES = 500

ConfigId = Annotated[strawberry.ID, strawberry.argument(description="ID of the store.")]
FirstChanges = Annotated[
    int, strawberry.argument(description="Maximum number of events, 1 to 500.", metadata=row_limits(MAX_CHANGES))
]


@strawberry.input(description="Handle of a product, and its store.")
class ProductHandleInput:
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    handle: str = strawberry.field(description="Current or former handle of the product.")


@strawberry.input(description="SKU, and the store that uses it.")
class SkuInput:
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    sku: str = strawberry.field(description="Stock keeping unit.")


@strawberry.input(one_of=True, description="Identifies a product by exactly one of these.")
class ProductByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the product.")
    handle: ProductHandleInput | None = strawberry.field(
        default=strawberry.UNSET, description="Current or former handle, and the store."
    )
    sku: SkuInput | None = strawberry.field(default=strawberry.UNSET, description="SKU of a variant, and the store.")


@strawberry.input(one_of=True, description="Identifies a variant by exactly one of these.")
class ProductVariantByInput:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the variant.")
    sku: SkuInput | None = strawberry.field(default=strawberry.UNSET, description="SKU of the variant, and the store.")


@strawberry.input(description="A search with offset pagination. Pages of `products` do not shift when products are added.")
class ProductSearchInput:
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    q: str | None = strawberry.field(default=None, description="Words to search for.", metadata=SEARCH_LIMITS)
    category: str | None = strawberry.field(default=None, description="Category path. Categories below it are included.")
    min_price: Decimal | None = strawberry.field(default=None, description="Lowest price of an available variant, inclusive.")
    max_price: Decimal | None = strawberry.field(default=None, description="Highest price of an available variant, inclusive.")
    limit: int = strawberry.field(default=20, description="Maximum number of products, 1 to 100.", metadata=ROW_LIMITS)
    offset: int = strawberry.field(default=0, description="Number of products to skip, 0 to 100,000.")
    sort_by: ProductSortKey = strawberry.field(default=ProductSortKey.CREATED_AT, description="What to sort by.")
    sort_order: SortOrder = strawberry.field(default=SortOrder.DESC, description="Direction of the sort order.")


@strawberry.type(description="Place of a page in a list with offset pagination.")
class Pagination:
    total: int = strawberry.field(description="Number of products in the whole list.")
    page: int = strawberry.field(description="Number of the page, from 1.")
    limit: int = strawberry.field(description="Maximum number of products on a page.")
    has_next: bool = strawberry.field(description="Whether there are products after this page.")


@strawberry.type(description="A page of a product search.")
class ProductSearchPage:
    products: list[Product] = strawberry.field(description="Products of this page.")
    pagination: Pagination = strawberry.field(description="Place of the page in the list.")
    corrected_search: str | None = strawberry.field(
        description="The search that was run instead, if the words as typed found nothing."
    )
    did_you_mean: str | None = strawberry.field(description=DID_YOU_MEAN_DESCRIPTION)


@strawberry.type
class ProductQuery:
    @strawberry.field(
        description="A product; null if it does not exist or is not visible. Former handles are followed: compare "
        "`Product.handle` to redirect."
    )
    async def product(
        self,
        info: Info,
        by: Annotated[ProductByInput, strawberry.argument(description="How the product is identified.")],
        at_least: AtLeast = None,
    ) -> Product | None:
        if at_least is not None:
            await read_at_least(info.context, await _find_store_id(info, by.id, by.handle, by.sku), at_least)
        # The document is that of a shopper; owners may see more.
        document = None if info.context.owned_store_ids else build_product_document(info, is_owner=False)
        row = await _find_product(info, by, document)
        return cast(Product | None, row if row is None or document is None else wrap_json_rows([row])[0])

    @strawberry.field(
        description="A store's products. Cursor pages do not shift when products are added.", metadata=costs(size=20)
    )
    async def products(
        self,
        info: Info,
        config_id: ConfigId,
        filter: MaybeFilter = None,
        search: SearchText = None,
        sort: MaybeSort = None,
        first: MaybeFirst = None,
        after: After = None,
        last: MaybeLast = None,
        before: Before = None,
        at_least: AtLeast = None,
    ) -> ProductConnection | None:
        store = arguments.check_id(config_id, "configId")
        await read_at_least(info.context, store, at_least)
        selection = inputs.build_selection(filter, search, info.context.get_audience(store))
        listing = Listing(selection, inputs.build_order(sort, selection), arguments.build_window(first, after, last, before))
        connection = await load_product_connection(info, store, listing)
        if not connection.page.rows:
            await require_visible_store(info, store)
        return connection

    @strawberry.field(description="Search with offset pagination.", metadata=costs(10, size=20, size_arguments=("input.limit",)))
    async def search_products(
        self,
        info: Info,
        input: Annotated[ProductSearchInput, strawberry.argument(description="What to search for, and which page.")],
    ) -> ProductSearchPage | None:
        store = await require_visible_store(info, input.config_id, "input.configId")
        limit, offset = arguments.check_row_count(input.limit, "input.limit"), _check_offset(input.offset)
        selection = _build_search_selection(input, info, store)
        scope, total = await _count_or_correct(info, StoreScope(store), selection)
        order = inputs.build_order(ProductSortInput(key=input.sort_by, order=input.sort_order), selection)
        rows = await listing.load_offset_page(
            info.context.read_database, scope, selection, order, limit, offset, get_selected_columns(info, Product)
        )
        page = Pagination(total=total, page=offset // limit + 1, limit=limit, has_next=offset + limit < total)
        return ProductSearchPage(
            products=cast(list[Product], rows),
            pagination=page,
            corrected_search=scope.corrected_search.text if scope.corrected_search else None,
            did_you_mean=scope.offered_search.text if scope.offered_search else None,
        )

    @strawberry.field(description="A variant; null if it does not exist or is not visible.")
    async def variant(
        self,
        info: Info,
        by: Annotated[ProductVariantByInput, strawberry.argument(description="How the variant is identified.")],
        at_least: AtLeast = None,
    ) -> ProductVariant | None:
        if at_least is not None:
            await read_at_least(info.context, await _find_store_id(info, by.id, by.sku), at_least)
        if isinstance(by.id, str):
            key = await loaders.find_row_key(info.context, arguments.check_id(by.id, "by.id"))
            row = await info.context.load(loaders.load_variants, key) if key else None
        elif by.sku:
            store, sku = arguments.check_id(by.sku.config_id, "by.sku.configId"), arguments.check_text(by.sku.sku, "by.sku.sku")
            row = await variants.load_variant_by_sku(info.context.read_database, store, sku, [*info.context.owned_store_ids])
        else:
            raise InvalidInput("by", "give one of id or sku, and not null.")
        return cast(ProductVariant | None, row)

    @strawberry.field(
        description="The change log of a store, for clients that poll.",
        metadata=costs(max_size=MAX_CHANGES),
    )
    async def product_changes(
        self,
        info: Info,
        config_id: Annotated[strawberry.ID, strawberry.argument(description="ID of the store.")],
        after: Annotated[
            Position,
            strawberry.argument(
                description='Returns the events after this position: that of the previous page. "0" for all that are kept.'
            ),
        ],
        first: FirstChanges = 100,
    ) -> ProductChangePage | None:
        store = await require_visible_store(info, config_id)
        return await load_change_page(info.context, store, after, arguments.check_row_count(first, max_rows=MAX_CHANGES))


@strawberry.type
class ProductSubscription:
    @strawberry.subscription(
        description="The change log of a store: first what was missed since `after`, then changes as they are committed."
    )
    async def product_feed(
        self,
        info: Info,
        config_id: Annotated[strawberry.ID, strawberry.argument(description="ID of the store.")],
        after: Annotated[
            Position | None,
            strawberry.argument(description="Position of the last event that was applied. Omitted: from now on."),
        ] = None,
        filter: Annotated[
            ProductFilterInput | None, strawberry.argument(description="Limits the feed to products that match.")
        ] = None,
        types: Annotated[
            list[FeedChangeType],
            strawberry.argument(
                description="Kinds of changes to send. Resets and heartbeats are sent in any case.",
                metadata=limits(items=len(FeedChangeType)),
            ),
        ] = DEFAULT_CHANGE_TYPES,  # type: ignore[assignment]  # a tuple, because a default is shared
    ) -> AsyncIterable[ProductFeedEvent]:
        store = await require_visible_store(info, config_id)
        selection = inputs.build_selection(filter, None, info.context.get_audience(store))
        return ProductFeed(info.context, store, after, selection, types)

    @strawberry.subscription(
        description="The first products of a list, kept up to date: a snapshot, then each change as it is committed. After a "
        "lost connection it starts with a new snapshot.",
        metadata=costs(size=20),
    )
    async def product_list(
        self,
        info: Info,
        config_id: ConfigId,
        filter: MaybeFilter = None,
        search: SearchText = None,
        sort: MaybeSort = None,
        first: Annotated[
            int,
            strawberry.argument(description="Number of products to keep up to date, 1 to 100.", metadata=ROW_LIMITS),
        ] = 20,
    ) -> AsyncIterable[ProductListEvent]:
        store = await require_visible_store(info, config_id)
        selection = inputs.build_selection(filter, search, info.context.get_audience(store))
        key = ListKey(store, selection, inputs.build_order(sort, selection), arguments.check_row_count(first))
        return ProductList(info.context, key)


async def _find_store_id(info: Info, id_: strawberry.ID | None, *lookups: "ProductHandleInput | SkuInput | None") -> str | None:
    """The store of what is identified by its id, or by another key and its store; None if it is not known."""
    if isinstance(id_, str):
        key = await loaders.find_row_key(info.context, arguments.check_id(id_, "by.id"))
        return key.config_id if key else None
    # Of a `@oneOf` input one field is given. The resolver checks its store.
    return next((parse_id(lookup.config_id) for lookup in lookups if lookup), None)


async def _find_product(info: Info, by: ProductByInput, document: JsonDocument | None) -> ProductRow | None:
    database, owned = info.context.read_database, [*info.context.owned_store_ids]
    if isinstance(by.id, str):
        load, key = info.context.load, await loaders.find_row_key(info.context, arguments.check_id(by.id, "by.id"))
        if key is None:
            return None
        return await (load(loaders.load_product_documents, key, document) if document else load(loaders.load_products, key))
    if by.handle:
        store, handle = (
            arguments.check_id(by.handle.config_id, "by.handle.configId"),
            arguments.check_text(by.handle.handle, "by.handle.handle"),
        )
        return await products.load_product_by_handle(database, store, handle, owned, document)
    if by.sku:
        store, sku = arguments.check_id(by.sku.config_id, "by.sku.configId"), arguments.check_text(by.sku.sku, "by.sku.sku")
        return await products.load_product_by_sku(database, store, sku, owned, document)
    raise InvalidInput("by", "give one of id, handle or sku, and not null.")


def _check_offset(number: int) -> int:
    if not 0 <= number <= 100_000:
        raise InvalidInput("input.offset", f"must be between 0 and 100000, not {number}. To go further use `products`.")
    return number


def _build_search_selection(input: ProductSearchInput, info: Info, store: str) -> Selection:
    categories = [input.category] if input.category is not None else None
    filter_ = ProductFilterInput(categories=categories, min_price=input.min_price, max_price=input.max_price)
    search_text = arguments.check_text(input.q, "input.q") if input.q else None
    return inputs.build_selection(filter_, search_text, info.context.get_audience(store), "input")


async def _count_or_correct(info: Info, scope: StoreScope, selection: Selection) -> tuple[StoreScope, int]:
    (total,) = await listing.load_counts(info.context.read_database, [scope], selection)
    corrected_scopes = (
        []
        if total
        else await info.context.vocabularies.correct_scopes(
            info.context.read_database, [scope], selection, info.context.corrections
        )
    )
    if not corrected_scopes:
        return scope, total
    [corrected_total] = await listing.load_counts(info.context.read_database, corrected_scopes, selection)
    if not corrected_total:
        return scope, total
    return (
        (corrected_scopes[0].offer_correction(), total)
        if corrected_scopes[0].is_guess
        else (corrected_scopes[0], corrected_total)
    )
