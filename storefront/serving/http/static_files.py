"""Static files of HTML pages, under URLs with a digest of their content (cache busting). Independent of the product."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from storefront.serving.http.headers import is_not_modified

MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
IMMUTABLE_MAX_AGE_SECONDS = 31_536_000


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file, and the digest of its content for URLs and ETags."""

    content: bytes
    digest: str
    media_type: str


@cache
def load_asset(path: Path) -> Asset:
    """Read a file, once per process."""
    content = path.read_bytes()
    return Asset(content, hashlib.sha256(content).hexdigest()[:16], MEDIA_TYPES[path.suffix])


def mount_static_files(path: str, name: str, list_files: Callable[[], Mapping[str, Path]]) -> BaseRoute:
    """A route that serves the listed files under a path, by name, and no others."""

    async def serve_file(request: Request) -> Response:
        file_path = list_files().get(request.path_params["name"])
        if file_path is None:
            return Response("Not found", status_code=404, media_type="text/plain")
        served_asset = load_asset(file_path)
        headers = _build_cache_headers(served_asset, request.query_params.get("v"))
        if is_not_modified(request.headers, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(served_asset.content, media_type=served_asset.media_type, headers=headers)

    return Mount(path, routes=[Route("/{name}", serve_file, name="asset")], name=name)


def build_page_headers(content_security_policy: str) -> dict[str, str]:
    """The headers of an HTML page: its Content Security Policy, no caching, no framing, no referrer."""
    return {
        "Content-Security-Policy": f"default-src 'none'; {content_security_policy}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _build_cache_headers(served_asset: Asset, version: str | None) -> dict[str, str]:
    # Only the URL with this digest is immutable: the content of any other URL may change.
    cache_control = f"public, max-age={IMMUTABLE_MAX_AGE_SECONDS}, immutable" if version == served_asset.digest else "no-cache"
    return {"ETag": f'"{served_asset.digest}"', "Cache-Control": cache_control, "X-Content-Type-Options": "nosniff"}
