"""Values of JSON are counted without parsing, many are parsed as few are, and bodies have a budget."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.attacks import KEY
from storefront.core.errors import Unavailable
from storefront.serving.http.lone_surrogates import loads, loads_cooperatively
from storefront.serving.http.request_body import BodyBudget, count_values
from tests.conftest import fresh, serving

LEAVES = ["", 'a,[{"\\', '"', "\\", '\\\\"', ",,", '","', "[", 1, -1.5, None, True]


def build_value(source: random.Random, depth: int = 0) -> Any:
    kind = source.random() if depth else 1.0
    if kind < 0.5 or depth > 5:
        return source.choice(LEAVES)
    items = [build_value(source, depth + 1) for _ in range(source.randrange(6) if depth else 4_000)]
    return items if kind < 0.75 else {f"{source.choice(LEAVES)}{n}": item for n, item in enumerate(items)}


def count(value: Any) -> int:
    """The values in a value, itself included. An empty list or object counts as if it had one."""
    if isinstance(value, dict):
        value = [*value.values()]
    return 1 + (sum(map(count, value)) or 1) if isinstance(value, list) else 1


@pytest.mark.parametrize("seed", range(3))
def test_values_are_counted_without_parsing(seed: int) -> None:
    value = build_value(random.Random(seed))
    text = orjson.dumps(value)
    # Longer than what is counted at a time.
    assert len(text) > 150_000
    assert count_values(text, 10**9) == count(value)
    assert count_values(text, 100) > 100


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": [1, -2.5e3, "\\u00e9\\ud83d\\ude00", {"b": null, "b": true}]}',
        b'{"a": "\\ud83d"}',
        b'["\\uD83D"]',
        b"[1e400]",
        b"[%b]" % (b"9" * 5_000),
        b"[1, 123456789012345678901234567890]",
        b"[NaN]",
        b"[-Infinity]",
        b"[01]",
        b'["\t"]',
        b'["\xff"]',
        b"\xef\xbb\xbf[]",
        b"[1,]",
        b"",
        b"[" * 5_000 + b"]" * 5_000,
        b" [ ] ",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_many_values_are_parsed_as_few_are(text: bytes) -> None:
    parsed, expected = parse(loads_cooperatively, text), parse(loads, text)
    if expected is ValueError:
        assert parsed is ValueError
    else:
        # Pairs of surrogates may be checked, too.
        assert parsed[0] == expected[0] and parsed[1] >= expected[1]


def parse(load: Any, text: bytes) -> Any:
    try:
        return load(text)
    except ValueError:
        return ValueError


@pytest.mark.parametrize("path", ["/graphql", f"/events/{KEY}"])
async def test_unfinished_bodies_have_a_budget(postgres: str, template: str, tmp_path: Path, path: str) -> None:
    limits: dict[str, Any] = {"max_bodies": 4_000_000, "body_timeout": 60}
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n".encode()
    async with serving(fresh(postgres, template), tmp_path, **limits) as client:
        port = client.http.base_url.port
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        heads = {asyncio.create_task(reader.readuntil(b"\r\n\r\n")): writer for reader, writer in connections}
        for writer in heads.values():
            writer.write(head + b" " * 900_000)
            await writer.drain()
        # Four fit.
        await wait_for_refusals(heads, 8)
        response = await client.http.post(path, content=b" " * 900_000 + b"{}", headers={"content-type": "application/json"})
        assert response.status_code == 400
        await wait_for_refusals(heads, 9)
        # A small one is no reason to give up another one.
        assert (await client.post("{ __typename }")).status_code == 200
        last, writer = next((task, writer) for task, writer in heads.items() if not task.done())
        writer.write(b" " * 99_998 + b"{}")
        assert (await asyncio.wait_for(last, 60)).startswith(b"HTTP/1.1 400 ")
        assert sum(task.done() for task in heads) == 10
        for task, writer in heads.items():
            task.cancel()
            writer.close()
        await asyncio.gather(*heads, return_exceptions=True)


async def wait_for_refusals(heads: Mapping["asyncio.Task[bytes]", Any], count: int) -> None:
    """Wait until so many bodies are given up."""
    async with asyncio.timeout(60):
        while sum(task.done() for task in heads) < count:
            await asyncio.wait([task for task in heads if not task.done()], return_when=asyncio.FIRST_COMPLETED)
    answers = [task.result() for task in heads if task.done()]
    assert len(answers) == count
    unexpected = [
        answer for answer in answers if not answer.startswith(b"HTTP/1.1 503 ") or b"retry-after: " not in answer.lower()
    ]
    assert unexpected == []


async def test_evicted_body_that_grows_is_refused_and_frees_its_bytes_once() -> None:
    budget = BodyBudget(1_000_000)
    with budget.track() as first, budget.track() as second, suppress(TimeoutError):
        # Nothing is awaited: the timeouts are what the budget looks at.
        async with asyncio.timeout(60) as first.timeout, asyncio.timeout(60) as second.timeout:  # noqa: ASYNC100
            budget.resize(first, 600_000)
            budget.resize(second, 600_000)
            assert first.is_evicted and not second.is_evicted
            # A chunk that arrives before the task of the request ends is not counted again.
            with pytest.raises(Unavailable):
                budget.resize(first, 700_000)
            budget.resize(second, 1_000_000)
    with budget.track() as third:
        budget.resize(third, 1_000_000)
        with pytest.raises(Unavailable):
            budget.resize(third, 1_000_001)
