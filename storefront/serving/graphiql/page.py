"""The page a browser gets at the GraphQL endpoint, and the few assets it loads. Knows no product."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute

from storefront.serving.graphiql.assets import FILES, FOLDER, missing
from storefront.serving.http.static_files import asset, mounted, secured


@dataclass(frozen=True, slots=True)
class Example:
    """One tab of GraphiQL. `variables` and `headers` are JSON text, as a person would type it."""

    name: str
    query: str
    variables: str = ""
    headers: str = ""


def load_examples(folder: Path) -> list[Example]:
    """The examples in a folder, in the order of their file names.

    Beside `NN_name.graphql` may lie `NN_name.json` (variables) and `NN_name.headers.json` (HTTP headers).
    """
    return [_example(path) for path in sorted(folder.glob("*.graphql"))]


def _example(path: Path) -> Example:
    return Example(
        name=path.stem,
        query=_text(path),
        variables=_text(path.with_suffix(".json")),
        headers=_text(path.with_suffix(".headers.json")),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def graphiql_routes(path: str = "/graphiql") -> list[BaseRoute]:
    """What to mount beside the GraphQL endpoint: the page asks for `graphiql/…` relative to its own address."""
    return [mounted(path, "graphiql", lambda: {} if missing() else {name: FOLDER / file for name, file in FILES.items()})]


def page(
    examples: Sequence[Example],
    placeholders: Mapping[str, str] | None = None,
    *,
    title: str = "GraphiQL",
) -> Response:
    """The page for a browser at the GraphQL endpoint, with the examples as tabs.

    Each key of `placeholders` is replaced by its value in the examples' variables. The title also names the browser
    storage that keeps a visitor's tabs. Without the installed files the page says so, and how to get them.
    """
    if absent := missing():
        return _missing_page(absent, title)
    nonce = secrets.token_urlsafe(16)
    tabs = [asdict(_filled(example, placeholders or {})) for example in examples]
    settings = _json_for_html({"title": title, "styleNonce": nonce, "examples": tabs})
    return _html("page.html", nonce, title=escape(title), settings=settings, styles=_styles(), scripts=_scripts())


def _filled(example: Example, placeholders: Mapping[str, str]) -> Example:
    variables = example.variables
    for placeholder, value in placeholders.items():
        variables = variables.replace(placeholder, json.dumps(value)[1:-1])
    return replace(example, variables=variables)


def _json_for_html(value: object) -> str:
    # "</script>" inside a string would end the element that holds the JSON.
    return json.dumps(value).replace("<", "\\u003c")


def _styles() -> str:
    return "\n    ".join(f'<link rel="stylesheet" href="{_url(name)}">' for name in FILES if name.endswith(".css"))


def _scripts() -> str:
    return "\n    ".join(f'<script src="{_url(name)}"></script>' for name in FILES if name.endswith(".js"))


def _url(name: str) -> str:
    # Relative, so that it also holds behind a proxy that puts a prefix in front and tells nobody.
    return f"graphiql/{name}?v={asset(FOLDER / FILES[name]).digest}"


def _missing_page(absent: Sequence[str], title: str) -> Response:
    files = "\n      ".join(f"<li><code>{escape(path)}</code></li>" for path in absent)
    return _html("missing.html", secrets.token_urlsafe(16), title=escape(title), files=files)


def _html(template: str, nonce: str, **parts: str) -> Response:
    content = _template(template).substitute(parts)
    return HTMLResponse(content, headers=secured(_policy(nonce)) | {"Vary": "Accept"})


def _policy(nonce: str) -> str:
    # 'self' in connect-src covers WebSockets to the same host as well (CSP level 3).
    return f"script-src 'self'; connect-src 'self'; style-src 'self' 'nonce-{nonce}'; font-src data:; img-src 'self' data:"


@cache
def _template(name: str) -> Template:
    return Template((FOLDER / name).read_text(encoding="utf-8"))
