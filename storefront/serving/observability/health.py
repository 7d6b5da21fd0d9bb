"""Whether this process is alive, and whether it can answer: for whoever starts and watches servers, and sends them requests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

# What is wrong with a part; None where nothing is. What it raises counts as wrong, and is told by its type alone.
Check = Callable[[], Awaitable[str | None]]

# Seconds that a part has to answer, and for which an answer is given again: asking often costs nothing.
WITHIN, YOUNG = 2.0, 1.0
FINE = "ok"


class Health:
    """The parts that a process needs to be able to answer, and `warnings`, which are shown beside them.

    A warning concerns all servers alike, such as a full disk of the database: to send requests elsewhere would help nobody, and
    what only reads still works.
    """

    def __init__(self, checks: Mapping[str, Check], warnings: Mapping[str, Check] | None = None) -> None:
        self._checks, self._warnings = checks, warnings or {}
        self._is_leaving = False
        self._looked: tuple[float, asyncio.Future[dict[str, str]]] | None = None

    def leave(self) -> None:
        """Be ready no longer: whoever sends requests is to send them elsewhere."""
        self._is_leaving = True

    def routes(self) -> list[BaseRoute]:
        """`/healthz` and `/readyz`."""
        return [Route("/healthz", self._alive), Route("/readyz", self._ready)]

    async def state(self) -> dict[str, str]:
        """What is wrong with each part, or that it is fine. Looked up at most once a second, however many ask."""
        if self._looked is None or monotonic() - self._looked[0] > YOUNG:
            self._looked = monotonic(), asyncio.ensure_future(self._look())
        parts = await asyncio.shield(self._looked[1])
        return {**parts, "server": "leaving"} if self._is_leaving else parts

    async def _look(self) -> dict[str, str]:
        asked = {**self._checks, **self._warnings}
        found = await asyncio.gather(*map(_answer, asked.values()))
        return dict(zip(asked, found, strict=True))

    async def _alive(self, _: Request) -> Response:
        return _told(True, {})

    async def _ready(self, _: Request) -> Response:
        parts = await self.state()
        is_ready = all(state == FINE for part, state in parts.items() if part not in self._warnings)
        return _told(is_ready, {"parts": parts})


async def _answer(check: Check) -> str:
    try:
        async with asyncio.timeout(WITHIN):
            return await check() or FINE
    except TimeoutError:
        return f"no answer within {WITHIN:g} s"
    except Exception as error:
        # Its words may name hosts and users.
        return type(error).__name__


def _told(is_fine: bool, more: Mapping[str, object]) -> Response:
    body = orjson.dumps({"status": "ok" if is_fine else "unavailable", **more})
    return Response(body, 200 if is_fine else 503, {"cache-control": "no-store"}, "application/json")
