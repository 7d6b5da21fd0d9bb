"""Observability of a server: readiness checks, operator warnings, metrics, and traces."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from math import nan
from pathlib import Path
from typing import Protocol

from sqlalchemy import text
from starlette.middleware import Middleware

from storefront.core.db import migrations
from storefront.core.db.database import DATABASE_ERRORS, Database, Statement, compile_statement
from storefront.core.db.pool import PoolStats
from storefront.core.db.replicas import Replica, Replicas
from storefront.core.image_processing import ImageProcessor
from storefront.core.settings import Settings
from storefront.feed.hub import Hub
from storefront.queries.facet_index.indexes import FacetIndexes
from storefront.serving.cache.response_cache import ResponseCache
from storefront.serving.documents.document_store import DocumentStore
from storefront.serving.http.streams import Streams
from storefront.serving.observability.health import HealthCheck
from storefront.serving.observability.instrumentation import Observers, OperationTracer, make_slow_operation_logger
from storefront.serving.observability.metrics import Gauge, Metrics, serve_metrics
from storefront.serving.observability.request_id import RequestIdMiddleware
from storefront.serving.protection.load_shedding import LoadShedder
from storefront.serving.server.backpressure import Backpressure
from storefront.serving.server.connection_limit import ConnectionLimit
from storefront.serving.websocket.connections import Sockets
from storefront.webhooks.dispatcher import Dispatcher

# Free bytes on the disk of the data folder below which operators get a warning.
MIN_FREE_BYTES = 500_000_000
# Upper bound of counted queue rows: counting more would be slow.
MAX_COUNTED_ROWS = 100_000


def build_readiness_checks(database: Database, hub: Hub) -> dict[str, HealthCheck]:
    """Readiness checks by name: all must pass for `/readyz`. A check returns a problem, or None."""

    async def check_migrations() -> str | None:
        [(revision,)] = await database.fetch(_select_revision())
        # An unknown revision is that of a newer release in a rolling deployment: it has to be compatible with this one.
        is_behind = revision != _get_newest_revision() and migrations.has_revision(revision)
        return f"at {revision}, needs {_get_newest_revision()}: run storefront migrate" if is_behind else None

    async def check_feed() -> str | None:
        return None if hub.is_alive else "not followed: start the server again"

    async def check_database() -> None:
        await database.fetch(_select_one())

    return {"database": check_database, "migrations": check_migrations, "feed": check_feed}


def build_warnings(database: Database, replicas: Replicas, data_dir: Path | None) -> dict[str, HealthCheck]:
    """Warnings for operators, which do not affect readiness. `data_dir`: the folder of local object storage, if it is used."""

    async def check_disk() -> str | None:
        free_bytes = _get_free_bytes(data_dir) if data_dir else None
        return (
            None
            if free_bytes is None or free_bytes >= MIN_FREE_BYTES
            else f"{free_bytes // 1_000_000} MB are left for the data folder"
        )

    async def check_writes() -> str | None:
        return database.write_problem

    async def check_replicas() -> str | None:
        return replicas.describe_problems()

    checks: dict[str, Callable[[], Awaitable[str | None]]] = {"disk": check_disk, "writes": check_writes}
    return {**checks, "replica": check_replicas} if replicas.all else checks


def _get_free_bytes(folder: Path) -> int | None:
    return shutil.disk_usage(folder).free if folder.exists() else None


@cache
def _get_newest_revision() -> str:
    return migrations.get_head_revision()


@cache
def _select_revision() -> Statement:
    return compile_statement(text("SELECT version_num FROM alembic_version"))


@cache
def _select_one() -> Statement:
    return compile_statement(text("SELECT 1 AS one"))


class QueueStats:
    """Lengths of the queues in the database at the last refresh; nan if it failed.

    `event_batches` to roll up, `due_deliveries` to webhooks, `disabled_webhooks`, and import and export jobs, queued and running.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.event_batches = self.due_deliveries = self.disabled_webhooks = self.queued_jobs = self.running_jobs = nan

    async def refresh(self) -> None:
        """Query the lengths."""
        try:
            [counts] = await self._database.fetch(_select_queue_stats())
            self.event_batches, self.due_deliveries, self.disabled_webhooks, self.queued_jobs, self.running_jobs = counts
        except DATABASE_ERRORS:
            # The other metrics must stay available during a database outage.
            self.event_batches = self.due_deliveries = self.disabled_webhooks = self.queued_jobs = self.running_jobs = nan


_QUEUE_STATS_SQL = f"""
SELECT (SELECT count(*) FROM (SELECT FROM analytics_queue LIMIT {MAX_COUNTED_ROWS}) AS oldest) AS queued,
       (SELECT count(*) FROM (
          SELECT FROM webhook_deliveries JOIN webhooks ON webhooks.id = webhook_id
          WHERE next_attempt_at <= now() AND disabled_at IS NULL LIMIT {MAX_COUNTED_ROWS}) AS due) AS deliveries,
       (SELECT count(*) FROM webhooks WHERE disabled_at IS NOT NULL) AS disabled,
       (SELECT count(*) FROM jobs WHERE status = 'queued') AS jobs,
       (SELECT count(*) FROM jobs WHERE status = 'running') AS at_work
"""


@cache
def _select_queue_stats() -> Statement:
    return compile_statement(text(_QUEUE_STATS_SQL))


@dataclass(frozen=True, slots=True)
class ServerComponents:
    """The parts of a server that have metrics."""

    database: Database
    replicas: Replicas
    hub: Hub
    sockets: Sockets
    streams: Streams
    document_store: DocumentStore
    response_cache: ResponseCache
    queue_stats: QueueStats
    dispatcher: Dispatcher
    load_shedder: LoadShedder
    write_backpressure: Backpressure
    connection_limit: ConnectionLimit
    image_processor: ImageProcessor
    facet_indexes: FacetIndexes


@dataclass(frozen=True, slots=True)
class Observability:
    """The instrumentation of a server: the log of slow operations, and metrics and traces if the settings enable them."""

    options: Settings
    observers: Observers
    metrics: Metrics | None
    tracing: "Tracing | None"

    def middleware(self) -> list[Middleware]:
        """The outermost middleware: request ids, then tracing."""
        request_id_middleware = Middleware(RequestIdMiddleware, report=self.metrics.count_request if self.metrics else None)
        return [request_id_middleware, self.tracing.middleware()] if self.tracing else [request_id_middleware]

    @asynccontextmanager
    async def running(self, components: ServerComponents) -> AsyncIterator[None]:
        """Expose metrics and export traces while this lasts."""
        async with self._exposing_metrics(components), self.tracing.running() if self.tracing else nullcontext():
            yield

    def _exposing_metrics(self, components: ServerComponents) -> AbstractAsyncContextManager[None]:
        first_port = self.options.metrics_port
        if self.metrics is None or first_port is None:
            return nullcontext()
        self.metrics.add_gauges(
            [
                *_build_pool_gauges(components),
                *_build_request_gauges(components),
                *_build_feed_gauges(components),
                *_build_webhook_gauges(components),
                *_build_cache_gauges(components),
            ]
        )
        # One port per worker process: each exposes its own metrics only.
        ports = range(first_port, first_port + self.options.workers)
        return serve_metrics(self.metrics, self.options.metrics_host, ports, components.queue_stats.refresh)


class Tracing(OperationTracer, Protocol):
    """Exports traces; its middleware continues the traces of incoming requests."""

    def middleware(self) -> Middleware:
        """The middleware that records requests as spans."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Export spans while this lasts."""


def build_observability(options: Settings, document_store: DocumentStore) -> Observability:
    """The instrumentation for these settings. Raises RuntimeError if an extra is not installed."""
    metrics = Metrics(document_store.get_trusted_operation_names()) if options.metrics_port else None
    tracing = _build_tracing(options.traces_endpoint, options.traces_share) if options.traces_endpoint else None
    reporters = [make_slow_operation_logger(options.slow_operation), *([metrics.count_execution] if metrics else [])]
    return Observability(options, Observers(reporters, [metrics.count_rejection] if metrics else [], tracing), metrics, tracing)


def _build_tracing(endpoint: str, sample_ratio: float) -> Tracing:
    try:
        # Imported here because OpenTelemetry is an extra.
        from storefront.serving.observability.tracing import create_otlp_tracing  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("STOREFRONT_TRACES_ENDPOINT needs OpenTelemetry. Run: pip install 'storefront[otel]'") from None
    return create_otlp_tracing(endpoint, sample_ratio)


def _build_pool_gauges(components: ServerComponents) -> list[Gauge]:
    replicas = components.replicas.all
    pools = {"primary": components.database} | {replica.name: replica.database for replica in replicas}

    def read_pools(read_stat: Callable[[PoolStats], float]) -> Mapping[str, float]:
        return {pool: read_stat(database.get_pool_stats()) for pool, database in pools.items()}

    def read_replicas(read_value: Callable[[Replica], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {replica.name: read_value(replica) for replica in replicas}

    return [
        Gauge(
            "storefront_pool_connections", "Connections to Postgres.", lambda: read_pools(lambda stats: stats.connections), "pool"
        ),
        Gauge(
            "storefront_pool_used",
            "Connections in use.",
            lambda: read_pools(lambda stats: stats.connections - stats.free),
            "pool",
        ),
        Gauge(
            "storefront_pool_waiting",
            "Tasks that wait for a connection.",
            lambda: read_pools(lambda stats: stats.waiting),
            "pool",
        ),
        Gauge(
            "storefront_replica_answers",
            "Whether a replica answers.",
            read_replicas(lambda replica: float(replica.database.is_open)),
            "pool",
        ),
        Gauge(
            "storefront_replica_lag_seconds",
            "Seconds that a replica is behind the primary.",
            read_replicas(lambda replica: replica.lag_seconds),
            "pool",
        ),
    ]


def _build_request_gauges(components: ServerComponents) -> list[Gauge]:
    load_shedder, write_backpressure = components.load_shedder, components.write_backpressure
    aborted_description = "Connections aborted by backpressure because the client did not read, by exceeded limit."
    connection_limit = components.connection_limit
    return [
        Gauge("storefront_connections", "Open connections of clients.", lambda: connection_limit.count),
        Gauge(
            "storefront_connections_closed",
            "Idle connections closed, or new ones rejected, because there were too many.",
            lambda: {"idle": connection_limit.closed_count, "new": connection_limit.rejected_count},
            "state",
            is_counter=True,
        ),
        Gauge("storefront_http_in_flight", "Requests in flight, including event streams.", lambda: load_shedder.in_flight),
        Gauge(
            "storefront_http_shed",
            "Requests rejected by load shedding.",
            lambda: load_shedder.rejected_count,
            is_counter=True,
        ),
        Gauge(
            "storefront_unread_bytes",
            "Bytes in write buffers that clients have not read.",
            lambda: write_backpressure.unread_bytes,
        ),
        Gauge("storefront_unread_connections", "Connections with unread bytes.", lambda: write_backpressure.connection_count),
        Gauge(
            "storefront_unread_aborted",
            aborted_description,
            lambda: write_backpressure.aborts_by_reason,
            "limit",
            is_counter=True,
        ),
    ]


def _build_feed_gauges(components: ServerComponents) -> list[Gauge]:
    hub, sockets = components.hub, components.sockets
    return [
        Gauge("storefront_websockets", "Open WebSockets.", lambda: sockets.count),
        Gauge("storefront_websocket_operations", "Operations running on WebSockets.", lambda: sockets.running_operations),
        Gauge("storefront_streams", "Open event streams.", lambda: components.streams.count),
        Gauge("storefront_feed_stores", "Stores with subscribers.", lambda: hub.stats.stores),
        Gauge("storefront_feed_listeners", "Subscribers of store logs.", lambda: hub.stats.listeners),
        Gauge("storefront_feed_entries", "Log entries read.", lambda: hub.stats.entries_read, is_counter=True),
        Gauge("storefront_feed_position", "The last position read from any log.", lambda: hub.stats.last_position),
        Gauge("storefront_feed_behind", "Maximum lag of a log in entries, at the last poll.", lambda: hub.stats.max_behind),
        Gauge("storefront_feed_wakeups", "Pub/sub wake-ups received.", lambda: hub.stats.wakeups, is_counter=True),
        Gauge("storefront_feed_polls", "Polls for missed wake-ups.", lambda: hub.stats.polls, is_counter=True),
        Gauge("storefront_feed_restarts", "Restarts of log readers.", lambda: hub.stats.restarts, is_counter=True),
        Gauge(
            "storefront_feed_polls_late", "Missed wake-ups that polls found.", lambda: hub.stats.missed_wakeups, is_counter=True
        ),
    ]


def _build_webhook_gauges(components: ServerComponents) -> list[Gauge]:
    dispatcher, queue_stats, delivery_stats = components.dispatcher, components.queue_stats, components.dispatcher.stats

    def count_by_outcome() -> Mapping[str, float]:
        return {"delivered": delivery_stats.delivered, "failed": delivery_stats.failed, "given_up": delivery_stats.dead_lettered}

    return [
        Gauge("storefront_webhooks_active", "Webhooks that this process delivers to now.", lambda: dispatcher.active_webhooks),
        Gauge("storefront_webhooks_disabled", "Disabled webhooks.", lambda: queue_stats.disabled_webhooks),
        Gauge("storefront_webhook_due", "Due deliveries.", lambda: queue_stats.due_deliveries),
        Gauge("storefront_webhook_in_flight", "Deliveries in flight.", lambda: dispatcher.in_flight),
        Gauge("storefront_webhook_attempts", "Delivery attempts, by outcome.", count_by_outcome, "outcome", is_counter=True),
        Gauge(
            "storefront_webhook_seconds", "Total seconds that receivers took.", lambda: delivery_stats.seconds, is_counter=True
        ),
        Gauge(
            "storefront_webhook_resets", "Resets because log entries had expired.", lambda: delivery_stats.resets, is_counter=True
        ),
    ]


def _build_cache_gauges(components: ServerComponents) -> list[Gauge]:
    document_store, response_cache, image_processor = (
        components.document_store,
        components.response_cache,
        components.image_processor,
    )
    facet_indexes = components.facet_indexes
    lookups_description = "Response cache lookups, by outcome."
    return [
        Gauge(
            "storefront_rollup_queue",
            "Batches of events that wait for the roll-up.",
            lambda: components.queue_stats.event_batches,
        ),
        Gauge("storefront_jobs_waiting", "Queued import and export jobs.", lambda: components.queue_stats.queued_jobs),
        Gauge("storefront_jobs_running", "Running import and export jobs.", lambda: components.queue_stats.running_jobs),
        Gauge("storefront_images_waiting", "Images in processing or waiting for it.", lambda: image_processor.waiting),
        Gauge(
            "storefront_images",
            "Processed images, by outcome.",
            lambda: image_processor.outcomes,
            "outcome",
            is_counter=True,
        ),
        Gauge("storefront_documents", "Cached documents, with their plans.", lambda: document_store.cached_count),
        Gauge("storefront_documents_characters", "Characters of cached documents.", lambda: document_store.cached_characters),
        Gauge("storefront_facet_indexes", "Stores with a facet index.", lambda: facet_indexes.store_count),
        Gauge("storefront_facet_indexes_bytes", "Estimated bytes of facet indexes.", lambda: facet_indexes.memory_bytes),
        Gauge("storefront_responses", "Cached responses.", lambda: response_cache.count),
        Gauge("storefront_responses_bytes", "Bytes of cached responses.", lambda: response_cache.size),
        Gauge(
            "storefront_response_lookups", lookups_description, lambda: response_cache.lookup_counts, "outcome", is_counter=True
        ),
    ]
