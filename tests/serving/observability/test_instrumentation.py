"""Log lines of a request have its id; slow operations are logged without their inputs."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from websockets.asyncio.client import connect

from storefront.serving.http.graphql_request import hash_document
from storefront.serving.observability.instrumentation import MAX_SHAPE_NAME_CHARACTERS, MAX_SHAPE_NAMES, describe_shape
from tests.client import Client
from tests.conftest import serving
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import running
from tests.ports import free_port

SEARCH = "query Search($c: ID!, $s: String) { products(configId: $c, search: $s) { nodes { title reviews { totalCount } } } }"
FEED = "subscription Feed($c: ID!) { productFeed(configId: $c, after: 0) { __typename } }"

Lines = list[dict[str, Any]]


def slow(lines: Lines) -> Lines:
    return [line for line in lines if line["message"] == "slow operation"]


async def test_responses_have_a_request_id(shopper: Client) -> None:
    for path in ("/graphql", "/nowhere", "/dashboard/nobody", "/events/x"):
        given = await shopper.http.get(path, headers={"x-request-id": "mine"})
        assert given.headers.get_list("x-request-id") == ["mine"]
        assert UUID((await shopper.http.get(path)).headers["x-request-id"]).version == 7


async def test_slow_operations_are_logged_with_their_shape(empty_url: str, tmp_path: Path, log_lines: Lines) -> None:
    async with serving(empty_url, tmp_path, slow_operation=1e-9) as shopper:
        store = await make_store(shopper.database)
        await make_product(shopper.database, store)
        body = {"query": SEARCH, "variables": {"c": store, "s": "confidential"}}
        await shopper.http.post("/graphql", json=body, headers={"x-request-id": "r-7"})
    [line] = slow(log_lines)
    assert (line["level"], line["requestId"]) == ("warning", "r-7")
    assert (line["operation"], line["kind"], line["code"]) == ("Search", "query", "OK")
    assert line["document"] == hash_document(SEARCH)
    assert line["variables"] == {"c": "String", "s": "String"}
    assert line["statements"] == line["trips"] > 0
    assert 0 < line["secondsInSql"] < line["seconds"]
    assert "confidential" not in json.dumps(log_lines) and store not in json.dumps(log_lines)


async def test_fast_operations_are_not_logged(empty_url: str, tmp_path: Path, log_lines: Lines) -> None:
    async with serving(empty_url, tmp_path, slow_operation=60) as shopper:
        await shopper.ask("{ __typename }")
    assert slow(log_lines) == []


async def test_socket_operations_have_their_own_request_ids(empty_url: str, tmp_path: Path, log_lines: Lines) -> None:
    async with serving(empty_url, tmp_path, slow_operation=1e-9) as shopper:
        address = str(shopper.http.base_url).replace("http", "ws", 1) + "/graphql"
        async with connect(address, subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
            await socket.send('{"type":"connection_init"}')
            for id_ in "12":
                await socket.send(json.dumps({"id": id_, "type": "subscribe", "payload": {"query": "query One { __typename }"}}))
            kinds = [json.loads(await socket.recv())["type"] for _ in range(5)]
    assert sorted(kinds) == ["complete", "complete", "connection_ack", "next", "next"]
    ids = {line["requestId"] for line in slow(log_lines)}
    assert len(ids) == 2 and {UUID(id_).version for id_ in ids} == {7}


async def test_stream_events_are_logged_with_request_id(empty_url: str, tmp_path: Path, log_lines: Lines) -> None:
    async with serving(empty_url, tmp_path, slow_operation=1e-9) as shopper:
        owner_id = "018f0000-0000-7000-8000-00000000000b"
        await make_user(shopper.database, id=owner_id, subject=owner_id)
        owner, store = shopper.signed_in(owner_id), await make_store(shopper.database, user_id=owner_id)
        body, headers = {"query": FEED, "variables": {"c": store}}, {"accept": "text/event-stream", "x-request-id": "stream-1"}
        listening = asyncio.create_task(_first_line(shopper.http, body, headers))
        await owner.ask(
            'mutation($c: ID!) { createProduct(input: {configId: $c, title: "New", price: "1.00"}) { product { id } } }', c=store
        )
        assert "product" in await asyncio.wait_for(listening, 20)
    received = {line["requestId"]: line["operation"] for line in slow(log_lines) if line["kind"] == "subscription"}
    assert received == {"stream-1": "Feed"}


async def _first_line(http: httpx.AsyncClient, body: Any, headers: Mapping[str, str]) -> str:
    async with http.stream("POST", "/graphql", json=body, headers=headers) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:") and "product" in line:
                return line
    raise AssertionError("the stream ended")


async def test_failures_are_logged_without_inputs(client: Client, log_lines: Lines) -> None:
    store = await make_store(client.database)
    async with client.database.transaction() as connection:
        await connection.raw.execute("ALTER TABLE products RENAME COLUMN title TO heading")
    body = {"query": SEARCH, "variables": {"c": store, "s": "confidential"}}
    answer = await client.http.post(
        "/graphql", json=body, headers={"authorization": "Bearer not-for-the-log", "x-request-id": "r"}
    )
    answer = await client.http.post("/graphql", json=body, headers={"x-request-id": "r-8"})
    assert answer.json()["errors"][0]["extensions"]["requestId"] == "r-8"
    [line] = [line for line in log_lines if line["level"] == "error"]
    assert line["requestId"] == "r-8" and "UndefinedColumn" in line["exception"]
    assert not [word for word in ("confidential", "not-for-the-log", store) if word in json.dumps(log_lines)]


async def test_redaction_leaves_our_own_words(client: Client, log_lines: Lines) -> None:
    store = await make_store(client.database)
    async with client.database.transaction() as connection:
        await connection.raw.execute("ALTER TABLE products RENAME COLUMN title TO heading")
    words = ["failed", "File", "line", "products", "column", "does not exist", "UndefinedColumn", "storefront", "in", "1"]
    lines = []
    for unused in ({}, {word: word for word in words}, {"all": words}):
        await client.http.post("/graphql", json={"query": SEARCH, "variables": {"c": store, **unused}})
        lines.append([{**line, "time": "", "requestId": ""} for line in log_lines if line["level"] == "error"][-1])
    assert lines[0]["message"] == "failed at ['products']" and 'File "' in lines[0]["exception"]
    assert lines[1] == lines[2] == lines[0]


@pytest.mark.parametrize(
    ("value", "received"),
    [
        (
            {"a": 1, "b": 1.5, "c": "x", "d": None, "e": True},
            {"a": "Int", "b": "Float", "c": "String", "d": "Null", "e": "Boolean"},
        ),
        ({"ids": ["x", "y"], "none": []}, {"ids": ["String", 2], "none": []}),
        ({"a": {"b": {"c": {"d": {"e": 1}}}}}, {"a": {"b": {"c": {"d": "Object"}}}}),
    ],
)
def test_shape_has_names_and_types(value: Any, received: Any) -> None:
    assert describe_shape(value) == received


def test_shape_bounds_names_and_their_length() -> None:
    long_name = "n" * MAX_SHAPE_NAME_CHARACTERS
    assert describe_shape({long_name: 1}) == {long_name: "Int"}
    assert describe_shape({long_name + "n": 1}) == {long_name: "Int"}
    assert len(describe_shape({f"name{number}": 1 for number in range(MAX_SHAPE_NAMES + 1)})) == MAX_SHAPE_NAMES


def test_server_logs_json_from_every_logger(empty_url: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+b") as log:
        with running(empty_url, tmp_path, log=log, LOG_FORMAT="json", LOG_LEVEL="info", SLOW_OPERATION="0.000001") as server:
            asked = {"query": "query Asked { __typename }", "variables": '{"email": "ada@example.com"}'}
            httpx.get(f"{server.address}/graphql", params=asked, headers={"x-request-id": "r-9"})
        log.seek(0)
        lines = [json.loads(line) for line in log.read().decode().splitlines()]
    ours = [line for line in lines if line.get("requestId") == "r-9"]
    assert {line["logger"] for line in ours} == {"storefront", "uvicorn.access"}
    assert [line["message"].partition(" - ")[2] for line in ours if line["logger"] == "uvicorn.access"] == [
        '"GET /graphql HTTP/1.1" 200'
    ]
    assert {"uvicorn.error"} <= {line["logger"] for line in lines}
    assert "ada@example.com" not in json.dumps(lines)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_metrics_server_keeps_the_access_log(empty_url: str, tmp_path: Path, log_format: str) -> None:
    port = free_port()
    with (tmp_path / "log").open("w+b") as log:
        with running(empty_url, tmp_path, log=log, LOG_FORMAT=log_format, LOG_LEVEL="info", METRICS_PORT=str(port)) as server:
            # Logging is set up by then, and the metrics are served.
            assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
            given = {"query": "query($a: String) { me { id } }", "variables": {"b": "POST", "c": "graphql", "d": "HTTP"}}
            httpx.post(f"{server.address}/graphql", json=given, headers={"x-request-id": "r-10"})
            httpx.get(f"http://127.0.0.1:{port}/metrics")
        log.seek(0)
        lines = log.read().decode().splitlines()
    [line] = [line for line in lines if "r-10" in line]
    assert "POST /graphql HTTP/1.1" in line.replace("\\", "")
    assert not [line for line in lines if "/metrics" in line]
