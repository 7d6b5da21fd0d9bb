"""Half a character in a request: refused by the name of what holds it, and never an error of ours."""

import json
from typing import Any

import pytest

from storefront.serving import halves
from tests.client import Client

SEARCH = "query($s: String, $f: ProductFilter, $c: ID!) { products(configId: $c, search: $s, filter: $f) { totalCount } }"
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
async def test_half_a_character_is_refused_by_name(shopper: Client, request_: Any, where: str) -> None:
    body = json.dumps(request_)
    answer = await shopper.http.post("/graphql", content=body, headers={"content-type": "application/json"})
    [error] = answer.json()["errors"]
    assert error["message"] == f"{where}: must be whole Unicode characters."
    assert error["extensions"]["code"] == ("BAD_USER_INPUT" if where.startswith("variables.") else "BAD_REQUEST")


@pytest.mark.parametrize(
    "text", [b"{", b"[NaN]", b'"\\ud83d', b'["\\ud83d", NaN]', b'"\\ud83d' + b"\xff" + b'"', b'["\\ud83d"' + b",[" * 50_000]
)
def test_what_is_no_json_is_none(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        halves.loads(text)


@pytest.mark.parametrize(("text", "torn"), [(b'"\\ud83d\\udcde"', False), (b'"\\ud83d"', True), (b'{"\\uDC00": [1]}', True)])
def test_json_with_half_a_character_is_read(text: bytes, torn: bool) -> None:
    assert halves.loads(text) == (json.loads(text), torn)
