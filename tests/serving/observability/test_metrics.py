"""Prometheus metrics: correct counts, and bounded label cardinality."""

import json
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from starlette.routing import Route
from websockets.asyncio.client import connect

from storefront.core.request_context import RequestContext
from storefront.core.settings import Settings
from storefront.serving.observability.instrumentation import Execution
from storefront.serving.observability.metrics import MAX_OPERATION_NAME_CHARACTERS, MAX_OPERATION_NAMES, Metrics
from tests.conftest import serving
from tests.factories import make_product, make_store
from tests.feed.processes import running
from tests.ports import free_port

SEARCH = "query Search($c: ID!) { products(configId: $c) { nodes { title } } }"
FEED = "subscription Feed($c: ID!) { productFeed(configId: $c) { __typename } }"


class Received:
    """What is told on a port, by name and labels."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def __call__(self, sample_name: str, /, **labels: str) -> float | None:
        found = [
            sample.value for sample in self._samples if sample.name == sample_name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    def values(self, name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in self._samples if sample.name == name}


async def received(port: int) -> Received:
    async with httpx.AsyncClient() as http:
        return Received((await http.get(f"http://127.0.0.1:{port}/metrics")).text)


async def test_metrics_count_operations_requests_and_gauges(empty_url: str, tmp_path: Path) -> None:
    port = free_port()
    async with serving(empty_url, tmp_path, metrics_port=port, response_cache_bytes=1_000_000) as shopper:
        store = await make_store(shopper.database)
        await make_product(shopper.database, store)
        for _ in range(3):
            await shopper.ask(SEARCH, c=store)
        await shopper.ask("{ __typename }")
        await shopper.post("{ nothing }")
        await shopper.post("query Failing { productChanges(configId: 1, after: 0) { position } }")
        address = str(shopper.http.base_url).replace("http", "ws", 1) + "/graphql"
        async with connect(address, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
            await socket.send('{"type":"connection_init"}')
            await socket.recv()
            payload = {"query": FEED, "variables": {"c": store}}
            await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
            await socket.send('{"type":"ping"}')
            await socket.recv()
            while (found := await received(port))("storefront_feed_listeners") != 1:
                pass
    assert found("storefront_operations_total", kind="query", name="Search", code="OK") == 1
    assert found("storefront_response_lookups_total", outcome="hit") == 2
    assert found("storefront_operations_total", kind="query", name="Failing", code="BAD_USER_INPUT") == 1
    assert found("storefront_operations_total", kind="query", name="anonymous", code="OK") == 1
    assert found("storefront_rejected_operations_total", code="GRAPHQL_VALIDATION_FAILED") == 1
    assert found("storefront_operation_seconds_count", kind="query", name="Search") == 1
    assert found("storefront_sql_statements_total", kind="query") == found("storefront_sql_round_trips_total", kind="query") != 0
    assert (found("storefront_sql_seconds_total", kind="query") or 0) > 0
    assert found("storefront_http_requests_total", route="/graphql", method="POST", status="200") == 6
    assert found("storefront_websockets") == found("storefront_websocket_operations") == found("storefront_feed_stores") == 1
    assert (found("storefront_pool_connections", pool="primary") or 0) >= 1
    assert found("storefront_pool_waiting", pool="primary") == 0
    for name in (
        "feed_polls_total",
        "feed_behind",
        "rollup_queue",
        "jobs_waiting",
        "jobs_running",
        "documents",
        "responses_bytes",
        "streams",
    ):
        assert found(f"storefront_{name}") is not None
    assert (found("process_resident_memory_bytes") or 0) > 10_000_000


async def test_metrics_have_their_own_optional_port(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path) as shopper:
        assert (await shopper.http.get("/metrics")).status_code == 404


def test_metrics_have_a_port_per_worker(empty_url: str, tmp_path: Path) -> None:
    port = free_port(2)
    with running(empty_url, tmp_path, workers=2, is_forked=False, METRICS_PORT=str(port)):
        # The other worker may not be there yet.
        found = {_patiently(port + number)("process_resident_memory_bytes") for number in range(2)}
        assert len(found) == 2


def _patiently(port: int) -> Received:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            return Received(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text)
        time.sleep(0.1)
    raise AssertionError("nothing is told")


def execution(name: str | None) -> Any:
    asked: Any = SimpleNamespace(kind_name="query", label=name, hash="", variables={})
    return Execution(asked, RequestContext("r"))


def test_operation_name_labels_are_bounded() -> None:
    metrics = Metrics({"Trusted"})
    for number in range(MAX_OPERATION_NAMES + 50):
        metrics.count_execution(execution(f"Name{number}"))
    metrics.count_execution(execution("Long" * MAX_OPERATION_NAME_CHARACTERS))
    metrics.count_execution(execution("Trusted"))
    metrics.count_execution(execution(None))
    names = {
        sample.labels["name"] for family in metrics.registry.collect() for sample in family.samples if "name" in sample.labels
    }
    assert len(names) == MAX_OPERATION_NAMES + 3 and {"Trusted", "other", "anonymous", "Name0"} <= names


@pytest.mark.parametrize(
    ("route", "method", "received"), [(None, "BREW", ("other", "other")), ("/graphql", "GET", ("/graphql", "GET"))]
)
def test_unknown_paths_and_methods_share_a_label(route: str | None, method: str, received: tuple[str, str]) -> None:
    metrics = Metrics()
    scope = {"method": method, **({"route": Route(route, lambda _: None)} if route else {})}
    metrics.count_request(scope, 404, 0.1)
    labels = {"route": received[0], "method": received[1], "status": "404"}
    assert metrics.registry.get_sample_value("storefront_http_requests_total", labels) == 1


def test_metrics_ports_skip_the_servers_port() -> None:
    with pytest.raises(ValidationError, match="STOREFRONT_PORT"):
        Settings(port=8002, metrics_port=8001, workers=2)
    assert Settings(port=8003, metrics_port=8001, workers=2).metrics_port == 8001
