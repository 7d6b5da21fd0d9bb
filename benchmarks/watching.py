"""The cost of observability per request: request id, slow-operation log, metrics, traces. In process, without execution."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from graphql import ExecutionResult
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client.exposition import generate_latest
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks.report import Cell, Table, err
from storefront.core import request_context
from storefront.serving.observability.instrumentation import Observers, make_slow_operation_logger
from storefront.serving.observability.metrics import Metrics
from storefront.serving.observability.request_id import RequestIdMiddleware
from storefront.serving.observability.tracing import TraceContextMiddleware, Tracing

# The limit of microseconds per request for metrics.
MOST = 20.0
REQUESTS = 20_000
RESULT = ExecutionResult({"products": None}, None)
HEADERS = [(name, b"value") for name in (b"host", b"accept", b"content-type", b"content-length", b"user-agent", b"x-request-id")]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, as far as it is looked at."""

    kind_name: str = "query"
    label: str | None = "Search"
    hash: str = 64 * "0"
    variables: Mapping[str, Any] = field(default_factory=lambda: {"c": "store"})


def measure(rounds: int) -> Iterator[Table]:
    """Microseconds of CPU for each way to watch, beside an application that does nothing."""
    metrics, slow = Metrics(), make_slow_operation_logger(1.0)
    counted = RequestIdMiddleware(
        _app(Observers([slow, metrics.count_execution], [metrics.count_rejection])), metrics.count_request
    )
    traced = RequestIdMiddleware(TraceContextMiddleware(_app(Observers([slow], tracer=Tracing(TracerProvider())))))
    ways: dict[str, ASGIApp] = {
        "ids, and slow operations: always": RequestIdMiddleware(_app(Observers([slow]))),
        "the same with metrics": counted,
        "the same with traces, none sent": traced,
    }
    with err.status("watching"):
        found = asyncio.run(_all({"nothing": _answer, **ways}, rounds))
    always = found["ids, and slow operations: always"] - found["nothing"]
    rows: list[list[Cell]] = [[name, found[name] - found["nothing"], found[name] - found["nothing"] - always] for name in ways]
    began = time.process_time()
    generate_latest(metrics.registry)
    received = 1_000 * (time.process_time() - began)
    holds = "✓" if rows[1][2] <= MOST else "✗"  # type: ignore[operator]
    note = (
        f"{holds} Metrics may take {MOST:g} µs of a request. With one statement each. Telling the metrics took {received:.1f} ms."
    )
    yield Table("watching", "CPU per request", ("watch", "µs", "more than always"), rows, note)


async def _all(ways: Mapping[str, ASGIApp], rounds: int) -> dict[str, float]:
    # In turns, so that disturbances affect all of them.
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, app in ways.items():
            found[name].append(await _microseconds(app))
    return {name: median(times[1:]) for name, times in found.items()}


async def _microseconds(app: ASGIApp) -> float:
    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": HEADERS, "route": Route("/graphql", lambda _: None)}
    began = time.process_time()
    for _ in range(REQUESTS):
        await app(scope, _receive, _send)
    return 1_000_000 * (time.process_time() - began) / REQUESTS


def _app(observers: Observers) -> ASGIApp:
    asked = Asked()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with observers.observe_execution(asked) as done:
            doing = request_context.get_current_context()
            if doing is not None:
                doing.record_round_trip([b"SELECT 1"], 0.001, None)
            done.record_result(RESULT)
        await _answer(scope, receive, send)

    return app


async def _answer(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _send(_: Message) -> None:
    pass


async def _receive() -> Message:
    return {"type": "http.request", "body": b""}
