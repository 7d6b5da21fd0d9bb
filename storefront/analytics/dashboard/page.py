"""The pages at /dashboard, the viewer's stores, and at /dashboard/{slug}. They are static: their script fetches all data."""

import json
from functools import cache
from html import escape
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.analytics.dashboard.assets import FOLDER, list_installed_files
from storefront.core.handles import normalize_handle
from storefront.serving.http.static_files import build_page_headers, load_asset, mount_static_files

STORES_DOCUMENT = "stores"
CONTENT_SECURITY_POLICY = "script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data:"


def build_routes() -> list[BaseRoute]:
    """The routes of the page and its files, to mount at the root."""
    return [
        mount_static_files("/dashboard-files", "dashboard-files", list_installed_files),
        Route("/dashboard", _serve_stores_page),
        Route("/dashboard/{slug}", _serve_store_page),
    ]


@cache
def load_documents() -> dict[str, str]:
    """The GraphQL documents of the pages by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.graphql")}


async def _serve_stores_page(_: Request) -> Response:
    return _render_page(None)


async def _serve_store_page(request: Request) -> Response:
    slug = request.path_params["slug"]
    if len(slug) > 100 or not slug or slug != normalize_handle(slug):
        return Response("There is no store with this slug.", status_code=404, media_type="text/plain")
    # The same page for any slug: existence and ownership of the store are checked by the API.
    return _render_page(slug)


def _render_page(slug: str | None) -> Response:
    """The page of a store; without a slug, the list of the viewer's stores."""
    # Relative URLs, which also work behind a reverse proxy that adds a path prefix.
    root = "" if slug is None else "../"
    documents = {name: text for name, text in load_documents().items() if (name == STORES_DOCUMENT) == (slug is None)}
    content = _load_template().substitute(
        title="Your stores" if slug is None else f"{escape(slug)} · dashboard",
        heading="Your stores" if slug is None else escape(slug),
        root=root,
        settings=json.dumps({"slug": slug, "root": root, "documents": documents}),
        styles="".join(f'<link rel="stylesheet" href="{url}">' for url in _list_asset_urls(root, ".css")),
        scripts="".join(f'<script src="{url}" defer></script>' for url in _list_asset_urls(root, ".js")),
    )
    return HTMLResponse(content, headers=build_page_headers(CONTENT_SECURITY_POLICY))


def _list_asset_urls(root: str, suffix: str) -> list[str]:
    return [
        f"{root}dashboard-files/{name}?v={load_asset(path).digest}"
        for name, path in list_installed_files().items()
        if name.endswith(suffix)
    ]


@cache
def _load_template() -> Template:
    return Template((FOLDER / "page.html").read_text(encoding="utf-8"))
