"""Lone surrogates and too large numbers are rejected with their path, and never cause an internal error."""

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from storefront.serving.http import lone_surrogates
from tests.client import Client

SEARCH = "query($s: String, $f: ProductFilterInput, $c: ID!) { products(configId: $c, search: $s, filter: $f) { totalCount } }"
TRACK = "mutation($i: TrackEventsInput!) { trackEvents(input: $i) { recorded } }"
STORE = "01900000-0000-7000-8000-000000000001"
HALF = "half \ud83d"


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        ({"query": SEARCH, "variables": {"c": STORE, "s": HALF}}, "variables.s"),
        ({"query": SEARCH, "variables": {"c": HALF}}, "variables.c"),
        ({"query": SEARCH, "variables": {"c": STORE, "f": {"tags": ["whole", HALF]}}}, "variables.f.tags.1"),
        ({"query": SEARCH, "variables": {"c": STORE, "f": {"tags": HALF}}}, "variables.f.tags"),
        ({"query": SEARCH, "variables": {"c": STORE, "f": {HALF: 1}}}, "variables.f.half ?"),
        ({"query": SEARCH, "variables": {"c": STORE, HALF: 1}}, "variables.half ?"),
        ({"query": "{ me { id } } # " + HALF}, "query"),
        ({"query": "{ me { id } }", "operationName": HALF}, "operationName"),
        ({"query": "{ me { id } }", HALF: 1}, "half ?"),
        ([{"query": SEARCH, "variables": {"c": STORE, "s": HALF}}], "0.variables.s"),
        (HALF, "The body"),
        # What is handed over as it is, is whole around it; a name that is unknown there is no part of it.
        ({"query": TRACK, "variables": {"i": {"configId": HALF, "events": []}}}, "variables.i.configId"),
        ({"query": TRACK, "variables": {"i": {"configId": STORE, "events": [{HALF: 1}]}}}, "variables.i.events.0.half ?"),
    ],
    ids=lambda value: ascii(value)[-50:],
)
async def test_lone_surrogate_is_refused_with_its_path(shopper: Client, request_: Any, where: str) -> None:
    body = json.dumps(request_)
    answer = await shopper.http.post("/graphql", content=body, headers={"content-type": "application/json"})
    [error] = answer.json()["errors"]
    assert error["message"] == f"{where}: must be whole Unicode characters."
    assert error["extensions"]["code"] == ("BAD_USER_INPUT" if where.startswith("variables.") else "BAD_REQUEST")


LARGE = ["1e400", "-1e400", "1" * 5_000, "-" + "9" * 400, "1E+999999999", "123456789" + "0" * 5_000 + ".5"]
TOO_LARGE = "must be a number between -1.8e308 and 1.8e308: this one is too large."


@pytest.mark.parametrize("number", LARGE, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    ("query", "variables", "where"),
    [
        ("query($v: Int) { configs(first: $v) { totalCount } }", '{"v": N}', "variables.v"),
        (SEARCH, '{"c": "x", "f": {"minPrice": N}}', "variables.f.minPrice"),
        (SEARCH, '{"c": N}', "variables.c"),
        ("{ __typename }", '{"unknown": [1, {"x": N}]}', "variables.unknown.1.x"),
        (TRACK, '{"i": {"configId": "x", "events": [{"properties": {"total": N}}]}}', "variables.i.events.0.properties.total"),
    ],
)
async def test_number_too_large_is_refused_with_its_path(
    shopper: Client, number: str, query: str, variables: str, where: str
) -> None:
    variables = variables.replace("N", number)
    body = f'{{"query": {json.dumps(query)}, "variables": {variables}}}'
    answers = [await shopper.http.post("/graphql", content=body, headers={"content-type": "application/json"})]
    if query != TRACK:
        answers.append(await shopper.http.get("/graphql", params={"query": query, "variables": variables}))
    for answer in answers:
        [error] = answer.json()["errors"]
        assert error["message"] == f"{where}: {TOO_LARGE}"
        assert error["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize("number", LARGE, ids=lambda text: text[:12])
async def test_number_too_large_outside_variables_is_refused(shopper: Client, number: str) -> None:
    for body, where in ((number, "The body"), (f'{{"query": "{{ __typename }}", "x": {number}}}', "x"), (f"[{number}]", "0")):
        answer = await shopper.http.post("/graphql", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["message"] == f"{where}: {TOO_LARGE}"


@pytest.mark.parametrize("number", ["1e400", "1" * 5_000], ids=["exponent", "digits"])
async def test_number_too_large_in_an_event_is_refused(shopper: Client, number: str) -> None:
    body = f'[{{"event": "purchase", "properties": {{"total": {number}}}}}]'
    answer = await shopper.http.post(f"/events/{STORE}", content=body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["message"] == f"0.properties.total: {TOO_LARGE}"


@pytest.mark.parametrize("number", ["1e400", "1" * 5_000], ids=["exponent", "digits"])
async def test_number_too_large_in_a_document_is_refused(shopper: Client, number: str) -> None:
    for query in (
        f"{{ configs(first: {number}) {{ totalCount }} }}",
        f'{{ products(configId: "{STORE}", filter: {{minPrice: {number}}}) {{ totalCount }} }}',
        f'mutation {{ trackEvents(input: {{configId: "{STORE}", events: [{{properties: {{x: {number}}}}}]}}) {{ recorded }} }}',
    ):
        error = await shopper.refusal(query)
        assert error["message"] == f"{number[:20]}: {TOO_LARGE}"
        assert error["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize("value", ["1e400", "1" * 5_000, json.dumps(HALF)], ids=["exponent", "digits", "surrogate"])
async def test_unusable_value_is_refused_on_websocket(shopper: Client, value: str) -> None:
    address = f"ws://{shopper.http.base_url.host}:{shopper.http.base_url.port}/graphql"
    async with asyncio.timeout(30), connect(address, subprotocols=[Subprotocol("graphql-transport-ws")]) as socket:
        await socket.send('{"type": "connection_init"}')
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        query = json.dumps("query($v: Int) { configs(first: $v) { totalCount } }")
        await socket.send(f'{{"id": "1", "type": "subscribe", "payload": {{"query": {query}, "variables": {{"v": {value}}}}}}}')
        refused = json.loads(await socket.recv())
        assert (refused["id"], refused["type"]) == ("1", "error")
        assert refused["payload"][0]["message"].startswith("variables.v: must be ")
        assert refused["payload"][0]["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[NaN]",
        b"[Infinity]",
        b"[1e400",
        b"[01]",
        b'"\\ud83d',
        b'["\\ud83d", NaN]',
        b'"\\ud83d' + b"\xff" + b'"',
        b'["\\ud83d"' + b",[" * 50_000,
    ],
)
def test_invalid_json_is_rejected(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        lone_surrogates.loads(text)


@pytest.mark.parametrize(("text", "torn"), [(b'"\\ud83d\\udcde"', False), (b'"\\ud83d"', True), (b'{"\\uDC00": [1]}', True)])
def test_json_with_lone_surrogates_is_parsed(text: bytes, torn: bool) -> None:
    assert lone_surrogates.loads(text) == (json.loads(text), torn)
