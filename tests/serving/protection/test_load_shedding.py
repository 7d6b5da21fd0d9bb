"""Load shedding: requests beyond the limit get 503 at once, and the server recovers."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from storefront.serving.protection.load_shedding import LoadShedder
from tests.conftest import serving
from tests.serving.server.test_http_protocol import connection

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = b'{"query": "{ __typename }"}'
HEAD = b"POST /graphql HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
WHOLE = HEAD + LENGTH + BODY


async def answered(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), head, await reader.readexactly(length)


async def test_shed_request_gets_503_and_may_retry(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_concurrent=1) as client, AsyncExitStack() as stack:
        inside = [await stack.enter_async_context(connection(client)) for _ in range(5)]
        for _, writer in inside:
            writer.write(HEAD + LENGTH)
        reader, writer = await stack.enter_async_context(connection(client))
        code = 200
        while code == 200:
            # As soon as the five heads have been read.
            code, head, body = await asked(reader, writer, WHOLE)
        assert code == 503 and b"\r\nretry-after: 1\r\n" in head and b"\r\nx-request-id: mine\r\n" in head
        assert json.loads(body)["errors"][0]["extensions"]["code"] == "SERVICE_UNAVAILABLE"
        assert (await asked(reader, writer, HEALTH))[0] == 200
        # Two that come in one go, and one that is the last.
        writer.write(WHOLE + WHOLE)
        assert [(await answered(reader))[0] for _ in range(2)] == [503, 503]
        for one, writer_inside in inside:
            writer_inside.write(BODY)
            assert (await answered(one))[0] == 200
        assert (await asked(reader, writer, WHOLE))[0] == 200


async def test_shed_request_with_connection_close_is_closed(empty_url: str, tmp_path: Path) -> None:
    async with serving(empty_url, tmp_path, max_concurrent=1) as client, AsyncExitStack() as stack:
        for _ in range(5):
            (await stack.enter_async_context(connection(client)))[1].write(HEAD + LENGTH)
        code = 200
        while code == 200:
            async with connection(client) as (reader, writer):
                code, head, _ = await asked(reader, writer, HEAD + b"connection: close\r\n" + LENGTH + BODY)
                assert await asyncio.wait_for(reader.read(), 5) == b""
        assert code == 503 and b"\r\nconnection: close\r\n" in head


async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes, bytes]:
    writer.write(request)
    return await answered(reader)


@pytest.mark.parametrize(("aside", "admitted"), [(0, 2), (1, 3)])
def test_exempt_requests_do_not_count(aside: int, admitted: int) -> None:
    admission = LoadShedder(2, lambda: aside)
    assert [admission.try_admit("/graphql") for _ in range(5)].count(True) == admitted == admission.in_flight
    assert admission.rejected_count == 5 - admitted and admission.try_admit("/readyz")
    admission.release()
    assert admission.in_flight == admitted
