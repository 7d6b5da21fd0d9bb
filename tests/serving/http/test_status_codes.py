"""The status codes of GraphQL over HTTP's edition of September 2026. Those of the draft are in test_http.py and the audits."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.client import Client
from tests.conftest import fresh, serving

JSON, NEW = "application/json", "application/graphql-response+json"
PARTIAL = '{ me { id } product(by: {id: "x"}) { id } }'


@pytest_asyncio.fixture(scope="module")
async def newer(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    options: dict[str, Any] = {"status_codes": "2026-09", "max_body": 10_000}
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("newer"), **options) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"query": "{ __typename }"}', 200),
        (f'{{"query": "{PARTIAL.replace(chr(34), chr(92) + chr(34))}"}}', 294),
        ("{", 400),
        ('{"query": "{"}', 400),
        ('{"qeury": "{ __typename }"}', 422),
        ('{"query": "{ __typename }", "variables": [7]}', 422),
        ('{"query": "{ shoeSize }"}', 422),
        ('{"query": "query A { __typename } query B { __typename }"}', 422),
        ('{"query": "query($n: Int!) { configs(first: $n) { totalCount } }", "variables": {"n": null}}', 422),
        ('{"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "unknown"}}}', 422),
    ],
)
@pytest.mark.parametrize("accept", [NEW, "*/*", JSON, f"{NEW}, {JSON};q=0.9"])
async def test_response_status_follows_edition_and_outcome(newer: Client, body: str, status: int, accept: str) -> None:
    headers = {"content-type": JSON, "accept": accept}
    answer = await newer.http.post("/graphql", content=body, headers=headers)
    plain = accept == JSON
    assert answer.status_code == (200 if plain and status == 294 else status)
    # Who takes plain JSON alone gets it for what is a success; a failure says of itself that it is an answer.
    assert answer.headers["content-type"] == f"{JSON if plain and answer.status_code == 200 else NEW}; charset=utf-8"
    assert ("data" in answer.json()) == (status < 300)


async def test_http_errors_have_statuses_of_their_own(newer: Client) -> None:
    http, asked = newer.http, {"query": "{ __typename }"}
    assert (await http.get("/graphql", params={"query": "mutation { __typename }"})).status_code == 405
    assert (await http.put("/graphql", json=asked)).status_code == 405
    long = {"query": "{ __typename }#" + "x" * 32_768}
    assert (await http.get("/graphql", params=long)).status_code == 414
    assert (await http.post("/graphql", json=long)).status_code == 413
    assert (await http.post("/graphql", content="{}", headers={"content-type": "text/plain"})).status_code == 415
    assert (await http.post("/graphql", json=asked, headers={"accept": "text/html"})).status_code == 406
    assert (await http.post("/graphql", json=asked, headers={"authorization": "Bearer x"})).status_code == 401
