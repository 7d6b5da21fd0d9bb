"""GraphiQL in a real, headless Chromium that can reach nothing but this test's own server."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import pytest
import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL
from websockets.sync.client import ClientConnection, connect

from storefront.serving.graphiql import assets
from storefront.serving.graphiql.page import Example, graphiql_routes, page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
QUERY = "query Hello($name: String!) { hello(name: $name) }"
EXAMPLES = [
    Example("1", f"# Greets\n{QUERY}", '{"name": "Ada"}', '{"Authorization": "Bearer x"}'),
    Example("2", "# Counts\nsubscription Count { count(to: 3) }", "", '{"Authorization": "Bearer live"}'),
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install one, or name it in the variable CHROMIUM"),
    pytest.mark.skipif(bool(assets.missing()), reason="GraphiQL's files are not installed: make install"),
]


@strawberry.type
class Query:
    @strawberry.field
    def hello(self, info: strawberry.Info, name: str = "you") -> str:
        return f"hello {name}, {info.context['request'].headers.get('authorization', 'stranger')}"


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, info: strawberry.Info, to: int) -> AsyncIterator[str]:
        for number in range(1, to + 1):
            await asyncio.sleep(0.05)
            yield f"{number} for {info.context['connection_params'].get('Authorization', 'stranger')}"


class Browser:
    """One page of a Chromium, spoken to over its DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.sent = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: object) -> dict[str, Any]:
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": params}))
        while (message := json.loads(self.socket.recv(timeout=30))).get("id") != self.sent:
            self.events.append(message)
        assert "error" not in message, message
        return cast(dict[str, Any], message["result"])

    def run(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> Any:
        """The value of the script, as soon as it is a true one."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script} never came true; page: {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        # Query, variables, headers and answer: the editors come one by one.
        self.wait(f"location.href === {json.dumps(url)} && document.querySelectorAll('.CodeMirror').length === 4")
        self.wait(f"{self.editor('.graphiql-query-editor')}.getValue()")

    def tabs(self) -> list[str]:
        return cast(list[str], self.run("[...document.querySelectorAll('.graphiql-tab-button')].map(tab => tab.textContent)"))

    def editor(self, place: str) -> str:
        return f"document.querySelector('{place} .CodeMirror').CodeMirror"

    def type_query(self, text: str) -> None:
        editor = self.editor(".graphiql-query-editor")
        self.run(f"{editor}.focus(), {editor}.execCommand('selectAll')")
        self.call("Input.insertText", text=text)

    def choose_tab(self, number: int) -> None:
        self.run(f"document.querySelectorAll('.graphiql-tab-button')[{number}].click()")

    def execute(self, operation: str | None) -> None:
        # GraphiQL looks for the operation's name a moment after a change.
        self.wait(f"({self.editor('.graphiql-query-editor')}.operationName ?? null) === {json.dumps(operation)}")
        self.run("document.querySelector('.graphiql-execute-button').click()")

    def answer(self, wanted: str) -> str:
        value = f"{self.editor('.result-window')}.getValue()"
        return cast(str, self.wait(f"{value}.includes({json.dumps(wanted)}) && {value}"))


@contextmanager
def _server(examples: list[Example]) -> Iterator[str]:
    graphql = GraphQL[None, None](strawberry.Schema(Query, subscription=Subscription), graphql_ide=None)

    async def endpoint(request: Request) -> Response:
        return page(examples, title="Test")

    routes = [Route("/graphql", endpoint, methods=["GET"]), Route("/graphql", graphql, methods=["POST"])]
    app = Starlette(routes=[*routes, WebSocketRoute("/graphql", graphql), *graphiql_routes()])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/graphql"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def examples() -> list[Example]:
    """The examples the server knows; a test may change them while it runs."""
    return [*EXAMPLES]


@pytest.fixture
def url(examples: list[Example]) -> Iterator[str]:
    with _server(examples) as address:
        yield address


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    flags = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0"]
    flags += [f"--user-data-dir={tmp_path}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1400,900"]
    # Chromium refuses to sandbox for root, which is who runs tests in most containers.
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    process = subprocess.Popen([str(CHROMIUM), *flags, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        with connect(_page_address(tmp_path), max_size=None) as socket:
            page = Browser(socket)
            for domain in ("Page", "Network", "Log", "Runtime"):
                page.call(f"{domain}.enable")
            yield page
    finally:
        process.terminate()
        process.wait(10)


def _page_address(profile: Path) -> str:
    deadline = time.monotonic() + 30
    while not (written := profile / "DevToolsActivePort").is_file() or len(written.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.05)
    with urlopen(f"http://127.0.0.1:{written.read_text().splitlines()[0]}/json/list") as answer:
        return next(str(target["webSocketDebuggerUrl"]) for target in json.load(answer) if target["type"] == "page")


def test_person_types_a_query_and_sees_the_answer(browser: Browser, url: str) -> None:
    browser.open(url)
    assert browser.tabs() == ["Hello", "Count"]
    browser.type_query("{ again: hello }")
    browser.execute(None)
    assert json.loads(browser.answer("again")) == {"data": {"again": "hello you, Bearer x"}}


def test_example_runs_with_its_variables_and_headers(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.execute("Hello")
    assert json.loads(browser.answer("Ada")) == {"data": {"hello": "hello Ada, Bearer x"}}


def test_subscription_runs_over_the_websocket_with_the_headers_of_its_tab(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.choose_tab(1)
    browser.execute("Count")
    assert json.loads(browser.answer("3 for")) == {"data": {"count": "3 for Bearer live"}}
    opened = [event["params"]["url"] for event in browser.events if event["method"] == "Network.webSocketCreated"]
    assert opened == [url.replace("http", "ws")]


def test_page_needs_no_other_host_and_breaks_no_policy(browser: Browser, url: str) -> None:
    browser.open(url)
    # The explorer, a menu and a dialog: what loads or styles anything late does it now.
    browser.run("document.querySelector('[aria-label*=\"GraphiQL Explorer\"]').click()")
    browser.wait("document.body.innerText.includes('hello')")
    browser.run("document.querySelector('[aria-label=\"Open settings dialog\"]').click()")
    browser.wait("!!document.querySelector('.graphiql-dialog')")
    browser.wait("document.fonts.status === 'loaded'")
    origin = url.removesuffix("/graphql")
    asked = [event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if not address.startswith((origin, "data:"))] == []
    complaints = [event["params"] for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert complaints == []


def test_tabs_of_the_last_visit_stay_and_untouched_examples_are_renewed(
    browser: Browser, url: str, examples: list[Example]
) -> None:
    browser.open(url)
    browser.type_query("query Mine { hello }")
    browser.wait("(localStorage['Test:graphiql:tabState'] ?? '').includes('\"title\":\"Mine\"')")
    examples[:] = [EXAMPLES[0], Example("2", "subscription Counting { count(to: 9) }"), Example("3", "query Third { hello }")]
    browser.open(url + "?")
    assert browser.tabs() == ["Mine", "Counting", "Third"]
    browser.open(url)
    assert browser.tabs() == ["Mine", "Counting", "Third"]


def test_second_visit_opens_no_further_tab(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.choose_tab(1)
    browser.wait("(localStorage['Test:graphiql:tabState'] ?? '').includes('\"activeTabIndex\":1')")
    browser.open(url + "?")
    assert browser.tabs() == ["Hello", "Count"]
    assert browser.run(f"{browser.editor('.graphiql-query-editor')}.getValue()").startswith("# Counts")


def test_page_without_examples_still_opens(browser: Browser, url: str, examples: list[Example]) -> None:
    examples.clear()
    browser.open(url)
    assert len(browser.tabs()) == 1
