"""A GraphQL client for a test server, over a real socket."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db.database import Database

SECRET = "a secret of thirty-two characters"


def token_of(subject: str, seconds: int = 600, **claims: Any) -> str:
    """A bearer token of the test server for a user, dated by the clock of this machine, which is also the database's."""
    return sign_token(Claims(subject, **claims), SECRET, seconds=seconds, database_time=time.time())


@dataclass(frozen=True, slots=True)
class Client:
    """A client: anonymous, or authenticated with a token. `database` is that of the server."""

    http: httpx.AsyncClient
    database: Database
    token: str | None = None

    def signed_in(self, subject: str, **claims: Any) -> "Client":
        """The same client, authenticated as a user."""
        return Client(self.http, self.database, token_of(subject, **claims))

    async def post(self, query: str, **variables: Any) -> httpx.Response:
        """Execute a document; returns the HTTP response."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return await self.http.post("/graphql", json={"query": query, "variables": variables}, headers=headers)

    async def ask(self, query: str, **variables: Any) -> Any:
        """Execute a document; returns its data, and fails on any error."""
        response = (await self.post(query, **variables)).json()
        assert "errors" not in response, response["errors"]
        return response["data"]

    async def refusal(self, query: str, **variables: Any) -> Any:
        """Execute a document; returns its single error."""
        response = (await self.post(query, **variables)).json()
        (error,) = response["errors"]
        return error
