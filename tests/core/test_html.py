"""Sanitised HTML: what stays of it, what it costs, and that it runs and loads nothing in a real Chromium."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from time import process_time
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storefront.core.html import MAX_HTML_TAGS, HtmlLimitError, SafeHtml, render_text_as_html, sanitize_html
from storefront.models.product import MAX_DESCRIPTION_CHARACTERS, MAX_HTML_CHARACTERS
from tests.browser import Browser, chromium, needs_chromium, watched

ELEMENTS = (
    *(
        "p",
        "div",
        "b",
        "i",
        "a",
        "table",
        "tr",
        "td",
        "th",
        "tbody",
        "thead",
        "caption",
        "li",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "h1",
    ),
    *(
        "span",
        "blockquote",
        "pre",
        "details",
        "summary",
        "code",
        "br",
        "hr",
        "svg",
        "math",
        "style",
        "script",
        "title",
        "textarea",
    ),
    *("select", "option", "form", "img", "iframe", "template", "noscript", "figure", "xmp", "plaintext", "mtext", "mglyph"),
    *("annotation-xml", "foreignObject", "desc", "body", "html", "input", "button", "object", "embed", "base", "meta", "link"),
)
# `LEAK` is an address that must not be asked for, `RUN` a script that must not run.
ATTRIBUTES = (
    *(' href="javascript:RUN"', " href=java&#10;script:RUN", ' href="https://x.example/?a=1&b"', ' src="LEAK"', " onclick=RUN"),
    *(' onerror="RUN"', " onload=RUN", ' style="background:url(LEAK)"', ' title="</title><img src=x onerror=RUN>"', " lang=de"),
    *(' title="&quot;><img src=x onerror=RUN>"', " srcdoc='<script>RUN</script>'", ' formaction="javascript:RUN"', "/", " title"),
    *(
        ' encoding="text/html"',
        ' xlink:href="javascript:RUN"',
        ' srcset="LEAK 1x"',
        " autofocus onfocus=RUN tabindex=0",
        " dir=rtl",
    ),
    *(' poster="LEAK"', ' background="LEAK"', ' data="LEAK"', ' http-equiv="refresh" content="0;url=LEAK"', ' id="x" name="x"'),
)
TEXTS = (
    *("x", " ", "\n", "<", "&", "&lt;img src=x onerror=RUN>", "&amp;lt;script>RUN&lt;/script>", '"', "'", "<!--", "-->", "--!>"),
    *(
        "]]>",
        "<![CDATA[",
        "&#0;",
        "\x0b",
        "=",
        "/>",
        "<?",
        "<!",
        "</",
        "&#x3c;script>RUN",
        "`",
        "\ud7ff",
        "<img src=x onerror=RUN>",
    ),
)
# Of published lists of mutation XSS: what parsers understand differently the second time.
MUTATIONS = (
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=RUN&gt;">',
    '<svg></p><style><a id="</style><img src=1 onerror=RUN>">',
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=RUN>",
    '<math><annotation-xml encoding="text/html"><style><img src=x onerror=RUN></style></annotation-xml></math>',
    '<noscript><p title="</noscript><img src=x onerror=RUN>"></noscript>',
    "<svg><desc><noscript><img src=x onerror=RUN></noscript></desc></svg>",
    "<textarea><p title='</textarea><img src=x onerror=RUN>'></textarea>",
    "<title><a title='</title><img src=x onerror=RUN>'></title>",
    "<xmp><p title='</xmp><img src=x onerror=RUN>'></xmp>",
    '<select><template><style><!--</style><a rel="--></style></template></select><img src=x onerror=RUN>">',
    '<svg><a xlink:href="javascript:RUN"><text>x</text></a></svg>',
    "<table><caption><svg><title><style><img src=x onerror=RUN></style></title></svg></caption></table>",
    '<a href="  \x01javascript:RUN">x</a><a href="data:text/html,<script>RUN</script>">y</a>',
    "<p>a<!-- --!> <img src=x onerror=RUN> -->b</p>",
    '<iframe srcdoc="<img src=x onerror=RUN>"></iframe><object data="LEAK"></object><embed src="LEAK">',
)


def sanitize(html: str) -> SafeHtml:
    return sanitize_html(html, MAX_HTML_CHARACTERS, MAX_DESCRIPTION_CHARACTERS)


def build_hostile_inputs(count: int, seed: int) -> list[str]:
    """The known mutations, and random ones of their parts."""
    rng = random.Random(seed)

    def draw_part() -> str:
        match rng.randint(0, 9):
            case 0 | 1 | 2 | 3:
                return f"<{rng.choice(ELEMENTS)}{''.join(rng.choices(ATTRIBUTES, k=rng.randint(0, 2)))}>"
            case 4 | 5:
                return f"</{rng.choice(ELEMENTS)}>"
            case 6:
                mutation = rng.choice(MUTATIONS)
                return mutation[: rng.randint(0, len(mutation))]
        return rng.choice(TEXTS)

    return [*MUTATIONS, *("".join(draw_part() for _ in range(rng.randint(1, 30))) for _ in range(count - len(MUTATIONS)))]


class Outline(HTMLParser):
    """The tags and attributes of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, list[str | None]] = {}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value)


@pytest.mark.parametrize(
    ("html", "safe", "text"),
    [
        ("<p>Soft <b>wool</b></p>", "<p>Soft <b>wool</b></p>", "Soft wool"),
        ("<p>One<p>Two", "<p>One</p><p>Two</p>", "One\n\nTwo"),
        ("<ul><li>A<li>B</ul>", "<ul><li>A</li><li>B</li></ul>", "A\nB"),
        ("a<br>b", "a<br>b", "a\nb"),
        ("Tom &amp; Jerry &lt;3", "Tom &amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("<b>a<i>b</b>c</i>", "<b>a<i>b</i></b><i>c</i>", "abc"),
        ("<p onclick=x style='a' class=y id=z lang=de>x</p>", '<p lang="de">x</p>', "x"),
        ("<script>alert(1)</script><style>a{}</style>x", "x", "x"),
        ('<img src="x" onerror="y">', "", ""),
        ('<a href="javascript:alert(1)">x</a>', '<a rel="noopener noreferrer">x</a>', "x"),
        (
            '<a href="https://x.example/" target="_blank">x</a>',
            '<a href="https://x.example/" rel="noopener noreferrer">x</a>',
            "x",
        ),
        (
            "<table><tr><td>1<td>2<tr><td>3</table>",
            "<table><tbody><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></tbody></table>",
            "1 2\n3",
        ),
        ("<pre>a\n  b</pre>", "<pre>a\n  b</pre>", "a\nb"),
        ("<p>Größe кружка 茶碗 🫖</p>", "<p>Größe кружка 茶碗 🫖</p>", "Größe кружка 茶碗 🫖"),
        ("", "", ""),
    ],
)
def test_structure_and_text_stay(html: str, safe: str, text: str) -> None:
    assert sanitize(html) == SafeHtml(safe, text)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_sanitised_html_is_a_fixed_point(seed: int) -> None:
    """So exports come back as they are, whatever was written."""
    for html in build_hostile_inputs(20, seed)[len(MUTATIONS) :]:
        safe = sanitize(html)
        assert sanitize(safe.html) == safe


def test_only_harmless_markup_stays() -> None:
    for html in build_hostile_inputs(3_000, 1):
        outline = Outline(sanitize(html).html)
        assert not outline.tags & {"script", "style", "svg", "math", "img", "iframe", "form", "input", "object", "base", "meta"}
        assert not [name for name in outline.attributes if name.startswith("on") or name in ("style", "id", "class", "src")]
        for address in outline.attributes.get("href", []):
            assert address is not None and urlsplit(address).scheme in ("", "https", "http", "mailto", "tel")


@pytest.mark.parametrize("text", ["a", "a\nb", "a\n\nb", '<b> & "c"', "a\n\n\n b \n c", "<script>x</script>", ""])
def test_text_becomes_paragraphs(text: str) -> None:
    html = render_text_as_html(text, MAX_HTML_CHARACTERS)
    assert html is not None
    assert sanitize(html).html == html
    assert [line.strip() for line in sanitize(html).text.split("\n")] == [
        line.strip() for line in text.replace("\n\n\n", "\n\n").split("\n")
    ]


def test_text_with_too_much_html_has_none() -> None:
    assert render_text_as_html("&" * 30_000, MAX_HTML_CHARACTERS) is None
    assert render_text_as_html("a\n" * (MAX_HTML_TAGS + 1), MAX_HTML_CHARACTERS) is None


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<b>" * (MAX_HTML_TAGS + 1), "10,000 tags"),
        ("<p>" + "x" * (MAX_DESCRIPTION_CHARACTERS + 1), "65,536 characters of text, not 65,537"),
        ("&" * 30_000, "131,072 characters once it is sanitised"),
        ("<p><b><i><u><s>x" * 1_900, "131,072 characters once it is sanitised"),
    ],
)
def test_limits_are_errors(html: str, words: str) -> None:
    with pytest.raises(HtmlLimitError, match=words):
        sanitize(html)


@pytest.mark.parametrize(
    "part", ["<b><p>", "<div>", "<table><tr><td>", "</b><a><p>", "<svg>", "<!--", "<a title='", "<p><i></p>", "<"]
)
def test_hostile_nesting_costs_little(part: str) -> None:
    """Parsers that repair it take minutes."""
    started_at = process_time()
    with suppress(HtmlLimitError):
        sanitize((part * 40_000)[:MAX_HTML_CHARACTERS])
    assert process_time() - started_at < 5


class Leaks(BaseHTTPRequestHandler):
    """Counts the requests that a page sends, and serves the page."""

    asked: SimpleQueue[str]

    def do_GET(self) -> None:
        if self.path != "/page":
            self.asked.put(self.path)
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(b'<!DOCTYPE html><link rel="icon" href="data:,"><div id="place"></div>')

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def leak_server() -> Iterator[tuple[str, SimpleQueue[str]]]:
    asked: SimpleQueue[str] = SimpleQueue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Leaks,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@needs_chromium
def test_hostile_html_runs_and_loads_nothing(tmp_path: Path) -> None:
    insert = """(fragments) => { for (const html of fragments) {
      const place = document.createElement("div"); document.body.append(place);
      place.innerHTML = html; place.innerHTML = place.innerHTML;
      for (const one of place.querySelectorAll("*")) { one.dispatchEvent(new Event("focus")); if (one.click) one.click(); }
      place.remove(); } }"""
    with leak_server() as (address, asked), chromium(tmp_path) as socket:
        page = Browser(socket)
        watched(page)
        page.call("Page.navigate", url=f"{address}/page")
        page.wait("document.readyState === 'complete' && !!document.getElementById('place')")
        # Links would lead away from the page.
        page.run("window.ran = 0; document.addEventListener('click', event => event.preventDefault())")

        def show(fragments: list[str]) -> None:
            written = [one.replace("RUN", "window.ran=1").replace("LEAK", f"{address}/leak") for one in fragments]
            page.run(f"({insert})({json.dumps(written)})")

        hostile = [one.encode("utf-8", "replace").decode() for one in build_hostile_inputs(1_000, 7)]
        written = [one.replace("RUN", "window.ran=1").replace("LEAK", f"{address}/leak") for one in hostile]
        show([sanitize(one).html for one in written])
        page.run("new Promise(resolve => setTimeout(resolve, 500))")
        page.wait("true")
        assert page.run("window.ran") == 0 and asked.empty()
        assert [url for url in page.asked() if not url.endswith("/page") and not url.startswith("data:")] == []
        # The test would notice.
        show(['<img src="LEAK">', '<img src="x:" onerror="RUN">'])
        page.wait("window.ran === 1")
        assert asked.get(timeout=30)
