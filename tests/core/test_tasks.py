"""Tasks that several wait for."""

import asyncio
import gc
from collections.abc import Sequence

import pytest

from storefront.core.tasks import share
from storefront.graph.context import Context
from tests.client import Client


async def fail() -> None:
    raise ValueError("it failed")


async def test_share_raises_to_those_that_wait() -> None:
    work = asyncio.ensure_future(fail())
    cancelled, waiting = (asyncio.ensure_future(share(work)) for _ in range(2))
    cancelled.cancel()
    with pytest.raises(ValueError, match="it failed"):
        await waiting


async def test_cancelled_waiter_does_not_cancel_shared_work() -> None:
    work = asyncio.ensure_future(asyncio.sleep(0.01, "done"))
    share(work).cancel()
    assert await share(work) == "done"


async def test_failure_without_waiters_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    work = asyncio.ensure_future(fail())
    waiters = [share(work), share(work)]
    waiters[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert work.done()
    del work, waiters
    gc.collect()
    assert not caplog.records


async def test_failed_loads_without_waiters_are_not_logged(shopper: Client, caplog: pytest.LogCaptureFixture) -> None:
    async def load_nothing(_: Context, keys: Sequence[str], number: int) -> list[str]:
        raise ValueError(f"{keys} {number}")

    context = Context(shopper.database, None, None, None, None)  # type: ignore[arg-type]
    loads = [context.load_many(load_nothing, ["a"], number) for number in range(2)]
    await asyncio.sleep(0.01)
    del loads
    context.release()
    gc.collect()
    assert not caplog.records
