"""Whether this process is alive, and whether it can answer: for whoever starts and watches servers, and sends them requests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

# What is wrong with a part; None where nothing is. What it raises counts as wrong, and is told by its type alone.
HealthCheck = Callable[[], Awaitable[str | None]]

# Seconds that a part has to answer, and for which an answer is given again: asking often costs nothing.
CHECK_TIMEOUT_SECONDS, CACHE_SECONDS = 2.0, 1.0
STATE_OK = "ok"


class Health:
    """The parts that a process needs to be able to answer, and `warnings`, which are shown beside them.

    A warning concerns all servers alike, such as a full disk of the database: to send requests elsewhere would help nobody, and
    what only reads still works.
    """

    def __init__(self, checks: Mapping[str, HealthCheck], warnings: Mapping[str, HealthCheck] | None = None) -> None:
        self._checks, self._warnings = checks, warnings or {}
        self._is_draining = False
        self._cached_run: tuple[float, asyncio.Future[dict[str, str]]] | None = None

    def start_draining(self) -> None:
        """Be ready no longer: whoever sends requests is to send them elsewhere."""
        self._is_draining = True

    def build_routes(self) -> list[BaseRoute]:
        """`/healthz` and `/readyz`."""
        return [Route("/healthz", self._serve_liveness), Route("/readyz", self._serve_readiness)]

    async def get_states(self) -> dict[str, str]:
        """What is wrong with each part, or that it is fine. Looked up at most once a second, however many ask."""
        if self._cached_run is None or monotonic() - self._cached_run[0] > CACHE_SECONDS:
            self._cached_run = monotonic(), asyncio.ensure_future(self._run_checks())
        states = await asyncio.shield(self._cached_run[1])
        return {**states, "server": "leaving"} if self._is_draining else states

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
        # Its words may name hosts and users.
        return type(error).__name__


def _build_response(is_ok: bool, details: Mapping[str, object]) -> Response:
    body = orjson.dumps({"status": "ok" if is_ok else "unavailable", **details})
    return Response(body, 200 if is_ok else 503, {"cache-control": "no-store"}, "application/json")
