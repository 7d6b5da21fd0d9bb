"""Every edge between nouns: how it is loaded for many parents at once, one declaration each."""

from collections.abc import Sequence

from storefront.core.db.database import Row
from storefront.graph.context import Context
from storefront.queries import (
    analytics,
    configs,
    facets,
    images,
    jobs,
    listing,
    products,
    related,
    reviews,
    users,
    variants,
    webhooks,
)
from storefront.queries.analytics import Counts, Point, Span
from storefront.queries.json_sql import Document
from storefront.queries.keyset import Page, Window
from storefront.queries.listing import Found, Listing, Scope, Selection
from storefront.queries.projection import Wanted


async def user(context: Context, keys: Sequence[str]) -> list[Row | None]:
    """Users by id."""
    return await users.by_ids(context.reads, keys)


async def config(context: Context, keys: Sequence[str]) -> list[Row | None]:
    """Visible stores by id."""
    return await configs.by_ids(context.reads, keys, [*context.owned])


async def product(context: Context, keys: Sequence[str]) -> list[Row | None]:
    """Visible products by id."""
    return await products.by_ids(context.reads, keys, [*context.owned])


async def product_document(context: Context, keys: Sequence[str], document: Document) -> list[Row | None]:
    """Visible products by id, as documents."""
    return await products.by_ids(context.reads, keys, [*context.owned], document)


async def position_of_config(context: Context, keys: Sequence[str]) -> list[int]:
    """How far each store's log has come."""
    return await configs.positions_of(context.reads, keys)


async def configs_of_user(context: Context, keys: Sequence[str], window: Window) -> list[Page]:
    """Each user's visible stores."""
    return await configs.of_users(context.reads, keys, window, [*context.owned])


async def config_count_of_user(context: Context, keys: Sequence[str]) -> list[int]:
    """How many visible stores each user has."""
    return await configs.counts_of_users(context.reads, keys, [*context.owned])


async def products_of_config(context: Context, keys: Sequence[str], list_: Listing) -> list[Found]:
    """A page of each store's products."""
    return await context.vocabularies.pages(context.reads, [Scope(key) for key in keys], list_, context.corrections)


async def product_count_of_config(context: Context, keys: Sequence[Scope], selection: Selection) -> list[int]:
    """How many products each scope has."""
    return await listing.counts(context.reads, keys, selection)


async def facet_of_config(context: Context, keys: Sequence[Scope], facet: str, selection: Selection) -> list[list[Row]]:
    """The rows of one facet of each scope."""
    return await facets.values(context.reads, facet, keys, selection)


async def variants_of_product(
    context: Context, keys: Sequence[str], limit: int, available_only: bool, columns: Wanted
) -> list[list[Row]]:
    """The first variants of each product."""
    return await variants.of_products(context.reads, keys, limit, available_only, columns)


async def variant_of_product(context: Context, keys: Sequence[str], wanted: str, available_only: bool) -> list[Row | None]:
    """The variant of each product that has all the attributes wanted."""
    return await variants.by_attributes(context.reads, keys, wanted, available_only)


async def reviews_of_product(context: Context, keys: Sequence[str], window: Window, columns: Wanted) -> list[Page]:
    """A page of each product's reviews."""
    return await reviews.of_products(context.reads, keys, window, columns)


async def related_to_product(context: Context, keys: Sequence[str], limit: int) -> list[list[Row]]:
    """What goes with each product."""
    return await related.related(context.reads, keys, limit)


async def issues_of_job(context: Context, keys: Sequence[str], window: Window) -> list[Page]:
    """A page of what each job left out."""
    return await jobs.issues_of(context.database, keys, window)


async def issue_count_of_job(context: Context, keys: Sequence[str]) -> list[int]:
    """How much is kept of what each job left out."""
    return await jobs.issue_counts_of(context.database, keys)


async def image(context: Context, keys: Sequence[str]) -> list[Row | None]:
    """Pictures by id."""
    return await images.by_ids(context.reads, keys)


async def figures_of_config(context: Context, keys: Sequence[str], span: Span) -> list[Counts]:
    """Each store's events, counted."""
    return await analytics.figures(context.reads, keys, span)


async def series_of_config(context: Context, keys: Sequence[str], span: Span, interval: str, zone: str) -> list[list[Point]]:
    """Each store's events, counted interval by interval."""
    return await analytics.series(context.reads, keys, span, interval, zone)


async def top_products_of_config(context: Context, keys: Sequence[str], span: Span, limit: int) -> list[list[Row]]:
    """The products of each store that were looked at most."""
    return await analytics.top_products(context.reads, keys, span, limit)


async def sources_of_config(context: Context, keys: Sequence[str], span: Span) -> list[list[Row]]:
    """Where the events of each store came from."""
    return await analytics.sources(context.reads, keys, span)


async def pending_of_webhook(context: Context, keys: Sequence[str]) -> list[int]:
    """How many deliveries of each webhook wait."""
    return await webhooks.pending_of(context.reads, keys)


async def deliveries_of_webhook(context: Context, keys: Sequence[str], window: Window, state: str | None) -> list[Page]:
    """What each webhook was told."""
    return await webhooks.deliveries_of(context.reads, keys, window, state)


async def delivery_count_of_webhook(context: Context, keys: Sequence[str], state: str | None) -> list[int]:
    """How much each webhook was told."""
    return await webhooks.count_of(context.reads, keys, state)
