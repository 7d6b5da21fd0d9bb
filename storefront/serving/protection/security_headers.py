"""Headers that keep browsers from doing with an answer what it is not for: on every response that does not say it otherwise."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What is no page loads nothing and stands in no frame. Pages have a policy of their own.
HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
# For a year. Said over HTTPS alone: over HTTP browsers ignore it, and on a developer's machine it would lock others out.
ENCRYPTED = (*HEADERS, (b"strict-transport-security", b"max-age=31536000"))


class SecurityHeaders:
    """The ASGI application, with these headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection on; a response has the headers added."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                defaults = ENCRYPTED if scope["scheme"] == "https" else HEADERS
                named = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *[one for one in defaults if one[0] not in named]]
            await send(message)

        await self._app(scope, receive, secured)
