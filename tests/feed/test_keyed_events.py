"""Waiting for wake-ups that are about no log."""

import asyncio
from time import monotonic

from storefront.feed.keyed_events import KeyedEvents


async def test_all_who_wait_for_a_key_are_woken_and_nobody_else() -> None:
    stirs = KeyedEvents()
    waiting = [asyncio.create_task(stirs.wait(key, 60)) for key in ("one", "one", "other")]
    await asyncio.sleep(0)
    stirs.notify("one")
    await asyncio.gather(*waiting[:2])
    await asyncio.sleep(0)
    assert not waiting[2].done()
    stirs.notify("other")
    await waiting[2]


async def test_waiting_ends_by_itself_and_leaves_nothing_behind() -> None:
    stirs, began = KeyedEvents(), monotonic()
    await asyncio.gather(*(stirs.wait(key, 0.05) for key in ("one", "one", "other")))
    assert monotonic() - began >= 0.05
    left = asyncio.create_task(stirs.wait("left", 60))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    stirs.notify("nobody")
    assert stirs._waiters_by_key == {}
