"""Files that pages of ours load from their own server, under addresses that name their content. Knows no product."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from storefront.serving.http.headers import is_unchanged

MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
YEAR = 31_536_000


@dataclass(frozen=True, slots=True)
class Asset:
    """One served file and the digest that stands for its content in URLs and ETags."""

    content: bytes
    digest: str
    media_type: str


@cache
def asset(path: Path) -> Asset:
    """The file, read once."""
    content = path.read_bytes()
    return Asset(content, hashlib.sha256(content).hexdigest()[:16], MEDIA_TYPES[path.suffix])


def mounted(path: str, name: str, files: Callable[[], Mapping[str, Path]]) -> BaseRoute:
    """What serves the files under a path, by their names in URLs. Nothing else is ever served."""

    async def serve(request: Request) -> Response:
        wanted = files().get(request.path_params["name"])
        if wanted is None:
            return Response("Not found", status_code=404, media_type="text/plain")
        found = asset(wanted)
        headers = _caching(found, request.query_params.get("v"))
        if is_unchanged(request.headers, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(found.content, media_type=found.media_type, headers=headers)

    return Mount(path, routes=[Route("/{name}", serve, name="asset")], name=name)


def secured(policy: str) -> dict[str, str]:
    """The headers of a page under a Content Security Policy: nothing of it is kept, framed, or told to others."""
    return {
        "Content-Security-Policy": f"default-src 'none'; {policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def _caching(found: Asset, version: str | None) -> dict[str, str]:
    # Only the URL that names this very content may be kept for ever: any other one could mean different content tomorrow.
    lasting = f"public, max-age={YEAR}, immutable" if version == found.digest else "no-cache"
    return {"ETag": f'"{found.digest}"', "Cache-Control": lasting, "X-Content-Type-Options": "nosniff"}
