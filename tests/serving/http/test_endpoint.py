"""The endpoint over HTTP: bodies, media types, status codes, request ids, and masked errors."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from storefront.core.ids import uuid7
from tests.client import SECRET, Client
from tests.factories import make_product, make_store, make_user

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
TYPE = "{ __typename }"
# What no answer may show of the inside.
INSIDE = ("psycopg", "Traceback", "SELECT", "relation", "Pool", "postgresql://", "storefront/", SECRET)


async def send(client: Client, body: bytes | str, **headers: str) -> httpx.Response:
    """POST these bytes as they are."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.http.post("/graphql", content=body, headers={"content-type": JSON, **named})


async def ask(client: Client, query: str, accept: str = JSON, **more: Any) -> httpx.Response:
    return await send(client, json.dumps({"query": query, **more}), accept=accept)


def code_of(response: httpx.Response) -> str:
    """The code of the only error, once it is known that the error is whole: text, code, and the id of its request."""
    (error,) = response.json()["errors"]
    assert error["message"]
    assert error["extensions"]["requestId"] == response.headers["x-request-id"]
    return str(error["extensions"]["code"])


# ----------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    "body",
    [
        '"x"',
        "1",
        "null",
        "true",
        "[]",
        "",
        "{",
        "NaN",
        '{"query": NaN}',
        b'{"query": "\xff\xfe"}',
        "[" * 10_000,
        '{"query":' * 10_000,
        f'{{"query": {"9" * 5_000}}}',
        r'{"query": "\ud800"}',
        "{}",
        '{"query": null}',
        '{"query": ["{ __typename }"]}',
        '{"query": "{ __typename }", "variables": []}',
        '{"query": "{ __typename }", "variables": "{}"}',
        '{"query": "{ __typename }", "operationName": 1}',
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_malformed_request_body_is_400(shopper: Client, body: str | bytes) -> None:
    answer = await send(shopper, body)
    assert (answer.status_code, code_of(answer)) == (400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "empty", ['"variables": null', '"variables": {}', '"operationName": null', '"operationName": ""', '"x": 1']
)
async def test_optional_request_keys_may_be_null(shopper: Client, empty: str) -> None:
    answer = await send(shopper, f'{{"query": "{TYPE}", {empty}}}')
    assert (answer.status_code, answer.json()) == (200, {"data": {"__typename": "Query"}})


async def test_variable_with_5000_digits_is_refused(shopper: Client) -> None:
    answer = await send(
        shopper, f'{{"query": "query($n: Int) {{ configs(first: $n) {{ totalCount }} }}", "variables": {{"n": {"9" * 5_000}}}}}'
    )
    assert (answer.status_code, code_of(answer)) in ((200, "BAD_USER_INPUT"), (400, "BAD_REQUEST"))


async def test_body_beyond_limit_is_413(shopper: Client) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    for body in (b" " * 2_000_000, chunks()):
        answer = await shopper.http.post("/graphql", content=body, headers={"content-type": JSON})
        assert (answer.status_code, code_of(answer)) == (413, "BAD_REQUEST")
    assert (await ask(shopper, TYPE)).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/json; charset=utf-16",
        "application/json;charset=latin1",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/graphql",
    ],
)
async def test_only_json_content_type_is_accepted(shopper: Client, kind: str) -> None:
    answer = await send(shopper, json.dumps({"query": TYPE}), content_type=kind)
    assert (answer.status_code, code_of(answer)) == (415, "BAD_REQUEST")


@pytest.mark.parametrize("kind", ["Application/JSON", "application/json; charset=utf-8", "application/json ;x=y"])
async def test_json_content_type_spellings_are_accepted(shopper: Client, kind: str) -> None:
    assert (await send(shopper, json.dumps({"query": TYPE}), content_type=kind)).status_code == 200


async def test_get_runs_queries_with_variables_and_operation_name(shopper: Client) -> None:
    store = await make_store(shopper.database)
    query = "query A($id: ID!) { config(by: {id: $id}) { id } } query B { me { id } }"
    given = {"query": query, "variables": json.dumps({"id": store}), "operationName": "A"}
    answer = await shopper.http.get("/graphql", params=given)
    assert (answer.status_code, answer.json()) == (200, {"data": {"config": {"id": store}}})


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "BAD_REQUEST"),
        ({"query": TYPE, "variables": "{"}, 400, "BAD_REQUEST"),
        ({"query": TYPE, "variables": "[]"}, 400, "BAD_REQUEST"),
        ({"query": TYPE, "operationName": "Missing"}, 200, "BAD_USER_INPUT"),
        ({"query": "query A { __typename } query B { __typename }"}, 200, "BAD_USER_INPUT"),
        ({"query": "{"}, 200, "GRAPHQL_PARSE_FAILED"),
    ],
)
async def test_get_refuses_subscriptions_and_mutations(shopper: Client, query: dict[str, str], status: int, code: str) -> None:
    answer = await shopper.http.get("/graphql", params=query)
    assert (answer.status_code, code_of(answer)) == (status, code)


async def test_get_does_not_execute_mutations(shopper: Client) -> None:
    for query in ({"query": "mutation { __typename }"}, {"query": f"query A {TYPE} mutation B {TYPE}", "operationName": "B"}):
        answer = await shopper.http.get("/graphql", params=query)
        assert (answer.status_code, code_of(answer), answer.headers["allow"]) == (405, "BAD_REQUEST", "POST")
        assert (await ask(shopper, **query)).json() == {"data": {"__typename": "Mutation"}}


async def test_get_survives_invalid_utf8(shopper: Client) -> None:
    for raw in ("query=%FF%FE", "query=%7B__typename%7D&variables=%ED%A0%80", "query=%00", "query=%ED%A0%80&operationName=%FF"):
        answer = await shopper.http.get(f"/graphql?{raw}")
        assert code_of(answer) in ("BAD_REQUEST", "GRAPHQL_PARSE_FAILED")


async def test_other_methods_are_refused(shopper: Client) -> None:
    for method in ("PUT", "DELETE", "PATCH", "PROPFIND"):
        answer = await shopper.http.request(method, "/graphql", json={"query": TYPE})
        assert (answer.status_code, code_of(answer), answer.headers["allow"]) == (405, "BAD_REQUEST", "GET, HEAD, OPTIONS, POST")


async def test_options_lists_the_methods(shopper: Client) -> None:
    answer = await shopper.http.options("/graphql")
    assert (answer.status_code, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
        ("text/html", True),
        ("application/json, text/html;q=0.5", False),
        ("*/*", False),
    ],
)
async def test_browser_that_follows_a_link_gets_the_page(shopper: Client, accept: str, is_page: bool) -> None:
    answer = await shopper.http.get("/graphql", params={"query": TYPE}, headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/html") is is_page
    persisted = await shopper.http.get("/graphql", params={"query": TYPE, "documentId": "sha256:0"}, headers={"accept": accept})
    assert not persisted.headers["content-type"].startswith("text/html")


async def test_head_has_the_headers_of_get(shopper: Client) -> None:
    html = {"accept": "text/html"}
    asked: list[tuple[dict[str, str], dict[str, str], int]] = [
        ({"query": TYPE}, {}, 200),
        ({"query": "mutation { __typename }"}, {}, 405),
        ({}, {}, 400),
        ({}, html, 200),
    ]
    for query, headers, status in asked:
        get, head = [await shopper.http.request(method, "/graphql", params=query, headers=headers) for method in ("GET", "HEAD")]
        assert (head.status_code, head.content) == (status, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        # Errors have an id of their own each time, and a page has too.
        assert (headers or status != 200) or head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("query", ["{ ... @defer { me { id } } }", "{ configs { nodes @stream { id } } }"])
async def test_incremental_delivery_is_refused(shopper: Client, query: str) -> None:
    answer = await ask(shopper, query, "multipart/mixed;deferSpec=20220824, application/json")
    assert (answer.status_code, code_of(answer)) == (200, "GRAPHQL_VALIDATION_FAILED")
    assert "Unknown directive" in answer.json()["errors"][0]["message"]


# -------------------------------------------------------------------------------------------- codes and statuses


@pytest.mark.parametrize("accept", [JSON, "*/*", GRAPHQL_JSON, f"{GRAPHQL_JSON}, {JSON};q=0.9"])
@pytest.mark.parametrize(
    ("query", "more", "code"),
    [
        ("{ me { id }", {}, "GRAPHQL_PARSE_FAILED"),
        ("", {}, "GRAPHQL_PARSE_FAILED"),
        ("{ me { shoeSize } }", {}, "GRAPHQL_VALIDATION_FAILED"),
        ("fragment F on User { id }", {}, "GRAPHQL_VALIDATION_FAILED"),
        ("query($n: Int) { configs(first: $n) { totalCount } }", {"variables": {"n": "two"}}, "BAD_USER_INPUT"),
        ("query($id: ID!) { config(by: {id: $id}) { id } }", {}, "BAD_USER_INPUT"),
        (TYPE, {"operationName": "Missing"}, "BAD_USER_INPUT"),
        ("query A { __typename } query B { __typename }", {}, "BAD_USER_INPUT"),
    ],
)
async def test_unexecutable_request_has_code_and_status(
    shopper: Client, query: str, more: dict[str, Any], code: str, accept: str
) -> None:
    answer = await ask(shopper, query, accept, **more)
    new = accept.startswith(GRAPHQL_JSON)
    assert code_of(answer) == code
    assert answer.status_code == (400 if new else 200)
    assert answer.headers["content-type"] == f"{GRAPHQL_JSON if new else JSON}; charset=utf-8"


@pytest.mark.parametrize("accept", [JSON, GRAPHQL_JSON])
async def test_executed_request_is_200_despite_errors(shopper: Client, accept: str) -> None:
    answer = await ask(shopper, '{ me { id } product(by: {id: "x"}) { id } }', accept)
    assert (answer.status_code, code_of(answer)) == (200, "BAD_USER_INPUT")
    assert answer.json()["data"] == {"me": None, "product": None}
    assert answer.json()["errors"][0]["path"] == ["product"]


async def test_validation_errors_are_listed_up_to_limit(shopper: Client) -> None:
    answer = (await ask(shopper, "{ " + " ".join(f"wrong{n}" for n in range(50)) + " }")).json()
    assert len(answer["errors"]) == 5
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"GRAPHQL_VALIDATION_FAILED"}
    assert all(error["locations"] for error in answer["errors"])


# ----------------------------------------------------------------------------------------------------- request ids


async def test_request_id_is_returned_in_header_and_errors(shopper: Client) -> None:
    for body in (json.dumps({"query": TYPE}), json.dumps({"query": "{"}), "[]"):
        assert (await send(shopper, body, x_request_id="my-request 1/2")).headers["x-request-id"] == "my-request 1/2"
    assert code_of(await send(shopper, "[]", x_request_id="r1")) == "BAD_REQUEST"


@pytest.mark.parametrize("given", ["", "x" * 101, "x" * 10_000, "a\tb", "é"])
async def test_invalid_request_id_is_replaced(shopper: Client, given: str) -> None:
    answer = await shopper.http.post("/graphql", json={"query": "{"}, headers={b"x-request-id": given.encode()})
    assert UUID(answer.headers["x-request-id"]).version == 7
    assert code_of(answer) == "GRAPHQL_PARSE_FAILED"


# ----------------------------------------------------------------------------------------------------- our own failures


async def test_internal_error_is_masked_logged_and_isolated(client: Client, log_lines: list[dict[str, Any]]) -> None:
    store = await make_store(client.database)
    async with client.database.transaction() as connection:
        await connection.raw.execute("DROP TABLE products CASCADE")
    answer = await ask(client, f'{{ products(configId: "{store}") {{ totalCount }} }}')
    assert (answer.status_code, code_of(answer)) == (200, "INTERNAL_SERVER_ERROR")
    assert not [word for word in INSIDE if word in answer.text]
    [line] = [line for line in log_lines if line["level"] == "error"]
    assert line["requestId"] == answer.headers["x-request-id"] and "UndefinedTable" in line["exception"]
    answer = await ask(client, f'{{ config(by: {{id: "{store}"}}) {{ id categories {{ path }} }} me {{ id }} }}')
    assert (answer.json()["data"], code_of(answer)) == ({"config": None, "me": None}, "INTERNAL_SERVER_ERROR")


async def test_internal_error_before_execution_is_masked_500(client: Client) -> None:
    user = await make_user(client.database)
    async with client.database.transaction() as connection:
        await connection.raw.execute("ALTER TABLE users RENAME TO gone")
    answer = await client.signed_in(user).post("{ me { id } }")
    assert (answer.status_code, code_of(answer)) == (500, "INTERNAL_SERVER_ERROR")
    assert not [word for word in INSIDE if word in answer.text]
    # Nothing was asked of the database: nothing fails.
    assert await client.ask("{ me { id } }") == {"me": None}


# ----------------------------------------------------------------------------------------------------- documents


async def test_cached_document_gives_the_same_response(shopper: Client) -> None:
    wrong, right = f"{{ nothing{uuid7().hex} }}", f"# {uuid7()}\n{TYPE}"
    for _ in range(2):
        assert code_of(await ask(shopper, wrong)) == "GRAPHQL_VALIDATION_FAILED"
        assert (await ask(shopper, right)).json() == {"data": {"__typename": "Query"}}


async def test_cached_document_accepts_other_variables_and_names(shopper: Client) -> None:
    stores = [await make_store(shopper.database) for _ in range(2)]
    query = "query A($id: ID!) { config(by: {id: $id}) { id } } query B { me { id } }"
    for store in stores:
        answer = await ask(shopper, query, variables={"id": store}, operationName="A")
        assert answer.json() == {"data": {"config": {"id": store}}}
    assert (await ask(shopper, query, operationName="B")).json() == {"data": {"me": None}}


async def test_document_has_at_most_1000_tokens(shopper: Client) -> None:
    for many, code in ((950, "BAD_USER_INPUT"), (1_000, "LIMIT_EXCEEDED"), (200_000, "LIMIT_EXCEEDED")):
        query = f'{{ products(configId: "{uuid7()}", filter: {{ids: [{"1 " * many}]}}) {{ totalCount }} }}'
        assert code_of(await ask(shopper, query)) == code


async def test_widest_documents_never_fail(shopper: Client) -> None:
    for fields in ("__typename " * 300, " ".join(f"__typename a{n}: __typename" for n in range(49)), "me { id } " * 150):
        assert "errors" not in (await ask(shopper, f"{{ {fields} }}")).json()


@pytest.mark.parametrize("depth", [5, 20, 60, 100, 150, 200, 250, 300, 1_000])
@pytest.mark.parametrize(
    ("opening", "inside", "closing"),
    [
        ("{ a", "", "}"),
        ('{ config(by: {slug: "deep"}) { products(first: 1) { nodes { config', "{ id }", "} } }"),
        ("{ me { ... on User ", "{ id }", "} }"),
        ("[", "1", "]"),
        ("{id: ", '"x"', "}"),
    ],
    ids=["fields", "edges", "fragments", "lists", "objects"],
)
async def test_nested_documents_never_fail(shopper: Client, opening: str, inside: str, closing: str, depth: int) -> None:
    nested = opening * depth + inside + closing * depth
    query = nested if opening.startswith("{ ") else f"{{ config(by: {nested}) {{ id }} }}"
    answer = await ask(shopper, query)
    assert answer.status_code == 200
    for error in answer.json().get("errors", []):
        codes = ("GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT", "LIMIT_EXCEEDED")
        assert error["extensions"]["code"] in codes


@pytest.mark.parametrize("depth", [1, 5, 10, 80, 330])
async def test_long_relation_path_is_executed_or_refused(shopper: Client, depth: int) -> None:
    store = await make_store(shopper.database)
    await make_product(shopper.database, store)
    step = "products(first: 1) { nodes { config { "
    answer = await ask(shopper, f'{{ config(by: {{id: "{store}"}}) {{ {step * depth} id {"} } } " * depth} }} }}')
    walked = answer.json()
    if walked.get("data"):
        found = walked["data"]["config"]
        for _ in range(depth):
            found = found["products"]["nodes"][0]["config"]
        assert found == {"id": store}
    else:
        assert code_of(answer) in ("GRAPHQL_PARSE_FAILED", "LIMIT_EXCEEDED")


async def test_nested_variables_never_fail(shopper: Client) -> None:
    query = """query($by: ConfigByInput!, $t: [String!], $p: Decimal) {
      config(by: $by) { products(filter: {tags: $t, minPrice: $p}) { totalCount } } }"""
    for depth in (10, 200, 500, 1_000):
        for value in ("[" * depth + "1" + "]" * depth, '{"id":' * depth + "1" + "}" * depth):
            for name in ("by", "t", "p"):
                answer = await send(
                    shopper, f'{{"query": {json.dumps(query)}, "variables": {{"by": {{"slug": "x"}}, "{name}": {value}}}}}'
                )
                assert {error["extensions"]["code"] for error in answer.json()["errors"]} == {"BAD_USER_INPUT"}
