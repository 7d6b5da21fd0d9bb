"""Builds what an application consists of from the settings: databases, live feed, executor, protection, and their wiring."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b, sha256
from typing import Protocol

from storefront import observability
from storefront.background import BACKGROUND_TASK_NAME
from storefront.context_factory import ContextFactory
from storefront.core.auth.identity import Authenticator, create_authenticator
from storefront.core.build_id import compute_build_id
from storefront.core.db.database import Database
from storefront.core.db.replicas import Replica, Replicas, split_hosts
from storefront.core.image_processing import ImageProcessor
from storefront.core.net.network_policy import NetworkPolicy
from storefront.core.net.safe_http import SafeHttpClient
from storefront.core.net.shopify_client import ShopifyClient
from storefront.core.settings import Settings
from storefront.core.shared_runs import SharedRuns
from storefront.core.storage import factory
from storefront.core.storage.disk import DiskStorage
from storefront.feed.hub import Hub
from storefront.feed.positions import LogPositions
from storefront.feed.pubsub import PubSub
from storefront.graph.context import Context, Feed, MediaConfig, OutboundServices
from storefront.observability import Observability, ServerComponents
from storefront.product_feeds.endpoint import FeedEndpoint
from storefront.queries import users
from storefront.queries.facet_index.indexes import FacetIndexes
from storefront.queries.spelling import SpellingCorrector
from storefront.schema import build_document_store
from storefront.serving.cache.response_cache import CachePolicy, ResponseCache
from storefront.serving.http.streams import Streams
from storefront.serving.observability.health import Health
from storefront.serving.protection.load_shedding import LoadShedder
from storefront.serving.protection.rate_limit import RateLimiter, RateLimitScope
from storefront.serving.protection.revocations import Revocations
from storefront.serving.run.operations import ConcurrencyLimits, Operations
from storefront.serving.server.backpressure import Backpressure, WriteLimits
from storefront.serving.server.connection_limit import ConnectionLimit, compute_default_max_connections
from storefront.serving.websocket.connections import SocketLimits, Sockets
from storefront.webhooks.dispatcher import Dispatcher
from storefront.webhooks.queue import RetryPolicy
from storefront.webhooks.rendering import QUERY_TIMEOUT_SECONDS, MessageRenderer
from storefront.webhooks.sending import DeliveryDependencies

# Seconds that services have for their last statements when the server stops: they cancel statements, and release leases.
SHUTDOWN_TIMEOUT_SECONDS = 3.0


class LifespanService(Protocol):
    """A service that runs as long as the application is served."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Run while this lasts."""


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that one application's routes share.

    `context` is anonymous; those of operations derive from it.
    """

    context: Context
    context_factory: ContextFactory
    authenticator: Authenticator
    operations: Operations
    rate_limiter: RateLimiter
    observability: Observability
    components: ServerComponents
    health: Health
    feed_endpoint: FeedEndpoint
    lifespan_services: tuple[LifespanService, ...]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect to the databases and run all services, in the order of their dependencies, while this lasts."""
        async with self.context.database, AsyncExitStack() as stack:
            for service in dict.fromkeys(self.lifespan_services):
                await stack.enter_async_context(service.running())
            yield

    def limit_shutdown(self) -> None:
        """Called before the services stop: from now on they have SHUTDOWN_TIMEOUT_SECONDS for their last statements."""
        for database in (self.context.database, *(replica.database for replica in self.components.replicas.all)):
            database.terminate_after(SHUTDOWN_TIMEOUT_SECONDS)

    async def drain(self) -> None:
        """End streams and sockets, so that their clients reconnect elsewhere, and abort clients that neither read nor send."""
        self.components.connection_limit.drain()
        self.components.streams.drain()
        self.components.write_backpressure.drain()
        await self.components.sockets.drain()


def build_services(options: Settings, database_url: str) -> Services:
    """Build the services of one application. Nothing connects before `Services.running`.

    Raises RuntimeError for an extra that is not installed, and UnusableManifest.
    """
    authenticator = create_authenticator(options)
    database = _build_database(database_url, options)
    replicas = _build_replicas(options, database)
    hub = Hub(database, options.poll_interval, options.feed_heartbeat_seconds)
    log_positions = LogPositions(database, options.poll_interval, strict=options.cache == "strict")
    positions_by_source: dict[Replica | None, LogPositions] = {None: log_positions}
    for replica in replicas.all:
        positions_by_source[replica] = _build_replica_positions(replica, options)
    wakeups = PubSub(options.pubsub_url(), hub.notify, log_positions.invalidate)
    document_store = build_document_store(options)
    server_observability = observability.build_observability(options, document_store)
    limits = ConcurrencyLimits(options.max_concurrent, options.request_timeout, options.max_response, options.max_row_bytes)
    operations = Operations(document_store, limits, server_observability.observers)
    media_config, outbound = _build_media_config(options), _build_outbound_services(options, operations)
    facet_indexes = FacetIndexes(database, options.facet_index_bytes, task_name=BACKGROUND_TASK_NAME)
    context = Context(
        database,
        SpellingCorrector(),
        options.load_vault(),
        Feed(hub, wakeups, live_lists=SharedRuns(options.max_live_lists, "live lists")),
        media_config,
        outbound=outbound,
        facet_indexes=facet_indexes,
    )
    dispatcher = _build_webhook_dispatcher(options, context, outbound)
    wakeups.add_listener(dispatcher.notify_log_moved)
    rate_limiter = _build_rate_limiter(options)
    revocations = Revocations(partial(users.find_revoked_credentials, database), options.poll_interval)
    context_factory = ContextFactory(context, authenticator, rate_limiter, replicas, positions_by_source)
    max_connections = options.max_connections or compute_default_max_connections()
    # What stays open by itself leaves a third of the connections to requests.
    max_sockets = min(options.max_sockets, max_connections // 3)
    streams, write_backpressure = Streams(revocations, max_sockets), Backpressure(_build_write_limits(options))
    sockets = Sockets(
        operations, context_factory.make_websocket_context, _build_socket_limits(options, max_sockets), revocations, rate_limiter
    )
    feed_endpoint = FeedEndpoint(context_factory.choose_public_database, rate_limiter, options.cache_control())
    components = ServerComponents(
        database=database,
        replicas=replicas,
        hub=hub,
        sockets=sockets,
        streams=streams,
        document_store=document_store,
        response_cache=ResponseCache(
            log_positions,
            context_factory.make_recorded_context,
            context_factory.is_anonymous,
            _build_cache_policy(options),
        ),
        queue_stats=observability.QueueStats(database),
        dispatcher=dispatcher,
        # Some requests may wait for those being executed, but not long.
        load_shedder=LoadShedder(
            5 * options.max_concurrent,
            lambda: streams.count + write_backpressure.stalled_count + feed_endpoint.waiting_count,
        ),
        write_backpressure=write_backpressure,
        connection_limit=ConnectionLimit(max_connections),
        image_processor=media_config.image_processor,
        facet_indexes=facet_indexes,
    )
    return Services(
        context=context,
        context_factory=context_factory,
        authenticator=authenticator,
        operations=operations,
        rate_limiter=rate_limiter,
        observability=server_observability,
        components=components,
        health=_build_health(options, context, replicas),
        feed_endpoint=feed_endpoint,
        lifespan_services=(
            outbound.http_client,
            media_config.objects,
            media_config.image_processor,
            hub,
            replicas,
            *positions_by_source.values(),
            wakeups,
            revocations,
            rate_limiter,
            dispatcher,
            facet_indexes,
            write_backpressure,
        ),
    )


def _build_replicas(options: Settings, primary: Database) -> Replicas:
    url = options.database_read_url
    hosts, is_balanced = split_hosts(url.get_secret_value()) if url else ([], False)
    replicas = [Replica(name, _build_database(host_url, options)) for name, host_url in hosts]
    return Replicas(replicas, primary, max_lag_seconds=options.max_replica_lag, is_balanced=is_balanced)


def _build_replica_positions(replica: Replica, options: Settings) -> LogPositions:
    log_positions = LogPositions(replica.database, options.poll_interval)
    replica.open_listeners.append(log_positions.invalidate_all)
    return log_positions


def _build_database(url: str, options: Settings) -> Database:
    return Database(
        url,
        size=options.pool_size,
        statement_timeout=options.statement_timeout,
        lock_timeout=options.lock_timeout,
        # An operation may wait for a few connections at once, and the viewer is loaded before the concurrency limit applies.
        max_waiting=5 * options.max_concurrent,
        # Half of the operations that may run are left to reads, however many writers wait.
        max_waiting_writes=max(1, options.max_concurrent // 2),
        pool_timeout=options.pool_timeout,
        use_prepared={"auto": None, "on": True, "off": False}[options.prepared_statements],
    )


def _build_media_config(options: Settings) -> MediaConfig:
    image_processor = ImageProcessor(options.max_image_pixels)
    return MediaConfig(
        factory.create_object_storage(options), options.max_import, image_processor, options.max_image_bytes, options.base_url()
    )


def _build_outbound_services(options: Settings, operations: Operations) -> OutboundServices:
    http_client = SafeHttpClient(
        NetworkPolicy(options.networks()), allow_http=options.webhook_http, timeout=options.webhook_timeout
    )
    connect_shop = partial(ShopifyClient, version=options.shopify_api_version, base_url=options.shopify_url)
    return OutboundServices(http_client, operations, options.webhook_max_payload, connect_shop)


def _build_webhook_dispatcher(options: Settings, context: Context, outbound: OutboundServices) -> Dispatcher:
    renderer = MessageRenderer(outbound.operations, context, outbound.max_payload_bytes)
    retry_policy = RetryPolicy(options.webhook_retry, options.webhook_attempts, 3_600 * options.webhook_disable_hours)
    dependencies = DeliveryDependencies(renderer, outbound.http_client, context.vault, retry_policy, QUERY_TIMEOUT_SECONDS)
    return Dispatcher(context.database, dependencies, options.webhook_interval, options.webhook_concurrency)


def _build_rate_limiter(options: Settings) -> RateLimiter:
    quotas = {
        RateLimitScope.ADDRESS: options.address_rate(),
        RateLimitScope.VIEWER: options.viewer_rate(),
        RateLimitScope.EVENTS: options.events_rate(),
        RateLimitScope.SIGN_IN: options.sign_in_rate(),
    }
    # Default rates, without a word on proxies: an address that may be a proxy of many clients is exempt from them.
    configured_rates = {RateLimitScope.ADDRESS: options.rate_limit_address, RateLimitScope.EVENTS: options.rate_limit_events}
    public_only = {scope for scope, rate in configured_rates.items() if rate is None and options.trusted_proxies is None}
    url = options.rate_limit_url
    return RateLimiter(quotas, url.get_secret_value() if url else None, options.rate_limit_cost, public_only)


def _build_socket_limits(options: Settings, max_sockets: int) -> SocketLimits:
    return SocketLimits(
        options.init_timeout,
        options.max_operations,
        max_sockets,
        options.max_message,
        options.max_values,
        options.max_unread_websocket,
    )


def _build_write_limits(options: Settings) -> WriteLimits:
    return WriteLimits(
        timeout_seconds=options.write_timeout,
        min_bytes_per_second=options.min_write_rate,
        max_connection_bytes=options.max_unread_connection,
        max_websocket_bytes=options.max_unread_websocket,
        max_process_bytes=options.max_unread,
    )


def _build_cache_policy(options: Settings) -> CachePolicy:
    secret = blake2b(compute_build_id(), key=sha256(options.load_signing_secret().encode()).digest()).digest()
    return CachePolicy(options.response_cache_bytes, options.cache_control(), secret)


def _build_health(options: Settings, context: Context, replicas: Replicas) -> Health:
    data_folder = options.data_dir if isinstance(context.media_config.objects, DiskStorage) else None
    return Health(
        observability.build_readiness_checks(context.database, context.feed.hub),
        observability.build_warnings(context.database, replicas, data_folder),
    )
