"""Cross-origin resource sharing (CORS): which pages of other origins may read responses, and with which credentials."""

from collections.abc import Callable, Sequence
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from storefront.core.auth import csrf

ALLOWED_METHODS = ["GET", "POST"]
ALLOWED_HEADERS = ["authorization", "content-type", "x-request-id", *csrf.PREFLIGHT_HEADERS]
# Response headers that scripts of other origins may read, besides the CORS-safelisted ones.
EXPOSED_HEADERS = ["x-request-id", "retry-after", "ratelimit", "ratelimit-policy"]


# For public endpoints, whose requests have no credentials.
ANY_ORIGIN_HEADERS = {"access-control-allow-origin": "*"}


class SelectiveCORSMiddleware(CORSMiddleware):
    """Starlette's CORS middleware, limited to some origins and paths.

    `applies_to` decides by the Origin header, None without one. Requests under `public_path_prefixes` are passed on untouched:
    their endpoints send CORS headers for any origin themselves.
    """

    def __init__(
        self,
        app: ASGIApp,
        /,
        applies_to: Callable[[str | None], bool] = lambda _: True,
        public_path_prefixes: Sequence[str] = (),
        **cors_options: Any,
    ) -> None:
        super().__init__(app, **cors_options)
        self._applies_to, self._public_path_prefixes = applies_to, tuple(public_path_prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI connection, with CORS headers where this middleware applies."""
        origin = next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"origin"), None)
        is_public = scope["type"] == "http" and scope["path"].startswith(self._public_path_prefixes)
        is_handled = not is_public and self._applies_to(origin)
        await (super().__call__ if is_handled else self.app)(scope, receive, send)


def build_cors_middleware(
    origins: csrf.AllowedOrigins, *, open_to_origins: bool, public_path_prefixes: Sequence[str] = ()
) -> list[Middleware]:
    """Let pages of `origins` read responses with credentials, and of all others without, if `open_to_origins`."""
    options: dict[str, Any] = {
        "allow_methods": ALLOWED_METHODS,
        "allow_headers": ALLOWED_HEADERS,
        "expose_headers": EXPOSED_HEADERS,
        "public_path_prefixes": public_path_prefixes,
    }
    with_credentials: dict[str, Any] = {"allow_origins": origins, "allow_credentials": True, **options}
    if not open_to_origins:
        return [Middleware(SelectiveCORSMiddleware, **with_credentials)] if origins else []

    # Requests without an Origin pass through one of them as well: their responses need `Vary: Origin` for shared caches.
    def is_trusted(origin: str | None) -> bool:
        return origin is None or origin in origins

    return [
        Middleware(SelectiveCORSMiddleware, applies_to=is_trusted, **with_credentials),
        Middleware(SelectiveCORSMiddleware, applies_to=lambda origin: not is_trusted(origin), allow_origins=["*"], **options),
    ]
