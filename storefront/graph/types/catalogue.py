"""The catalogue: users, stores, products, variants and reviews, with their connections.

Plain fields read the row that a query returned; methods are edges, or values computed from several columns. These types refer to
each other in cycles, as a graph does: therefore they are one module.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, cast

import orjson
import strawberry

from storefront.core.db.database import DATABASE_ERRORS
from storefront.execution.batch_field import BatchResolver, batch_field
from storefront.execution.lookahead import get_selected_names
from storefront.graph import arguments, inputs, loaders
from storefront.graph.batches import (
    build_optional_reference_batch,
    build_reference_batch,
    load_by_kind,
    load_currencies,
    load_for_owned_stores,
)
from storefront.graph.cache_hints import PERSONAL
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.images import Image, load_featured_images, load_gallery, load_variant_images
from storefront.graph.inputs import (
    AttributeInput,
    InventoryPolicy,
    MaybeFilter,
    MaybeSort,
    ProductInConfigByInput,
    ProductStatus,
    ProductVariantSortKey,
    ReviewPolicy,
    ReviewStatus,
    SearchText,
    VariantInProductByInput,
    WeightUnit,
)
from storefront.graph.json_pushdown import (
    DEFAULT_REVIEWS,
    DEFAULT_VARIANTS,
    MAX_VARIANTS_PER_PAGE,
    build_nodes_document,
    build_product_document,
)
from storefront.graph.limits import RATING_LIMITS, ROW_LIMITS, SEARCH_LIMITS, limits, row_limits
from storefront.graph.pagination import CURSOR_LIMITS, After, Before, Connection, First, MaybeFirst, MaybeLast
from storefront.graph.projection import get_selected_columns, requires_columns
from storefront.graph.rows import as_row, wrap_json_rows
from storefront.graph.scalars import HTML, CurrencyCode, Position
from storefront.graph.types.analytics import (
    AnalyticsEventConnection,
    AnalyticsReport,
    MaybeEventFilter,
    ProductAnalytics,
    Range,
    TimeZone,
    build_analytics_report,
    build_product_analytics,
    load_event_connections,
)
from storefront.graph.types.categories import (
    CategoryByInput,
    FirstCategories,
    build_category_id,
    build_handle,
    find_category,
    load_trees,
)
from storefront.graph.types.facets import PriceRange, ProductFacets
from storefront.graph.types.jobs import JobConnection, load_jobs_of_stores
from storefront.graph.types.node import Node
from storefront.graph.types.store_settings import Integrations, Layout, Theme, build_integrations, build_layout, build_theme
from storefront.graph.types.swatches import SWATCH_DESCRIPTION, Swatch, build_swatch_batch
from storefront.graph.types.webhooks import Webhook, load_webhooks_of_stores
from storefront.graph.variant_inputs import (
    INVENTORY_POLICY_DESCRIPTION,
    IS_AVAILABLE_DESCRIPTION,
    PRICE_DESCRIPTION,
    REQUIRES_SHIPPING_DESCRIPTION,
    TAXABLE_DESCRIPTION,
)
from storefront.models.categories import join_category, split_category
from storefront.models.row_keys import RowKey, list_keys, make_key_getter
from storefront.models.rows import ConfigRow, ProductRow, ReviewRow, UserRow, VariantRow
from storefront.models.variant import MAX_ATTRIBUTES, MAX_VARIANTS, fold_case
from storefront.queries import fields
from storefront.queries.categories import CategoryKey, CategoryNode
from storefront.queries.facet_index.counting import FacetSnapshot
from storefront.queries.keyset import Page, Window
from storefront.queries.listing import Listing, ScopedPage, Selection, StoreScope
from storefront.queries.options import OptionMatch, OptionMatches, SwatchRow, build_swatch
from storefront.queries.search import parse_search
from storefront.queries.suggestions import TitleMatches
from storefront.queries.visibility import Audience
from storefront.queries.webhooks import MAX_WEBHOOKS_PER_STORE

MAX_PREDICTIVE_RESULTS = 20
MAX_VARIANTS_OF_SKU = 50


async def _load_configs(
    users: Sequence[UserRow], info: Info, first: First = 20, after: After = None
) -> "Sequence[ConfigConnection]":
    pages = await info.context.load_many(
        loaders.load_user_configs, [row.id for row in users], arguments.build_window(first, after)
    )
    return [
        ConfigConnection(page=page, count=partial(info.context.load, loaders.count_user_configs, row.id))
        for row, page in zip(users, pages, strict=True)
    ]


@strawberry.type(description="A person who owns stores or writes reviews.")
class User(Node):
    name: str | None = strawberry.field(description="Display name.")
    image: str | None = strawberry.field(description="URL of the profile picture.")
    version: int = strawberry.field(description="Increases by one with each change of the profile.")
    created_at: datetime = strawberry.field(description="When the user was created.")
    updated_at: datetime = strawberry.field(description="When the profile was last changed.")

    @strawberry.field(description="E-mail address. Null unless this user is the viewer.", metadata=PERSONAL)
    def email(self, info: Info) -> str | None:
        viewer = info.context.viewer
        return as_row(self, UserRow).email if viewer and viewer.id == self.id else None

    configs: "ConfigConnection" = batch_field(
        _load_configs,
        description="The user's published stores, newest first. For the viewer, unpublished ones too.",
        metadata=PERSONAL,
    )


async def _load_products(
    stores: Sequence[ConfigRow],
    info: Info,
    filter: MaybeFilter = None,
    search: SearchText = None,
    sort: MaybeSort = None,
    first: MaybeFirst = None,
    after: After = None,
    last: MaybeLast = None,
    before: Before = None,
) -> "Sequence[ProductConnection]":
    window = arguments.build_window(first, after, last, before)
    return await _load_connections(info, [StoreScope(store.id) for store in stores], filter, search, sort, window)


async def _load_connections(
    info: Info, scopes: Sequence[StoreScope], filter: MaybeFilter, search: SearchText, sort: MaybeSort, window: Window
) -> "Sequence[ProductConnection]":
    """A page of the products of each scope, as the viewer sees them."""
    audiences = [info.context.get_audience(scope.config_id) for scope in scopes]
    listings: dict[Audience, Listing] = {}
    for audience in set(audiences):
        selection = inputs.build_selection(filter, search, audience)
        listings[audience] = _complete_listing(info, Listing(selection, inputs.build_order(sort, selection), window))
    load = info.context.load_many
    states = await _load_selected_states(info, [scope.config_id for scope in scopes])
    results = await load_by_kind(
        scopes,
        audiences,
        lambda keys, audience: load(loaders.load_product_pages, keys, listings[audience]),
    )
    return [
        _build_product_connection(info, result, listings[audience], state)
        for result, audience, state in zip(results, audiences, states, strict=True)
    ]


async def _load_category_products(
    categories: "Sequence[Category]",
    info: Info,
    filter: MaybeFilter = None,
    search: SearchText = None,
    sort: MaybeSort = None,
    first: MaybeFirst = None,
    after: After = None,
    last: MaybeLast = None,
    before: Before = None,
) -> "Sequence[ProductConnection]":
    scopes = [StoreScope(category.config_id, category=join_category(category.names)) for category in categories]
    window = arguments.build_window(first, after, last, before)
    return await _load_connections(info, scopes, filter, search, sort, window)


def _make_detail_batch(column: str) -> BatchResolver:
    """A batch resolver of what the owner has added to categories; null for those without."""

    async def load_details(categories: "Sequence[Category]", info: Info) -> Sequence[str | None]:
        keys = [CategoryKey(category.config_id, join_category(category.names)) for category in categories]
        rows = await info.context.load_many(loaders.load_category_details, keys)
        return [getattr(row, column) if row else None for row in rows]

    return load_details


async def _load_category_nodes(categories: "Sequence[Category]", info: Info) -> list[CategoryNode]:
    # There may be thousands of categories of one store.
    stores = [*dict.fromkeys(category.config_id for category in categories)]
    trees = dict(zip(stores, await load_trees(info, stores), strict=True))
    # Of the category of a product that was just hidden there may be none any more.
    return [trees[category.config_id].nodes.get(category.names) or CategoryNode(category.names) for category in categories]


async def _load_child_categories(
    categories: "Sequence[Category]", info: Info, first: FirstCategories = 50
) -> "Sequence[Sequence[Category]]":
    limit = arguments.check_row_count(first)
    nodes = await _load_category_nodes(categories, info)
    return [build_categories(category.config_id, node.children[:limit]) for category, node in zip(categories, nodes, strict=True)]


async def _load_category_counts(categories: "Sequence[Category]", info: Info) -> Sequence[int]:
    return [node.product_count for node in await _load_category_nodes(categories, info)]


@strawberry.type(
    description="A node of the category tree, which follows from the `category` of the store's products: the products of "
    '"Clothing > Shirts" are in "Clothing", too.'
)
class Category:
    config_id: strawberry.Private[str]
    names: strawberry.Private[tuple[str, ...]]

    @strawberry.field(description="Stable as long as `path` is.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(build_category_id(self.config_id, self.names))

    @strawberry.field(description='Last part of the path: "Shirts".')
    def name(self) -> str:
        return self.names[-1]

    @strawberry.field(
        description='Names from the root, joined by " > ": "Clothing > Shirts". The value of `ProductFilterInput.categories`.'
    )
    def path(self) -> str:
        return join_category(self.names)

    @strawberry.field(
        description='Identifies the category in URLs: "clothing/shirts". Categories whose names differ in case or punctuation '
        "only have the same one, which finds the one with the most products."
    )
    def handle(self) -> str:
        return build_handle(self.names)

    @strawberry.field(description="Parent category; null at the top level.")
    def parent(self) -> "Category | None":
        return Category(config_id=self.config_id, names=self.names[:-1]) if len(self.names) > 1 else None

    @strawberry.field(description="Categories above this one, top level first.", metadata=costs(size=3))
    def ancestors(self) -> "list[Category]":
        return list_categories_of_names(self.config_id, self.names)[:-1]

    children: "list[Category]" = batch_field(
        _load_child_categories,
        description="Categories directly below, those with the most products first.",
        metadata=costs(size=20),
    )

    product_count: int = batch_field(
        _load_category_counts,
        description="Number of products that the viewer can see in this category and those below it.",
    )

    products: "ProductConnection" = batch_field(
        _load_category_products,
        description="The products in this category and those below it.",
        metadata=costs(size=20),
    )

    image: str | None = batch_field(_make_detail_batch("image"), description="URL of the picture that the owner has given it.")
    description: str | None = batch_field(_make_detail_batch("description"), description="Plain-text description by the owner.")
    seo_title: str | None = batch_field(
        _make_detail_batch("seo_title"), description="Title for search engines; null to use `name`."
    )
    seo_description: str | None = batch_field(
        _make_detail_batch("seo_description"), description="Description for search engines; null to use `description`."
    )


def build_categories(config_id: str, nodes: Iterable[CategoryNode]) -> list[Category]:
    """The categories of nodes of a store."""
    return [Category(config_id=config_id, names=node.names) for node in nodes]


def list_categories_of_names(config_id: str, names: tuple[str, ...]) -> list[Category]:
    """A category and those above it, top level first."""
    return [Category(config_id=config_id, names=names[:depth]) for depth in range(1, len(names) + 1)]


async def _load_top_categories(
    stores: Sequence[ConfigRow], info: Info, first: FirstCategories = 50
) -> Sequence[Sequence[Category]]:
    limit = arguments.check_row_count(first)
    trees = await load_trees(info, [store.id for store in stores])
    return [build_categories(store.id, tree.roots[:limit]) for store, tree in zip(stores, trees, strict=True)]


async def _load_category(
    stores: Sequence[ConfigRow],
    info: Info,
    by: Annotated[CategoryByInput, strawberry.argument(description="How the category is identified.")],
) -> Sequence[Category | None]:
    trees = await load_trees(info, [store.id for store in stores])
    found = [find_category(store.id, tree, by) for store, tree in zip(stores, trees, strict=True)]
    return [
        None if names is None else Category(config_id=store.id, names=names) for store, names in zip(stores, found, strict=True)
    ]


async def _load_product(
    stores: Sequence[ConfigRow],
    info: Info,
    by: Annotated[ProductInConfigByInput, strawberry.argument(description="How the product is identified.")],
) -> Sequence[Any]:
    lookup_name, value = inputs.parse_product_lookup(by)
    # The document is that of a shopper; owners may see more.
    document = None if info.context.owned_store_ids else build_product_document(info, is_owner=False)
    rows = await info.context.load_many(loaders.load_config_product, [row.id for row in stores], lookup_name, value, document)
    # An error is that of its store alone.
    return [row if document is None or row is None or isinstance(row, Exception) else wrap_json_rows([row])[0] for row in rows]


async def _load_config_variants(
    stores: Sequence[ConfigRow],
    info: Info,
    sku: Annotated[str, strawberry.argument(description="SKU of the variants.")],
) -> Sequence[Sequence[VariantRow]]:
    arguments.check_text(sku, "sku")
    return await info.context.load_many(loaders.load_config_variants, [row.id for row in stores], sku, MAX_VARIANTS_OF_SKU)


@strawberry.type(description="What is searched in a store besides the words as typed.")
class SearchSettings:
    synonyms: list[list[str]] = strawberry.field(description="Lists of words that are searched for each other.")


DID_YOU_MEAN_DESCRIPTION = "A search with results to offer, if the words as typed found nothing and may be misspelt."


async def _load_predictive_search(
    stores: Sequence[ConfigRow],
    info: Info,
    search: Annotated[str, strawberry.argument(description="What has been typed so far.", metadata=SEARCH_LIMITS)],
    first: Annotated[
        int,
        strawberry.argument(
            description=f"Maximum number of results of each kind, 1 to {MAX_PREDICTIVE_RESULTS}.",
            metadata=row_limits(MAX_PREDICTIVE_RESULTS),
        ),
    ] = 8,
) -> "Sequence[PredictiveSearchResult]":
    limit = arguments.check_row_count(first, max_rows=MAX_PREDICTIVE_RESULTS)
    parsed_search = parse_search(arguments.check_text(search, "search"))
    audiences = [info.context.get_audience(row.id) for row in stores]
    selections = {audience: Selection(audience, search=parsed_search) for audience in set(audiences)}

    async def load_results(keys: Sequence[str], audience: Audience) -> Sequence[PredictiveSearchResult]:
        context, selection, scopes = info.context, selections[audience], [StoreScope(key) for key in keys]
        matches = await context.load_many(loaders.load_config_title_matches, scopes, selection, limit)
        unmatched = [scope for scope, found in zip(scopes, matches, strict=True) if not found.ids]
        corrected_scopes = await context.vocabularies.correct_scopes(
            context.read_database, unmatched, selection, context.corrections
        )
        corrected_matches = await context.load_many(loaders.load_config_title_matches, corrected_scopes, selection, limit)
        results = {scope.config_id: (scope, found) for scope, found in zip(scopes, matches, strict=True)}
        for scope, found in zip(corrected_scopes, corrected_matches, strict=True):
            if found.ids:
                typed_matches = results[scope.config_id][1]
                results[scope.config_id] = (scope.offer_correction(), typed_matches) if scope.is_guess else (scope, found)
        return [
            PredictiveSearchResult(scope=scope, matches=found, selection=selection, limit=limit)
            for scope, found in (results[key] for key in keys)
        ]

    return await load_by_kind([row.id for row in stores], audiences, load_results)


async def _load_search_settings(stores: Sequence[ConfigRow], info: Info) -> Sequence[SearchSettings | None]:
    async def load_settings(config_ids: Sequence[str]) -> list[SearchSettings]:
        synonyms = await info.context.load_many(loaders.load_config_synonyms, config_ids)
        return [SearchSettings(synonyms=lists) for lists in synonyms]

    return await load_for_owned_stores(info, stores, load_settings)


async def _load_store_reviews(
    stores: Sequence[ConfigRow],
    info: Info,
    statuses: Annotated[
        list[ReviewStatus] | None,
        strawberry.argument(
            description="Limits the reviews to some statuses. Has an effect for the owner only.",
            metadata=limits(items=len(ReviewStatus)),
        ),
    ] = None,
    first: MaybeFirst = None,
    after: After = None,
    last: MaybeLast = None,
    before: Before = None,
) -> "Sequence[ReviewConnection]":
    window, context = arguments.build_window(first, after, last, before), info.context
    audiences = [context.get_audience(row.id) for row in stores]
    # An empty list is no condition, as in filters.
    wanted = tuple(sorted({str(status.value) for status in statuses})) if statuses else None
    if _is_total_count_alone(info, "ReviewConnection", window):
        pages = [_NO_PAGE] * len(stores)
    else:
        columns = get_selected_columns(info, Review)
        pages = await load_by_kind(
            [row.id for row in stores],
            audiences,
            lambda keys, audience: context.load_many(loaders.load_config_reviews, keys, window, columns, audience, wanted),
        )
    return [
        ReviewConnection(page=page, count=partial(context.load, loaders.count_config_reviews, row.id, audience, wanted))
        for row, page, audience in zip(stores, pages, audiences, strict=True)
    ]


async def _load_analytics(
    stores: Sequence[ConfigRow],
    info: Info,
    range: Range,
    time_zone: TimeZone = "UTC",
) -> Sequence[AnalyticsReport | None]:
    owned_flags = [info.context.get_audience(row.id) is Audience.OWNER for row in stores]
    report = build_analytics_report("", range, time_zone) if any(owned_flags) else None
    return [
        replace(report, config_id=row.id) if report and is_owned else None
        for row, is_owned in zip(stores, owned_flags, strict=True)
    ]


async def _load_events(
    stores: Sequence[ConfigRow], info: Info, filter: MaybeEventFilter = None, first: First = 20, after: After = None
) -> Sequence[AnalyticsEventConnection | None]:
    owned_flags = [info.context.get_audience(row.id) is Audience.OWNER for row in stores]
    owned_ids = [row.id for row, is_owned in zip(stores, owned_flags, strict=True) if is_owned]
    connections = iter(await load_event_connections(info, owned_ids, filter, first, after) if owned_ids else ())
    return [next(connections) if is_owned else None for is_owned in owned_flags]


@strawberry.type(description="A store: its configuration, and the entry point to everything in it.")
class Config(Node):
    store_name: str = strawberry.field(description="Name shown to shoppers.")
    slug: str = strawberry.field(description="Identifies the store in URLs; unique.")
    description: str | None = strawberry.field(description="Plain-text description.")
    is_published: bool = strawberry.field(description="Whether shoppers can see the store.")
    currency: CurrencyCode = strawberry.field(description="Currency of all prices in the store.")
    review_policy: ReviewPolicy = strawberry.field(description="How new and edited reviews are published.")
    product_url_template: str | None = strawberry.field(
        description='URL of a product in the shop, for product feeds: "https://shop.example/products/{handle}". Placeholders are '
        "`{handle}`, `{productId}` and `{variantId}`; null until set."
    )
    version: int = strawberry.field(description="Increases by one with each change of the store itself, not of its products.")
    created_at: datetime = strawberry.field(description="When the store was created.")
    updated_at: datetime = strawberry.field(description="When the store itself was last changed.")

    @strawberry.field(description="Colours and fonts; null until set.")
    def theme(self) -> Theme | None:
        document = as_row(self, ConfigRow).theme
        return build_theme(document) if document else None

    @strawberry.field(description="Page layout; null until set.")
    def layout(self) -> Layout | None:
        document = as_row(self, ConfigRow).layout
        return build_layout(document) if document else None

    @strawberry.field(description="Connected services; null until set.")
    def integrations(self, info: Info) -> Integrations | None:
        document = as_row(self, ConfigRow).integrations
        return build_integrations(document, info.context.get_audience(str(self.id))) if document else None

    owner: User = batch_field(
        build_reference_batch(loaders.load_users, attrgetter("user_id"), "user"), description="The user who owns the store."
    )

    @strawberry.field(description="Current position of the store's change log.")
    async def position(self, info: Info) -> Position:
        return cast(Position, await info.context.load(loaders.load_config_positions, str(self.id)))

    products: "ProductConnection" = batch_field(
        _load_products,
        description="The store's products.",
        metadata=costs(size=20),
    )

    product: "Product | None" = batch_field(
        _load_product,
        description="A product of this store; null if it does not exist or is not visible. Former handles are followed: compare "
        "`Product.handle` to redirect.",
    )

    variants: "list[ProductVariant]" = batch_field(
        _load_config_variants,
        description=f"The variants with a SKU, oldest first; at most {MAX_VARIANTS_OF_SKU}. SKUs need not be unique.",
        metadata=costs(size=MAX_VARIANTS_OF_SKU),
    )

    predictive_search: "PredictiveSearchResult" = batch_field(
        _load_predictive_search, description="Results to show while a shopper is typing.", metadata=costs(20)
    )

    search_settings: SearchSettings | None = batch_field(
        _load_search_settings,
        description="What is searched besides the words as typed. Owner only; null for others.",
    )

    categories: list[Category] = batch_field(
        _load_top_categories,
        description="Top-level categories, those with the most products first.",
        metadata=costs(20, size=50),
    )

    category: Category | None = batch_field(
        _load_category, description="A category of this store; null if the viewer can see no product in it.", metadata=costs(20)
    )

    reviews: "ReviewConnection" = batch_field(
        _load_store_reviews,
        description="Reviews of all products that the viewer can see, newest first. Shoppers see published reviews; the "
        "owner sees all.",
        metadata=costs(size=20),
    )

    analytics: AnalyticsReport | None = batch_field(
        _load_analytics, description="Traffic and sales figures. Owner only; null for others.", metadata=costs(50)
    )

    events: AnalyticsEventConnection | None = batch_field(
        _load_events,
        description="Raw analytics events, including those of bots, newest first. Owner only; null for others.",
        metadata=costs(size=20),
    )

    webhooks: list[Webhook] | None = batch_field(
        load_webhooks_of_stores,
        description=f"Webhooks, oldest first; at most {MAX_WEBHOOKS_PER_STORE}. Owner only; null for others.",
        metadata=costs(size=MAX_WEBHOOKS_PER_STORE),
    )

    jobs: JobConnection | None = batch_field(
        load_jobs_of_stores, description="Imports and exports, newest first. Owner only; null for others."
    )


class _AttributeRow(NamedTuple):
    name: str
    value: str
    variant: VariantRow


# The fastest constructor: there are many attributes per response.
_make_attribute_row: Callable[[tuple[str, str, VariantRow]], Any] = partial(tuple.__new__, _AttributeRow)


def _get_product_key(attribute: _AttributeRow) -> RowKey:
    return RowKey(attribute.variant.config_id, attribute.variant.product_id)


@strawberry.type(description="Attribute of a variant.")
class VariantAttribute:
    name: str = strawberry.field(description='Name, such as "Size".')
    value: str = strawberry.field(description='Value, such as "Large".')
    swatch: Swatch | None = batch_field(build_swatch_batch(_get_product_key), description=SWATCH_DESCRIPTION)


class _OptionValueRow(NamedTuple):
    """A value of an option of a product, with the variants that match."""

    id: str
    value: str
    position: int
    swatch: SwatchRow | None
    exists: bool
    available: bool
    config_id: str
    variant_id: str | None


class _OptionRow(NamedTuple):
    id: str
    name: str
    position: int
    product: ProductRow
    stored_values: Sequence[Mapping[str, Any]]
    matches: OptionMatches


@strawberry.type(description="Value of an option.")
class ProductOptionValue:
    id: strawberry.ID = strawberry.field(description="Globally unique, opaque and permanent.")
    value: str = strawberry.field(description='Value of the variants\' attribute: "Red".')
    position: int = strawberry.field(description="Place among the values of the option, from 0.")
    swatch: Swatch | None = strawberry.field(description=SWATCH_DESCRIPTION)
    exists: bool = strawberry.field(
        description="Whether an offered variant has this value and the selected values of the other options."
    )
    available: bool = strawberry.field(description="Whether such a variant can be bought now.")
    variant: "ProductVariant | None" = batch_field(
        build_optional_reference_batch(loaders.load_variants, make_key_getter("variant_id")),
        description="First such variant, if possible one that can be bought now; null if there is none.",
    )


FirstValues = Annotated[
    int,
    strawberry.argument(description=f"Maximum number of values, 1 to {MAX_VARIANTS:,}.", metadata=row_limits(MAX_VARIANTS)),
]


async def _slice_option_values(
    options: Sequence[_OptionRow], _: Info, first: FirstValues = 100
) -> Sequence[Sequence[_OptionValueRow]]:
    limit = arguments.check_row_count(first, max_rows=MAX_VARIANTS)
    return [_build_option_values(option, limit) for option in options]


@strawberry.type(description="Something shoppers choose between, such as size or colour.")
class ProductOption:
    id: strawberry.ID = strawberry.field(description="Globally unique, opaque and permanent.")
    name: str = strawberry.field(description='Name of the option, and of the variants\' attribute: "Colour".')
    position: int = strawberry.field(description="Place among the options of the product, from 0.")
    values: list[ProductOptionValue] = batch_field(_slice_option_values, description="Values in display order.")


@strawberry.type(description="Number of reviews with a certain number of stars.")
class RatingCount:
    rating: int = strawberry.field(description="Stars, 1 to 5.")
    count: int = strawberry.field(description="Number of reviews.")


class _RatingAndCount(NamedTuple):
    rating: int
    # Not the method of tuples, which nothing calls here.
    count: int  # type: ignore[assignment]


@strawberry.type(description="Number and average of the published reviews of a product.")
class ReviewSummary:
    average: float | None = strawberry.field(description="Average number of stars; null without reviews.")
    count: int = strawberry.field(description="Number of reviews.")
    distribution: list[RatingCount] = strawberry.field(
        description="Number of reviews for each number of stars, from 1 to 5.", metadata=costs(size=5)
    )


def _build_review_summary(row: ProductRow) -> ReviewSummary:
    summary = fields.get_review_summary(row)
    distribution = [_RatingAndCount(*pair) for pair in enumerate(summary.pop("distribution"), 1)]
    return ReviewSummary(**summary, distribution=cast(list[RatingCount], distribution))


async def _load_options(
    products: Sequence[ProductRow],
    info: Info,
    selected: Annotated[
        list[AttributeInput] | None,
        strawberry.argument(
            description="Values that are chosen already. `exists`, `available` and `variant` of a value take those of the other "
            "options into account.",
            metadata=limits(items=MAX_ATTRIBUTES),
        ),
    ] = None,
) -> Sequence[Sequence[_OptionRow]]:
    chosen = inputs.parse_attribute_pairs(selected or [], "selected")
    matches: Sequence[OptionMatches] = [{}] * len(products)
    value_fields = get_selected_names(info, "ProductOptionValue")
    if value_fields is None or not _MATCHED_FIELDS.isdisjoint(value_fields):
        selection = orjson.dumps(dict(chosen)).decode()
        matches = await info.context.load_many(loaders.load_option_matches, list_keys(products), selection)
    return [_build_options(product, matches_of_product) for product, matches_of_product in zip(products, matches, strict=True)]


# The fields of a value that depend on variants.
_MATCHED_FIELDS = frozenset({"exists", "available", "variant"})


def _build_options(product: ProductRow, matches: OptionMatches) -> list[_OptionRow]:
    return [
        _OptionRow(option["id"], option["name"], position, product, option["values"], matches)
        for position, option in enumerate(product.options)
    ]


def _build_option_values(option: _OptionRow, limit: int) -> list[_OptionValueRow]:
    images, folded_name = set(option.product.images), fold_case(option.name)
    return [
        _build_option_value(option.product, images, value, n, option.matches.get((folded_name, fold_case(value["value"]))))
        for n, value in enumerate(option.stored_values[:limit])
    ]


def _build_option_value(
    product: ProductRow, images: AbstractSet[str], value: Mapping[str, Any], position: int, match: OptionMatch | None
) -> _OptionValueRow:
    swatch = build_swatch(value["swatch"], product.config_id, images, product.image_alts)
    is_available, variant_id = match or (False, None)
    return _OptionValueRow(
        value["id"], value["value"], position, swatch, match is not None, is_available, product.config_id, variant_id
    )


VARIANT_LIMITS = row_limits(MAX_VARIANTS_PER_PAGE)


async def _load_variants(
    products: Sequence[ProductRow],
    info: Info,
    available_only: Annotated[
        bool,
        strawberry.argument(description="Whether to leave out unavailable variants. False has an effect for the owner only."),
    ] = True,
    sort: Annotated[ProductVariantSortKey, strawberry.argument(description="Order of the variants.")] = (
        ProductVariantSortKey.POSITION
    ),
    first: Annotated[
        int | None,
        strawberry.argument(
            description=f"Maximum number of variants from the start, 1 to {MAX_VARIANTS_PER_PAGE}; "
            f"{DEFAULT_VARIANTS} if neither `first` nor `last` is given.",
            metadata=VARIANT_LIMITS,
        ),
    ] = None,
    after: Annotated[
        str | None, strawberry.argument(description="Returns the variants after this cursor.", metadata=CURSOR_LIMITS)
    ] = None,
    last: Annotated[
        int | None,
        strawberry.argument(
            description=f"Maximum number of variants from the end, 1 to {MAX_VARIANTS_PER_PAGE}.", metadata=VARIANT_LIMITS
        ),
    ] = None,
    before: Annotated[
        str | None, strawberry.argument(description="Returns the variants before this cursor.", metadata=CURSOR_LIMITS)
    ] = None,
) -> "Sequence[ProductVariantConnection]":
    window = arguments.build_window(first, after, last, before, default=DEFAULT_VARIANTS, max_rows=MAX_VARIANTS_PER_PAGE)
    columns, context = get_selected_columns(info, ProductVariant), info.context
    audiences = [context.get_audience(row.config_id) for row in products]
    # Unavailable variants, and costs, are visible to the owner of the product only.
    available_only_flags = [available_only or audience is not Audience.OWNER for audience in audiences]
    if _is_total_count_alone(info, "ProductVariantConnection", window):
        # A column of the product.
        pages = [_NO_PAGE] * len(products)
    else:
        pages = await load_by_kind(
            list_keys(products),
            audiences,
            lambda keys, audience: context.load_many(
                loaders.load_product_variants,
                keys,
                window,
                str(sort.value),
                available_only or audience is not Audience.OWNER,
                audience is Audience.OWNER,
                columns,
            ),
        )
    return [
        ProductVariantConnection(page=page, count=_make_counter(getattr(row, fields.get_variant_count_column(only))))
        for row, page, only in zip(products, pages, available_only_flags, strict=True)
    ]


_NO_PAGE = Page((), has_next=False, has_previous=False, encode_cursor=str)


async def _load_variant(
    products: Sequence[ProductRow],
    info: Info,
    by: Annotated[VariantInProductByInput, strawberry.argument(description="How the variant is identified.")],
) -> Sequence[VariantRow | None]:
    lookup_name, value = inputs.parse_variant_lookup(by)
    load = info.context.load_many
    owned_flags = [info.context.get_audience(row.config_id) is Audience.OWNER for row in products]
    return await load_by_kind(
        list_keys(products),
        owned_flags,
        lambda keys, is_owner: load(loaders.load_product_variant, keys, lookup_name, value, is_owner),
    )


async def _load_viewer_reviews(products: Sequence[ProductRow], info: Info) -> Sequence[ReviewRow | None]:
    return await info.context.load_many(loaders.load_viewer_reviews, list_keys(products))


async def _load_reviews(
    products: Sequence[ProductRow],
    info: Info,
    rating: Annotated[
        int | None,
        strawberry.argument(
            description=f"Limits the reviews to those with this number of stars, 1 to {arguments.MAX_RATING}.",
            metadata=RATING_LIMITS,
        ),
    ] = None,
    first: Annotated[
        int | None,
        strawberry.argument(
            description=f"Maximum number of reviews from the start, 1 to {arguments.MAX_ROWS}; "
            f"{DEFAULT_REVIEWS} if neither `first` nor `last` is given.",
            metadata=ROW_LIMITS,
        ),
    ] = None,
    after: Annotated[
        str | None, strawberry.argument(description="Returns the reviews after this cursor.", metadata=CURSOR_LIMITS)
    ] = None,
    last: Annotated[
        int | None,
        strawberry.argument(
            description=f"Maximum number of reviews from the end, 1 to {arguments.MAX_ROWS}.", metadata=ROW_LIMITS
        ),
    ] = None,
    before: Annotated[
        str | None, strawberry.argument(description="Returns the reviews before this cursor.", metadata=CURSOR_LIMITS)
    ] = None,
) -> "Sequence[ReviewConnection]":
    window = arguments.build_window(first, after, last, before, default=DEFAULT_REVIEWS)
    stars = None if rating is None else arguments.check_rating(rating)
    if _is_total_count_alone(info, "ReviewConnection", window):
        # A column of the product.
        pages = [_NO_PAGE] * len(products)
    else:
        columns, keys = get_selected_columns(info, Review), list_keys(products)
        pages = await info.context.load_many(loaders.load_product_reviews, keys, window, columns, stars)
    return [
        ReviewConnection(page=page, count=_make_counter(fields.get_review_count(row, stars)))
        for row, page in zip(products, pages, strict=True)
    ]


def _is_total_count_alone(info: Info, type_name: str, window: Window) -> bool:
    return window.cursor is None and get_selected_names(info, type_name) == ("total_count",)


def _make_counter(count: int) -> Callable[[], Awaitable[int]]:
    async def get_count() -> int:
        return count

    return get_count


async def _load_related(products: Sequence[ProductRow], info: Info, first: First = 4) -> Sequence[Sequence[ProductRow]]:
    return await info.context.load_many(loaders.load_related_products, list_keys(products), arguments.check_row_count(first))


async def _load_product_analytics(
    products: Sequence[ProductRow], info: Info, range: Range, time_zone: TimeZone = "UTC"
) -> Sequence[ProductAnalytics | None]:
    owned_flags = [info.context.get_audience(row.config_id) is Audience.OWNER for row in products]
    report = build_product_analytics(range, time_zone) if any(owned_flags) else None
    return [
        replace(report, product=RowKey(row.config_id, row.id)) if report and is_owned else None
        for row, is_owned in zip(products, owned_flags, strict=True)
    ]


@strawberry.type(
    description="Something a store sells, in one or more variants. A product without options has exactly one variant."
)
class Product(Node):
    title: str = strawberry.field(description="Name shown to shoppers.")
    handle: str = strawberry.field(description="Identifies the product in URLs; unique in the store.")
    description: str | None = strawberry.field(description="Plain-text description: the text of `descriptionHtml`.")
    description_html: HTML | None = strawberry.field(
        description="Formatted description; null without a description, or if it has not been written since descriptions have a "
        "format."
    )
    vendor: str | None = strawberry.field(description="Manufacturer or brand.")
    product_type: str | None = strawberry.field(description='Kind of product: "Shirt".')
    price: Decimal = strawberry.field(
        description="Price of the cheapest available variant, or of the cheapest one if none is available."
    )
    compare_at_price: Decimal | None = strawberry.field(
        description="Price before a reduction, of the variant that `price` is from, and never below `price`; null if it is not "
        "reduced."
    )
    currency: CurrencyCode = batch_field(load_currencies, description="Currency of the prices of this product.")
    images: list[str] = strawberry.field(description="URLs of the images in display order.")
    category: str | None = strawberry.field(description='Category of the product; may be a path: "Clothing > Shirts".')
    tags: list[str] = strawberry.field(description="Tags.")
    inventory: int | None = strawberry.field(
        description="Units in stock over all variants; null if that of one of them is not tracked."
    )
    total_inventory: int = strawberry.field(description="Units in stock over all variants whose stock is tracked.")
    track_inventory: bool = strawberry.field(description="Whether stock is tracked. If not, the product never runs out.")
    in_stock: bool = strawberry.field(description="Whether any variant can be bought now.")
    seo_title: str | None = strawberry.field(description="Title for search engines; null to use `title`.")
    seo_description: str | None = strawberry.field(description="Description for search engines; null to use `description`.")
    gift_card: bool = strawberry.field(description="Whether the product is a gift card.")
    status: ProductStatus = strawberry.field(description="Status. Shoppers see active products only.")
    published_at: datetime | None = strawberry.field(
        description="When the product became active for the first time; null if it never was."
    )
    popularity: int = strawberry.field(
        description="Popularity score: product clicks of the last 30 days plus five times the additions to carts. Updated every "
        "few minutes."
    )
    version: int = strawberry.field(
        description="Increases by one with each change of the product itself, its options or the set of its variants."
    )
    created_at: datetime = strawberry.field(description="When the product was created.")
    updated_at: datetime = strawberry.field(description="When the product was last changed.")

    @strawberry.field(
        description="Lowest and highest price of the available variants, or of all if none is available.",
        metadata=requires_columns(*fields.PRICE_RANGE_COLUMNS),
    )
    def price_range(self) -> PriceRange:
        row = as_row(self, ProductRow)
        return PriceRange(config_id=row.config_id, min=Decimal(row.price), max=Decimal(row.max_price))

    @strawberry.field(
        description="The category and those above it, top level first.",
        metadata=requires_columns("category", "config_id") | costs(size=3),
    )
    def breadcrumbs(self) -> list[Category]:
        row = as_row(self, ProductRow)
        return list_categories_of_names(row.config_id, split_category(row.category or ""))

    config: Config = batch_field(
        build_reference_batch(loaders.load_configs, attrgetter("config_id"), "store"),
        description="The store that sells the product.",
    )

    options: list[ProductOption] = batch_field(
        _load_options,
        description="What shoppers choose between, such as size and colour, in display order. Empty without options.",
        metadata=requires_columns("options", "images", "image_alts", "config_id") | costs(size=3),
    )

    variants: "ProductVariantConnection" = batch_field(
        _load_variants,
        description="Variants in the order of the product. Shoppers see available variants only.",
        metadata=requires_columns(*fields.VARIANT_COUNT_COLUMNS) | costs(size=DEFAULT_VARIANTS, max_size=MAX_VARIANTS_PER_PAGE),
    )

    variant: "ProductVariant | None" = batch_field(
        _load_variant, description="A variant of this product; null if it does not exist or is not visible."
    )

    gallery: list[Image] = batch_field(
        load_gallery,
        description="Images in display order, with sizes, alternative texts and URLs of any size.",
        metadata=requires_columns("images", "image_alts", "config_id"),
    )

    featured_image: Image | None = batch_field(
        load_featured_images,
        description="First image; null without images.",
        metadata=requires_columns("images", "image_alts", "config_id"),
    )

    reviews: "ReviewConnection" = batch_field(
        _load_reviews,
        description="Published reviews, newest first.",
        metadata=requires_columns("rating_counts") | costs(size=DEFAULT_REVIEWS),
    )

    @strawberry.field(
        description="Number and average of the published reviews.", metadata=requires_columns(*fields.REVIEW_SUMMARY_COLUMNS)
    )
    def review_summary(self) -> ReviewSummary:
        return _build_review_summary(as_row(self, ProductRow))

    viewer_review: "Review | None" = batch_field(
        _load_viewer_reviews,
        description="The viewer's own review, whatever its status; null if there is none.",
        metadata=PERSONAL,
    )

    analytics: ProductAnalytics | None = batch_field(
        _load_product_analytics, description="Figures of this product. Owner only; null for others.", metadata=costs(50)
    )

    related: "list[Product]" = batch_field(
        _load_related, description="Related products: same category first, then shared tags, then popularity.", metadata=costs(20)
    )


@strawberry.type(description="A search to offer while a shopper is typing.")
class SearchSuggestion:
    text: str = strawberry.field(description="Text of the search.")


@strawberry.type(description="Results to show while a shopper is typing.")
class PredictiveSearchResult:
    scope: strawberry.Private[StoreScope]
    matches: strawberry.Private[TitleMatches]
    selection: strawberry.Private[Selection]
    limit: strawberry.Private[int]

    @strawberry.field(description="Searches to offer: titles, those of the most popular products first.", metadata=costs(size=8))
    def suggestions(self) -> list[SearchSuggestion]:
        return [SearchSuggestion(text=title) for title in self.matches.titles]

    @strawberry.field(
        description="Products whose titles have the words, of which the last may be a beginning; the most popular first.",
        metadata=costs(size=8),
    )
    async def products(self, info: Info) -> list[Product]:
        keys = [RowKey(self.scope.config_id, id_) for id_ in self.matches.ids]
        rows = await info.context.load_many(loaders.load_products, keys)
        return cast(list[Product], [row for row in rows if row is not None])

    @strawberry.field(
        description="Categories whose names have the words, of which the last may be a beginning; most products first.",
        metadata=costs(size=8),
    )
    async def categories(self, info: Info) -> list[Category]:
        load = info.context.load
        found = await load(loaders.search_config_categories, self.scope, self.selection, self.limit)
        return [Category(config_id=self.scope.config_id, names=names) for names in found]

    @strawberry.field(description="The search that was run instead, if the words as typed found nothing.")
    def corrected_search(self) -> str | None:
        return self.scope.corrected_search.text if self.scope.corrected_search else None

    @strawberry.field(description=DID_YOU_MEAN_DESCRIPTION)
    def did_you_mean(self) -> str | None:
        return self.scope.offered_search.text if self.scope.offered_search else None


@strawberry.type(description="A weight.")
class Weight:
    value: Decimal = strawberry.field(description="Amount, in `unit`.")
    unit: WeightUnit = strawberry.field(description="Unit of `value`.")


@strawberry.type(description="A version of a product that can be bought, identified within the product by its attributes.")
class ProductVariant(Node):
    name: str = strawberry.field(description='Name shown to shoppers: "S / Red".')
    price: Decimal = strawberry.field(description=PRICE_DESCRIPTION)
    compare_at_price: Decimal | None = strawberry.field(description="Price before a reduction. Always higher than `price`.")
    currency: CurrencyCode = strawberry.field(description="Currency of the prices of this variant.")
    inventory: int | None = strawberry.field(
        description="Units in stock; null if not tracked. Negative while more has been sold than there was, "
        "which `inventoryPolicy` has to allow."
    )
    inventory_policy: InventoryPolicy = strawberry.field(description=INVENTORY_POLICY_DESCRIPTION)
    sku: str | None = strawberry.field(description="Stock keeping unit; the owner's article number.")
    barcode: str | None = strawberry.field(description="Barcode, such as an EAN, UPC or ISBN.")
    taxable: bool = strawberry.field(description=TAXABLE_DESCRIPTION)
    requires_shipping: bool = strawberry.field(description=REQUIRES_SHIPPING_DESCRIPTION)
    # Statements select it for the owner only.
    cost: Decimal | None = strawberry.field(description="What one unit costs the owner. Owner only; null for others.")
    is_available: bool = strawberry.field(description=IS_AVAILABLE_DESCRIPTION)
    in_stock: bool = strawberry.field(description="Whether the variant can be bought now.")
    position: int = strawberry.field(
        description="Place among the variants of the product, in ascending order; not always adjacent."
    )
    version: int = strawberry.field(description="Increases by one with each change.")
    created_at: datetime = strawberry.field(description="When the variant was created.")
    updated_at: datetime = strawberry.field(description="When the variant was last changed.")

    @strawberry.field(description="Shipping weight.", metadata=requires_columns("weight"))
    def weight(self) -> Weight | None:
        weight = as_row(self, VariantRow).weight
        return Weight(value=Decimal(weight["value"]), unit=WeightUnit(weight["unit"])) if weight else None

    @strawberry.field(
        description="Value of each option of the product; unique within it.",
        metadata=requires_columns("attributes") | costs(size=3),
    )
    def attributes(self) -> list[VariantAttribute]:
        row = as_row(self, VariantRow)
        return [_make_attribute_row((name, value, row)) for name, value in row.attributes.items()]

    image: Image | None = batch_field(
        load_variant_images,
        description="Image of this variant; null to show the product's.",
        metadata=requires_columns("image", "image_alt", "config_id"),
    )

    product: Product = batch_field(
        build_reference_batch(loaders.load_products, make_key_getter("product_id"), "product"), description="The product."
    )


@strawberry.type(description="A review of a product.")
class Review(Node):
    rating: int = strawberry.field(description="Stars, 1 to 5.")
    title: str | None = strawberry.field(description="Headline.")
    body: str | None = strawberry.field(description="Text.")
    status: ReviewStatus = strawberry.field(
        description="Status of the review; always PUBLISHED for viewers other than its author and the owner of the store."
    )
    moderation_note: str | None = strawberry.field(description="Why the review is hidden, for its author; null otherwise.")
    reply: str | None = strawberry.field(description="Public reply of the store's owner.")
    replied_at: datetime | None = strawberry.field(description="When the reply was written or last changed.")
    version: int = strawberry.field(description="Increases by one with each change.")
    created_at: datetime = strawberry.field(description="When the review was written.")
    updated_at: datetime = strawberry.field(description="When the review was last changed.")

    user: User | None = batch_field(
        build_optional_reference_batch(loaders.load_users, attrgetter("user_id")),
        description="The author; null if the account is gone.",
        metadata=requires_columns("user_id"),
    )

    product: Product = batch_field(
        build_reference_batch(loaders.load_products, make_key_getter("product_id"), "product"), description="The product."
    )


@strawberry.type(description="A page of stores.")
class ConfigConnection(Connection[Config]):
    pass


@strawberry.type(description="A page of variants.")
class ProductVariantConnection(Connection[ProductVariant]):
    pass


@strawberry.type(description="A page of reviews.")
class ReviewConnection(Connection[Review]):
    pass


class StoreState(NamedTuple):
    """A store at the moment before its list is read: the log position, if it is selected, or the error that the field raises.

    `facet_snapshot`: what facets are counted by; None: in SQL.
    """

    position: int | Exception | None
    facet_snapshot: FacetSnapshot | None


@strawberry.type(description="A page of products.")
class ProductConnection(Connection[Product]):
    listing_result: strawberry.Private[ScopedPage]
    selection: strawberry.Private[Selection]
    store_state: strawberry.Private[StoreState]

    @strawberry.field(
        description="Log position that this page is at least as new as. Pass it as `after` to `productFeed` to miss nothing."
    )
    def position(self) -> Position:
        position = self.store_state.position
        if isinstance(position, Exception):
            raise position
        return cast(Position, position)

    @strawberry.field(description="Numbers of products for each further choice, counted only when selected.")
    def facets(self) -> ProductFacets:
        return ProductFacets(
            listing_result=self.listing_result, selection=self.selection, snapshot=self.store_state.facet_snapshot
        )

    @strawberry.field(description="What was searched for instead, where the words as typed find nothing.")
    def corrected_search(self) -> str | None:
        corrected = self.listing_result.scope.corrected_search
        return corrected.text if corrected else None

    @strawberry.field(description=DID_YOU_MEAN_DESCRIPTION)
    def did_you_mean(self) -> str | None:
        offered = self.listing_result.scope.offered_search
        return offered.text if offered else None


async def load_product_connection(info: Info, config_id: str, listing: Listing) -> ProductConnection:
    """A page of one store's products, batched with those of other fields."""
    completed_listing = _complete_listing(info, listing)
    [state] = await _load_selected_states(info, [config_id])
    result = await info.context.load(loaders.load_product_pages, StoreScope(config_id), completed_listing)
    return _build_product_connection(info, result, completed_listing, state)


async def _load_selected_states(info: Info, config_ids: Sequence[str]) -> Sequence[StoreState]:
    """The states of stores that a connection's `position` and `facets` need, as far as these are selected.

    They are read before the lists, so that a list has every change up to its position, and perhaps later ones. Facets of an index
    are those at that very position.
    """
    selected_names = get_selected_names(info, "ProductConnection")
    snapshots: Sequence[FacetSnapshot | None] = [None] * len(config_ids)
    if selected_names is not None and "facets" in selected_names:
        # Where the database fails, the list says so.
        with suppress(*DATABASE_ERRORS):
            snapshots = await info.context.load_many(loaders.load_facet_snapshots, config_ids)
    positions: dict[str, int | Exception] = {}
    # None: the reference executor does not know them.
    if selected_names is None or "position" in selected_names:
        missing = [config_id for config_id, snapshot in zip(config_ids, snapshots, strict=True) if snapshot is None]
        try:
            found = await info.context.load_many(loaders.load_config_positions, missing) if missing else []
            positions.update(zip(missing, found, strict=True))
        except Exception as error:
            positions.update(dict.fromkeys(missing, error))
    return [
        StoreState(positions.get(config_id) if snapshot is None else snapshot.position, snapshot)
        for config_id, snapshot in zip(config_ids, snapshots, strict=True)
    ]


def _complete_listing(info: Info, listing: Listing) -> Listing:
    is_counted = "total_count" in (get_selected_names(info, "ProductConnection") or ())
    document = build_nodes_document(info, is_owner=listing.selection.audience is Audience.OWNER)
    return replace(listing, columns=get_selected_columns(info, Product), document=document, with_total=is_counted)


def _build_product_connection(
    info: Info, listing_result: ScopedPage, listing: Listing, store_state: StoreState
) -> ProductConnection:
    selection, rows = listing.selection, listing_result.page.rows

    async def count_products() -> int:
        totals = (
            [rows[0].total]
            if listing.with_total and rows
            else [await info.context.load(loaders.count_config_products, listing_result.scope, selection)]
        )
        return int(totals[0])

    return ProductConnection(
        page=listing_result.page,
        count=count_products,
        listing_result=listing_result,
        selection=selection,
        store_state=store_state,
    )
