"""Operation contexts of incoming connections: authentication of the viewer, with a rate limit on failed sign-ins."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from storefront.core.auth.identity import Authenticator
from storefront.core.db.database import Database
from storefront.core.db.replicas import Replica, Replicas
from storefront.core.errors import Unauthenticated
from storefront.core.net.client_info import ClientInfo
from storefront.feed.positions import LogPositions, ReadTracker
from storefront.graph.context import Context, Viewer
from storefront.serving.protection.rate_limit import RateLimited, RateLimiter, RateLimitScope, get_caller_key
from storefront.users.commands import sign_in


class ContextFactory:
    """Makes the context of each operation from an anonymous one and the credentials of the connection.

    An anonymous operation reads from one of the replicas; `log_positions` are those of each replica, and of the primary (None).
    """

    def __init__(
        self,
        anonymous_context: Context,
        authenticator: Authenticator,
        rate_limiter: RateLimiter,
        replicas: Replicas,
        log_positions: Mapping[Replica | None, LogPositions],
    ) -> None:
        self._anonymous_context, self._authenticator, self._rate_limiter = anonymous_context, authenticator, rate_limiter
        self._replicas, self._log_positions = replicas, log_positions

    async def make_context(self, connection: HTTPConnection, headers: Mapping[str, str] | None = None) -> Context:
        """The context of a request; `headers` replace the connection's own for authentication.

        Raises Unauthenticated for invalid credentials, and RateLimited after too many of them.
        """
        client_info = ClientInfo(connection.headers, connection.client.host if connection.client else None)
        credential_headers = connection.headers if headers is None else headers
        viewer = await self._authenticate_with_rate_limit(
            get_caller_key(client_info.host), credential_headers, lambda: connection.cookies
        )
        context = self._anonymous_context.as_viewer(viewer, client_info)
        # Signed-in viewers read from the primary: they expect to see what they wrote.
        context.replica = None if viewer else self._get_database(self._replicas.choose())
        return context

    async def make_websocket_context(self, websocket: WebSocket, payload: dict[str, Any]) -> Context:
        """The context of a WebSocket, from the payload of its connection_init; raises as `make_context`.

        An `authorization` in the payload replaces the header. No other header may be replaced: a page of another site can
        write any payload, whereas the Origin header is the browser's.
        """
        authorizations = [value for name, value in payload.items() if name.lower() == "authorization" and isinstance(value, str)]
        if len(authorizations) > 1:
            raise Unauthenticated("Send one authorization in the payload of connection_init.")
        overrides = {"authorization": authorizations[0]} if authorizations else {}
        return await self.make_context(websocket, {**websocket.headers, **overrides})

    def make_recorded_context(self) -> Context:
        """An anonymous context that records the stores it reads, for the response cache."""
        # A replica lags behind the primary and the other replicas: rows and log positions have to be of the same one.
        replica = self._replicas.choose()
        read_tracker = ReadTracker(self._log_positions[replica])
        return self._anonymous_context.with_read_tracker(read_tracker, self._get_database(replica))

    def choose_public_database(self) -> Database:
        """The database that an anonymous request reads from: a replica, if there is one."""
        return self._get_database(self._replicas.choose()) or self._anonymous_context.database

    def _get_database(self, replica: Replica | None) -> Database | None:
        return replica.database.with_fallback(self._anonymous_context.database) if replica else None

    def is_anonymous(self, request: Request) -> bool:
        """Whether the request has no credentials."""
        return self._authenticator.has_no_credentials(request.headers, lambda: request.cookies)

    async def _authenticate_with_rate_limit(
        self, caller: str | None, headers: Mapping[str, str], read_cookies: Callable[[], Mapping[str, str]]
    ) -> Viewer | None:
        try:
            self._rate_limiter.check_caller(RateLimitScope.SIGN_IN, caller)
            return await self._load_viewer(headers, read_cookies())
        except RateLimited:
            if not self._authenticator.has_no_credentials(headers, read_cookies):
                raise
            return None
        except Unauthenticated:
            await self._rate_limiter.consume(RateLimitScope.SIGN_IN, caller)
            raise

    async def _load_viewer(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Viewer | None:
        claims = await self._authenticator.authenticate(headers, cookies)
        if claims is None:
            return None
        row = await sign_in(self._anonymous_context.database, claims)
        return Viewer(row.id, frozenset(row.owned), claims.expires_at, claims.issued_at)
