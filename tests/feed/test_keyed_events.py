"""Keyed events: waiting, notification and timeouts."""

import asyncio
from time import monotonic

from storefront.feed.keyed_events import KeyedEvents


async def test_notify_wakes_all_waiters_of_its_key_only() -> None:
    events = KeyedEvents()
    waiting = [asyncio.create_task(events.wait(key, 60)) for key in ("one", "one", "other")]
    await asyncio.sleep(0)
    events.notify("one")
    await asyncio.gather(*waiting[:2])
    await asyncio.sleep(0)
    assert not waiting[2].done()
    events.notify("other")
    await waiting[2]


async def test_wait_times_out_and_leaves_nothing_behind() -> None:
    events, began = KeyedEvents(), monotonic()
    await asyncio.gather(*(events.wait(key, 0.05) for key in ("one", "one", "other")))
    assert monotonic() - began >= 0.05
    left = asyncio.create_task(events.wait("left", 60))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    events.notify("nobody")
    assert events._waiters_by_key == {}
