"""The page at /dashboard/{slug}. It holds no figure: what is in it is asked for with the owner's own proof."""

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
    """What to mount at the root: the page and its files."""
    return [
        mount_static_files("/dashboard-files", "dashboard-files", list_installed_files),
        Route("/dashboard/{slug}", _serve_page),
    ]


@cache
def load_documents() -> dict[str, str]:
    """What the page asks for: the texts of its documents by their names."""
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.graphql")}


async def _serve_page(request: Request) -> Response:
    slug = request.path_params["slug"]
    if len(slug) > 100 or not _SLUG_PATTERN.fullmatch(slug):
        return Response("There is no store with such a name in its address.", status_code=404, media_type="text/plain")
    # The same page for every name: whether there is such a store, and whose it is, is for the API to say.
    content = _load_template().substitute(
        slug=escape(slug),
        settings=json.dumps({"slug": slug, "documents": load_documents()}),
        styles="".join(f'<link rel="stylesheet" href="{url}">' for url in _list_asset_urls(".css")),
        scripts="".join(f'<script src="{url}" defer></script>' for url in _list_asset_urls(".js")),
    )
    return HTMLResponse(content, headers=build_page_headers(CONTENT_SECURITY_POLICY))


def _list_asset_urls(suffix: str) -> list[str]:
    # Relative, so that it also holds behind a proxy that puts a prefix in front and tells nobody.
    return [
        f"../dashboard-files/{name}?v={load_asset(path).digest}"
        for name, path in list_installed_files().items()
        if name.endswith(suffix)
    ]


@cache
def _load_template() -> Template:
    return Template((FOLDER / "page.html").read_text(encoding="utf-8"))
