"""The page at /dashboard/{slug}. It holds no figure: what is in it is asked for with the owner's own proof."""

import json
import re
from functools import cache
from html import escape
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.analytics.dashboard.assets import FOLDER, served
from storefront.serving.http.static_files import asset, mounted, secured

POLICY = "script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self' data:"
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def routes() -> list[BaseRoute]:
    """What to mount at the root: the page and its files."""
    return [mounted("/dashboard-files", "dashboard-files", served), Route("/dashboard/{slug}", _page)]


@cache
def documents() -> dict[str, str]:
    """What the page asks for: the texts of its documents by their names."""
    return {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.graphql")}


async def _page(request: Request) -> Response:
    slug = request.path_params["slug"]
    if len(slug) > 100 or not _SLUG.fullmatch(slug):
        return Response("There is no store with such a name in its address.", status_code=404, media_type="text/plain")
    # The same page for every name: whether there is such a store, and whose it is, is for the API to say.
    content = _template().substitute(
        slug=escape(slug),
        settings=json.dumps({"slug": slug, "documents": documents()}),
        styles="".join(f'<link rel="stylesheet" href="{url}">' for url in _urls(".css")),
        scripts="".join(f'<script src="{url}" defer></script>' for url in _urls(".js")),
    )
    return HTMLResponse(content, headers=secured(POLICY))


def _urls(suffix: str) -> list[str]:
    # Relative, so that it also holds behind a proxy that puts a prefix in front and tells nobody.
    return [f"../dashboard-files/{name}?v={asset(path).digest}" for name, path in served().items() if name.endswith(suffix)]


@cache
def _template() -> Template:
    return Template((FOLDER / "page.html").read_text(encoding="utf-8"))
