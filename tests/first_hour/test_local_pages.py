"""Pages that a front end's development server serves at another port of this machine."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import Browser, chromium, needs_chromium, watched
from tests.client import token_of
from tests.conftest import fresh
from tests.feed.processes import Server, running

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,authorization"}
QUESTION = {"query": "{ configs(first: 1) { totalCount } }"}


@pytest.fixture
def page_address(tmp_path: Path) -> Iterator[str]:
    """The address of a page at another port."""
    (tmp_path / "index.html").write_text("<!doctype html><title>A shop</title>")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def read_allowed_origin(server: Server, origin: str) -> str | None:
    """What the server allows, in a preflight and in a response alike."""
    url = f"{server.address}/graphql"
    preflight = httpx.options(url, headers={**PREFLIGHT, "origin": origin})
    response = httpx.post(url, json=QUESTION, headers={"origin": origin})
    allowed = {answer.headers.get("access-control-allow-origin") for answer in (preflight, response)}
    assert len(allowed) == 1 and (preflight.status_code == 200) is (allowed != {None})
    return allowed.pop()


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "http://127.0.0.1:3000", "http://[::1]:4321", "https://localhost:8443"]
)
def test_demo_allows_pages_of_localhost(demo_server: Server, origin: str) -> None:
    assert read_allowed_origin(demo_server, origin) == origin


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example:5173", "http://192.168.0.9:5173"])
def test_demo_allows_no_other_pages(demo_server: Server, origin: str) -> None:
    assert read_allowed_origin(demo_server, origin) is None


@needs_chromium
def test_demo_answers_page_in_browser(demo_server: Server, page_address: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as socket:
        browser = Browser(socket)
        watched(browser)
        browser.call("Page.navigate", url=page_address)
        browser.wait("document.title === 'A shop'")
        headers = f"{{'content-type': 'application/json', authorization: 'Bearer {token_of('a-user', email='a@shop.example')}'}}"
        body = "JSON.stringify({query: '{ configs(first: 1) { totalCount } }'})"
        browser.run(
            f"fetch('{demo_server.address}/graphql', {{method: 'POST', headers: {headers}, body: {body}}})"
            ".then(response => response.json()).then(answer => { window.answer = answer }, error => { window.answer = {error} })"
        )
        assert browser.wait("window.answer")["data"]["configs"]["totalCount"] > 1


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--demo", "--host", "0.0.0.0"], {}),  # noqa: S104
        (["--demo"], {"ALLOWED_ORIGINS": "https://shop.example"}),
        (["--demo"], {"ALLOWED_ORIGINS": ""}),
    ],
    ids=["no demo", "reachable by others", "other origins", "no origins"],
)
def test_other_servers_allow_origins_of_settings_alone(
    postgres: str, demo_database: str, tmp_path: Path, arguments: list[str], options: dict[str, Any]
) -> None:
    with running(fresh(postgres, demo_database), tmp_path, arguments=arguments, **options) as server:
        assert read_allowed_origin(server, "http://localhost:5173") is None
