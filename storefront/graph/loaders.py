"""Batch loaders of the data loaders: each returns one value per key, in the order of the keys."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

from storefront.core.db.database import Row
from storefront.graph.context import Context
from storefront.models.row_keys import RowKey
from storefront.models.rows import (
    ConfigRow,
    DeliveryRow,
    ImageRow,
    JobRow,
    ProductRow,
    ReviewRow,
    UserRow,
    VariantRow,
    WebhookRow,
)
from storefront.queries import (
    analytics,
    categories,
    configs,
    facets,
    images,
    jobs,
    listing,
    options,
    products,
    purchases,
    related,
    reviews,
    search_settings,
    store_lookup,
    suggestions,
    unique_keys,
    users,
    variants,
    webhooks,
)
from storefront.queries.analytics import EventCounts, EventFilter, SeriesPoint, Span
from storefront.queries.categories import CategoryKey, CategoryTree, Names
from storefront.queries.facet_index.counting import FacetSnapshot, SearchHits
from storefront.queries.facet_index.statements import load_search_hits as load_hit_rows
from storefront.queries.json_sql import JsonDocument
from storefront.queries.keyset import Page, Window
from storefront.queries.listing import Listing, ScopedPage, Selection, StoreScope
from storefront.queries.options import OptionMatches, ProductSwatches
from storefront.queries.projection import RequestedColumns
from storefront.queries.purchases import ProductFigures, ProductPoint, RevenueSum
from storefront.queries.store_lookup import Location
from storefront.queries.suggestions import TitleMatches
from storefront.queries.variants import AmbiguousSku
from storefront.queries.visibility import Audience

R = TypeVar("R")


async def load_users(context: Context, keys: Sequence[str]) -> list[UserRow | None]:
    """Users by id."""
    return await users.load_users_by_ids(context.read_database, keys)


async def load_configs(context: Context, keys: Sequence[str]) -> list[ConfigRow | None]:
    """Visible stores by id."""
    return await configs.load_stores_by_ids(context.read_database, keys, [*context.owned_store_ids])


async def load_products(context: Context, keys: Sequence[RowKey]) -> list[ProductRow | None]:
    """Visible products by key."""
    return await products.load_products_by_keys(context.read_database, keys, [*context.owned_store_ids])


async def load_product_documents(context: Context, keys: Sequence[RowKey], document: JsonDocument) -> list[Row | None]:
    """Visible products by key, as JSON documents."""
    return await products.load_products_by_keys(context.read_database, keys, [*context.owned_store_ids], document)


async def load_config_positions(context: Context, keys: Sequence[str]) -> list[int]:
    """The log position of each store."""
    return await configs.load_log_positions(context.read_database, keys)


async def load_user_configs(context: Context, keys: Sequence[str], window: Window) -> list[Page]:
    """Each user's visible stores."""
    return await configs.load_stores_of_users(context.read_database, keys, window, [*context.owned_store_ids])


async def count_user_configs(context: Context, keys: Sequence[str]) -> list[int]:
    """The number of visible stores of each user."""
    return await configs.count_stores_of_users(context.read_database, keys, [*context.owned_store_ids])


async def load_product_pages(context: Context, keys: Sequence[StoreScope], list_: Listing) -> list[ScopedPage]:
    """A page of the products of each scope: stores, or categories."""
    load = context.vocabularies.load_pages
    return await _load_by_scope_kind(keys, lambda scopes: load(context.read_database, scopes, list_, context.corrections))


async def count_config_products(context: Context, keys: Sequence[StoreScope], selection: Selection) -> list[int]:
    """The number of products in each scope."""
    return await _load_by_scope_kind(keys, lambda scopes: listing.load_counts(context.read_database, scopes, selection))


async def load_config_facet(context: Context, keys: Sequence[StoreScope], facet: str, selection: Selection) -> list[list[Row]]:
    """The rows of one facet of each scope."""
    load = facets.load_facet_values
    return await _load_by_scope_kind(keys, lambda scopes: load(context.read_database, facet, scopes, selection))


async def load_facet_snapshots(context: Context, keys: Sequence[str]) -> list[FacetSnapshot | None]:
    """The snapshot of each store's facet index at the position of this read; None where facets are counted in SQL."""
    if (indexes := context.facet_indexes) is None:
        return [None] * len(keys)
    database, is_replica = context.read_database, context.replica is not None
    return [*await asyncio.gather(*(indexes.load_snapshot(database, key, is_replica=is_replica) for key in keys))]


async def load_search_hits(context: Context, keys: Sequence[StoreScope], selection: Selection) -> list[SearchHits]:
    """What the search finds in each scope, without filters."""
    rows = await _load_by_scope_kind(keys, lambda scopes: load_hit_rows(context.read_database, scopes, selection))
    return [SearchHits(row.log_position, row.ids or b"") for row in rows]


async def _load_by_scope_kind(
    keys: Sequence[StoreScope], load: Callable[[Sequence[StoreScope]], Awaitable[Sequence[R]]]
) -> list[R]:
    """The values of scopes, of stores and of categories in a statement each: a batch may have both."""
    groups = [[key for key in keys if (key.category is None) is is_store] for is_store in (True, False)]
    values = await asyncio.gather(*(load(group) for group in groups if group))
    value_by_key = dict(zip(chain(*groups), chain(*values), strict=True))
    return [value_by_key[key] for key in keys]


async def load_price_buckets(context: Context, keys: Sequence[StoreScope], selection: Selection, count: int) -> list[list[Row]]:
    """At most so many price ranges of each scope."""
    fractions = facets.list_fractions(count)
    load = partial(facets.load_facet_values, context.read_database, "price_buckets")
    return await _load_by_scope_kind(keys, lambda scopes: load(scopes, selection, fractions=fractions))


async def load_category_trees(context: Context, keys: Sequence[str], audience: Audience) -> list[CategoryTree]:
    """The category tree of each store."""
    return await categories.load_category_trees(context.read_database, keys, audience)


async def load_category_details(context: Context, keys: Sequence[CategoryKey]) -> list[Row | None]:
    """What owners have added to their categories."""
    return await categories.load_category_details(context.read_database, keys)


async def load_product_variants(
    context: Context,
    keys: Sequence[RowKey],
    window: Window,
    sort: str,
    available_only: bool,
    is_owner: bool,
    columns: RequestedColumns,
) -> list[Page]:
    """A page of each product's variants."""
    database = context.read_database
    return await variants.load_variants_of_products(database, keys, window, sort, available_only, columns, is_owner=is_owner)


async def load_product_variant(
    context: Context, keys: Sequence[RowKey], lookup_name: str, value: str, is_owner: bool
) -> list[VariantRow | None]:
    """The variant of each product with this `id`, `sku` or these `attributes`."""
    return await variants.load_variant_of_products(context.read_database, keys, lookup_name, value, is_owner=is_owner)


async def load_option_matches(context: Context, keys: Sequence[RowKey], selected: str) -> list[OptionMatches]:
    """The option values of each product that offered variants have, given selected values (JSON) of other options."""
    return await options.load_option_matches(context.read_database, keys, selected)


async def load_swatches(context: Context, keys: Sequence[RowKey]) -> list[ProductSwatches | None]:
    """The swatches of each product."""
    return await options.load_swatches(context.read_database, keys)


async def load_config_variants(context: Context, keys: Sequence[str], sku: str, limit: int) -> list[list[VariantRow]]:
    """The visible variants of each store with this SKU."""
    return await variants.load_variants_by_sku(context.read_database, keys, sku, [*context.owned_store_ids], limit)


async def load_variants(context: Context, keys: Sequence[RowKey]) -> list[VariantRow | None]:
    """Visible variants by key."""
    return await variants.load_visible_variants(context.read_database, keys, [*context.owned_store_ids])


async def load_reviews(context: Context, keys: Sequence[RowKey]) -> list[ReviewRow | None]:
    """Reviews by key: published ones of visible products, the viewer's own, and those in stores of the viewer."""
    return await reviews.load_visible_reviews(context.read_database, keys, context.viewer_id, [*context.owned_store_ids])


async def load_viewer_reviews(context: Context, keys: Sequence[RowKey]) -> list[ReviewRow | None]:
    """The viewer's review of each product, whatever its status; None for anonymous viewers."""
    if context.viewer_id is None:
        return [None] * len(keys)
    return await reviews.load_reviews_by_user(context.read_database, keys, context.viewer_id)


async def load_locations(context: Context, keys: Sequence[str]) -> list[Location | None]:
    """The store and the object type of each id, whether or not the object is visible."""
    locations = await store_lookup.locate_rows(context.read_database, keys)
    return [locations.get(key) for key in keys]


async def find_row_key(context: Context, id_: str) -> RowKey | None:
    """The key of the row of a store with this id, whether or not it is visible."""
    if (key := store_lookup.get_known_key(id_)) is None:
        await context.load(load_locations, id_)
        key = store_lookup.get_known_key(id_)
    return key


async def load_ids_by_unique_key(context: Context, keys: Sequence[tuple[str, ...]], constraint: str) -> list[str | None]:
    """The id of the row with each unique key, whether or not it is visible."""
    return await unique_keys.find_ids_by_unique_keys(context.database, keys, constraint)


async def load_config_product(
    context: Context, keys: Sequence[str], lookup_name: str, value: str, document: JsonDocument | None
) -> list[ProductRow | AmbiguousSku | None]:
    """The visible product of each store with this `id`, `handle` or `sku`, or its error."""
    owned = [*context.owned_store_ids]
    return await products.load_product_of_stores(context.read_database, keys, lookup_name, value, owned, document)


async def load_config_title_matches(
    context: Context, keys: Sequence[StoreScope], selection: Selection, limit: int
) -> list[TitleMatches]:
    """The products and titles of each scope that match the words typed so far."""
    return await suggestions.load_title_matches(context.read_database, keys, selection, limit)


async def search_config_categories(
    context: Context, keys: Sequence[StoreScope], selection: Selection, limit: int
) -> list[list[Names]]:
    """The names of the categories of each scope that match the words typed so far."""
    return await categories.search_categories(context.read_database, keys, selection, limit)


async def load_product_reviews(
    context: Context, keys: Sequence[RowKey], window: Window, columns: RequestedColumns, rating: int | None
) -> list[Page]:
    """A page of each product's reviews, of all or with this number of stars."""
    return await reviews.load_reviews_of_products(context.read_database, keys, window, columns, rating)


async def load_config_reviews(
    context: Context,
    keys: Sequence[str],
    window: Window,
    columns: RequestedColumns,
    audience: Audience,
    statuses: tuple[str, ...] | None,
) -> list[Page]:
    """A page of each store's reviews: the published ones of visible products, or for owners those with these statuses."""
    return await reviews.load_reviews_of_stores(context.read_database, keys, window, columns, audience, statuses)


async def count_config_reviews(
    context: Context, keys: Sequence[str], audience: Audience, statuses: tuple[str, ...] | None
) -> list[int]:
    """The number of reviews in each of the lists of `load_config_reviews`."""
    return await reviews.count_reviews_of_stores(context.read_database, keys, audience, statuses)


async def load_related_products(context: Context, keys: Sequence[RowKey], limit: int) -> list[list[ProductRow]]:
    """The related products of each product."""
    return await related.load_related_products(context.read_database, keys, limit)


async def load_config_jobs(context: Context, keys: Sequence[str], window: Window, kinds: Sequence[str] | None) -> list[Page]:
    """A page of each store's jobs, of some kinds or (None) of all. The caller checks that the viewer owns the stores."""
    return await jobs.load_jobs_of_stores(context.database, keys, window, kinds)


async def count_config_jobs(context: Context, keys: Sequence[str], kinds: Sequence[str] | None) -> list[int]:
    """The number of jobs of each store, of some kinds or (None) of all."""
    return await jobs.count_jobs_of_stores(context.database, keys, kinds)


async def load_job_issues(context: Context, keys: Sequence[RowKey], window: Window) -> list[Page]:
    """A page of each job's issues."""
    return await jobs.load_issues_of_jobs(context.database, keys, window)


async def count_job_issues(context: Context, keys: Sequence[RowKey]) -> list[int]:
    """The number of stored issues of each job."""
    return await jobs.count_issues_of_jobs(context.database, keys)


async def load_job_changes(context: Context, keys: Sequence[RowKey], window: Window) -> list[Page]:
    """A page of what each job would change."""
    return await jobs.load_changes_of_jobs(context.database, keys, window)


async def count_job_changes(context: Context, keys: Sequence[RowKey]) -> list[int]:
    """The number of stored changes of each job."""
    return await jobs.count_changes_of_jobs(context.database, keys)


async def load_images(context: Context, keys: Sequence[RowKey]) -> list[ImageRow | None]:
    """Images by key."""
    return await images.load_images_by_keys(context.read_database, keys)


async def load_config_event_counts(context: Context, keys: Sequence[str], span: Span) -> list[EventCounts]:
    """The event counts of each store."""
    return await analytics.load_figures(context.read_database, keys, span)


async def load_config_event_series(
    context: Context, keys: Sequence[str], span: Span, interval: str, zone: str
) -> list[list[SeriesPoint]]:
    """The event counts of each store, per interval."""
    return await analytics.load_series(context.read_database, keys, span, interval, zone)


async def load_config_top_products(context: Context, keys: Sequence[str], span: Span, limit: int) -> list[list[Row]]:
    """The most clicked products of each store."""
    return await analytics.load_top_products(context.read_database, keys, span, limit)


async def load_config_revenue(context: Context, keys: Sequence[str], span: Span) -> list[list[RevenueSum]]:
    """The revenue of each store by currency."""
    return await purchases.load_revenue_of_stores(context.read_database, keys, span)


async def load_product_figures(context: Context, keys: Sequence[RowKey], span: Span) -> list[ProductFigures]:
    """The figures of each product."""
    return await purchases.load_product_figures(context.read_database, keys, span)


async def load_product_series(
    context: Context, keys: Sequence[RowKey], span: Span, interval: str, zone: str
) -> list[list[ProductPoint]]:
    """The event counts of each product, per interval."""
    return await purchases.load_product_series(context.read_database, keys, span, interval, zone)


async def load_config_events(context: Context, keys: Sequence[str], event_filter: EventFilter, window: Window) -> list[Page]:
    """A page of each store's events."""
    return await analytics.load_events_of_stores(context.read_database, keys, event_filter, window)


async def count_config_events(context: Context, keys: Sequence[str], event_filter: EventFilter) -> list[int]:
    """The number of events of each store."""
    return await analytics.count_events_of_stores(context.read_database, keys, event_filter)


async def load_config_sources(context: Context, keys: Sequence[str], span: Span) -> list[list[Row]]:
    """The traffic sources of each store."""
    return await analytics.load_sources(context.read_database, keys, span)


async def load_webhooks(context: Context, keys: Sequence[RowKey]) -> list[WebhookRow | None]:
    """Webhooks by key, of stores that the viewer owns."""
    return await _load_of_owned_stores(context, keys, partial(webhooks.load_webhooks_by_keys, context.read_database))


async def load_deliveries(context: Context, keys: Sequence[RowKey]) -> list[DeliveryRow | None]:
    """Deliveries by key, of webhooks of stores that the viewer owns."""
    return await _load_of_owned_stores(context, keys, partial(webhooks.load_deliveries_by_keys, context.read_database))


async def load_jobs(context: Context, keys: Sequence[RowKey]) -> list[JobRow | None]:
    """Jobs by key, of stores that the viewer owns."""
    return await _load_of_owned_stores(context, keys, partial(jobs.load_jobs_by_keys, context.database))


async def _load_of_owned_stores(
    context: Context, keys: Sequence[RowKey], load: Callable[[Sequence[RowKey]], Awaitable[Sequence[R | None]]]
) -> list[R | None]:
    """The rows of the keys; None for those of the stores of others, which are not read."""
    owned_keys = [key for key in keys if key.config_id in context.owned_store_ids]
    rows_by_key = dict(zip(owned_keys, await load(owned_keys), strict=True)) if owned_keys else {}
    return [rows_by_key.get(key) for key in keys]


async def load_config_webhooks(context: Context, keys: Sequence[str]) -> list[list[Row]]:
    """The webhooks of each store. The caller checks that the viewer owns the stores."""
    return await webhooks.load_webhooks_of_stores(context.read_database, keys)


async def load_config_synonyms(context: Context, keys: Sequence[str]) -> list[list[list[str]]]:
    """The lists of synonyms of each store. The caller checks that the viewer owns the stores."""
    return await search_settings.load_synonyms(context.read_database, keys)


async def count_pending_deliveries(context: Context, keys: Sequence[RowKey]) -> list[int]:
    """The number of pending deliveries of each webhook."""
    return await webhooks.count_pending_deliveries(context.read_database, keys)


async def load_webhook_deliveries(context: Context, keys: Sequence[RowKey], window: Window, state: str | None) -> list[Page]:
    """A page of each webhook's deliveries."""
    return await webhooks.load_deliveries(context.read_database, keys, window, state)


async def count_webhook_deliveries(context: Context, keys: Sequence[RowKey], state: str | None) -> list[int]:
    """The number of deliveries of each webhook."""
    return await webhooks.count_deliveries(context.read_database, keys, state)
