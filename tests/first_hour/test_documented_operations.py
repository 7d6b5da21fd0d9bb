"""Every operation of the documentation runs against the demo data as it is written, and returns rows."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from graphql import OperationDefinitionNode, parse

from storefront.demo.plan import EXAMPLE_HANDLE
from tests.client import token_of
from tests.feed.processes import Server
from tests.test_documents import _BLOCK, PAGES

SLUG = "nordic-oak-living"
START = f"""{{ config(by: {{ slug: "{SLUG}" }}) {{ id product(by: {{ handle: "{EXAMPLE_HANDLE}" }}) {{ id }} }} }}"""
EXPORT = "mutation ($input: ExportProductsInput!) { exportProducts(input: $input) { job { id } } }"
# The one part that is the reader's own: a receiver, whose host has to resolve.
RECEIVER, LOCAL_RECEIVER = "https://erp.example.com/", "https://127.0.0.1:9999/"
# What may be empty: nothing was refused, no delivery has failed.
MAY_BE_EMPTY = {"userErrors", "deliveries"}


def list_operations() -> Iterator[tuple[str, OperationDefinitionNode, str]]:
    """Each operation: where it is, its definition, and its text."""
    for page in PAGES:
        blocks = [block for _, language, block in _BLOCK.findall(page.read_text()) if language == "graphql"]
        for number, block in enumerate(blocks, 1):
            for part in parse(block).definitions:
                if isinstance(part, OperationDefinitionNode) and part.loc:
                    name = part.name.value if part.name else part.operation.value
                    yield f"{page.name} {number} {name}", part, block[part.loc.start : part.loc.end]


OPERATIONS = [pytest.param(operation, source, id=name) for name, operation, source in list_operations()]


class Shop:
    """The demo server as its owner sees it, with values for the variables of documents."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        config = self.ask(START)["config"]
        job = self.ask(EXPORT, input={"configId": config["id"]})["exportProducts"]["job"]
        now = datetime.now(UTC)
        self.values: dict[str, Any] = {
            "config": config["id"],
            "configId": config["id"],
            "id": config["product"]["id"],
            "job": job["id"],
            "search": "oak tray",
            "after": None,
            "range": {"from": (now - timedelta(days=30)).isoformat(), "to": now.isoformat()},
        }

    def ask(self, query: str, **variables: Any) -> Any:
        # Signing out is for another user: the owner's token is still needed.
        other = {"authorization": f"Bearer {token_of('another', email='another@shop.example')}"}
        headers = other if "signOutEverywhere" in query else {}
        answer = self.http.post("/graphql", json={"query": query, "variables": variables}, headers=headers).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def listen(self, query: str, **variables: Any) -> Any:
        """The first event of a subscription."""
        body, headers = {"query": query, "variables": variables}, {"accept": "text/event-stream"}
        with self.http.stream("POST", "/graphql", json=body, headers=headers) as response:
            event = next(
                line.removeprefix("data:") for line in response.iter_lines() if line.startswith("data:") and len(line) > 7
            )
        answer = json.loads(event)
        assert "errors" not in answer, answer
        return answer["data"]


@pytest.fixture(scope="module")
def shop(demo_server: Server, owner_token: str) -> Iterator[Shop]:
    headers = {"authorization": f"Bearer {owner_token}"}
    with httpx.Client(base_url=demo_server.address, headers=headers, timeout=30) as http:
        yield Shop(http)


def find_empty(value: Any, path: tuple[str, ...] = ()) -> list[str]:
    """The paths of lists without items, and of objects that are null where a document begins."""
    if path and path[-1] in MAY_BE_EMPTY:
        return []
    if value in ([], None) and (value == [] or len(path) == 1):
        return [".".join(path)]
    if isinstance(value, dict):
        return [found for name, part in value.items() for found in find_empty(part, (*path, name))]
    # Of rows, one with everything is enough.
    found = [find_empty(item, path) for item in value] if isinstance(value, list) else []
    return min(found, key=len, default=[])


@pytest.mark.parametrize(("operation", "source"), OPERATIONS)
def test_documented_operation_returns_rows(shop: Shop, operation: OperationDefinitionNode, source: str) -> None:
    variables = {name: shop.values[name] for node in operation.variable_definitions or () if (name := node.variable.name.value)}
    source = source.replace(RECEIVER, LOCAL_RECEIVER)
    data = shop.listen(source, **variables) if operation.operation.value == "subscription" else shop.ask(source, **variables)
    assert find_empty(data) == []
    for payload in data.values() if operation.operation.value == "mutation" else ():
        assert payload["userErrors"] == []


def test_operations_of_the_guide_are_found() -> None:
    assert len(OPERATIONS) >= 18
    pages = {str(parameter.id).partition(" ")[0] for parameter in OPERATIONS}
    assert {"README.md", "guide.md", "analytics.md", "media.md", "importing.md", "webhooks.md"} <= pages
