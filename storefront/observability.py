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
from storefront.core.db.database import FAILURES, Database, Statement, compiled
from storefront.core.db.pool import Pooled
from storefront.core.image_processing import Pictures
from storefront.core.settings import Settings
from storefront.feed.hub import Hub
from storefront.serving.cache.response_cache import Responses
from storefront.serving.documents.document_store import Documents
from storefront.serving.http.streams import Streams
from storefront.serving.observability.health import Check
from storefront.serving.observability.instrumentation import Observers, OperationTracer, slow_ones
from storefront.serving.observability.metrics import Metrics, Reading, exposed
from storefront.serving.observability.request_id import Identified
from storefront.serving.protection.load_shedding import Admission
from storefront.serving.server.backpressure import Backpressure
from storefront.serving.websocket.connections import Sockets
from storefront.webhooks.dispatcher import Deliverer

# Bytes on the disk of the data folder below which an operator is warned.
MIN_FREE_BYTES = 500_000_000
# Rows of the queue that are counted, at most.
MOST_QUEUED = 100_000


def checks(database: Database, replica: Database | None, hub: Hub) -> dict[str, Check]:
    """The parts that have to work for a server to be ready."""

    async def migrated() -> str | None:
        [(found,)] = await database.fetch(_revision())
        # A newer one, unknown here, is that of a release which is being brought out: it has to go with this one.
        behind = found != _newest() and migrations.knows(found)
        return f"at {found}, needs {_newest()}: run storefront migrate" if behind else None

    async def follows() -> str | None:
        return None if hub.is_alive else "not followed: start the server again"

    def answering(asked: Database) -> Check:
        async def answers() -> None:
            await asked.fetch(_anything())

        return answers

    found = {"database": answering(database), "migrations": migrated, "feed": follows}
    return found | ({"replica": answering(replica)} if replica else {})


def warnings(database: Database, data_dir: Path | None) -> dict[str, Check]:
    """What an operator should know of, although requests are answered. `data_dir`: where files are stored, if in a folder."""

    async def disk() -> str | None:
        if database.is_full:
            return "Postgres has no room left: writes are refused"
        free = _free_bytes(data_dir) if data_dir else None
        return None if free is None or free >= MIN_FREE_BYTES else f"{free // 1_000_000} MB are left for the data folder"

    return {"disk": disk}


def _free_bytes(folder: Path) -> int | None:
    return shutil.disk_usage(folder).free if folder.exists() else None


@cache
def _newest() -> str:
    return migrations.head()


@cache
def _revision() -> Statement:
    return compiled(text("SELECT version_num FROM alembic_version"))


@cache
def _anything() -> Statement:
    return compiled(text("SELECT 1 AS one"))


class Queue:
    """How many batches of events wait to be counted, as it was when it was last looked at; nan where that failed.

    `deliveries`: how many messages to webhooks are due, and `disabled` how many webhooks are told nothing. `jobs`: how many
    imports and exports wait, and `at_work` how many are worked at.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.length = self.deliveries = self.disabled = self.jobs = self.at_work = nan

    async def look(self) -> None:
        """Look again."""
        try:
            [found] = await self._database.fetch(_queued())
            self.length, self.deliveries, self.disabled, self.jobs, self.at_work = found
        except FAILURES:
            # What else there is to tell is wanted most when the database is down.
            self.length = self.deliveries = self.disabled = self.jobs = self.at_work = nan


_QUEUED = f"""
SELECT (SELECT count(*) FROM (SELECT FROM analytics_queue LIMIT {MOST_QUEUED}) AS oldest) AS queued,
       (SELECT count(*) FROM (
          SELECT FROM webhook_deliveries JOIN webhooks ON webhooks.id = webhook_id
          WHERE next_attempt_at <= now() AND disabled_at IS NULL LIMIT {MOST_QUEUED}) AS due) AS deliveries,
       (SELECT count(*) FROM webhooks WHERE disabled_at IS NOT NULL) AS disabled,
       (SELECT count(*) FROM jobs WHERE status = 'queued') AS jobs,
       (SELECT count(*) FROM jobs WHERE status = 'running') AS at_work
"""


@cache
def _queued() -> Statement:
    return compiled(text(_QUEUED))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of, as far as there is something to measure."""

    database: Database
    replica: Database | None
    hub: Hub
    sockets: Sockets
    streams: Streams
    documents: Documents
    responses: Responses
    queue: Queue
    deliverer: Deliverer
    admission: Admission
    unread: Backpressure
    pictures: Pictures


@dataclass(frozen=True, slots=True)
class Watch:
    """How a server is watched: its slow operations always, its metrics and traces where they are wanted."""

    options: Settings
    observers: Observers
    metrics: Metrics | None
    tracing: "Tracing | None"

    def middleware(self) -> list[Middleware]:
        """What requests pass through first."""
        identified = Middleware(Identified, report=self.metrics.requested if self.metrics else None)
        return [identified, self.tracing.middleware()] if self.tracing else [identified]

    @asynccontextmanager
    async def running(self, parts: Parts) -> AsyncIterator[None]:
        """Tell of it as long as this lasts."""
        async with self._told(parts), self.tracing.running() if self.tracing else nullcontext():
            yield

    def _told(self, parts: Parts) -> AbstractAsyncContextManager[None]:
        first = self.options.metrics_port
        if self.metrics is None or first is None:
            return nullcontext()
        self.metrics.add(
            [*_of_pools(parts), *_of_requests(parts), *_of_listening(parts), *_of_webhooks(parts), *_of_what_is_kept(parts)]
        )
        # A port for each worker: it tells of itself alone.
        ports = range(first, first + self.options.workers)
        return exposed(self.metrics, self.options.metrics_host, ports, parts.queue.look)


class Tracing(OperationTracer, Protocol):
    """What sends traces; knows the requests that belong to one."""

    def middleware(self) -> Middleware:
        """Puts what is done for a request into its trace."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Send while this lasts."""


def watch(options: Settings, documents: Documents) -> Watch:
    """As the settings want it. Raises RuntimeError where something is not installed."""
    metrics = Metrics(documents.names()) if options.metrics_port else None
    tracing = _tracing(options.traces_endpoint, options.traces_share) if options.traces_endpoint else None
    reports = [slow_ones(options.slow_operation), *([metrics.executed] if metrics else [])]
    return Watch(options, Observers(reports, [metrics.refused] if metrics else [], tracing), metrics, tracing)


def _tracing(endpoint: str, share: float) -> Tracing:
    try:
        # Imported here because OpenTelemetry is an extra.
        from storefront.serving.observability.tracing import sent_to  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("STOREFRONT_TRACES_ENDPOINT needs OpenTelemetry. Run: pip install 'storefront[otel]'") from None
    return sent_to(endpoint, share)


def _of_pools(parts: Parts) -> list[Reading]:
    pools = {"primary": parts.database} | ({"replica": parts.replica} if parts.replica else {})

    def pooled(of: Callable[[Pooled], float]) -> Mapping[str, float]:
        return {pool: of(database.pooled()) for pool, database in pools.items()}

    return [
        Reading("storefront_pool_connections", "Connections to Postgres.", lambda: pooled(lambda it: it.connections), "pool"),
        Reading("storefront_pool_used", "Those that are in use.", lambda: pooled(lambda it: it.connections - it.free), "pool"),
        Reading("storefront_pool_waiting", "How many wait for one.", lambda: pooled(lambda it: it.waiting), "pool"),
    ]


def _of_requests(parts: Parts) -> list[Reading]:
    admission, unread = parts.admission, parts.unread
    aborted = "Connections that were aborted because their clients did not read, by the limit."
    return [
        Reading("storefront_http_inside", "Requests that are being answered, event streams too.", lambda: admission.inside),
        Reading("storefront_http_turned_away", "Those that there was no room for.", lambda: admission.refused, is_total=True),
        Reading("storefront_unread_bytes", "Bytes that wait for clients to read them.", lambda: unread.bytes),
        Reading("storefront_unread_connections", "Connections that they wait on.", lambda: unread.connections),
        Reading("storefront_unread_aborted", aborted, lambda: unread.aborted, "limit", is_total=True),
    ]


def _of_listening(parts: Parts) -> list[Reading]:
    hub, sockets = parts.hub, parts.sockets
    return [
        Reading("storefront_websockets", "Open WebSockets.", lambda: sockets.count),
        Reading("storefront_websocket_operations", "Operations that run on them.", lambda: sockets.operations_running),
        Reading("storefront_streams", "Open event streams.", lambda: parts.streams.count),
        Reading("storefront_feed_stores", "Stores that are followed.", lambda: hub.seen.stores),
        Reading("storefront_feed_listeners", "Who listens to them.", lambda: hub.seen.listeners),
        Reading("storefront_feed_entries", "Entries of their logs that were read.", lambda: hub.seen.entries, is_total=True),
        Reading("storefront_feed_position", "The last position that was read of any of them.", lambda: hub.seen.position),
        Reading("storefront_feed_behind", "Entries that one was behind, at most, at the last poll.", lambda: hub.seen.behind),
        Reading("storefront_feed_wakeups", "Wake-ups that came.", lambda: hub.seen.wakeups, is_total=True),
        Reading("storefront_feed_polls", "Looks for what no wake-up told of.", lambda: hub.seen.polls, is_total=True),
        Reading("storefront_feed_restarts", "Reads of logs that were begun anew.", lambda: hub.seen.restarts, is_total=True),
        Reading("storefront_feed_polls_late", "Stores that had moved by then.", lambda: hub.seen.late, is_total=True),
    ]


def _of_webhooks(parts: Parts) -> list[Reading]:
    deliverer, queue, told = parts.deliverer, parts.queue, parts.deliverer.told

    def outcomes() -> Mapping[str, float]:
        return {"delivered": told.delivered, "failed": told.failed, "given_up": told.given_up}

    return [
        Reading("storefront_webhooks_at_work", "Webhooks that are this process's to tell now.", lambda: deliverer.at_work),
        Reading("storefront_webhooks_disabled", "Webhooks that are told nothing.", lambda: queue.disabled),
        Reading("storefront_webhook_due", "Messages that are due.", lambda: queue.deliveries),
        Reading("storefront_webhook_under_way", "Messages that are being sent.", lambda: deliverer.under_way),
        Reading("storefront_webhook_attempts", "Messages, by what came of them.", outcomes, "outcome", is_total=True),
        Reading("storefront_webhook_seconds", "How long their receivers took.", lambda: told.seconds, is_total=True),
        Reading("storefront_webhook_resets", "Parts of logs that were gone.", lambda: told.resets, is_total=True),
    ]


def _of_what_is_kept(parts: Parts) -> list[Reading]:
    documents, responses, pictures = parts.documents, parts.responses, parts.pictures
    asked = "Questions whose answers may be kept, by what came of them."
    return [
        Reading("storefront_rollup_queue", "Batches of events that wait to be counted.", lambda: parts.queue.length),
        Reading("storefront_jobs_waiting", "Imports and exports that wait.", lambda: parts.queue.jobs),
        Reading("storefront_jobs_running", "Those that are worked at.", lambda: parts.queue.at_work),
        Reading("storefront_pictures_waiting", "Pictures that are worked on, or wait for it.", lambda: pictures.waiting),
        Reading("storefront_pictures", "Pictures by what became of them.", lambda: pictures.outcomes, "outcome", is_total=True),
        Reading("storefront_documents", "Documents that are kept, with their plans.", lambda: documents.count),
        Reading("storefront_documents_characters", "The characters of those.", lambda: documents.characters),
        Reading("storefront_responses", "Answers that are kept.", lambda: responses.count),
        Reading("storefront_responses_bytes", "The bytes of those.", lambda: responses.size),
        Reading("storefront_responses_asked", asked, lambda: responses.asked, "outcome", is_total=True),
    ]
