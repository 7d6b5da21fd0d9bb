"""Security headers (CSP, nosniff, frame options, HSTS) on every response that does not set its own."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Responses that are not HTML pages load nothing and must not be framed. Pages set a policy of their own.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
# HSTS for a year, over HTTPS only: browsers ignore it over HTTP, and on localhost it would break other HTTP servers.
HTTPS_SECURITY_HEADERS = (*SECURITY_HEADERS, (b"strict-transport-security", b"max-age=31536000"))


class SecurityHeadersMiddleware:
    """ASGI middleware that adds the security headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, and add the missing headers to an HTTP response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                defaults = HTTPS_SECURITY_HEADERS if scope["scheme"] == "https" else SECURITY_HEADERS
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *[header for header in defaults if header[0] not in present]]
            await send(message)

        await self._app(scope, receive, send_with_headers)
