"""Traces for OpenTelemetry: a span for each operation, each loader and each statement. Imported only where traces are wanted.

Statements are told as text with numbered parameters: values stand in no span. What sends the spans is the SDK's own, which
takes its own variables, too (OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
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
# Seconds that a collector has, tries again included: a server that stops waits no longer for one that is down.
EXPORT_TIMEOUT_SECONDS = 3.0
# Names of operations are the clients' choice.
MAX_NAME_CHARACTERS = 100


class TraceContextMiddleware:
    """The ASGI application, whose spans belong to the trace that a request names: its `traceparent`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on."""
        headers: dict[str, list[str]] = {}
        for name, value in scope.get("headers", ()):
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        token = context.attach(self._propagator.extract(headers, context.Context()))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)


class Tracing:
    """What tells a provider of spans what an operation consists of."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("storefront")
        # What exceptions say may hold values.
        self._start_span = partial(self._tracer.start_as_current_span, record_exception=False, set_status_on_exception=False)

    def middleware(self) -> Middleware:
        """Puts what is done for a request into its trace."""
        return Middleware(TraceContextMiddleware)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Spans are sent while this lasts, the last ones at its end."""
        yield
        await asyncio.to_thread(self._provider.shutdown)

    @contextmanager
    def trace_operation(self, operation: ObservedOperation) -> Iterator[Callable[[Execution], None]]:
        """The span of an operation; gives what to tell its execution to, once it is over."""
        name = (operation.label or "")[:MAX_NAME_CHARACTERS]
        attributes = {
            "graphql.operation.type": operation.kind_name,
            "graphql.operation.name": name,
            "graphql.document.hash": operation.hash,
        }
        with self._start_span(f"{operation.kind_name} {name}".rstrip(), kind=SpanKind.SERVER, attributes=attributes) as span:

            def finish_span(execution: Execution) -> None:
                activity = execution.activity
                span.set_attributes(
                    {"request.id": activity.request_id, "code": execution.code, "statements": activity.statements}
                )
                if execution.code != OK:
                    span.set_status(Status(StatusCode.ERROR))

            yield finish_span

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[Any]:
        """The span of a loader."""
        return self._start_span(f"load {name}", attributes=attributes)

    def record_round_trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """The spans of statements that came back together just now."""
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
    """Sends a share of the traces by OTLP over HTTP, and those that a request's `traceparent` says are wanted."""
    resource = Resource.create({"service.name": "storefront"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(sample_ratio)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECONDS)))
    return Tracing(provider)


def _get_sql_operation(sql: str) -> str:
    return sql.split(maxsplit=1)[0].upper()
