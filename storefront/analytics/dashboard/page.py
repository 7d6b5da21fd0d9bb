"""The page at /dashboard/{slug}. It is static: its script fetches all data with the owner's credentials."""

import json
import re
from functools import cache
from html import escape
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.analytics.dashboard.assets import FOLDER, list_installed_files
from storefront.serving.http.static_files import build_page_headers, load_asset, mount_static_files

CONTENT_SECURITY_POLICY = "script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data:"
_SLUG_PATTERN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def build_routes() -> list[BaseRoute]:
    """The routes of the page and its files, to mount at the root."""
    return [
        mount_static_files("/dashboard-files", "dashboard-files", list_installed_files),
        Route("/dashboard/{slug}", _serve_page),
    ]


@cache
def load_documents() -> dict[str, str]:
    """The GraphQL documents of the page by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.graphql")}


async def _serve_page(request: Request) -> Response:
    slug = request.path_params["slug"]
    if len(slug) > 100 or not _SLUG_PATTERN.fullmatch(slug):
        return Response("There is no store with this slug.", status_code=404, media_type="text/plain")
    # The same page for any slug: existence and ownership of the store are checked by the API.
    content = _load_template().substitute(
        slug=escape(slug),
        settings=json.dumps({"slug": slug, "documents": load_documents()}),
        styles="".join(f'<link rel="stylesheet" href="{url}">' for url in _list_asset_urls(".css")),
        scripts="".join(f'<script src="{url}" defer></script>' for url in _list_asset_urls(".js")),
    )
    return HTMLResponse(content, headers=build_page_headers(CONTENT_SECURITY_POLICY))


def _list_asset_urls(suffix: str) -> list[str]:
    # Relative URLs, which also work behind a reverse proxy that adds a path prefix.
    return [
        f"../dashboard-files/{name}?v={load_asset(path).digest}"
        for name, path in list_installed_files().items()
        if name.endswith(suffix)
    ]


@cache
def _load_template() -> Template:
    return Template((FOLDER / "page.html").read_text(encoding="utf-8"))
