"""Overload: at twice its capacity the server sheds load, serves the rest, keeps its memory bounded, and recovers."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.demo.commands import seed
from tests.client import token_of
from tests.feed.processes import Server, running

# `STOREFRONT_SOAK_SECONDS=60 make soak` for a shorter look.
SECONDS = float(os.environ.get("STOREFRONT_SOAK_SECONDS", "1800"))
QUIET_PART, RECOVERED_WITHIN = 0.2, 10.0
ANSWERS = {200, 429, 503}
# As many as a proxy may open; who finds none free waits for one.
MOST_LINES = 3_000

Note = Callable[[object, float], None]


class Line(asyncio.Protocol):
    """One connection that is kept open for the next request, and costs its client little."""

    def __init__(self) -> None:
        self._heard, self._is_lost = b"", False
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, port: int) -> "Line":
        _, line = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self._is_lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("closed without an answer"))

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, found, body = self._heard.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]) if found else 0
        if found and len(body) >= length and self._answer is not None:
            self._heard = b""
            self._answer.set_result((int(head[9:12]), body))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """The status of the answer, and its body."""
        if self._is_lost:
            raise ConnectionError("closed while nothing came over it")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self._transport.abort()


class Offer:
    """Requests that come whether those before them are answered or not."""

    def __init__(self, port: int, requests: Iterator[bytes], note: Note) -> None:
        self._port, self._requests, self._note = port, requests, note
        self._free: list[Line] = []
        self._places = asyncio.Semaphore(MOST_LINES)

    async def run(self, rate: float, seconds: float) -> None:
        """So many a second, at random moments."""
        moments = random.Random(1)
        began = due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while due < began + seconds:
                await asyncio.sleep(max(0, due - time.monotonic()))
                group.create_task(self._once(next(self._requests)))
                due += moments.expovariate(rate)
        for line in self._free:
            line.close()

    async def _once(self, request: bytes) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(60), self._places:
                status, body = await self._asked(request)
            self._note(status if status != 200 or b'"errors":' not in body else body[:300], time.monotonic() - began)
        except OSError as error:
            self._note(repr(error), time.monotonic() - began)

    async def _asked(self, request: bytes) -> tuple[int, bytes]:
        while self._free:
            # Servers close what nothing comes over for a while. That crosses with what is sent then, which is sent again.
            with suppress(ConnectionError):
                return await self._over(self._free.pop(), request)
        return await self._over(await Line.open(self._port), request)

    async def _over(self, line: Line, request: bytes) -> tuple[int, bytes]:
        try:
            answer = await line.ask(request)
        except BaseException:
            line.close()
            raise
        self._free.append(line)
        return answer


def requests_of(url: str) -> Iterator[bytes]:
    """Pages, product pages, searches, and now and then a change, after which no answer holds that is kept."""
    with psycopg.connect(url) as connection:
        [(store, owner)] = connection.execute(
            """SELECT id::text, user_id FROM configs WHERE is_published
            ORDER BY (SELECT count(*) FROM products WHERE config_id = configs.id) DESC LIMIT 1"""
        ).fetchall()
        connection.execute("INSERT INTO user_identities (issuer, subject, user_id) VALUES ('storefront', 'owner', %s)", [owner])
        products = [row[0] for row in connection.execute("SELECT id::text FROM products WHERE config_id = %s LIMIT 50", [store])]
    page = """query($c: ID!) {
      products(configId: $c, first: 20) { totalCount nodes { id title price variants { nodes { name price } } } } }"""
    product = "query($id: ID!) { product(by: {id: $id}) { title price reviews { nodes { title } } related { title } } }"
    search = "query($c: ID!, $q: String!) { products(configId: $c, search: $q, first: 20) { totalCount nodes { title } } }"
    change = "mutation($i: UpdateProductInput!) { updateProduct(input: $i) { product { version } userErrors { message } } }"
    made = [_request(page, {"c": store})] * 4
    made += [_request(product, {"id": id_}) for id_ in products[:4]]
    made += [_request(search, {"c": store, "q": word}) for word in ("oak", "wool")]
    proof = token_of("owner", seconds=86_400)
    changes = [_request(change, {"i": {"id": products[0], "description": text}}, proof) for text in ("One", "Another")]
    return cycle([*made, changes[0], *made, changes[1]])


def _request(query: str, variables: dict[str, object], token: str | None = None) -> bytes:
    body = json.dumps({"query": query, "variables": variables}).encode()
    proof = f"authorization: Bearer {token}\r\n" if token else ""
    head = f"POST /graphql HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\n{proof}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def sustainable(port: int, requests: Iterator[bytes], seconds: float) -> float:
    """Requests per second where sixteen wait for each answer before they ask again."""
    end, done = time.monotonic() + seconds, 0

    async def one() -> None:
        nonlocal done
        line = await Line.open(port)
        try:
            while time.monotonic() < end:
                status, body = await line.ask(next(requests))
                assert status == 200, body
                done += 1
        finally:
            line.close()

    await asyncio.gather(*(one() for _ in range(16)))
    return done / seconds


async def sampled(server: Server, seconds: float, into: list[tuple[float, int]]) -> None:
    """The server's memory, again and again."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        into.append((time.monotonic() - began, server.memory()))
        await asyncio.sleep(min(5.0, seconds / 20))


def p99(waits: Sequence[float]) -> float:
    return sorted(waits)[int(0.99 * len(waits))]


def slope(samples: Sequence[tuple[float, int]]) -> float:
    """Bytes per second, by least squares."""
    times, sizes = zip(*samples, strict=True)
    mean_time, mean_size = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((at - mean_time) ** 2 for at in times)
    return float(sum((at - mean_time) * (size - mean_size) for at, size in samples) / spread)


@pytest.mark.parametrize("seconds", [4.0, pytest.param(SECONDS, marks=pytest.mark.soak)])
async def test_double_load_is_shed_and_leaves_nothing_behind(
    seconds: float, empty_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Database(empty_url) as database:
        await seed(database, products=2_000, events=0)
    # The default: changes of one product wait for each other, and no longer than for an answer.
    with running(empty_url, tmp_path, POOL_TIMEOUT="5") as server:
        requests, port, short = requests_of(empty_url), server.port, min(5.0, seconds / 4)
        await sustainable(port, requests, short)
        rate = await sustainable(port, requests, short)
        before: list[float] = []
        await Offer(port, requests, lambda _, wait: before.append(wait)).run(QUIET_PART * rate, short)

        received, odd, samples = Counter[object](), list[tuple[float, object]](), list[tuple[float, int]]()
        began = time.monotonic()

        def note(what: object, _: float) -> None:
            received.update([what])
            if what not in ANSWERS:
                odd.append((time.monotonic() - began, what))

        await asyncio.gather(Offer(port, requests, note).run(2 * rate, seconds), sampled(server, seconds, samples))
        assert not odd and received[200], (received, odd[:20], odd[-20:])
        if seconds < 60:
            return
        await Offer(port, requests, lambda *_: None).run(QUIET_PART * rate, RECOVERED_WITHIN)
        after: list[float] = []
        await Offer(port, requests, lambda _, wait: after.append(wait)).run(QUIET_PART * rate, short)
    # What is kept for reuse is kept after a third of the time; a leak would go on.
    grown, memory = slope(samples[len(samples) // 3 :]), samples[-1][1]
    with capsys.disabled():
        print(
            f"\n{rate:.0f} requests/s can be done, {2 * rate:.0f} came for {seconds:.0f} s: {dict(received)}\n"
            f"p99 before {1000 * p99(before):.0f} ms, {RECOVERED_WITHIN:.0f} s after {1000 * p99(after):.0f} ms; "
            f"memory {memory / 2**20:.0f} MB, {grown * 3600 / 2**20:+.1f} MB an hour"
        )
    assert grown * seconds < 0.1 * memory, samples
    assert p99(after) < 3 * p99(before) + 0.05
