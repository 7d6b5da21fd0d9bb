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

from storefront.serving.observability.instrumentation import OK, Asked, Execution

NANOSECONDS = 1_000_000_000
# Seconds that a collector has, tries again included: a server that stops waits no longer for one that is down.
PATIENCE = 3.0
# Names of operations are the clients' choice.
LONGEST_NAME = 100


class Traced:
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
        self._lasting = partial(self._tracer.start_as_current_span, record_exception=False, set_status_on_exception=False)

    def middleware(self) -> Middleware:
        """Puts what is done for a request into its trace."""
        return Middleware(Traced)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Spans are sent while this lasts, the last ones at its end."""
        yield
        await asyncio.to_thread(self._provider.shutdown)

    @contextmanager
    def operation(self, asked: Asked) -> Iterator[Callable[[Execution], None]]:
        """The span of an operation; gives what to tell its execution to, once it is over."""
        name = (asked.label or "")[:LONGEST_NAME]
        told = {"graphql.operation.type": asked.kind_name, "graphql.operation.name": name, "graphql.document.hash": asked.hash}
        with self._lasting(f"{asked.kind_name} {name}".rstrip(), kind=SpanKind.SERVER, attributes=told) as span:

            def over(done: Execution) -> None:
                spent = done.activity
                span.set_attributes({"request.id": spent.request_id, "code": done.code, "statements": spent.statements})
                if done.code != OK:
                    span.set_status(Status(StatusCode.ERROR))

            yield over

    def part(self, name: str, **attributes: Any) -> AbstractContextManager[Any]:
        """The span of a loader."""
        return self._lasting(f"load {name}", attributes=attributes)

    def trip(self, statements: Sequence[bytes], seconds: float, error: BaseException | None) -> None:
        """The spans of statements that came back together just now."""
        end = time.time_ns()
        for statement in statements:
            sql = statement.decode()
            told: dict[str, str | int] = {
                "db.system.name": "postgresql",
                "db.query.text": sql,
                "db.operation.batch.size": len(statements),
            }
            begin = end - int(seconds * NANOSECONDS)
            span = self._tracer.start_span(_operation_of(sql), kind=SpanKind.CLIENT, attributes=told, start_time=begin)
            if error is not None:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
            span.end(end)


def sent_to(endpoint: str, share: float) -> Tracing:
    """Sends a share of the traces by OTLP over HTTP, and those that a request's `traceparent` says are wanted."""
    resource = Resource.create({"service.name": "storefront"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(share)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=PATIENCE)))
    return Tracing(provider)


def _operation_of(sql: str) -> str:
    return sql.split(maxsplit=1)[0].upper()
