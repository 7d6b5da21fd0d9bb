"""OpenTelemetry tracing: a span for each operation, each loader and each SQL statement. Imported only if tracing is on.

Statements are recorded as text with numbered parameters: spans contain no values. The exporter is that of the SDK, which reads
its own environment variables as well (OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from storefront.serving.observability.instrumentation import OK, Execution, ObservedOperation

NANOSECONDS_PER_SECOND = 1_000_000_000
# The timeout of an export in seconds, retries included: a server that shuts down waits no longer for a collector that is down.
EXPORT_TIMEOUT_SECONDS = 3.0
# Operation names are chosen by clients, so they are truncated.
MAX_SPAN_NAME_CHARACTERS = 100


class TraceContextMiddleware:
    """ASGI middleware that continues the trace in the request header `traceparent` (W3C Trace Context)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        headers: dict[str, list[str]] = {}
        for name, value in scope.get("headers", ()):
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        token = context.attach(self._propagator.extract(headers, context.Context()))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)


class Tracing:
    """The OperationTracer of OpenTelemetry."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("storefront")
        # Exceptions are not recorded: their messages may contain values.
        self._start_span = partial(self._tracer.start_as_current_span, record_exception=False, set_status_on_exception=False)

    def middleware(self) -> Middleware:
        """The middleware that adds the spans of a request to its trace."""
        return Middleware(TraceContextMiddleware)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Export spans for the duration of the context; flush the last ones at its end."""
        try:
            yield
        finally:
            await asyncio.to_thread(self._provider.shutdown)

    @contextmanager
    def trace_operation(self, operation: ObservedOperation) -> Iterator[Callable[[Execution], None]]:
        """The span of an operation. Yields a function that completes it with the finished execution."""
        name = (operation.label or "")[:MAX_SPAN_NAME_CHARACTERS]
        attributes = {
            "graphql.operation.type": operation.kind_name,
            "graphql.operation.name": name,
            "graphql.document.hash": operation.hash,
        }
        with self._start_span(f"{operation.kind_name} {name}".rstrip(), kind=SpanKind.SERVER, attributes=attributes) as span:

            def finish_span(execution: Execution) -> None:
                request_context = execution.context
                span.set_attributes(
                    {"request.id": request_context.request_id, "code": execution.code, "statements": request_context.statements}
                )
                if execution.code != OK:
                    span.set_status(Status(StatusCode.ERROR))

            yield finish_span

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Any]:
        """The span of a loader."""
        return self._start_span(f"load {name}", attributes=attributes)

    def record_round_trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """Record the spans of the statements of one round trip, which has just ended."""
        end_time = time.time_ns()
        for statement in statements:
            sql = statement.decode()
            attributes: dict[str, str | int] = {
                "db.system.name": "postgresql",
                "db.query.text": sql,
                "db.operation.batch.size": len(statements),
            }
            begin = end_time - int(seconds * NANOSECONDS_PER_SECOND)
            span = self._tracer.start_span(_get_sql_operation(sql), kind=SpanKind.CLIENT, attributes=attributes, start_time=begin)
            if error is not None:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
            span.end(end_time)


def create_otlp_tracing(endpoint: str, sample_ratio: float) -> Tracing:
    """Tracing by OTLP over HTTP. Samples a share of the traces, and those whose `traceparent` is sampled."""
    resource = Resource.create({"service.name": "storefront"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECONDS)))
    return Tracing(provider)


def _get_sql_operation(sql: str) -> str:
    return sql.split(maxsplit=1)[0].upper()
