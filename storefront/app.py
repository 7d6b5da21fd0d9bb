"""The Starlette application: routes, and what is open while they are served. Wiring, no logic."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.analytics.commands import refresh_popularity
from storefront.core.database import Database
from storefront.core.errors import Unauthenticated
from storefront.core.settings import Settings, settings
from storefront.core.tokens import verify
from storefront.graph.context import Context, Viewer
from storefront.queries import configs
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Scope, Selection, pages
from storefront.queries.visibility import Audience
from storefront.queries.vocabulary import Vocabularies
from storefront.schema import schema
from storefront.serving.graphiql import page as graphiql
from storefront.serving.http import endpoint
from storefront.serving.operations import Operations
from storefront.users.commands import sign_in

log = logging.getLogger("storefront")

EXAMPLES = graphiql.load_examples(Path(__file__).parent / "examples")


def create_app(chosen: Settings | None = None) -> Starlette:
    """The application for these settings, or those of the environment."""
    options = chosen or settings()
    if options.database_url is None:
        raise RuntimeError("Set STOREFRONT_DATABASE_URL, or start with `storefront serve`, which brings a Postgres of its own.")
    url, secret = options.database_url.get_secret_value(), options.signing_secret()
    database = Database(url, size=options.pool_size, statement_timeout=options.statement_timeout)
    vocabularies = Vocabularies()

    async def make_context(request: Request) -> Context:
        return Context(database, vocabularies, await _viewer(request, database, secret))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database, _periodically(database, options.popularity_interval):
            yield

    async def page(_: Request) -> Response:
        return graphiql.page(EXAMPLES, await _shown(database), title="storefront")

    operations = Operations(schema._schema, schema.execution_context_class)
    handler = endpoint(operations, make_context, page if options.graphiql else None)
    routes: list[BaseRoute] = [
        Route("/graphql", handler, methods=["GET", "POST"]),
        Route("/", RedirectResponse("/graphql")),
    ]
    app = Starlette(routes=routes + (graphiql.graphiql_routes() if options.graphiql else []), lifespan=lifespan)
    app.state.database = database
    return app


async def _shown(database: Database) -> dict[str, str]:
    """A store and a product to fill the examples of GraphiQL in with."""
    store = await configs.busiest(database)
    if store is None:
        return {}
    favourite = Listing(Selection(Audience.SHOPPER), Order("popularity", descending=True), Window(1))
    (found,) = await pages(database, [Scope(store.id)], favourite)
    handles = [product.handle for product in found.page.rows]
    return {"__DEMO_SLUG__": store.slug, "__DEMO_CONFIG_ID__": store.id, "__DEMO_HANDLE__": "".join(handles)}


async def _viewer(request: Request, database: Database, secret: str) -> Viewer | None:
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("The header must be Authorization: Bearer <token>.")
    row = await sign_in(database, verify(token.strip(), secret))
    return Viewer(row.id, frozenset(row.owned))


@asynccontextmanager
async def _periodically(database: Database, seconds: int) -> AsyncIterator[None]:
    """Keep popularity up to date while the application runs."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await refresh_popularity(database)
            except psycopg.Error:
                log.warning("popularity was not refreshed; the next try is in %s s", seconds, exc_info=True)

    task = asyncio.create_task(repeat()) if seconds else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
