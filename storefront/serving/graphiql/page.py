"""The GraphiQL page for browsers at the GraphQL endpoint, and its static files. Independent of the product."""

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

from storefront.serving.graphiql.assets import FILES, FOLDER, list_missing_graphiql_files
from storefront.serving.http.static_files import build_page_headers, load_asset, mount_static_files


@dataclass(frozen=True, slots=True)
class Example:
    """One tab of GraphiQL. `variables` and `headers` are JSON text."""

    name: str
    query: str
    variables: str = ""
    headers: str = ""


def load_examples(folder: Path) -> list[Example]:
    """The examples in a folder, in the order of their file names.

    `NN_name.graphql` may be accompanied by `NN_name.json` (variables) and `NN_name.headers.json` (HTTP headers).
    """
    return [_load_example(path) for path in sorted(folder.glob("*.graphql"))]


def _load_example(path: Path) -> Example:
    return Example(
        name=path.stem,
        query=_read_text(path),
        variables=_read_text(path.with_suffix(".json")),
        headers=_read_text(path.with_suffix(".headers.json")),
    )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def build_graphiql_routes(path: str = "/graphiql") -> list[BaseRoute]:
    """The routes of the static files, beside the GraphQL endpoint: the page loads `graphiql/…` relative to its own URL."""
    return [
        mount_static_files(
            path,
            "graphiql",
            lambda: {} if list_missing_graphiql_files() else {name: FOLDER / file for name, file in FILES.items()},
        )
    ]


def render_page(
    examples: Sequence[Example],
    placeholders: Mapping[str, str] | None = None,
    *,
    title: str = "GraphiQL",
) -> Response:
    """The page for a browser at the GraphQL endpoint, with the examples as tabs.

    Each key of `placeholders` is replaced by its value in the examples' variables. The title also names the browser
    storage that keeps a visitor's tabs. Without the installed files the page says so, and how to get them.
    """
    if missing_files := list_missing_graphiql_files():
        return _render_missing_page(missing_files, title)
    nonce = secrets.token_urlsafe(16)
    tabs = [asdict(_fill_placeholders(example, placeholders or {})) for example in examples]
    settings = _encode_json_for_html({"title": title, "styleNonce": nonce, "examples": tabs})
    return _render_html(
        "page.html", nonce, title=escape(title), settings=settings, styles=_render_style_links(), scripts=_render_script_tags()
    )


def _fill_placeholders(example: Example, placeholders: Mapping[str, str]) -> Example:
    variables = example.variables
    for placeholder, value in placeholders.items():
        variables = variables.replace(placeholder, json.dumps(value)[1:-1])
    return replace(example, variables=variables)


def _encode_json_for_html(value: object) -> str:
    # "</script>" inside a string would end the element that holds the JSON.
    return json.dumps(value).replace("<", "\\u003c")


def _render_style_links() -> str:
    return "\n    ".join(f'<link rel="stylesheet" href="{_build_asset_url(name)}">' for name in FILES if name.endswith(".css"))


def _render_script_tags() -> str:
    return "\n    ".join(f'<script src="{_build_asset_url(name)}"></script>' for name in FILES if name.endswith(".js"))


def _build_asset_url(name: str) -> str:
    # Relative, so that it also works behind a proxy that adds a path prefix.
    return f"graphiql/{name}?v={load_asset(FOLDER / FILES[name]).digest}"


def _render_missing_page(missing_files: Sequence[str], title: str) -> Response:
    files = "\n      ".join(f"<li><code>{escape(path)}</code></li>" for path in missing_files)
    return _render_html("missing.html", secrets.token_urlsafe(16), title=escape(title), files=files)


def _render_html(template: str, nonce: str, **substitutions: str) -> Response:
    content = _load_template(template).substitute(substitutions)
    return HTMLResponse(content, headers=build_page_headers(_build_content_security_policy(nonce)) | {"Vary": "Accept"})


def _build_content_security_policy(nonce: str) -> str:
    # 'self' in connect-src covers WebSockets to the same host as well (CSP level 3).
    return f"script-src 'self'; connect-src 'self'; style-src 'self' 'nonce-{nonce}'; font-src data:; img-src 'self' data:"


@cache
def _load_template(name: str) -> Template:
    return Template((FOLDER / name).read_text(encoding="utf-8"))
