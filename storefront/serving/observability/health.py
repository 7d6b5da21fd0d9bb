"""Health checks: liveness (`/healthz`) and readiness (`/readyz`) for orchestrators and load balancers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from storefront.core.single_flight import SingleFlight

# Returns the problem of a dependency, or None. If it raises, the problem is the name of the exception's class.
HealthCheck = Callable[[], Awaitable[str | None]]

# The timeout of a check, and for how long its result is cached, so that frequent probes cost nothing. Both in seconds.
CHECK_TIMEOUT_SECONDS, CACHE_SECONDS = 2.0, 1.0
STATE_OK = "ok"


class Health:
    """The checks of a process: `checks` decide whether it is ready, `warnings` are only reported.

    A warning concerns all servers alike, such as a full disk of the database: another server could not serve the request either,
    and reads still work.
    """

    def __init__(self, checks: Mapping[str, HealthCheck], warnings: Mapping[str, HealthCheck] | None = None) -> None:
        self._checks, self._warnings = checks, warnings or {}
        self._is_draining = False
        self._runs = SingleFlight(1, CACHE_SECONDS)

    def start_draining(self) -> None:
        """Graceful shutdown: report not ready, so that load balancers send requests to other servers."""
        self._is_draining = True

    def build_routes(self) -> list[BaseRoute]:
        """The routes `/healthz` and `/readyz`."""
        return [Route("/healthz", self._serve_liveness), Route("/readyz", self._serve_readiness)]

    async def get_states(self) -> dict[str, str]:
        """The state of each check: "ok" or its problem. Cached for a second; concurrent callers share a run (single-flight)."""
        states = await self._runs.call("checks", self._run_checks)
        return {**states, "server": "draining"} if self._is_draining else states

    async def _run_checks(self) -> dict[str, str]:
        checks = {**self._checks, **self._warnings}
        states = await asyncio.gather(*map(_run_check, checks.values()))
        return dict(zip(checks, states, strict=True))

    async def _serve_liveness(self, _: Request) -> Response:
        return _build_response(True, {})

    async def _serve_readiness(self, _: Request) -> Response:
        states = await self.get_states()
        is_ready = all(state == STATE_OK for name, state in states.items() if name not in self._warnings)
        return _build_response(is_ready, {"parts": states})


async def _run_check(check: HealthCheck) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            return await check() or STATE_OK
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_SECONDS:g} s"
    except Exception as error:
        # The message may contain host and user names.
        return type(error).__name__


def _build_response(is_ok: bool, details: Mapping[str, object]) -> Response:
    body = orjson.dumps({"status": "ok" if is_ok else "unavailable", **details})
    return Response(body, 200 if is_ok else 503, {"cache-control": "no-store"}, "application/json")
