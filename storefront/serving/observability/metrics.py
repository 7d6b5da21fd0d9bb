"""What is counted of operations and requests, for Prometheus, and a port of its own to fetch it from."""

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

from storefront.serving.http.headers import join_lines
from storefront.serving.observability.instrumentation import Execution
from storefront.serving.server.http_protocol import HeadsProtocol

log = logging.getLogger("storefront")

# Names of operations are the clients' choice: those of trusted documents are told, and so many others; the rest is one.
MOST_NAMES, LONGEST_NAME = 100, 64
OTHER, ANONYMOUS = "other", "anonymous"
METHODS = frozenset(("GET", "HEAD", "POST", "OPTIONS"))

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """Something that is looked up when somebody asks for metrics: a number, or one for each value of the label.

    A total only grows, as long as the process lives.
    """

    name: str
    what: str
    read: Callable[[], float | Mapping[str, float]]
    label: str | None = None
    is_total: bool = False


class Readings(Collector):
    """What is looked up, as metrics."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """Look all of it up."""
        for reading in self._readings:
            family = CounterMetricFamily if reading.is_total else GaugeMetricFamily
            metric = family(reading.name, reading.what, labels=[reading.label] if reading.label else None)
            found = reading.read()
            for label, value in found.items() if isinstance(found, Mapping) else [(None, found)]:
                metric.add_metric([] if label is None else [label], value)
            yield metric

    def describe(self) -> Iterator[Metric]:
        """Nothing: it is not looked up before somebody asks."""
        return iter(())


class Metrics:
    """The counts of this process. `names` are operations that are always told apart."""

    def __init__(self, names: Collection[str] = ()) -> None:
        self.registry = CollectorRegistry()
        for own in (ProcessCollector, PlatformCollector, GCCollector):
            own(registry=self.registry)
        self._trusted, self._names = frozenset(names), set[str]()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, buckets=BUCKETS, registry=self.registry)
        of_one = ("kind", "name", "code")
        self._operations = counter(
            "storefront_operations", "Executions of operations, and of subscriptions for an event.", of_one
        )
        self._seconds = histogram("storefront_operation_seconds", "How long they took.", of_one[:2])
        self._statements = counter("storefront_sql_statements", "Statements that they sent to Postgres.", of_one[:1])
        self._trips = counter("storefront_sql_trips", "In how many trips.", of_one[:1])
        self._sql = counter("storefront_sql_seconds", "Seconds that these took.", of_one[:1])
        self._refusals = counter("storefront_refusals", "Operations that were not begun.", ("code",))
        self._requests = counter("storefront_http_requests", "HTTP requests.", ("route", "method", "status"))
        self._waits = histogram("storefront_http_request_seconds", "How long they took, to the end of the answer.", ("route",))

        # To find what has these labels takes longer than to count. There are few of them.
        self._of_operations = cache(self._find_operations)
        self._of_trips = cache(self._find_trips)
        self._of_requests = cache(self._find_requests)

    def _find_operations(self, kind: str, name: str, code: str) -> tuple[Counter, Histogram]:
        return self._operations.labels(kind, name, code), self._seconds.labels(kind, name)

    def _find_trips(self, kind: str) -> tuple[Counter, Counter, Counter]:
        return self._statements.labels(kind), self._trips.labels(kind), self._sql.labels(kind)

    def _find_requests(self, route: str, method: str, status: int) -> tuple[Counter, Histogram]:
        return self._requests.labels(route, method, str(status)), self._waits.labels(route)

    def add(self, readings: Sequence[Reading]) -> None:
        """Tell these, too."""
        self.registry.register(Readings(readings))

    def executed(self, done: Execution) -> None:
        """Count an execution: a report of `observing`."""
        kind, spent = done.operation.kind_name, done.activity
        operations, durations = self._of_operations(kind, self._name(done.operation.label), done.code)
        operations.inc()
        durations.observe(done.seconds)
        if spent.trips:
            statements, trips, seconds = self._of_trips(kind)
            statements.inc(spent.statements)
            trips.inc(spent.trips)
            seconds.inc(spent.seconds_in_sql)

    def refused(self, code: str) -> None:
        """Count an operation that was not begun."""
        self._refusals.labels(code).inc()

    def requested(self, scope: Scope, status: int, seconds: float) -> None:
        """Count an HTTP request: a report of `identifying`."""
        method = scope["method"] if scope["method"] in METHODS else OTHER
        requests, durations = self._of_requests(getattr(scope.get("route"), "path", OTHER), method, status)
        requests.inc()
        durations.observe(seconds)

    def _name(self, label: str | None) -> str:
        if label is None:
            return ANONYMOUS
        if label in self._names or label in self._trusted:
            return label
        if len(self._names) >= MOST_NAMES or len(label) > LONGEST_NAME:
            return OTHER
        self._names.add(label)
        return label


# ------------------------------------------------------------------------------------------------- the port


@asynccontextmanager
async def exposed(
    metrics: Metrics, host: str, ports: Sequence[int], prepare: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Serve `/metrics` on the first of the ports that is free, as long as this lasts. `prepare` is awaited before each answer."""
    listener = _listener(host, ports)
    if listener is None:
        log.warning("metrics are not served: none of the ports %s to %s of %s is free", ports[0], ports[-1], host)
        yield
        return

    async def tell(request: Request) -> Response:
        await prepare()
        encode, content_type = choose_encoder(join_lines(request.headers, "accept") or "")
        return Response(encode(metrics.registry), headers={"content-type": content_type})

    app = Starlette(routes=[Route("/metrics", tell)])
    options: dict[str, Any] = {"lifespan": "off", "http": UnloggedProtocol, "ws": "none", "proxy_headers": False}
    server = Quiet(InnerConfig(app, timeout_graceful_shutdown=1, **options))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class InnerConfig(uvicorn.Config):
    """The configuration of a server inside of another one's process, whose logging it leaves alone.

    Loggers belong to the process: what uvicorn sets for one server, such as access_log=False, holds for all of them.
    """

    def configure_logging(self) -> None:
        """Configure nothing."""


class UnloggedProtocol(HeadsProtocol):
    """Our HTTP protocol without access log lines: each scrape would be one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = False


class Quiet(uvicorn.Server):
    """A server inside of another one's process, which leaves the signals to that."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _listener(host: str, ports: Sequence[int]) -> socket.socket | None:
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
