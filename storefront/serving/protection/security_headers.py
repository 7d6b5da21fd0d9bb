"""Headers that keep browsers from doing with an answer what it is not for: on every response that does not say it otherwise."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What is no page loads nothing and stands in no frame. Pages have a policy of their own.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
# For a year. Said over HTTPS alone: over HTTP browsers ignore it, and on a developer's machine it would lock others out.
HTTPS_SECURITY_HEADERS = (*SECURITY_HEADERS, (b"strict-transport-security", b"max-age=31536000"))


class SecurityHeadersMiddleware:
    """The ASGI application, with these headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on; a response has the headers added."""
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
