"""GraphiQL in a real, headless Chromium that can reach nothing but this test's own server."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import urlencode

import httpx
import psycopg
import pytest
import strawberry
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL

from storefront.core.ids import uuid7
from storefront.serving.graphiql import assets
from storefront.serving.graphiql.page import Example, build_graphiql_routes, render_page
from tests.browser import Browser, chromium, needs_chromium, watched
from tests.client import token_of
from tests.feed.processes import running

QUERY = "query Hello($name: String!) { hello(name: $name) }"
EXAMPLES = [
    Example("1", f"# Greets\n{QUERY}", '{"name": "Ada"}', '{"Authorization": "Bearer x"}'),
    Example("2", "# Counts\nsubscription Count { count(to: 3) }", "", '{"Authorization": "Bearer live"}'),
]

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(bool(assets.list_missing_graphiql_files()), reason="GraphiQL's files are not installed: make install"),
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


class GraphiQL(Browser):
    """GraphiQL in a page."""

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
        return render_page(examples, title="Test")

    routes = [Route("/graphql", endpoint, methods=["GET"]), Route("/graphql", graphql, methods=["POST"])]
    app = Starlette(routes=[*routes, WebSocketRoute("/graphql", graphql), *build_graphiql_routes()])
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
def browser(tmp_path: Path) -> Iterator[GraphiQL]:
    with chromium(tmp_path) as socket:
        page = GraphiQL(socket)
        watched(page)
        yield page


def test_page_runs_a_typed_query(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    assert browser.tabs() == ["Hello", "Count"]
    browser.type_query("{ again: hello }")
    browser.execute(None)
    assert json.loads(browser.answer("again")) == {"data": {"again": "hello you, Bearer x"}}


def test_example_runs_with_its_variables_and_headers(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    browser.execute("Hello")
    assert json.loads(browser.answer("Ada")) == {"data": {"hello": "hello Ada, Bearer x"}}


def test_subscription_uses_websocket_with_headers_of_its_tab(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    browser.choose_tab(1)
    browser.execute("Count")
    assert json.loads(browser.answer("3 for")) == {"data": {"count": "3 for Bearer live"}}
    opened = [event["params"]["url"] for event in browser.events if event["method"] == "Network.webSocketCreated"]
    assert opened == [url.replace("http", "ws")]


def test_subscription_tab_shows_changes_live(browser: GraphiQL, empty_url: str, tmp_path: Path) -> None:
    with running(empty_url, tmp_path / "server") as server, psycopg.connect(empty_url, autocommit=True) as database:
        user = str(uuid7())
        database.execute("INSERT INTO users (id, email) VALUES (%s, 'ada@example.com')", [user])
        identity = "INSERT INTO user_identities (issuer, subject, user_id) VALUES ('storefront', %s, %s)"
        database.execute(identity, [user, user])
        store = "INSERT INTO configs (user_id, id, store_name, slug, is_published) VALUES (%s, %s, 'Shop', 'shop', true)"
        database.execute(store, [user, user])
        with httpx.Client(base_url=server.address, headers={"authorization": f"Bearer {token_of(user)}"}, timeout=20) as owner:

            def create(title: str) -> None:
                query = "mutation($i: CreateProductInput!) { createProduct(input: $i) { userErrors { message } } }"
                variables = {"i": {"configId": user, "title": title, "price": "5"}}
                answer = owner.post("/graphql", json={"query": query, "variables": variables}).json()
                assert answer == {"data": {"createProduct": {"userErrors": []}}}

            create("Missed Mug")
            browser.open(f"{server.address}/graphql")
            browser.choose_tab(browser.tabs().index("Live"))
            browser.execute("Live")
            browser.answer("Missed Mug")
            create("Live Mug")
            event = json.loads(browser.answer("Live Mug"))["data"]["productFeed"]
            assert (event["__typename"], event["position"]) == ("ProductCreated", "2")


def test_page_loads_from_one_host_within_policy(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    # The explorer, a menu and a dialog: what loads or styles anything late does it now.
    browser.run("document.querySelector('[aria-label*=\"GraphiQL Explorer\"]').click()")
    browser.wait("document.body.innerText.includes('hello')")
    browser.run("document.querySelector('[aria-label=\"Open settings dialog\"]').click()")
    browser.wait("!!document.querySelector('.graphiql-dialog')")
    browser.wait("document.fonts.status === 'loaded'")
    origin = url.removesuffix("/graphql")
    assert [address for address in browser.asked() if not address.startswith((origin, "data:"))] == []
    assert browser.complaints() == []


def test_edited_tabs_stay_and_unedited_examples_are_updated(browser: GraphiQL, url: str, examples: list[Example]) -> None:
    browser.open(url)
    browser.type_query("query Mine { hello }")
    browser.wait("(localStorage['Test:graphiql:tabState'] ?? '').includes('\"title\":\"Mine\"')")
    examples[:] = [EXAMPLES[0], Example("2", "subscription Counting { count(to: 9) }"), Example("3", "query Third { hello }")]
    browser.open(url + "?")
    assert browser.tabs() == ["Mine", "Counting", "Third"]
    browser.open(url)
    assert browser.tabs() == ["Mine", "Counting", "Third"]


def test_second_visit_opens_no_further_tab(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    browser.choose_tab(1)
    browser.wait("(localStorage['Test:graphiql:tabState'] ?? '').includes('\"activeTabIndex\":1')")
    browser.open(url + "?")
    assert browser.tabs() == ["Hello", "Count"]
    assert browser.run(f"{browser.editor('.graphiql-query-editor')}.getValue()").startswith("# Counts")


SECRET = "Bearer eyJ.secret.token"
LOCAL, SESSION = "JSON.stringify({...localStorage})", "JSON.stringify({...sessionStorage})"


def type_header(browser: GraphiQL, value: str) -> None:
    browser.run("document.querySelector('[data-name=headers]').click()")
    # Query, variables, headers, answer.
    editor = "document.querySelectorAll('.CodeMirror')[2].CodeMirror"
    browser.run(f"{editor}.setValue({json.dumps(json.dumps({'Authorization': value}))})")


def leave(browser: GraphiQL, url: str) -> None:
    """Go to where the storage is the same, and no GraphiQL writes to it."""
    browser.call("Page.navigate", url=url.replace("/graphql", "/graphiql/page.css"))
    browser.wait("location.pathname.endsWith('page.css')")


def test_headers_are_stored_for_the_tab_only(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    type_header(browser, SECRET)
    # The tab learns of an edit a moment later, and the history from the tab.
    browser.wait("(sessionStorage['Test:graphiql:tabState'] ?? '').includes('secret.token')")
    browser.execute("Hello")
    browser.answer(SECRET)
    # The history of queries, with one of them for good.
    browser.run("document.querySelector('[aria-label=\"Show History\"]').click()")
    browser.wait("!!document.querySelector('[aria-label=\"Add favorite\"]')")
    browser.run("document.querySelector('[aria-label=\"Add favorite\"]').click()")
    for key in ("graphiql:headers", "graphiql:tabState", "graphiql:favorites"):
        browser.wait(f"(sessionStorage['Test:{key}'] ?? '').includes('secret.token')")
    browser.wait("(localStorage['Test:graphiql:favorites'] ?? '').includes('Hello')")
    assert "secret.token" not in browser.run(LOCAL)
    # A reload of the tab still has them; a tab that is opened later has the queries alone.
    browser.open(url + "?")
    browser.execute("Hello")
    browser.answer(SECRET)
    leave(browser, url)
    browser.run("sessionStorage.clear()")
    browser.open(url)
    assert browser.tabs() == ["Hello", "Count"]
    browser.run("document.querySelector('.graphiql-execute-button').click()")
    assert "secret.token" not in browser.answer("hello Ada")
    assert "secret.token" not in browser.run(LOCAL) + browser.run(SESSION)


def test_headers_of_earlier_versions_are_removed(browser: GraphiQL, url: str) -> None:
    browser.open(url)
    browser.type_query("query Mine { hello }")
    browser.wait("(localStorage['Test:graphiql:tabState'] ?? '').includes('\"title\":\"Mine\"')")
    # As they stored it, in all places, and what is of another page stays.
    left = f"""
      const state = JSON.parse(localStorage["Test:graphiql:tabState"]);
      for (const tab of state.tabs) Object.assign(tab, {{ headers: '{SECRET}', hash: 'query||{SECRET}' }});
      localStorage["Test:graphiql:tabState"] = JSON.stringify(state);
      localStorage["Test:graphiql:headers"] = '{SECRET}';
      for (const name of ["queries", "favorites"])
        localStorage[`Test:graphiql:${{name}}`] = JSON.stringify({{ [name]: [{{ query: "{{ hello }}", headers: '{SECRET}' }}] }});
      localStorage["Test:graphiql:variables"] = '{{"headers": "mine"}}';
      localStorage["Other:graphiql:headers"] = "theirs";
      sessionStorage.clear();
    """
    leave(browser, url)
    browser.run(f"(() => {{ {left} }})()")
    assert "secret.token" in browser.run(LOCAL)
    browser.open(url)
    assert browser.tabs() == ["Mine", "Count"]
    stored = browser.run(LOCAL)
    assert "secret.token" not in stored
    assert "theirs" in stored and "{ hello }" in stored


OWNER = Example("3", "query Mine { hello }", "", '{"Authorization": "Bearer "}')
NEED = "document.getElementById('need').textContent"


def give_token(browser: GraphiQL, token: str) -> None:
    browser.run("document.getElementById('token').focus(), document.getElementById('token').select()")
    browser.call("Input.insertText", text=token)


def test_token_is_sent_by_all_tabs_and_stored_for_the_browser_tab_only(
    browser: GraphiQL, url: str, examples: list[Example]
) -> None:
    examples[:] = [OWNER, Example("4", "subscription Count { count(to: 2) }"), EXAMPLES[0]]
    browser.open(url)
    give_token(browser, " Bearer eyJ.secret.token ")
    browser.execute("Mine")
    assert json.loads(browser.answer("hello")) == {"data": {"hello": f"hello you, {SECRET}"}}
    browser.choose_tab(1)
    browser.execute("Count")
    assert json.loads(browser.answer("2 for")) == {"data": {"count": f"2 for {SECRET}"}}
    # Credentials of the tab's own headers come first.
    browser.choose_tab(2)
    browser.execute("Hello")
    assert "Bearer x" in browser.answer("hello")
    # A reload still has it; a browser tab that is opened later does not.
    browser.open(url + "?")
    browser.choose_tab(0)
    browser.execute("Mine")
    browser.answer(SECRET)
    assert "secret.token" in browser.run(SESSION)
    assert "secret.token" not in browser.run(LOCAL)
    leave(browser, url)
    browser.run("sessionStorage.clear()")
    browser.open(url)
    assert browser.run("document.getElementById('token').value") == ""
    browser.choose_tab(0)
    browser.execute("Mine")
    browser.answer("stranger")


def test_tab_that_needs_a_token_says_so_until_there_is_one(browser: GraphiQL, url: str, examples: list[Example]) -> None:
    examples[:] = [Example("1", QUERY, '{"name": "Ada"}'), OWNER]
    browser.open(url)
    assert browser.run(NEED) == ""
    browser.choose_tab(1)
    browser.wait(f'{NEED} === "This tab needs a token of the store\'s owner."')
    give_token(browser, "secret")
    browser.wait(f"{NEED} === ''")
    give_token(browser, " ")
    browser.wait(f"{NEED} !== ''")
    browser.choose_tab(0)
    browser.wait(f"{NEED} === ''")
    browser.type_query("mutation Write { __typename }")
    browser.wait(f"{NEED} === 'Most mutations need a token.'")


def test_link_with_a_query_opens_it_in_one_tab(browser: GraphiQL, url: str) -> None:
    link = url + "?" + urlencode({"query": QUERY, "variables": '{"name": "Grace"}'})
    for _ in range(2):
        browser.open(link)
        assert browser.tabs() == ["Hello", "Count", "Hello"]
        assert browser.run(f"{browser.editor('.graphiql-query-editor')}.getValue()") == QUERY
    browser.execute("Hello")
    assert json.loads(browser.answer("Grace")) == {"data": {"hello": "hello Grace, stranger"}}


def test_page_without_examples_still_opens(browser: GraphiQL, url: str, examples: list[Example]) -> None:
    examples.clear()
    browser.open(url)
    assert len(browser.tabs()) == 1
