"""Prometheus metrics of operations and HTTP requests, served on a port of their own."""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, Counter, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from storefront.serving.http.headers import join_header_lines
from storefront.serving.observability.instrumentation import Execution
from storefront.serving.server.http_protocol import HardenedHTTPProtocol

log = logging.getLogger("storefront")

# Clients choose operation names, so the cardinality of that label is limited: the names in trusted documents, and so many others.
MAX_OPERATION_NAMES, MAX_OPERATION_NAME_CHARACTERS = 100, 64
OTHER_LABEL, ANONYMOUS_LABEL = "other", "anonymous"
COUNTED_METHODS = frozenset(("GET", "HEAD", "POST", "OPTIONS"))

DURATION_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A metric that is read when metrics are scraped: a number, or one for each value of a label.

    `is_counter`: it only grows while the process lives.
    """

    name: str
    description: str
    read_value: Callable[[], float | Mapping[str, float]]
    label: str | None = None
    is_counter: bool = False


class GaugeCollector(Collector):
    """A Prometheus collector of gauges."""

    def __init__(self, gauges: Sequence[Gauge]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Read all gauges."""
        for gauge in self._gauges:
            family_class = CounterMetricFamily if gauge.is_counter else GaugeMetricFamily
            metric = family_class(gauge.name, gauge.description, labels=[gauge.label] if gauge.label else None)
            current = gauge.read_value()
            for label, value in current.items() if isinstance(current, Mapping) else [(None, current)]:
                metric.add_metric([] if label is None else [label], value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """No metrics: gauges are not read before the first scrape."""
        return iter(())


class Metrics:
    """The metrics of this process. `trusted_names` always have labels of their own."""

    def __init__(self, trusted_names: Collection[str] = ()) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._trusted_names, self._other_names = frozenset(trusted_names), set[str]()
        make_counter, make_histogram = (
            partial(Counter, registry=self.registry),
            partial(Histogram, buckets=DURATION_BUCKETS_SECONDS, registry=self.registry),
        )
        operation_labels = ("kind", "name", "code")
        self._operation_counter = make_counter(
            "storefront_operations", "Executions of operations, and of subscriptions for an event.", operation_labels
        )
        self._operation_seconds = make_histogram(
            "storefront_operation_seconds", "Seconds that operations took.", operation_labels[:2]
        )
        self._sql_statements = make_counter(
            "storefront_sql_statements", "Statements that operations sent to Postgres.", operation_labels[:1]
        )
        self._sql_round_trips = make_counter(
            "storefront_sql_round_trips", "Round trips to Postgres in which they were sent.", operation_labels[:1]
        )
        self._sql_seconds = make_counter(
            "storefront_sql_seconds", "Seconds of the round trips to Postgres.", operation_labels[:1]
        )
        self._rejections = make_counter(
            "storefront_rejected_operations", "Operations that were rejected before execution.", ("code",)
        )
        self._http_requests = make_counter("storefront_http_requests", "HTTP requests.", ("route", "method", "status"))
        self._http_request_seconds = make_histogram(
            "storefront_http_request_seconds", "Seconds that HTTP requests took, to the end of the response.", ("route",)
        )

        # Cached, because looking up a child by labels takes longer than counting. There are few combinations.
        self._get_operation_metrics = cache(self._label_operation_metrics)
        self._get_sql_metrics = cache(self._label_sql_metrics)
        self._get_request_metrics = cache(self._label_request_metrics)

    def _label_operation_metrics(self, kind: str, name: str, code: str) -> tuple[Counter, Histogram]:
        return self._operation_counter.labels(kind, name, code), self._operation_seconds.labels(kind, name)

    def _label_sql_metrics(self, kind: str) -> tuple[Counter, Counter, Counter]:
        return self._sql_statements.labels(kind), self._sql_round_trips.labels(kind), self._sql_seconds.labels(kind)

    def _label_request_metrics(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return self._http_requests.labels(route, method, str(status)), self._http_request_seconds.labels(route)

    def add_gauges(self, gauges: Sequence[Gauge]) -> None:
        """Register gauges."""
        self.registry.register(GaugeCollector(gauges))

    def count_execution(self, execution: Execution) -> None:
        """Count an execution: an ExecutionReporter."""
        kind, request_context = execution.operation.kind_name, execution.context
        operations, durations = self._get_operation_metrics(kind, self._limit_label(execution.operation.label), execution.code)
        operations.inc()
        durations.observe(execution.seconds)
        if request_context.round_trips:
            statements, round_trips, seconds = self._get_sql_metrics(kind)
            statements.inc(request_context.statements)
            round_trips.inc(request_context.round_trips)
            seconds.inc(request_context.seconds_in_sql)

    def count_rejection(self, code: str) -> None:
        """Count an operation that was rejected before execution."""
        self._rejections.labels(code).inc()

    def count_request(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an HTTP request: a RequestReporter."""
        method = scope["method"] if scope["method"] in COUNTED_METHODS else OTHER_LABEL
        requests, durations = self._get_request_metrics(getattr(scope.get("route"), "path", OTHER_LABEL), method, status)
        requests.inc()
        durations.observe(seconds)

    def _limit_label(self, label: str | None) -> str:
        if label is None:
            return ANONYMOUS_LABEL
        if label in self._other_names or label in self._trusted_names:
            return label
        if len(self._other_names) >= MAX_OPERATION_NAMES or len(label) > MAX_OPERATION_NAME_CHARACTERS:
            return OTHER_LABEL
        self._other_names.add(label)
        return label


# ------------------------------------------------------------------------------------------------- the port


@asynccontextmanager
async def serve_metrics(
    metrics: Metrics, host: str, ports: Sequence[int], prepare: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Serve `/metrics` on the first free port for the duration of the context. `prepare` is awaited before each scrape."""
    listener = _bind_first_free_port(host, ports)
    if listener is None:
        log.warning("metrics are not served: none of the ports %s to %s of %s is free", ports[0], ports[-1], host)
        yield
        return

    async def render_metrics(request: Request) -> Response:
        await prepare()
        encode, content_type = choose_encoder(join_header_lines(request.headers, "accept") or "")
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    app = Starlette(routes=[Route("/metrics", render_metrics)])
    options: dict[str, Any] = {"lifespan": "off", "http": UnloggedProtocol, "ws": "none", "proxy_headers": False}
    server = EmbeddedServer(EmbeddedServerConfig(app, timeout_graceful_shutdown=1, **options))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class EmbeddedServerConfig(uvicorn.Config):
    """The configuration of a server that is embedded in the process of another one, and leaves logging to that.

    Loggers are global: what Uvicorn configures for one server, such as access_log=False, applies to all in the process.
    """

    def configure_logging(self) -> None:
        """Configure nothing."""


class UnloggedProtocol(HardenedHTTPProtocol):
    """HardenedHTTPProtocol without an access log: each scrape would add a line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = False


class EmbeddedServer(uvicorn.Server):
    """A server that is embedded in the process of another one, and leaves signal handling to that."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield


def _bind_first_free_port(host: str, ports: Sequence[int]) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            # Two processes may bind the same port; only one can listen.
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
    return None
