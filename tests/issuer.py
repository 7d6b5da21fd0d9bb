"""OpenID Connect issuers on a real socket, whose keys and responses tests can change."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import uvicorn
from joserfc import jws
from joserfc.jwk import JWKRegistry, Key
from joserfc.util import urlsafe_b64encode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AUDIENCE = "the shop"

# The key type of each algorithm.
KINDS = {"RS256": "RSA", "PS256": "RSA", "ES256": "P-256", "ES384": "P-384", "EdDSA": "Ed25519", "Ed25519": "Ed25519"}


@cache
def key(kind: str = "P-256", kid: str | None = "first", use: str | None = "sig", alg: str | None = None) -> Key:
    """A key pair, cached by its arguments."""
    named: Any = {name: value for name, value in {"kid": kid, "use": use, "alg": alg}.items() if value}
    families = {"RSA": "RSA", "Ed25519": "OKP"}
    return JWKRegistry.generate_key(families.get(kind, "EC"), 2048 if kind == "RSA" else kind, named)


def signed(claims: dict[str, Any], by: Key, algorithm: str = "ES256", **header: Any) -> str:
    """A signed token. It is assembled here, because the library refuses to create most invalid ones."""
    given = {"alg": algorithm, "kid": by.kid, **header}
    parts = ({name: value for name, value in given.items() if value is not None}, claims)
    text = b".".join(urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    return (text + b"." + urlsafe_b64encode(jws.JWSRegistry.algorithms[algorithm].sign(text, by))).decode()


@dataclass
class Issuer:
    """An issuer: its keys, the paths that were requested, and, if set, an `answer` that replaces all responses."""

    url: str
    keys: list[Any] = field(default_factory=lambda: [key()])
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answer: Callable[[Request], Awaitable[Response]] | None = None
    discovery: dict[str, Any] = field(default_factory=dict)

    def claims(self, **values: Any) -> dict[str, Any]:
        """Valid claims, with changes; those that are None are removed."""
        now = int(time.time())
        given = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, **values}
        return {name: value for name, value in given.items() if value is not None}

    def token(self, **values: Any) -> str:
        """A valid token signed with the first key, except for these claims."""
        return signed(self.claims(**values), self.keys[0])

    def fetches(self) -> int:
        """The number of requests for the keys."""
        return self.asked.count("/keys")

    async def answers(self, request: Request) -> Response:
        """The endpoint of all paths under the issuer's URL."""
        path = "/" + request.path_params["path"]
        self.asked.append(path)
        if self.answer is not None:
            return await self.answer(request)
        if path == "/keys":
            public = [jwk if isinstance(jwk, dict) else jwk.as_dict(private=False) for jwk in self.keys]
            return JSONResponse({"keys": public}, headers=self.headers)
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.discovery})


@dataclass
class Host:
    """A server of many issuers, each under its own path."""

    base: str = ""
    issuers: dict[str, Issuer] = field(default_factory=dict)

    def issuer(self) -> Issuer:
        """A new issuer."""
        name = f"realm{len(self.issuers)}"
        issuer = self.issuers[name] = Issuer(f"{self.base}/{name}")
        return issuer

    async def answers(self, request: Request) -> Response:
        """The endpoint of all issuers."""
        return await self.issuers[request.path_params["name"]].answers(request)


@asynccontextmanager
async def hosting() -> AsyncIterator[Host]:
    """Run a host on a free port."""
    host = Host()
    app = Starlette(routes=[Route("/{name}/{path:path}", host.answers)])
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done(), "the issuers did not start"
    host.base = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield host
    server.should_exit = True
    await task
