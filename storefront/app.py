"""The Starlette application: routes, and what is open while they are served. Wiring, no logic."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.analytics.commands import refresh_popularity
from storefront.commands.unit import sweep_keys
from storefront.core.database import Database
from storefront.core.errors import Forbidden, RequestError
from storefront.core.identity import Identity, identity
from storefront.core.jwks import IssuerUnreachable
from storefront.core.settings import Settings, settings
from storefront.graph.context import Context, Viewer
from storefront.queries import configs
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Scope, Selection, pages
from storefront.queries.visibility import Audience
from storefront.queries.vocabulary import Vocabularies
from storefront.schema import schema
from storefront.serving.graphiql import page as graphiql
from storefront.serving.http import HTTPError, endpoint
from storefront.serving.operations import Operations
from storefront.users.commands import sign_in

log = logging.getLogger("storefront")

HOUR = 3_600

EXAMPLES = graphiql.load_examples(Path(__file__).parent / "examples")


def create_app(chosen: Settings | None = None) -> Starlette:
    """The application for these settings, or those of the environment."""
    options = chosen or settings()
    if options.database_url is None:
        raise RuntimeError("Set STOREFRONT_DATABASE_URL, or start with `storefront serve`, which brings a Postgres of its own.")
    url, proofs = options.database_url.get_secret_value(), identity(options)
    database = Database(url, size=options.pool_size, statement_timeout=options.statement_timeout)
    vocabularies, vault = Vocabularies(), options.vault()

    async def make_context(request: Request) -> Context:
        return Context(database, vocabularies, vault, await _viewer(request, database, proofs))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database, _jobs(database, options.popularity_interval):
            yield

    async def page(_: Request) -> Response:
        return graphiql.page(EXAMPLES, await _shown(database), title="storefront")

    operations = Operations(schema._schema, schema.execution_context_class)
    handler = endpoint(operations, make_context, page if options.graphiql else None)
    routes: list[BaseRoute] = [
        Route("/graphql", handler, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
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


async def _viewer(request: Request, database: Database, proofs: Identity) -> Viewer | None:
    try:
        claims = await proofs.claims(request.headers, request.cookies)
    except (Forbidden, IssuerUnreachable) as error:
        raise _refused(error, 403 if isinstance(error, Forbidden) else 503) from None
    if claims is None:
        return None
    row = await sign_in(database, claims)
    return Viewer(row.id, frozenset(row.owned))


def _refused(error: RequestError, status: int) -> HTTPError:
    refusal = HTTPError(status, str(error))
    refusal.code = error.code
    return refusal


@asynccontextmanager
async def _jobs(database: Database, popularity_interval: int) -> AsyncIterator[None]:
    """What is to be done again and again while the application runs."""
    jobs = [_repeated(sweep_keys, database, HOUR)]
    if popularity_interval:
        jobs.append(_repeated(refresh_popularity, database, popularity_interval))
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeated(work: Callable[[Database], Awaitable[int]], database: Database, seconds: int) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work(database)
        except psycopg.Error:
            log.warning("%s failed; the next try is in %s s", work.__name__, seconds, exc_info=True)
