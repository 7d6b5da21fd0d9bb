"""Pub/sub over each backend: delivery between processes, and reconnection."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from broadcaster import Broadcast
from redis import Redis as Connecting

from storefront.core.db import pipeline
from storefront.feed import pubsub, pubsub_postgres
from storefront.feed.pubsub import PubSub, create_broadcast
from tests.feed.redis import Redis, redis_server
from tests.postgres_proxy import ANSWERS, REQUESTS, postgres_proxy

KINDS = ["postgres", "redis"]
# The last statements of our connections. Each test has its own database, so all of them are ours.
OURS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
LISTENING = f"{OURS} AND query LIKE 'LISTEN%%'"


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short probe intervals and timeouts."""
    monkeypatch.setattr(pubsub, "PROBE_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(pubsub, "PROBE_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(pubsub, "MAX_RECONNECT_DELAY_SECONDS", 0.4)


@pytest.fixture
def patient(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a probe takes longer than an impatient process waits. It connects anew then, and a message is lost."""
    monkeypatch.setattr(pubsub, "PROBE_TIMEOUT_SECONDS", 60.0)


@pytest.fixture
def url(request: pytest.FixtureRequest, redis: Redis, empty_url: str) -> str:
    kind = request.param
    return {"postgres": empty_url, "memory": "memory://"}.get(kind, f"{kind}://{redis.address}")


class Process:
    """The pub/sub of one process, and the messages that it received."""

    def __init__(self, url: str) -> None:
        self.heard: Counter[str] = Counter()
        self.wakeups = PubSub(url, self._hear)

    def _hear(self, config_id: str) -> None:
        self.heard[config_id] += 1

    async def hears(self, other: "Process", word: str) -> None:
        """Fail unless a message of the other process arrives; publishes repeatedly, because delivery is lossy."""
        before = self.heard[word]
        await until(lambda: self.heard[word] > before, lambda: other.wakeups.publish(word))


async def until(holds: Callable[[], Any], meanwhile: Callable[[], Any] = lambda: None) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        meanwhile()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[Process, Process]]:
    one, other = Process(url), Process(url)
    async with one.wakeups.running(), other.wakeups.running():
        await one.hears(other, "ready")
        await other.hears(one, "ready")
        yield one, other


def ask(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchall()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_two_processes_hear_each_other(url: str) -> None:
    async with two(url) as (one, other):
        one.wakeups.publish("a")
        other.wakeups.publish("b")
        await until(lambda: one.heard["b"] and other.heard["a"])
        # Probes are between a process and itself.
        assert not [word for word in one.heard if word.startswith("probe")]


async def test_in_memory_a_process_hears_itself() -> None:
    alone = Process("memory://")
    async with alone.wakeups.running():
        alone.wakeups.publish("a")
        assert alone.heard["a"] == 1, "heard at once, whatever the line does"
        await until(lambda: alone.heard["a"] == 2)


async def test_postgres_ends_the_listening_connections(empty_url: str) -> None:
    async with two(empty_url) as (one, other):
        for n in range(3):
            killed = ask(empty_url, f"SELECT pg_terminate_backend(pid) {LISTENING}")
            assert len(killed) == 2
            await one.hears(other, f"a{n}")
            await other.hears(one, f"b{n}")


async def test_postgres_ends_the_speaking_connections(empty_url: str) -> None:
    async with two(empty_url) as (one, other):
        ask(empty_url, f"SELECT pg_terminate_backend(pid) {OURS} AND query NOT LIKE 'LISTEN%'")
        await one.hears(other, "a")
        await other.hears(one, "b")


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_redis_is_stopped_and_started_again(url: str, redis: Redis) -> None:
    async with two(url) as (one, other):
        await redis.restart()
        await one.hears(other, "a")
        await other.hears(one, "b")


@pytest.mark.parametrize("url", ["memory", *KINDS], indirect=True)
async def test_a_listener_that_dies_without_a_word_is_noticed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Any] = []

    def noted(url: str) -> Any:
        lines.append(create_broadcast(url))
        return lines[-1]

    monkeypatch.setattr(pubsub, "create_broadcast", noted)
    process = Process(url)
    async with process.wakeups.running():
        await until(process.wakeups._probe_received.is_set)
        lines[0]._listener_task.cancel()
        await until(lambda: len(lines) > 1)
        # From now on no line is given up because the machine is busy.
        monkeypatch.setattr(pubsub, "PROBE_TIMEOUT_SECONDS", 60.0)
        process.wakeups._probe_received.clear()
        await until(process.wakeups._probe_received.is_set)
        before = process.heard["a"]
        # Heard at once from itself, and once more over the line.
        process.wakeups.publish("a")
        await until(lambda: process.heard["a"] == before + 2)


@pytest.fixture
def noticing_at_once(impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost line is noticed sooner."""
    monkeypatch.setattr(pubsub, "PROBE_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(pubsub, "PROBE_TIMEOUT_SECONDS", 0.2)


@pytest.mark.usefixtures("noticing_at_once")
async def test_ten_new_lines_leave_no_connection_behind(empty_url: str) -> None:
    async with two(empty_url) as (one, other):
        await until(lambda: ask(empty_url, f"SELECT count(*) {OURS}") == [(4,)])
        for n in range(10):
            ask(empty_url, f"SELECT pg_terminate_backend(pid) {LISTENING}")
            await one.hears(other, f"a{n}")
            await other.hears(one, f"b{n}")
        # A backend that was ended is there until it has noticed.
        await until(lambda: ask(empty_url, f"SELECT count(*) {OURS}") == [(4,)])
    await until(lambda: ask(empty_url, f"SELECT count(*) {OURS}") == [(0,)])


@pytest.mark.usefixtures("noticing_at_once")
async def test_ten_new_lines_leave_no_connection_to_redis_and_no_task_behind(redis: Redis) -> None:
    with Connecting(port=redis.port) as counting:
        before, tasks = len(counting.client_list()), asyncio.all_tasks()
        async with two(f"redis://{redis.address}") as (one, other):
            await one.hears(other, "a")
            await other.hears(one, "b")
            open_ = len(counting.client_list())
            for n in range(10):
                counting.client_kill_filter(_type="pubsub")
                await one.hears(other, f"a{n}")
                await other.hears(one, f"b{n}")
            await until(lambda: len(counting.client_list()) <= open_)
        await until(lambda: len(counting.client_list()) <= before)
        # Those of other servers of this process may end meanwhile.
        await until(lambda: asyncio.all_tasks() <= tasks)


@pytest.mark.parametrize("nowhere", ["postgresql://127.0.0.1:1/none", "redis://127.0.0.1:1"])
async def test_publishing_never_waits_for_a_line_that_is_down(nowhere: str, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(nowhere)
    async with process.wakeups.running():
        for n in range(10_000):
            process.wakeups.publish(f"store {n % 7}")
        await asyncio.sleep(1)
        assert len(process.wakeups._pending_keys) == 7
    # The process itself heard every one of them, and nobody's log was flooded.
    assert process.heard.total() == 10_000
    assert 1 <= len(caplog.records) <= 6


async def test_what_was_said_while_the_line_was_down_is_said_once_when_it_is_up() -> None:
    with redis_server() as own:
        url = f"redis://{own.address}"
        async with two(url) as (one, other):
            own.stop()
            await asyncio.sleep(0.3)
            for n in range(1_000):
                one.wakeups.publish(f"store {n % 3}")
            await asyncio.to_thread(own.start)
            # What was sent into the line that broke may be lost, or come again: the poll of the hub is there for the former.
            await until(lambda: len(other.heard) >= 2)
            assert max(other.heard[f"store {n}"] for n in range(3)) <= 3


async def test_key_whose_publishing_fails_is_published_after_reconnecting(monkeypatch: pytest.MonkeyPatch) -> None:
    published, publish = list[str](), Broadcast.publish

    async def publish_unreliably(broadcast: Broadcast, channel: str, message: str) -> None:
        if not message.startswith("probe"):
            published.append(message)
            if len(published) == 1:
                raise ConnectionError
        await publish(broadcast, channel, message)

    monkeypatch.setattr(Broadcast, "publish", publish_unreliably)
    wakeups = PubSub("memory://")
    async with wakeups.running():
        wakeups.publish("store")
        await until(lambda: len(published) > 1)
    assert published == ["store", "store"]


@pytest.mark.parametrize("url", ["redis-stream://127.0.0.1", "kafka://127.0.0.1", "nowhere"])
def test_unsupported_broadcast_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="is not supported"):
        create_broadcast(url)
    with pytest.raises(ValueError, match="STOREFRONT_BROADCAST_URL"):
        PubSub(url)


@pytest.mark.usefixtures("patient")
async def test_a_store_that_moves_often_is_notified_less_often(empty_url: str) -> None:
    async with two(empty_url) as (one, other):
        for _ in range(1_000):
            one.wakeups.publish("busy")
        await until(lambda: other.heard["busy"])
        await asyncio.sleep(0.2)
        assert other.heard["busy"] == 1


@pytest.mark.parametrize("url", KINDS, indirect=True)
async def test_leaving_while_the_line_breaks_ends_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pubsub, "PROBE_TIMEOUT_SECONDS", 0.0)
    for n in range(40):
        async with asyncio.timeout(60), Process(url).wakeups.running():
            await asyncio.sleep(n / 2_000)


@pytest.mark.parametrize("lost", [[REQUESTS], [ANSWERS]], ids="+".join)
async def test_line_that_loses_everything_is_made_anew(empty_url: str, lost: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "BATCH_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(pubsub_postgres, "RESPONSE_TIMEOUT_SECONDS", 0.5)
    with postgres_proxy(empty_url) as proxy:
        async with two(proxy.url()) as (one, other):
            proxy.lose(*lost)
            await asyncio.sleep(0.3)
            proxy.heal()
            await one.hears(other, "again")
            await other.hears(one, "again")
