"""The Starlette application: routes, and what is open while they are served. Wiring, no logic."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from hashlib import blake2b, sha256
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope
from starlette.websockets import WebSocket
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from storefront import observability
from storefront.analytics import beacon
from storefront.analytics.commands import refresh_popularity, sweep_event_ids
from storefront.analytics.dashboard import page as dashboard
from storefront.analytics.rollups import keep_months, roll_up
from storefront.core import logs
from storefront.core.auth import csrf
from storefront.core.auth.identity import Identity, identity
from storefront.core.build_id import fingerprint
from storefront.core.db.database import FAILURES, Database
from storefront.core.errors import Unauthenticated
from storefront.core.image_processing import Pictures
from storefront.core.memory import settle
from storefront.core.net.client_info import Sender
from storefront.core.net.network_policy import Networks
from storefront.core.net.safe_http import Outgoing
from storefront.core.net.shopify_client import Shop
from storefront.core.settings import Settings, settings
from storefront.core.storage import factory
from storefront.core.storage.base import Objects, StorageFailed
from storefront.core.storage.disk import MOUNT, Disk
from storefront.feed.hub import Hub
from storefront.feed.log import sweep
from storefront.feed.positions import Heads, Record
from storefront.feed.pubsub import WakeUps
from storefront.graph.context import Context, Feed, Files, Outside, Viewer
from storefront.imports.job_commands import sweep_jobs
from storefront.imports.jobs import handlers
from storefront.imports.jobs.worker import Workers
from storefront.media.garbage_collection import sweep_images
from storefront.media.image_endpoint import Gallery
from storefront.queries import configs, users
from storefront.queries import images as image_addresses
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Scope, Selection, pages
from storefront.queries.spelling import Vocabularies
from storefront.queries.visibility import Audience
from storefront.schema import documents
from storefront.serving.cache.response_cache import Policy, Responses
from storefront.serving.graphiql import page as graphiql
from storefront.serving.http.endpoint import Answer, Endpoint
from storefront.serving.http.request_body import BodyLimits
from storefront.serving.http.status_codes import EDITIONS
from storefront.serving.http.storage_endpoint import routes as object_routes
from storefront.serving.http.streams import Streams
from storefront.serving.observability.health import Health
from storefront.serving.protection.load_shedding import STATE, Admission
from storefront.serving.protection.rate_limit import Door, RateLimited, Rates, caller_of
from storefront.serving.protection.revocations import Revocations
from storefront.serving.protection.security_headers import SecurityHeaders
from storefront.serving.run.operations import Capacity, Operations
from storefront.serving.server import backpressure
from storefront.serving.server.backpressure import Backpressure, WriteLimits
from storefront.serving.server.graceful_shutdown import drained_on_signal
from storefront.serving.server.http_protocol import WEBSOCKET_PATHS
from storefront.serving.websocket.connections import Limits, Sockets
from storefront.users.commands import sign_in
from storefront.webhooks.commands import sweep_deliveries
from storefront.webhooks.dispatcher import Deliverer
from storefront.webhooks.queue import Patience
from storefront.webhooks.rendering import PATIENCE as RENDERING
from storefront.webhooks.rendering import Renderer
from storefront.webhooks.sending import Means
from storefront.writes.transaction import sweep_keys

log = logging.getLogger("storefront")

# What pages of other origins may read of an answer, besides what every page may.
EXPOSED = ["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"]

HOUR, SOON = 3_600, 60

# What says for itself that it is for pages of any origin.
FOR_ALL_ORIGINS = (f"{MOUNT}/", f"{image_addresses.MOUNT}/")

# The name of the tasks that do what is to be done again and again.
JOB = "storefront job"

EXAMPLES = graphiql.load_examples(Path(__file__).parent / "examples")


def create_app(chosen: Settings | None = None) -> Starlette:
    """The application for these settings, or those of the environment."""
    options = chosen or settings()
    if options.database_url is None:
        raise RuntimeError("Set STOREFRONT_DATABASE_URL, or start with `storefront serve`, which brings a Postgres of its own.")
    logs.hide(options.secret_words())
    url, proofs = options.database_url.get_secret_value(), identity(options)
    database = _database(url, options)
    replica = _replica(options)
    hub = Hub(database, options.poll_interval)
    heads, read_heads = _heads(options, database, replica)
    wakeups = WakeUps(options.wakeups_url(), hub.heard, heads.heard)
    vocabularies, vault, feed = Vocabularies(), options.vault(), Feed(hub, wakeups)
    known = documents(options)
    watch = observability.watch(options, known)
    operations = Operations(
        known, Capacity(options.max_concurrent, options.request_timeout, options.max_response), watch.observers
    )
    files, outside = _files(options), _outside(options, operations)
    nobody = Context(database, vocabularies, vault, feed, files, replica=replica, outside=outside)
    deliverer = _deliverer(options, nobody, outside)
    wakeups.listen(deliverer.heard)
    rates = _rates(options)
    revocations = Revocations(partial(users.revoked, database), options.poll_interval)

    async def make_context(request: HTTPConnection, headers: Mapping[str, str] | None = None) -> Context:
        sender = Sender(request.headers, request.client.host if request.client else None)
        given = request.headers if headers is None else headers
        viewer = await _counted(
            rates,
            caller_of(sender.host),
            lambda: not proofs.claims_nothing(given, lambda: request.cookies),
            lambda: _viewer(given, request.cookies, database, proofs),
        )
        # Who is signed in reads where they write.
        return Context(database, vocabularies, vault, feed, files, viewer, sender, None if viewer else replica, outside=outside)

    async def authenticate(websocket: WebSocket, payload: dict[str, Any]) -> Context:
        # What a client says in connection_init counts for more than what its browser sent of itself.
        said = [value for name, value in payload.items() if name.lower() == "authorization" and isinstance(value, str)]
        # Of where it comes from only the browser may tell: a page of another site says what it likes.
        return await make_context(websocket, {**websocket.headers, **({"authorization": said[0]} if said else {})})

    limits = Limits(
        options.init_timeout,
        options.max_operations,
        options.max_sockets,
        options.max_message,
        options.max_values,
        options.max_unread_websocket,
    )
    sockets, streams = Sockets(operations, authenticate, limits, revocations, rates), Streams(revocations, options.max_sockets)

    # Some of them may have to wait for what is at work, but not long.
    unread = Backpressure(_write_limits(options))
    admission = Admission(5 * options.max_concurrent, lambda: streams.count + unread.stalled)
    folder = options.data_dir if isinstance(files.objects, Disk) else None
    health = Health(observability.checks(database, replica, hub), observability.warnings(database, folder))

    async def drain() -> None:
        streams.drain()
        unread.drain()
        await sockets.drain()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with (
            database,
            replica or nullcontext(),
            _running(
                outside.outgoing,
                files.objects,
                files.pictures,
                hub,
                heads,
                read_heads,
                wakeups,
                revocations,
                rates,
                deliverer,
                unread,
                _workers(nobody, options),
            ),
            _jobs(database, files.objects, options),
            watch.running(parts),
        ):
            with drained_on_signal(drain, health.leave, options.shutdown_delay):
                yield {STATE: admission, WEBSOCKET_PATHS: websocket_paths, backpressure.STATE: unread}

    page, assets = _graphiql(options, database)
    make_public = partial(_recorded, nobody, read_heads)
    responses = Responses(heads, make_public, partial(_is_anonymous, proofs), _policy(options))
    parts = observability.Parts(
        database,
        replica,
        hub,
        sockets,
        streams,
        known,
        responses,
        observability.Queue(database),
        deliverer,
        admission,
        unread,
        files.pictures,
    )
    edition, vary = EDITIONS[options.status_codes], ", ".join(("accept", *proofs.depends_on))
    bodies = BodyLimits(options.max_body, options.body_timeout, options.max_values)
    endpoint = Endpoint(
        operations,
        make_context,
        streams,
        page,
        responses=responses,
        vary=vary,
        most=options.max_batch,
        edition=edition,
        bodies=bodies,
        rates=rates,
    )
    routes: list[BaseRoute] = [
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", sockets.serve),
        Route("/", RedirectResponse("/graphql")),
        *health.routes(),
        *beacon.routes(database, bodies, rates),
        *dashboard.routes(),
        *Gallery(database, files.objects, files.pictures, options.max_image_bytes).routes(),
        *(object_routes(files.objects) if isinstance(files.objects, Disk) else []),
    ]
    websocket_paths = frozenset(route.path for route in routes if isinstance(route, WebSocketRoute))
    # The scheme that headers are for is known once the proxies have been heard.
    middleware = [*watch.middleware(), *_proxies(options), Middleware(SecurityHeaders), *_cross_origin(options)]
    app = Starlette(routes=routes + assets, lifespan=lifespan, middleware=middleware)
    app.state.database = database
    return app


def create_server() -> Starlette:
    """The application for a process that serves nothing else."""
    app = create_app()
    settle()
    return app


def _heads(options: Settings, database: Database, replica: Database | None) -> tuple[Heads, Heads]:
    """How far the logs have come that are written, and those that shoppers read: a replica may be behind."""
    heads = Heads(database, options.poll_interval, strict=options.cache == "strict")
    return heads, Heads(replica, options.poll_interval) if replica else heads


class Lasting(Protocol):
    """Something that is at work as long as the application is served."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Work while this lasts."""


@asynccontextmanager
async def _running(*parts: Lasting) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for part in dict.fromkeys(parts):
            await stack.enter_async_context(part.running())
        yield


def _recorded(nobody: Context, heads: Heads) -> Context:
    return nobody.recorded(Record(heads))


def _is_anonymous(proofs: Identity, request: Request) -> bool:
    return proofs.claims_nothing(request.headers, lambda: request.cookies)


def _files(options: Settings) -> Files:
    pictures = Pictures(options.max_image_pixels)
    return Files(factory.opened(options), options.max_import, pictures, options.max_image_bytes, options.base_url())


def _policy(options: Settings) -> Policy:
    secret = blake2b(fingerprint(), key=sha256(options.signing_secret().encode()).digest()).digest()
    return Policy(options.response_cache_bytes, options.cache_control(), secret)


def _workers(nobody: Context, options: Settings) -> Workers:
    """Who does imports and exports in this process."""
    stores = (nobody.database, nobody.files.objects, nobody.vault, nobody.feed.wakeups)
    shopify = (options.shopify_api_version, options.shopify_url)
    means = handlers.Means(*stores, *shopify, options.max_import_rows, options.max_import)
    return Workers(means, nobody.feed.stirs, options.job_workers, max_running_per_owner=options.jobs_per_owner, name=JOB)


def _replica(options: Settings) -> Database | None:
    url = options.database_read_url
    return _database(url.get_secret_value(), options) if url else None


def _database(url: str, options: Settings) -> Database:
    # An operation may wait for a few connections at once, and who asks is looked up before any of them is let in.
    waiting = 5 * options.max_concurrent
    return Database(
        url,
        size=options.pool_size,
        statement_timeout=options.statement_timeout,
        lock_timeout=options.lock_timeout,
        waiting=waiting,
        pool_timeout=options.pool_timeout,
        prepares={"auto": None, "on": True, "off": False}[options.prepared_statements],
    )


def _write_limits(options: Settings) -> WriteLimits:
    return WriteLimits(
        timeout=options.write_timeout,
        min_rate=options.min_write_rate,
        connection=options.max_unread_connection,
        websocket=options.max_unread_websocket,
        process=options.max_unread,
    )


def _rates(options: Settings) -> Rates:
    quotas = {
        Door.ADDRESS: options.address_rate(),
        Door.VIEWER: options.viewer_rate(),
        Door.EVENTS: options.events_rate(),
        Door.SIGN_IN: options.sign_in_rate(),
    }
    url = options.rate_limit_url
    # Nobody chose these rates, or said whether there is a proxy: what may be one, for many clients, is not held to them.
    given = {Door.ADDRESS: options.rate_limit_address, Door.EVENTS: options.rate_limit_events}
    public_only = {door for door, rate in given.items() if rate is None and options.trusted_proxies is None}
    return Rates(quotas, url.get_secret_value() if url else None, options.rate_limit_cost, public_only)


def _outside(options: Settings, operations: Operations) -> Outside:
    shop = partial(Shop, version=options.shopify_api_version, base=options.shopify_url)
    return Outside(_outgoing(options), operations, options.webhook_max_payload, shop)


def _outgoing(options: Settings) -> Outgoing:
    return Outgoing(Networks(options.networks()), plain=options.webhook_http, timeout=options.webhook_timeout)


def _deliverer(options: Settings, nobody: Context, outside: Outside) -> Deliverer:
    renderer = Renderer(outside.operations, nobody, outside.most_bytes)
    patience = Patience(options.webhook_retry, options.webhook_attempts, 3_600 * options.webhook_disable_hours)
    means = Means(renderer, outside.outgoing, nobody.vault, patience, RENDERING)
    return Deliverer(nobody.database, means, options.webhook_interval, options.webhook_concurrency)


def _graphiql(options: Settings, database: Database) -> tuple[Answer | None, list[BaseRoute]]:
    """What browsers get, and the files that it needs."""
    # With trusted documents alone there is nothing to try out.
    if not options.graphiql or options.trusted_documents == "only":
        return None, []

    async def page(_: Request) -> Response:
        return graphiql.page(EXAMPLES, await _shown(database), title="storefront")

    return page, graphiql.graphiql_routes()


def _proxies(options: Settings) -> list[Middleware]:
    """Takes the address of whoever asks from the headers of the proxies that are trusted; without any, headers tell nothing."""
    trusted = options.proxies()
    return [Middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)] if trusted else []


def _cross_origin(options: Settings) -> list[Middleware]:
    """Lets pages of the allowed origins read the answers, cookies included, and those of all others without, if they may."""
    origins = frozenset(options.origins())
    headers = ["authorization", "content-type", "x-request-id", *csrf.PREFLIGHT]
    told: dict[str, Any] = {"allow_methods": ["GET", "POST"], "allow_headers": headers, "expose_headers": EXPOSED}
    if not options.open_to_origins:
        return [Middleware(CrossOrigin, allow_origins=origins, allow_credentials=True, **told)] if origins else []
    # What comes from no page is told by one of them that its answer may differ for another origin.
    ours = {None, *origins}
    return [
        Middleware(CrossOrigin, cares=ours.__contains__, allow_origins=origins, allow_credentials=True, **told),
        Middleware(CrossOrigin, cares=lambda origin: origin not in ours, allow_origins=["*"], **told),
    ]


class CrossOrigin(CORSMiddleware):
    """Passes by the pages that it does not care for, and what says for itself that it is for pages of any origin."""

    def __init__(self, app: ASGIApp, /, cares: Callable[[str | None], bool] = lambda _: True, **told: Any) -> None:
        super().__init__(app, **told)
        self._cares = cares

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Pass a connection on."""
        origin = next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"origin"), None)
        is_open = scope["type"] == "http" and scope["path"].startswith(FOR_ALL_ORIGINS)
        is_for_us = not is_open and self._cares(origin)
        await (super().__call__ if is_for_us else self.app)(scope, receive, send)


async def _shown(database: Database) -> dict[str, str]:
    """A store and a product to fill the examples of GraphiQL in with."""
    store = await configs.busiest(database)
    if store is None:
        return {}
    favourite = Listing(Selection(Audience.SHOPPER), Order("popularity", descending=True), Window(1))
    (found,) = await pages(database, [Scope(store.id)], favourite)
    handles = [product.handle for product in found.page.rows]
    return {"__DEMO_SLUG__": store.slug, "__DEMO_CONFIG_ID__": store.id, "__DEMO_HANDLE__": "".join(handles)}


async def _counted(
    rates: Rates, caller: str | None, has_proof: Callable[[], bool], look: Callable[[], Awaitable[Viewer | None]]
) -> Viewer | None:
    """The viewer; raises RateLimited for those whose proofs failed too often."""
    try:
        rates.check(Door.SIGN_IN, caller)
        return await look()
    except RateLimited:
        if has_proof():
            raise
        return None
    except Unauthenticated:
        await rates.take(Door.SIGN_IN, caller)
        raise


async def _viewer(headers: Mapping[str, str], cookies: Mapping[str, str], database: Database, proofs: Identity) -> Viewer | None:
    claims = await proofs.claims(headers, cookies)
    if claims is None:
        return None
    row = await sign_in(database, claims)
    return Viewer(row.id, frozenset(row.owned), claims.expires, claims.issued)


@asynccontextmanager
async def _jobs(database: Database, objects: Objects, options: Settings) -> AsyncIterator[None]:
    """What is to be done again and again while the application runs."""
    sweep_old = partial(sweep, days=options.log_retention_days)
    sweep_told = partial(sweep_deliveries, days=options.webhook_log_days)
    sweeps = (sweep_keys, sweep_old, sweep_event_ids, sweep_told, partial(keep_months, days=options.event_retention_days))
    jobs = [_repeated(work, database, HOUR) for work in (*sweeps, partial(sweep_images, objects=objects))]
    days = options.job_retention_days
    jobs.append(_repeated(partial(sweep_jobs, days=days), database, HOUR))
    jobs.append(_repeated(lambda _: handlers.sweep_files(objects, days=days), database, HOUR))
    if options.rollup_interval:
        jobs.append(_repeated(roll_up, database, options.rollup_interval))
    if options.popularity_interval:
        jobs.append(_repeated(refresh_popularity, database, options.popularity_interval))
    tasks = [asyncio.create_task(job, name=JOB) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeated(work: Callable[[Database], Awaitable[int]], database: Database, seconds: float) -> None:
    # Soon after the start, because a process that is often started anew never lives to see the hour.
    await asyncio.sleep(min(seconds, SOON))
    while True:
        began = monotonic()
        try:
            await work(database)
        except (*FAILURES, StorageFailed, OSError):
            log.warning("%s failed; the next try is in %s s", work, seconds, exc_info=True)
        # What takes long is done less often, and has more to do at a time: no job has more than a fifth of the time.
        await asyncio.sleep(max(seconds, 4 * (monotonic() - began)))
