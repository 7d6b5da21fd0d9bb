"""Tracing: a span per operation, loader and statement in the trace of the request, without values."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from psycopg import Error

from storefront.core import request_context
from storefront.core.db.database import Database, Statement
from storefront.serving.observability.instrumentation import Observers
from storefront.serving.observability.tracing import Tracing
from tests.conftest import serving
from tests.factories import make_product, make_review, make_store

SEARCH = """query Search($c: ID!, $s: String) { products(configId: $c, search: $s) {
  nodes { title other: reviews(first: 2) { totalCount } reviews(first: 1) { nodes { rating } } } } }"""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> Iterator[tuple[Observers, InMemorySpanExporter]]:
    """Who is told of executions, and the spans that are made of them."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Observers(tracer=Tracing(provider)), exporter
    provider.shutdown()


def asked(**variables: Any) -> Any:
    return SimpleNamespace(kind_name="query", label="Search", hash="f00", variables=variables)


async def test_spans_nest_statements_in_loaders_in_operations(
    database: Database, spans: tuple[Observers, InMemorySpanExporter]
) -> None:
    observers, exporter = spans
    with observers.observe_execution(asked(word="confidential")), request_context.batch_span(make_store, 3):
        await database.fetch(Statement("SELECT %(word)s::text AS word", {}), {"word": "confidential"})
        async with database.transaction() as connection:
            connection.enqueue(Statement("SELECT 1", {}))
            await connection.fetch(Statement("SELECT 2", {}))
    found = {span.name: span for span in exporter.get_finished_spans()}
    whole, loader = found["query Search"], found["load make_store"]
    assert whole.parent is None and dict(whole.attributes or {})["graphql.document.hash"] == "f00"
    assert dict(whole.attributes or {})["code"] == "OK" and dict(whole.attributes or {})["statements"] == 5
    assert loader.parent == whole.context and dict(loader.attributes or {}) == {"keys": 3}
    received = [
        (span.name, dict(span.attributes or {})) for span in exporter.get_finished_spans() if span.parent == loader.context
    ]
    assert [name for name, _ in received] == ["SELECT", "BEGIN", "SELECT", "SELECT", "COMMIT"]
    assert received[0][1]["db.query.text"] == "SELECT $1::text AS word"
    assert [attributes["db.operation.batch.size"] for _, attributes in received] == [1, 3, 3, 3, 1]
    assert "confidential" not in str([(span.to_json()) for span in exporter.get_finished_spans()])


async def test_failed_spans_have_error_type_only(database: Database, spans: tuple[Observers, InMemorySpanExporter]) -> None:
    observers, exporter = spans
    with pytest.raises(Error), observers.observe_execution(asked()):
        await database.fetch(Statement("SELECT %(word)s::text::int", {}), {"word": "confidential"})
    statement, whole = exporter.get_finished_spans()
    assert dict(statement.attributes or {})["error.type"] == "InvalidTextRepresentation"
    assert {statement.status.status_code.name, whole.status.status_code.name} == {"ERROR"}
    assert "confidential" not in statement.to_json() + whole.to_json()


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector of OpenTelemetry's: its address, and the spans that it was sent."""
    found: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            found.extend(span for one in sent.resource_spans for scope in one.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces", found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_server_exports_spans_in_the_requests_trace(empty_url: str, tmp_path: Path) -> None:
    with collector() as (endpoint, found):
        async with serving(empty_url, tmp_path, traces_endpoint=endpoint) as shopper:
            store = await make_store(shopper.database)
            await make_review(shopper.database, await make_product(shopper.database, store, title="Confidential chair"))
            body = {"query": SEARCH, "variables": {"c": store, "s": "confidential"}}
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r-1"}
            answer = await shopper.http.post("/graphql", json=body, headers=headers)
            assert answer.json()["data"]["products"]["nodes"][0]["title"] == "Confidential chair"
    spans = [span for span in found if span.trace_id.hex() == TRACE]
    [whole] = [span for span in spans if span.name == "query Search"]
    assert whole.parent_span_id.hex() == PARENT
    assert {"request.id": "r-1", "code": "OK"}.items() <= {one.key: one.value.string_value for one in whole.attributes}.items()
    loads = [span for span in spans if span.name.startswith("load ")]
    statements = [span for span in spans if any(one.key == "db.query.text" for one in span.attributes)]
    assert loads and statements
    assert {span.parent_span_id for span in statements} <= {span.span_id for span in [whole, *loads]}
    assert "onfidential" not in str(found) and store not in str(found)


def test_opentelemetry_is_not_imported_without_endpoint() -> None:
    program = """
import sys
from pydantic import SecretStr
from storefront.app import create_app
from storefront.core.settings import Settings
create_app(Settings(database_url=SecretStr("postgresql://localhost/none"), secret=SecretStr("a secret of thirty-two characters")))
print([name for name in sys.modules if name.startswith(("opentelemetry.sdk.trace", "opentelemetry.exporter"))])
"""
    received = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert received.stdout.strip() == "[]"
