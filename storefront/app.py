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
from storefront.analytics.rollups import maintain_partitions, roll_up
from storefront.core import logs
from storefront.core.auth import csrf
from storefront.core.auth.identity import Authenticator, create_authenticator
from storefront.core.build_id import compute_build_id
from storefront.core.db.database import DATABASE_ERRORS, Database
from storefront.core.errors import Unauthenticated
from storefront.core.image_processing import ImageProcessor
from storefront.core.memory import tune_garbage_collection
from storefront.core.net.client_info import ClientInfo
from storefront.core.net.network_policy import NetworkPolicy
from storefront.core.net.safe_http import SafeHttpClient
from storefront.core.net.shopify_client import ShopifyClient
from storefront.core.settings import Settings, get_settings
from storefront.core.storage import factory
from storefront.core.storage.base import ObjectStorage, StorageError
from storefront.core.storage.disk import ROUTE_PREFIX, DiskStorage
from storefront.feed.hub import Hub
from storefront.feed.log import delete_old_entries
from storefront.feed.positions import LogPositions, ReadTracker
from storefront.feed.pubsub import PubSub
from storefront.graph.context import Context, Feed, MediaConfig, OutboundServices, Viewer
from storefront.imports.job_commands import sweep_jobs
from storefront.imports.jobs import handlers
from storefront.imports.jobs.worker import WorkerPool
from storefront.media.garbage_collection import sweep_images
from storefront.media.image_endpoint import ImageEndpoint
from storefront.queries import configs, users
from storefront.queries import images as image_addresses
from storefront.queries.keyset import Window
from storefront.queries.listing import Listing, Order, Selection, StoreScope, load_pages
from storefront.queries.spelling import SpellingCorrector
from storefront.queries.visibility import Audience
from storefront.schema import build_document_store
from storefront.serving.cache.response_cache import CachePolicy, ResponseCache
from storefront.serving.graphiql import page as graphiql
from storefront.serving.http.endpoint import GraphQLEndpoint, RequestHandler
from storefront.serving.http.request_body import BodyLimits
from storefront.serving.http.status_codes import EDITIONS
from storefront.serving.http.storage_endpoint import create_storage_routes as object_routes
from storefront.serving.http.streams import Streams
from storefront.serving.observability.health import Health
from storefront.serving.protection.load_shedding import LOAD_SHEDDER_STATE_KEY, LoadShedder
from storefront.serving.protection.rate_limit import RateLimited, RateLimiter, RateLimitScope, get_caller_key
from storefront.serving.protection.revocations import Revocations
from storefront.serving.protection.security_headers import SecurityHeadersMiddleware
from storefront.serving.run.operations import ConcurrencyLimits, Operations
from storefront.serving.server import backpressure
from storefront.serving.server.backpressure import Backpressure, WriteLimits
from storefront.serving.server.graceful_shutdown import drain_on_signal
from storefront.serving.server.http_protocol import WEBSOCKET_PATHS_STATE_KEY
from storefront.serving.websocket.connections import SocketLimits, Sockets
from storefront.users.commands import sign_in
from storefront.webhooks.commands import sweep_deliveries
from storefront.webhooks.dispatcher import Dispatcher
from storefront.webhooks.queue import RetryPolicy
from storefront.webhooks.rendering import QUERY_TIMEOUT_SECONDS as RENDERING
from storefront.webhooks.rendering import MessageRenderer
from storefront.webhooks.sending import DeliveryDependencies
from storefront.writes.transaction import delete_expired_keys

log = logging.getLogger("storefront")

# What pages of other origins may read of an answer, besides what every page may.
EXPOSED_HEADERS = ["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"]

SWEEP_INTERVAL_SECONDS, FIRST_RUN_DELAY_SECONDS = 3_600, 60

# What says for itself that it is for pages of any origin.
ANY_ORIGIN_PATH_PREFIXES = (f"{ROUTE_PREFIX}/", f"{image_addresses.MEDIA_PATH}/")

# The name of the tasks that do what is to be done again and again.
BACKGROUND_TASK_NAME = "storefront job"

GRAPHIQL_EXAMPLES = graphiql.load_examples(Path(__file__).parent / "examples")


def create_app(settings_override: Settings | None = None) -> Starlette:
    """The application for these settings, or those of the environment."""
    options = settings_override or get_settings()
    if options.database_url is None:
        raise RuntimeError("Set STOREFRONT_DATABASE_URL, or start with `storefront serve`, which brings a Postgres of its own.")
    logs.register_secrets(options.list_secret_values())
    database_url, authenticator = options.database_url.get_secret_value(), create_authenticator(options)
    database = _build_database(database_url, options)
    replica = _build_replica(options)
    hub = Hub(database, options.poll_interval)
    log_positions, read_log_positions = _build_log_positions(options, database, replica)
    wakeups = PubSub(options.pubsub_url(), hub.notify, log_positions.invalidate)
    vocabularies, vault, feed = SpellingCorrector(), options.load_vault(), Feed(hub, wakeups)
    document_store = build_document_store(options)
    server_observability = observability.build_observability(options, document_store)
    operations = Operations(
        document_store,
        ConcurrencyLimits(options.max_concurrent, options.request_timeout, options.max_response),
        server_observability.observers,
    )
    media_config, outbound = _build_media_config(options), _build_outbound_services(options, operations)
    anonymous_context = Context(database, vocabularies, vault, feed, media_config, replica=replica, outbound=outbound)
    dispatcher = _build_webhook_dispatcher(options, anonymous_context, outbound)
    wakeups.add_listener(dispatcher.notify_log_moved)
    rate_limiter = _build_rate_limiter(options)
    revocations = Revocations(partial(users.find_revoked_credentials, database), options.poll_interval)

    async def make_context(request: HTTPConnection, headers: Mapping[str, str] | None = None) -> Context:
        client_info = ClientInfo(request.headers, request.client.host if request.client else None)
        credential_headers = request.headers if headers is None else headers
        viewer = await _authenticate_with_rate_limit(
            rate_limiter,
            get_caller_key(client_info.host),
            lambda: not authenticator.has_no_credentials(credential_headers, lambda: request.cookies),
            lambda: _load_viewer(credential_headers, request.cookies, database, authenticator),
        )
        # Who is signed in reads where they write.
        return Context(
            database, vocabularies, vault, feed, media_config, viewer, client_info, None if viewer else replica, outbound=outbound
        )

    async def authenticate(websocket: WebSocket, payload: dict[str, Any]) -> Context:
        # What a client says in connection_init counts for more than what its browser sent of itself.
        authorizations = [value for name, value in payload.items() if name.lower() == "authorization" and isinstance(value, str)]
        # Of where it comes from only the browser may tell: a page of another site says what it likes.
        return await make_context(
            websocket, {**websocket.headers, **({"authorization": authorizations[0]} if authorizations else {})}
        )

    socket_limits = SocketLimits(
        options.init_timeout,
        options.max_operations,
        options.max_sockets,
        options.max_message,
        options.max_values,
        options.max_unread_websocket,
    )
    sockets, streams = (
        Sockets(operations, authenticate, socket_limits, revocations, rate_limiter),
        Streams(revocations, options.max_sockets),
    )

    # Some of them may have to wait for what is at work, but not long.
    write_backpressure = Backpressure(_build_write_limits(options))
    load_shedder = LoadShedder(5 * options.max_concurrent, lambda: streams.count + write_backpressure.stalled_count)
    data_folder = options.data_dir if isinstance(media_config.objects, DiskStorage) else None
    health = Health(
        observability.build_readiness_checks(database, replica, hub), observability.build_warnings(database, data_folder)
    )

    async def drain() -> None:
        streams.drain()
        write_backpressure.drain()
        await sockets.drain()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with (
            database,
            replica or nullcontext(),
            _running_services(
                outbound.http_client,
                media_config.objects,
                media_config.image_processor,
                hub,
                log_positions,
                read_log_positions,
                wakeups,
                revocations,
                rate_limiter,
                dispatcher,
                write_backpressure,
                _build_workers(anonymous_context, options),
            ),
            _running_periodic_tasks(database, media_config.objects, options),
            server_observability.running(components),
        ):
            with drain_on_signal(drain, health.start_draining, options.shutdown_delay):
                yield {
                    LOAD_SHEDDER_STATE_KEY: load_shedder,
                    WEBSOCKET_PATHS_STATE_KEY: websocket_paths,
                    backpressure.BACKPRESSURE_STATE_KEY: write_backpressure,
                }

    graphiql_page, asset_routes = _build_graphiql(options, database)
    make_public_context = partial(_make_recording_context, anonymous_context, read_log_positions)
    response_cache = ResponseCache(
        log_positions, make_public_context, partial(_is_anonymous, authenticator), _build_cache_policy(options)
    )
    components = observability.ServerComponents(
        database,
        replica,
        hub,
        sockets,
        streams,
        document_store,
        response_cache,
        observability.QueueStats(database),
        dispatcher,
        load_shedder,
        write_backpressure,
        media_config.image_processor,
    )
    status_codes, vary = EDITIONS[options.status_codes], ", ".join(("accept", *authenticator.credential_headers))
    body_limits = BodyLimits(options.max_body, options.body_timeout, options.max_values)
    endpoint = GraphQLEndpoint(
        operations,
        make_context,
        streams,
        graphiql_page,
        response_cache=response_cache,
        vary=vary,
        max_batch_size=options.max_batch,
        edition=status_codes,
        body_limits=body_limits,
        rate_limiter=rate_limiter,
    )
    routes: list[BaseRoute] = [
        Route("/graphql", endpoint),
        WebSocketRoute("/graphql", sockets.serve),
        Route("/", RedirectResponse("/graphql")),
        *health.build_routes(),
        *beacon.build_routes(database, body_limits, rate_limiter),
        *dashboard.build_routes(),
        *ImageEndpoint(database, media_config.objects, media_config.image_processor, options.max_image_bytes).build_routes(),
        *(object_routes(media_config.objects) if isinstance(media_config.objects, DiskStorage) else []),
    ]
    websocket_paths = frozenset(route.path for route in routes if isinstance(route, WebSocketRoute))
    # The scheme that headers are for is known once the proxies have been heard.
    middleware = [
        *server_observability.middleware(),
        *_build_proxy_middleware(options),
        Middleware(SecurityHeadersMiddleware),
        *_build_cors_middleware(options),
    ]
    app = Starlette(routes=routes + asset_routes, lifespan=lifespan, middleware=middleware)
    app.state.database = database
    return app


def create_server() -> Starlette:
    """The application for a process that serves nothing else."""
    app = create_app()
    tune_garbage_collection()
    return app


def _build_log_positions(options: Settings, database: Database, replica: Database | None) -> tuple[LogPositions, LogPositions]:
    """How far the logs have come that are written, and those that shoppers read: a replica may be behind."""
    log_positions = LogPositions(database, options.poll_interval, strict=options.cache == "strict")
    return log_positions, LogPositions(replica, options.poll_interval) if replica else log_positions


class LifespanService(Protocol):
    """Something that is at work as long as the application is served."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Work while this lasts."""


@asynccontextmanager
async def _running_services(*services: LifespanService) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for service in dict.fromkeys(services):
            await stack.enter_async_context(service.running())
        yield


def _make_recording_context(anonymous_context: Context, log_positions: LogPositions) -> Context:
    return anonymous_context.with_read_tracker(ReadTracker(log_positions))


def _is_anonymous(authenticator: Authenticator, request: Request) -> bool:
    return authenticator.has_no_credentials(request.headers, lambda: request.cookies)


def _build_media_config(options: Settings) -> MediaConfig:
    image_processor = ImageProcessor(options.max_image_pixels)
    return MediaConfig(
        factory.create_object_storage(options), options.max_import, image_processor, options.max_image_bytes, options.base_url()
    )


def _build_cache_policy(options: Settings) -> CachePolicy:
    secret = blake2b(compute_build_id(), key=sha256(options.load_signing_secret().encode()).digest()).digest()
    return CachePolicy(options.response_cache_bytes, options.cache_control(), secret)


def _build_workers(anonymous_context: Context, options: Settings) -> WorkerPool:
    """Who does imports and exports in this process."""
    backends = (
        anonymous_context.database,
        anonymous_context.media_config.objects,
        anonymous_context.vault,
        anonymous_context.feed.wakeups,
    )
    shopify_options = (options.shopify_api_version, options.shopify_url)
    dependencies = handlers.JobDependencies(*backends, *shopify_options, options.max_import_rows, options.max_import)
    return WorkerPool(
        dependencies,
        anonymous_context.feed.keyed_events,
        options.job_workers,
        max_running_per_owner=options.jobs_per_owner,
        task_name=BACKGROUND_TASK_NAME,
    )


def _build_replica(options: Settings) -> Database | None:
    url = options.database_read_url
    return _build_database(url.get_secret_value(), options) if url else None


def _build_database(url: str, options: Settings) -> Database:
    # An operation may wait for a few connections at once, and who asks is looked up before any of them is let in.
    max_waiting = 5 * options.max_concurrent
    return Database(
        url,
        size=options.pool_size,
        statement_timeout=options.statement_timeout,
        lock_timeout=options.lock_timeout,
        max_waiting=max_waiting,
        pool_timeout=options.pool_timeout,
        use_prepared={"auto": None, "on": True, "off": False}[options.prepared_statements],
    )


def _build_write_limits(options: Settings) -> WriteLimits:
    return WriteLimits(
        timeout_seconds=options.write_timeout,
        min_bytes_per_second=options.min_write_rate,
        max_connection_bytes=options.max_unread_connection,
        max_websocket_bytes=options.max_unread_websocket,
        max_process_bytes=options.max_unread,
    )


def _build_rate_limiter(options: Settings) -> RateLimiter:
    quotas = {
        RateLimitScope.ADDRESS: options.address_rate(),
        RateLimitScope.VIEWER: options.viewer_rate(),
        RateLimitScope.EVENTS: options.events_rate(),
        RateLimitScope.SIGN_IN: options.sign_in_rate(),
    }
    url = options.rate_limit_url
    # Nobody chose these rates, or said whether there is a proxy: what may be one, for many clients, is not held to them.
    configured_rates = {RateLimitScope.ADDRESS: options.rate_limit_address, RateLimitScope.EVENTS: options.rate_limit_events}
    public_only = {
        limit_scope for limit_scope, rate in configured_rates.items() if rate is None and options.trusted_proxies is None
    }
    return RateLimiter(quotas, url.get_secret_value() if url else None, options.rate_limit_cost, public_only)


def _build_outbound_services(options: Settings, operations: Operations) -> OutboundServices:
    connect_shop = partial(ShopifyClient, version=options.shopify_api_version, base_url=options.shopify_url)
    return OutboundServices(_build_http_client(options), operations, options.webhook_max_payload, connect_shop)


def _build_http_client(options: Settings) -> SafeHttpClient:
    return SafeHttpClient(NetworkPolicy(options.networks()), allow_http=options.webhook_http, timeout=options.webhook_timeout)


def _build_webhook_dispatcher(options: Settings, anonymous_context: Context, outbound: OutboundServices) -> Dispatcher:
    renderer = MessageRenderer(outbound.operations, anonymous_context, outbound.max_payload_bytes)
    retry_policy = RetryPolicy(options.webhook_retry, options.webhook_attempts, 3_600 * options.webhook_disable_hours)
    dependencies = DeliveryDependencies(renderer, outbound.http_client, anonymous_context.vault, retry_policy, RENDERING)
    return Dispatcher(anonymous_context.database, dependencies, options.webhook_interval, options.webhook_concurrency)


def _build_graphiql(options: Settings, database: Database) -> tuple[RequestHandler | None, list[BaseRoute]]:
    """What browsers get, and the files that it needs."""
    # With trusted documents alone there is nothing to try out.
    if not options.graphiql or options.trusted_documents == "only":
        return None, []

    async def render_page(_: Request) -> Response:
        return graphiql.render_page(GRAPHIQL_EXAMPLES, await _load_example_values(database), title="storefront")

    return render_page, graphiql.build_graphiql_routes()


def _build_proxy_middleware(options: Settings) -> list[Middleware]:
    """Takes the address of whoever asks from the headers of the proxies that are trusted; without any, headers tell nothing."""
    trusted = options.proxy_networks()
    return [Middleware(ProxyHeadersMiddleware, trusted_hosts=trusted)] if trusted else []


def _build_cors_middleware(options: Settings) -> list[Middleware]:
    """Lets pages of the allowed origins read the answers, cookies included, and those of all others without, if they may."""
    origins = frozenset(options.origins())
    headers = ["authorization", "content-type", "x-request-id", *csrf.PREFLIGHT_HEADERS]
    cors_options: dict[str, Any] = {"allow_methods": ["GET", "POST"], "allow_headers": headers, "expose_headers": EXPOSED_HEADERS}
    if not options.open_to_origins:
        return (
            [Middleware(SelectiveCORSMiddleware, allow_origins=origins, allow_credentials=True, **cors_options)]
            if origins
            else []
        )
    # What comes from no page is told by one of them that its answer may differ for another origin.
    trusted_origins = {None, *origins}
    return [
        Middleware(
            SelectiveCORSMiddleware,
            applies_to=trusted_origins.__contains__,
            allow_origins=origins,
            allow_credentials=True,
            **cors_options,
        ),
        Middleware(
            SelectiveCORSMiddleware, applies_to=lambda origin: origin not in trusted_origins, allow_origins=["*"], **cors_options
        ),
    ]


class SelectiveCORSMiddleware(CORSMiddleware):
    """Passes by the pages that it does not care for, and what says for itself that it is for pages of any origin."""

    def __init__(self, app: ASGIApp, /, applies_to: Callable[[str | None], bool] = lambda _: True, **cors_options: Any) -> None:
        super().__init__(app, **cors_options)
        self._applies_to = applies_to

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Pass a connection on."""
        origin = next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"origin"), None)
        allows_any_origin = scope["type"] == "http" and scope["path"].startswith(ANY_ORIGIN_PATH_PREFIXES)
        is_handled = not allows_any_origin and self._applies_to(origin)
        await (super().__call__ if is_handled else self.app)(scope, receive, send)


async def _load_example_values(database: Database) -> dict[str, str]:
    """A store and a product to fill the examples of GraphiQL in with."""
    store = await configs.load_busiest_store(database)
    if store is None:
        return {}
    popular_listing = Listing(Selection(Audience.SHOPPER), Order("popularity", descending=True), Window(1))
    (result,) = await load_pages(database, [StoreScope(store.id)], popular_listing)
    handles = [product.handle for product in result.page.rows]
    return {"__DEMO_SLUG__": store.slug, "__DEMO_CONFIG_ID__": store.id, "__DEMO_HANDLE__": "".join(handles)}


async def _authenticate_with_rate_limit(
    rate_limiter: RateLimiter,
    caller: str | None,
    has_credentials: Callable[[], bool],
    load_viewer: Callable[[], Awaitable[Viewer | None]],
) -> Viewer | None:
    """The viewer; raises RateLimited for those whose proofs failed too often."""
    try:
        rate_limiter.check_caller(RateLimitScope.SIGN_IN, caller)
        return await load_viewer()
    except RateLimited:
        if has_credentials():
            raise
        return None
    except Unauthenticated:
        await rate_limiter.consume(RateLimitScope.SIGN_IN, caller)
        raise


async def _load_viewer(
    headers: Mapping[str, str], cookies: Mapping[str, str], database: Database, authenticator: Authenticator
) -> Viewer | None:
    claims = await authenticator.authenticate(headers, cookies)
    if claims is None:
        return None
    row = await sign_in(database, claims)
    return Viewer(row.id, frozenset(row.owned), claims.expires_at, claims.issued_at)


@asynccontextmanager
async def _running_periodic_tasks(database: Database, objects: ObjectStorage, options: Settings) -> AsyncIterator[None]:
    """What is to be done again and again while the application runs."""
    sweep_changelog = partial(delete_old_entries, days=options.log_retention_days)
    sweep_delivery_log = partial(sweep_deliveries, days=options.webhook_log_days)
    sweeps = (
        delete_expired_keys,
        sweep_changelog,
        sweep_event_ids,
        sweep_delivery_log,
        partial(maintain_partitions, days=options.event_retention_days),
    )
    coroutines = [
        _repeat_forever(work, database, SWEEP_INTERVAL_SECONDS) for work in (*sweeps, partial(sweep_images, objects=objects))
    ]
    retention_days = options.job_retention_days
    coroutines.append(_repeat_forever(partial(sweep_jobs, days=retention_days), database, SWEEP_INTERVAL_SECONDS))
    coroutines.append(
        _repeat_forever(lambda _: handlers.sweep_files(objects, days=retention_days), database, SWEEP_INTERVAL_SECONDS)
    )
    if options.rollup_interval:
        coroutines.append(_repeat_forever(roll_up, database, options.rollup_interval))
    if options.popularity_interval:
        coroutines.append(_repeat_forever(refresh_popularity, database, options.popularity_interval))
    tasks = [asyncio.create_task(coroutine, name=BACKGROUND_TASK_NAME) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat_forever(work: Callable[[Database], Awaitable[int]], database: Database, seconds: float) -> None:
    # Soon after the start, because a process that is often started anew never lives to see the hour.
    await asyncio.sleep(min(seconds, FIRST_RUN_DELAY_SECONDS))
    while True:
        started_at = monotonic()
        try:
            await work(database)
        except (*DATABASE_ERRORS, StorageError, OSError):
            log.warning("%s failed; the next try is in %s s", work, seconds, exc_info=True)
        # What takes long is done less often, and has more to do at a time: no job has more than a fifth of the time.
        await asyncio.sleep(max(seconds, 4 * (monotonic() - started_at)))
