"""Custom CSS in a real Chromium: accepted style sheets send no request."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from storefront.writes.custom_css import UnsafeCSSError, validate_stylesheet
from tests.browser import Browser, chromium, needs_chromium, watched
from tests.writes.test_validation import GOOD_SHEETS

pytestmark = needs_chromium

PAGE = b"""<!DOCTYPE html><link rel="icon" href="data:,"><style></style>
<a href="#">a<b class="b" data-u="/leak">b</b></a><p class="card"><i class="title">x</i></p><ul><li>x</ul>
<svg width="9" height="9"><rect width="9" height="9"/></svg>"""
# Sheets that load from elsewhere, of which browsers obey more from year to year. `LEAK` is the address of the test's own server.
LEAKING_SHEETS = (
    "a { background: url(LEAK) }",
    "a { background: image-set('LEAK' 1x) }",
    "a { background: image-set(if(else: 'LEAK') 1x) }",
    "a { --u: 'LEAK'; background: image-set(var(--u) 1x) }",
    "@function --f() { result: 'LEAK' } a { background: image-set(--f() 1x) }",
    "@function --f() { result: image-set('LEAK' 1x) } a { background: --f() }",
    "@import 'LEAK';",
    "\ufeff@import 'LEAK';",
    "@layer x; @import url(LEAK);",
    "@font-face { font-family: x; src: url(LEAK) } a { font-family: x }",
    "@property --u { syntax: '*'; inherits: false; initial-value: 'LEAK' } a { background: image-set(var(--u) 1x) }",
    "a { cursor: url(LEAK), auto }",
    "li { list-style: url(LEAK) }",
    "a { mask: url(LEAK#m) } svg rect { filter: url(LEAK#f) }",
    "a::after { content: url(LEAK) }",
    "a { background: -webkit-cross-fade(url(LEAK), url(LEAK), 50%) }",
    "a { border-image: url(LEAK) 1 }",
    "a { shape-outside: url(LEAK); float: left }",
    "a { --x: url(LEAK); background: var(--x) }",
    "a { background: u\\72l(LEAK) }",
    "a { & b { background: url(LEAK) } }",
    "a { color: red } /* } */ b { background: url(LEAK) }",
    "a { background: url(data:image/png,x), url(LEAK) }",
)
# Accepted, and with an address in them: they must do nothing with it.
HARMLESS_SHEETS = (
    "a::after { content: 'LEAK' }",
    "a { --u: 'LEAK'; background: var(--u) }",
    "a { background: 'LEAK' }",
    "a { background: image-set(url(data:image/png;base64,AAAA) type('LEAK') 1x) }",
    "@font-face { font-family: x; src: local('LEAK') } a { font-family: x }",
    "@property --u { syntax: '*'; inherits: false; initial-value: 'LEAK' } a { background: var(--u) }",
    "b { background: attr(data-u) }",
    *(
        f"a, rect {{ {name}: url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'%3E"
        "%3Cstyle%3E@import 'LEAK'%3C/style%3E"
        "%3Cimage href='LEAK' width='9' height='9'/%3E%3Cfilter id='f'%3E%3CfeImage href='LEAK'/%3E%3C/filter%3E"
        "%3Cscript href='LEAK'/%3E%3CforeignObject%3E%3Cimg xmlns='http://www.w3.org/1999/xhtml' src='LEAK'/%3E"
        '%3C/foreignObject%3E%3C/svg%3E#f") }'
        for name in ("background", "mask", "filter", "clip-path", "cursor", "border-image-source", "fill", "content")
    ),
)
PIECES = [*"(){}[];:'\"\\/*@!-, \n", "data:image/png,x", "'data:image/png,x'", "@media all", "\\\n"]
PIECES += (
    "a b background: content: --u: var(--u) image-set( url( u\\72l( -webkit-image-set( LEAK 'LEAK' 1x type( if(else: @import "
    "@layer /* */ attr(data-u) linear-gradient(red,red) cross-fade( a{background: } src( "
    "@function --f(){result:'LEAK'} --f()".split()
)


@contextmanager
def recording() -> Iterator[tuple[str, list[str]]]:
    """A server that returns the page for every path; yields its address and the requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("cache-control", "no-store")
            self.send_header("content-length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str, list[str]]]:
    """A page with an empty style element, its server's address, and the requested paths."""
    profile: Path = tmp_path_factory.mktemp("chromium")
    with recording() as (address, paths), chromium(profile) as connection:
        browser = Browser(connection)
        watched(browser)
        browser.call("Page.navigate", url=address)
        browser.wait("document.readyState === 'complete' && !!document.querySelector('svg')")
        yield browser, address, paths


def apply_sheets(page: tuple[Browser, str, list[str]], sheets: list[str]) -> list[str]:
    """Apply and render one sheet after the other; returns the requests sent, with the numbers of their sheets."""
    browser, address, paths = page
    paths.clear()
    numbered = [sheet.replace("LEAK", f"{address}/leak/{n}") for n, sheet in enumerate(sheets)]
    script = f"""(async () => {{
      for (const sheet of {json.dumps(numbered)}) {{
        document.querySelector('style').textContent = sheet;
        await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
      }}
      document.querySelector('style').textContent = '';
      await fetch('/end');
      window.ended = true;
    }})()"""
    browser.run(f"window.ended = false; {script}; 0")
    browser.wait("window.ended", seconds=60)
    asked = [url for url in browser.asked() if url.startswith("http") and "/leak/" in url]
    browser.events.clear()
    return sorted({path for path in paths if "/leak/" in path} | set(asked))


def is_accepted(sheet: str) -> bool:
    try:
        validate_stylesheet(sheet)
    except UnsafeCSSError:
        return False
    return True


def test_stylesheet_that_loads_is_refused() -> None:
    assert [sheet for sheet in LEAKING_SHEETS if is_accepted(sheet)] == []


def test_chromium_loads_what_is_refused(page: tuple[Browser, str, list[str]]) -> None:
    # Without this the next tests would prove nothing.
    requests = " ".join(apply_sheets(page, list(LEAKING_SHEETS)))
    assert all(f"/leak/{n}" in requests for n in (0, 1, 3, 6, 12, 14)), requests


def test_accepted_stylesheet_sends_no_request(page: tuple[Browser, str, list[str]]) -> None:
    sheets = [*GOOD_SHEETS, *HARMLESS_SHEETS]
    assert [sheet for sheet in sheets if not is_accepted(sheet)] == []
    assert apply_sheets(page, sheets) == []


def test_random_accepted_stylesheet_sends_no_request(page: tuple[Browser, str, list[str]]) -> None:
    random_source = random.Random(7)
    drawn = ("".join(random_source.choices(PIECES, k=random_source.randint(3, 14))) for _ in range(40_000))
    sheets = [sheet for sheet in drawn if "LEAK" in sheet and is_accepted(sheet)][:400]
    assert len(sheets) > 100
    assert apply_sheets(page, sheets) == []
