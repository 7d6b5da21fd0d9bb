"""The Starlette application: routes, and what is open while they are served. Wiring, no logic."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from storefront.analytics.commands import refresh_popularity
from storefront.commands.unit import sweep_keys
from storefront.core.database import Database
from storefront.core.identity import Identity, identity
from storefront.core.settings import Settings, settings
from storefront.feed.hub import Hub
from storefront.feed.log import sweep
from storefront.feed.wakeups import WakeUps
from storefront.graph.context import Context, Feed, Viewer
from storefront.queries import configs
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Scope, Selection, pages
from storefront.queries.visibility import Audience
from storefront.queries.vocabulary import Vocabularies
from storefront.schema import schema
from storefront.serving.graphiql import page as graphiql
from storefront.serving.http import Answer, endpoint
from storefront.serving.leaving import drained_on_signal
from storefront.serving.operations import Operations
from storefront.serving.websocket import Limits, Sockets
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
    hub = Hub(database, options.poll_interval)
    wakeups = WakeUps(options.wakeups_url(), hub.heard)
    vocabularies, vault, feed, going_away = Vocabularies(), options.vault(), Feed(hub, wakeups), asyncio.Event()

    async def make_context(request: HTTPConnection, headers: Mapping[str, str] | None = None) -> Context:
        viewer = await _viewer(request.headers if headers is None else headers, request.cookies, database, proofs)
        return Context(database, vocabularies, vault, feed, viewer)

    async def authenticate(websocket: WebSocket, payload: dict[str, Any]) -> Context:
        # What a client says in connection_init counts for more than what its browser sent of itself.
        said = {name.lower(): value for name, value in payload.items() if isinstance(value, str)}
        return await make_context(websocket, {**websocket.headers, **said})

    operations = Operations(schema._schema, schema.execution_context_class)
    sockets = Sockets(operations, authenticate, Limits())

    async def drain() -> None:
        going_away.set()
        await sockets.drain()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database, _jobs(database, options), hub.running(), wakeups.running():
            with drained_on_signal(drain):
                yield

    page, assets = _graphiql(options, database)
    handler = endpoint(operations, make_context, going_away, page)
    routes: list[BaseRoute] = [
        Route("/graphql", handler, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        WebSocketRoute("/graphql", sockets.serve),
        Route("/", RedirectResponse("/graphql")),
    ]
    app = Starlette(routes=routes + assets, lifespan=lifespan, middleware=_cross_origin(options))
    app.state.database = database
    return app


def _graphiql(options: Settings, database: Database) -> tuple[Answer | None, list[BaseRoute]]:
    """What browsers get, and the files that it needs."""
    if not options.graphiql:
        return None, []

    async def page(_: Request) -> Response:
        return graphiql.page(EXAMPLES, await _shown(database), title="storefront")

    return page, graphiql.graphiql_routes()


def _cross_origin(options: Settings) -> list[Middleware]:
    """Lets pages of the allowed origins read the answers, cookies included; without such origins nothing is added."""
    origins = [*options.origins()]
    allowed: dict[str, Any] = {"allow_origins": origins, "allow_credentials": True, "allow_methods": ["GET", "POST"]}
    headers = ["authorization", "content-type", "x-request-id"]
    return [Middleware(CORSMiddleware, **allowed, allow_headers=headers, expose_headers=["x-request-id"])] if origins else []


async def _shown(database: Database) -> dict[str, str]:
    """A store and a product to fill the examples of GraphiQL in with."""
    store = await configs.busiest(database)
    if store is None:
        return {}
    favourite = Listing(Selection(Audience.SHOPPER), Order("popularity", descending=True), Window(1))
    (found,) = await pages(database, [Scope(store.id)], favourite)
    handles = [product.handle for product in found.page.rows]
    return {"__DEMO_SLUG__": store.slug, "__DEMO_CONFIG_ID__": store.id, "__DEMO_HANDLE__": "".join(handles)}


async def _viewer(headers: Mapping[str, str], cookies: Mapping[str, str], database: Database, proofs: Identity) -> Viewer | None:
    claims = await proofs.claims(headers, cookies)
    if claims is None:
        return None
    row = await sign_in(database, claims)
    return Viewer(row.id, frozenset(row.owned), claims.expires)


@asynccontextmanager
async def _jobs(database: Database, options: Settings) -> AsyncIterator[None]:
    """What is to be done again and again while the application runs."""
    sweep_old = partial(sweep, days=options.log_retention_days)
    jobs = [_repeated(sweep_keys, database, HOUR), _repeated(sweep_old, database, HOUR)]
    if options.popularity_interval:
        jobs.append(_repeated(refresh_popularity, database, options.popularity_interval))
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
            log.warning("%s failed; the next try is in %s s", work, seconds, exc_info=True)
