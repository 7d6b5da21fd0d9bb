"""A GraphQL client over a real socket, for one server."""

import time
from dataclasses import dataclass
from typing import Any

import httpx

from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db.database import Database

SECRET = "a secret of thirty-two characters"


def token_of(subject: str, seconds: int = 600, **claims: Any) -> str:
    """A token of the test server for a user. Its database runs on this machine: there is one clock."""
    return sign_token(Claims(subject, **claims), SECRET, seconds=seconds, database_time=time.time())


@dataclass(frozen=True, slots=True)
class Client:
    """One who asks: a shopper, or with a token the user that it names. `database` is the server's own."""

    http: httpx.AsyncClient
    database: Database
    token: str | None = None

    def signed_in(self, subject: str, **claims: Any) -> "Client":
        """The same client with a token."""
        return Client(self.http, self.database, token_of(subject, **claims))

    async def post(self, query: str, **variables: Any) -> httpx.Response:
        """The whole response."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return await self.http.post("/graphql", json={"query": query, "variables": variables}, headers=headers)

    async def ask(self, query: str, **variables: Any) -> Any:
        """The data; fails on any error."""
        answer = (await self.post(query, **variables)).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    async def refusal(self, query: str, **variables: Any) -> Any:
        """The one error that was answered: message, path, extensions."""
        answer = (await self.post(query, **variables)).json()
        (error,) = answer["errors"]
        return error
