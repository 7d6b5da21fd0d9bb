"""What an operator sees of the parts of a server: what they need to be ready, and what there is to measure of them."""

import shutil
from collections.abc import AsyncIterator, Callable, Mapping
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
from storefront.core.image_processing import ImageProcessor
from storefront.core.settings import Settings
from storefront.feed.hub import Hub
from storefront.serving.cache.response_cache import ResponseCache
from storefront.serving.documents.document_store import DocumentStore
from storefront.serving.http.streams import Streams
from storefront.serving.observability.health import HealthCheck
from storefront.serving.observability.instrumentation import Observers, OperationTracer, make_slow_operation_logger
from storefront.serving.observability.metrics import Gauge, Metrics, serve_metrics
from storefront.serving.observability.request_id import RequestIdMiddleware
from storefront.serving.protection.load_shedding import LoadShedder
from storefront.serving.server.backpressure import Backpressure
from storefront.serving.websocket.connections import Sockets
from storefront.webhooks.dispatcher import Dispatcher

# Bytes on the disk of the data folder below which an operator is warned.
MIN_FREE_BYTES = 500_000_000
# Rows of the queue that are counted, at most.
MAX_COUNTED_ROWS = 100_000


def build_readiness_checks(database: Database, replica: Database | None, hub: Hub) -> dict[str, HealthCheck]:
    """The parts that have to work for a server to be ready."""

    async def check_migrations() -> str | None:
        [(revision,)] = await database.fetch(_select_revision())
        # A newer one, unknown here, is that of a release which is being brought out: it has to go with this one.
        is_behind = revision != _get_newest_revision() and migrations.has_revision(revision)
        return f"at {revision}, needs {_get_newest_revision()}: run storefront migrate" if is_behind else None

    async def check_feed() -> str | None:
        return None if hub.is_alive else "not followed: start the server again"

    def build_query_check(target: Database) -> HealthCheck:
        async def check_query() -> None:
            await target.fetch(_select_one())

        return check_query

    readiness_checks = {"database": build_query_check(database), "migrations": check_migrations, "feed": check_feed}
    return readiness_checks | ({"replica": build_query_check(replica)} if replica else {})


def build_warnings(database: Database, data_dir: Path | None) -> dict[str, HealthCheck]:
    """What an operator should know of, although requests are answered. `data_dir`: where files are stored, if in a folder."""

    async def check_disk() -> str | None:
        if database.is_disk_full:
            return "Postgres has no room left: writes are refused"
        free_bytes = _get_free_bytes(data_dir) if data_dir else None
        return (
            None
            if free_bytes is None or free_bytes >= MIN_FREE_BYTES
            else f"{free_bytes // 1_000_000} MB are left for the data folder"
        )

    return {"disk": check_disk}


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
    """How many batches of events wait to be counted, as it was when it was last looked at; nan where that failed.

    `deliveries`: how many messages to webhooks are due, and `disabled` how many webhooks are told nothing. `jobs`: how many
    imports and exports wait, and `at_work` how many are worked at.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.event_batches = self.due_deliveries = self.disabled_webhooks = self.queued_jobs = self.running_jobs = nan

    async def refresh(self) -> None:
        """Look again."""
        try:
            [counts] = await self._database.fetch(_select_queue_stats())
            self.event_batches, self.due_deliveries, self.disabled_webhooks, self.queued_jobs, self.running_jobs = counts
        except DATABASE_ERRORS:
            # What else there is to tell is wanted most when the database is down.
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
    """What a server is made of, as far as there is something to measure."""

    database: Database
    replica: Database | None
    hub: Hub
    sockets: Sockets
    streams: Streams
    document_store: DocumentStore
    response_cache: ResponseCache
    queue_stats: QueueStats
    dispatcher: Dispatcher
    load_shedder: LoadShedder
    write_backpressure: Backpressure
    image_processor: ImageProcessor


@dataclass(frozen=True, slots=True)
class Observability:
    """How a server is watched: its slow operations always, its metrics and traces where they are wanted."""

    options: Settings
    observers: Observers
    metrics: Metrics | None
    tracing: "Tracing | None"

    def middleware(self) -> list[Middleware]:
        """What requests pass through first."""
        request_id_middleware = Middleware(RequestIdMiddleware, report=self.metrics.count_request if self.metrics else None)
        return [request_id_middleware, self.tracing.middleware()] if self.tracing else [request_id_middleware]

    @asynccontextmanager
    async def running(self, components: ServerComponents) -> AsyncIterator[None]:
        """Tell of it as long as this lasts."""
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
        # A port for each worker: it tells of itself alone.
        ports = range(first_port, first_port + self.options.workers)
        return serve_metrics(self.metrics, self.options.metrics_host, ports, components.queue_stats.refresh)


class Tracing(OperationTracer, Protocol):
    """What sends traces; knows the requests that belong to one."""

    def middleware(self) -> Middleware:
        """Puts what is done for a request into its trace."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Send while this lasts."""


def build_observability(options: Settings, document_store: DocumentStore) -> Observability:
    """As the settings want it. Raises RuntimeError where something is not installed."""
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
    pools = {"primary": components.database} | ({"replica": components.replica} if components.replica else {})

    def read_pools(read_stat: Callable[[PoolStats], float]) -> Mapping[str, float]:
        return {pool: read_stat(database.get_pool_stats()) for pool, database in pools.items()}

    return [
        Gauge("storefront_pool_connections", "Connections to Postgres.", lambda: read_pools(lambda it: it.connections), "pool"),
        Gauge("storefront_pool_used", "Those that are in use.", lambda: read_pools(lambda it: it.connections - it.free), "pool"),
        Gauge("storefront_pool_waiting", "How many wait for one.", lambda: read_pools(lambda it: it.waiting), "pool"),
    ]


def _build_request_gauges(components: ServerComponents) -> list[Gauge]:
    load_shedder, write_backpressure = components.load_shedder, components.write_backpressure
    aborted_description = "Connections that were aborted because their clients did not read, by the limit."
    return [
        Gauge("storefront_http_inside", "Requests that are being answered, event streams too.", lambda: load_shedder.in_flight),
        Gauge(
            "storefront_http_turned_away",
            "Those that there was no room for.",
            lambda: load_shedder.rejected_count,
            is_counter=True,
        ),
        Gauge("storefront_unread_bytes", "Bytes that wait for clients to read them.", lambda: write_backpressure.unread_bytes),
        Gauge("storefront_unread_connections", "Connections that they wait on.", lambda: write_backpressure.connection_count),
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
        Gauge("storefront_websocket_operations", "Operations that run on them.", lambda: sockets.running_operations),
        Gauge("storefront_streams", "Open event streams.", lambda: components.streams.count),
        Gauge("storefront_feed_stores", "Stores that are followed.", lambda: hub.stats.stores),
        Gauge("storefront_feed_listeners", "Who listens to them.", lambda: hub.stats.listeners),
        Gauge(
            "storefront_feed_entries", "Entries of their logs that were read.", lambda: hub.stats.entries_read, is_counter=True
        ),
        Gauge("storefront_feed_position", "The last position that was read of any of them.", lambda: hub.stats.last_position),
        Gauge("storefront_feed_behind", "Entries that one was behind, at most, at the last poll.", lambda: hub.stats.max_behind),
        Gauge("storefront_feed_wakeups", "Wake-ups that came.", lambda: hub.stats.wakeups, is_counter=True),
        Gauge("storefront_feed_polls", "Looks for what no wake-up told of.", lambda: hub.stats.polls, is_counter=True),
        Gauge("storefront_feed_restarts", "Reads of logs that were begun anew.", lambda: hub.stats.restarts, is_counter=True),
        Gauge("storefront_feed_polls_late", "Stores that had moved by then.", lambda: hub.stats.missed_wakeups, is_counter=True),
    ]


def _build_webhook_gauges(components: ServerComponents) -> list[Gauge]:
    dispatcher, queue_stats, delivery_stats = components.dispatcher, components.queue_stats, components.dispatcher.stats

    def count_by_outcome() -> Mapping[str, float]:
        return {"delivered": delivery_stats.delivered, "failed": delivery_stats.failed, "given_up": delivery_stats.dead_lettered}

    return [
        Gauge("storefront_webhooks_at_work", "Webhooks that are this process's to tell now.", lambda: dispatcher.active_webhooks),
        Gauge("storefront_webhooks_disabled", "Webhooks that are told nothing.", lambda: queue_stats.disabled_webhooks),
        Gauge("storefront_webhook_due", "Messages that are due.", lambda: queue_stats.due_deliveries),
        Gauge("storefront_webhook_under_way", "Messages that are being sent.", lambda: dispatcher.in_flight),
        Gauge("storefront_webhook_attempts", "Messages, by what came of them.", count_by_outcome, "outcome", is_counter=True),
        Gauge("storefront_webhook_seconds", "How long their receivers took.", lambda: delivery_stats.seconds, is_counter=True),
        Gauge("storefront_webhook_resets", "Parts of logs that were gone.", lambda: delivery_stats.resets, is_counter=True),
    ]


def _build_cache_gauges(components: ServerComponents) -> list[Gauge]:
    document_store, response_cache, image_processor = (
        components.document_store,
        components.response_cache,
        components.image_processor,
    )
    lookups_description = "Questions whose answers may be kept, by what came of them."
    return [
        Gauge(
            "storefront_rollup_queue", "Batches of events that wait to be counted.", lambda: components.queue_stats.event_batches
        ),
        Gauge("storefront_jobs_waiting", "Imports and exports that wait.", lambda: components.queue_stats.queued_jobs),
        Gauge("storefront_jobs_running", "Those that are worked at.", lambda: components.queue_stats.running_jobs),
        Gauge("storefront_pictures_waiting", "Pictures that are worked on, or wait for it.", lambda: image_processor.waiting),
        Gauge(
            "storefront_pictures",
            "Pictures by what became of them.",
            lambda: image_processor.outcomes,
            "outcome",
            is_counter=True,
        ),
        Gauge("storefront_documents", "Documents that are kept, with their plans.", lambda: document_store.cached_count),
        Gauge("storefront_documents_characters", "The characters of those.", lambda: document_store.cached_characters),
        Gauge("storefront_responses", "Answers that are kept.", lambda: response_cache.count),
        Gauge("storefront_responses_bytes", "The bytes of those.", lambda: response_cache.size),
        Gauge(
            "storefront_responses_asked", lookups_description, lambda: response_cache.lookup_counts, "outcome", is_counter=True
        ),
    ]
