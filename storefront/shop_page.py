"""The pages of the demo shop at /shop/{slug}, one script for all of them. `make demo-shop` builds it; wheels do not have it."""

import json
from html import escape
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from storefront.core.handles import normalize_handle
from storefront.serving.http.static_files import build_page_headers, load_asset, mount_static_files

BUILD_FOLDER = Path(__file__).parents[1] / "clients" / "demo-shop" / "dist"
# An allow-list: no other file of the folder is served.
FILE_NAMES = ("shop.js", "shop.css")
MAX_SLUG_LENGTH = 100
# Pictures of products may be on any host. React sets styles by script, which the policy allows.
CONTENT_SECURITY_POLICY = "script-src 'self'; connect-src 'self'; style-src 'self'; img-src * data:"

_PAGE = Template(
    """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>$title</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="$style">
    <script id="settings" type="application/json">$settings</script>
    <script type="module" src="$script"></script>
  </head>
  <body>
    <div id="root"></div>
    <noscript>The shop needs JavaScript.</noscript>
  </body>
</html>
"""
)
_MISSING_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>The demo shop is not built</title>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <main>
      <h1>The demo shop is not built</h1>
      <p>The API itself works. Only this page lacks its files: run <code>make demo-shop</code> in the repository, then reload it.
        Installed packages do not have the shop.</p>
    </main>
  </body>
</html>
"""


def build_routes() -> list[BaseRoute]:
    """The routes of the pages and their files, to mount at the root."""
    return [
        mount_static_files("/shop-files", "shop-files", list_built_files),
        Route("/shop/{slug}", _serve_page),
        Route("/shop/{slug}/{path:path}", _serve_page),
    ]


def list_built_files() -> dict[str, Path]:
    """The built files by their name in the URL. Empty unless all of them are there."""
    files = {name: BUILD_FOLDER / name for name in FILE_NAMES}
    return files if all(path.is_file() for path in files.values()) else {}


async def _serve_page(request: Request) -> Response:
    slug = request.path_params["slug"]
    if len(slug) > MAX_SLUG_LENGTH or not slug or slug != normalize_handle(slug):
        return Response("There is no store with this slug.", status_code=404, media_type="text/plain")
    files = list_built_files()
    headers = build_page_headers(CONTENT_SECURITY_POLICY)
    if not files:
        return HTMLResponse(_MISSING_PAGE, status_code=404, headers=headers)
    # Relative URLs, which also work behind a reverse proxy that adds a path prefix. They count the slashes of the path as it was
    # sent: an encoded one separates nothing for the browser.
    sent_path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1").partition("?")[0]
    root = "../" * (sent_path.partition("/shop/")[2].count("/") + 1)
    urls = {path.suffix: f"{root}shop-files/{name}?v={load_asset(path).digest}" for name, path in files.items()}
    content = _PAGE.substitute(
        title=escape(slug),
        settings=json.dumps({"slug": slug, "root": root}),
        style=urls[".css"],
        script=urls[".js"],
    )
    # The same page for any slug: whether the store exists, and who may see it, is checked by the API.
    return HTMLResponse(content, headers=headers)
