"""Memory leaks under a long mixed load: RSS over time, and its slope after a warm-up."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from statistics import linear_regression
from typing import Any

import httpx
import psutil
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.report import Cell, Table
from benchmarks.stage import Stage
from benchmarks.works import SUBJECT, Facts, Storefront, facts
from storefront.core.auth.tokens import Claims, sign_token

SECRET = "a secret of the benchmark's own, of no use elsewhere"  # noqa: S105
MAX_MB_PER_HOUR = 2.0
SAMPLE_SECONDS, LISTENERS, VIEWERS = 2.0, 20, 8
# One for each request that is sent, drawn at random: works of the standard ones, and writes, events and searches beside them.
MIX = (
    ["W1"] * 4
    + ["W2"] * 6
    + ["W3"] * 3
    + ["W4", "W6", "search", "search", "update", "update", "W5", "events", "events", "facets"]
)
WORDS = "linen wool oak leather bamboo ceramic walnut copper mug lamp chair bowl throw rug tray teapot vase shelf".split()
FEED = (
    "subscription($c: ID!) { productFeed(configId: $c) { __typename ... on ProductUpdated { position product { id title } } } }"
)
SEARCH = """query($c: ID!, $s: String!, $n: Int!) { products(configId: $c, search: $s, first: $n) {
  totalCount nodes { id title price } } config(by: {id: $c}) { predictiveSearch(search: $s) { suggestions { text } } } }"""
FACETS = """query($c: ID!, $min: Decimal!) { products(configId: $c, filter: {minPrice: $min}, first: 5) { nodes { id }
  facets { categories { value count } price { min max } } } }"""
UPDATE = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { position userErrors { message } } }"
EVENTS = "mutation($i: TrackEventsInput!) { trackEvents(input: $i) { recorded userErrors { message } } }"


def measure(stage: Stage, minutes: float, warm_up: float, rate: float) -> Iterator[Table]:
    """Ask at so many requests a second; the first minutes of them do not count."""
    found = facts(stage)
    token = sign_token(Claims(SUBJECT), SECRET, seconds=86_400)
    with stage.server(STOREFRONT_SECRET=SECRET) as (port, pid):
        samples = asyncio.run(_Soak(found, token, port, pid, rate).run(60 * minutes))
    begin = samples[0][0]
    counted = [(at, size) for at, size in samples if at - begin >= 60 * warm_up]
    slope = linear_regression(*zip(*counted, strict=True)).slope * 3_600
    step = max(1, len(samples) // 15)
    rows: list[list[Cell]] = [[f"{(at - begin) / 60:.1f}", size / 1_000_000] for at, size in samples[::step]]
    rows.append(["slope, MB an hour", slope / 1_000_000])
    holds = "✓" if slope <= MAX_MB_PER_HOUR * 1_000_000 else "✗"
    note = (
        f"{holds} After {warm_up:g} minutes the slope must stay below {MAX_MB_PER_HOUR:g} MB an hour. {rate:g} requests a second \
of a usual mix, {LISTENERS} listeners of which one after the other comes back."
    )
    yield Table("memory", "Memory over time", ("minute", "RSS, MB"), rows, note)


class _Soak:
    def __init__(self, found: Facts, token: str, port: int, pid: int, rate: float) -> None:
        self._facts, self._token, self._port, self._rate = found, token, port, rate
        self._process = psutil.Process(pid)
        api = Storefront(found, token)
        self._works = {work: api.requests(work) for work in ("W1", "W2", "W3", "W4", "W5", "W6")}
        self._owner = {"authorization": f"Bearer {token}"}

    async def run(self, seconds: float) -> list[tuple[float, float]]:
        samples: list[tuple[float, float]] = []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}", timeout=60) as http, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(http, random.Random(n))) for n in range(VIEWERS)]  # noqa: S311
            tasks.append(group.create_task(self._listen()))
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                samples.append((time.monotonic(), float(self._process.memory_info().rss)))
                await asyncio.sleep(SAMPLE_SECONDS)
            for task in tasks:
                task.cancel()
        return samples

    async def _ask(self, http: httpx.AsyncClient, dice: random.Random) -> None:
        while True:
            began = time.monotonic()
            answer = await self._request(http, dice, dice.choice(MIX))
            if answer.status_code != 200 or b'"errors"' in answer.content:
                raise RuntimeError(answer.text[:500])
            await asyncio.sleep(max(0.0, VIEWERS / self._rate - (time.monotonic() - began)))

    async def _request(self, http: httpx.AsyncClient, dice: random.Random, kind: str) -> httpx.Response:
        match kind:
            case "search":
                text = f"{dice.choice(WORDS)} {dice.choice(WORDS)[: dice.randint(2, 6)]}"
                return await self._post(http, SEARCH, {}, c=self._facts.store, s=text, n=dice.randint(1, 40))
            case "facets":
                return await self._post(http, FACETS, {}, c=self._facts.store, min=str(dice.randint(0, 99)))
            case "update":
                given = {"id": dice.choice(self._facts.products), "title": f"Title {dice.random()}"}
                return await self._post(http, UPDATE, self._owner, i=given)
            case "events":
                events = [{"event": "page_view", "sessionId": f"s{dice.randint(0, 10_000)}"} for _ in range(20)]
                return await self._post(http, EVENTS, {}, i={"configId": self._facts.store, "events": events, "consent": True})
            case _:
                request = dice.choice(self._works[kind])
                return await http.request(request.method, request.path, content=request.body, headers=dict(request.headers))

    async def _post(self, http: httpx.AsyncClient, document: str, headers: dict[str, str], **variables: Any) -> httpx.Response:
        return await http.post("/graphql", json={"query": document, "variables": variables}, headers=headers)

    async def _listen(self) -> None:
        sockets: list[ClientConnection] = []
        while True:
            sockets.append(await self._subscribed())
            if len(sockets) > LISTENERS:
                await sockets.pop(0).close()
            await asyncio.sleep(2)

    async def _subscribed(self) -> ClientConnection:
        socket = await connect(f"ws://127.0.0.1:{self._port}/graphql", subprotocols=["graphql-transport-ws"], max_queue=None)  # type: ignore[list-item]
        await socket.send(json.dumps({"type": "connection_init"}))
        await socket.recv()
        payload = {"query": FEED, "variables": {"c": self._facts.store}}
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        return socket
