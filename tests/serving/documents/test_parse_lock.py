"""The parse lock: new documents are parsed one at a time, and other requests are served in between."""

import asyncio
import time
from pathlib import Path

import pytest

from storefront.core.errors import TimedOut, Unavailable
from storefront.execution.strawberry_adapter import get_graphql_schema
from storefront.schema import schema
from storefront.serving.documents.document_store import DocumentStore
from storefront.serving.documents.parse_lock import ParseLock
from storefront.serving.http.graphql_request import GraphQLRequest
from storefront.serving.run.operations import ConcurrencyLimits, Operations
from tests.client import Client
from tests.conftest import serving


def busy() -> None:
    """Keep the process busy for longer than others should have to wait."""
    time.sleep(0.02)


async def test_parse_lock_yields_after_long_work() -> None:
    turns, order = ParseLock(10), list[str]()

    async def take(name: str) -> None:
        await turns.run_exclusively(busy)
        order.append(name)

    async def pass_by() -> None:
        # If this process is not given its turn until the lock is due, the second one runs in the second step from here.
        for _ in range(2):
            await asyncio.sleep(0)
        order.append("other")

    await asyncio.gather(take("first"), take("second"), take("third"), pass_by())
    assert order == ["first", "other", "second", "third"]


async def test_parse_lock_bounds_waiters_and_survives_failures() -> None:
    turns = ParseLock(1)

    def failing() -> None:
        busy()
        raise ZeroDivisionError

    first, second = asyncio.create_task(turns.run_exclusively(failing)), asyncio.create_task(turns.run_exclusively(busy))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await turns.run_exclusively(busy)
    with pytest.raises(ZeroDivisionError):
        await first
    await second


async def test_new_document_waits_no_longer_than_the_timeout() -> None:
    operations = Operations(DocumentStore(get_graphql_schema(schema)), ConcurrencyLimits(timeout_seconds=0.05))
    await operations._parse_lock._lock.acquire()
    with pytest.raises(TimedOut):
        await asyncio.wait_for(operations.prepare(GraphQLRequest("{ __typename }")), 10)
    operations._parse_lock._lock.release()
    assert await operations.prepare(GraphQLRequest("{ __typename }"))


async def test_disconnect_during_body_is_no_internal_error(
    empty_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(empty_url, tmp_path) as client:
        reader, writer = await asyncio.open_connection(client.http.base_url.host, client.http.base_url.port)
        writer.write(b"POST /graphql HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        assert await reader.read() == b""
        await Client.ask(client, "{ __typename }")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
