"""Security headers of responses, and introspection that is switched off."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from graphql import get_introspection_query

from tests.client import Client
from tests.conftest import fresh, serving

ALWAYS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
ACTIV = {"f": {"status": "ACTIV"}}
TRUSTED_PROXY = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}


@pytest_asyncio.fixture(scope="module")
async def closed(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A server that does not tell its schema, behind a proxy."""
    options: dict[str, Any] = {"introspection": False, "trusted_proxies": "127.0.0.1"}
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("closed"), **options) as client:
        yield client


@pytest.mark.parametrize("path", ["/graphql?query={__typename}", "/graphql", "/nowhere", "/events/x", "/graphiql/boot.js"])
async def test_responses_have_nosniff_and_frame_headers(shopper: Client, path: str) -> None:
    answer = await shopper.http.get(path)
    assert ALWAYS.items() <= dict(answer.headers).items()
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "strict-transport-security" not in answer.headers


async def test_page_has_its_own_content_security_policy(shopper: Client) -> None:
    answer = await shopper.http.get("/graphql", headers={"accept": "text/html"})
    policy = answer.headers.get_list("content-security-policy")
    assert len(policy) == 1 and "script-src 'self'" in policy[0] and "frame-ancestors 'none'" in policy[0]
    assert ALWAYS.items() <= dict(answer.headers).items()


async def test_hsts_is_sent_over_https_only(closed: Client, shopper: Client) -> None:
    secure = "strict-transport-security"
    assert (await closed.http.get("/graphql", headers=TRUSTED_PROXY)).headers[secure] == "max-age=31536000"
    assert secure not in (await closed.http.get("/graphql")).headers
    # Of a proxy that nobody trusts nothing is believed.
    assert secure not in (await shopper.http.get("/graphql", headers=TRUSTED_PROXY)).headers


@pytest.mark.parametrize(
    "query", [get_introspection_query(), '{ a: __type(name: "Product") { name } }', "{ __schema { __typename } }"]
)
async def test_introspection_is_a_setting(closed: Client, shopper: Client, query: str) -> None:
    assert await shopper.ask(query)
    answer = (await closed.post(query)).json()
    assert "data" not in answer
    assert answer["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert await closed.ask("{ __typename }") == {"__typename": "Query"}


@pytest.mark.parametrize(
    ("query", "variables"),
    [
        ("{ prodcts { id } }", {}),
        ("{ me { nam } }", {}),
        ("{ config(bi: {slug: 1}) { id } }", {}),
        ("{ config(by: {slg: 1}) { id } }", {}),
        ("query($s: ProductSor) { me { id } }", {}),
        ("{ me { ... on Usr { id } } }", {}),
        ("query($b: ConfigByInput!) { config(by: $b) { id } }", {"b": {"slg": "x"}}),
        ('{ products(configId: "x", filter: {statuses: ACTIV}) { totalCount } }', {}),
        ('query($f: ProductFilterInput) { products(configId: "x", filter: $f) { totalCount } }', ACTIV),
        ('subscription($f: ProductFilterInput) { productFeed(configId: "x", filter: $f) { __typename } }', ACTIV),
    ],
)
async def test_errors_suggest_no_names_without_introspection(
    closed: Client, shopper: Client, query: str, variables: dict[str, Any]
) -> None:
    body, headers = {"query": query, "variables": variables}, {"accept": "application/json, text/event-stream"}
    assert "Did you mean" in (await shopper.http.post("/graphql", json=body, headers=headers)).text
    answer = await closed.http.post("/graphql", json=body, headers=headers)
    assert '"errors"' in answer.text
    assert "Did you mean" not in answer.text
