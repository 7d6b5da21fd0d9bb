"""Keeps a demo server busy: visits of shoppers, and an edit now and then, sent to its own API like those of any client."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any

import httpx

from storefront.demo import word_lists as words

log = logging.getLogger("storefront")

EDIT_INTERVAL_SECONDS, VISIT_INTERVAL_SECONDS = 10.0, 2.0
_RETRY_SECONDS = 30.0

_STORE = """{ me { configs(first: 50) { nodes { id isPublished
  products(first: 20, filter: { statuses: [ACTIVE] }, sort: { key: POPULARITY }) {
    nodes { id handle title price currency variants(first: 5) { nodes { id inventory } } }
  }
} } } }"""
_TRACK = "mutation ($input: TrackEventsInput!) { trackEvents(input: $input) { recorded } }"
_ADJUST = "mutation ($input: AdjustInventoryInput!) { adjustInventory(input: $input) { userErrors { message } } }"
# What a visitor does: most leave early.
_EVENTS = ("page_view", "search", "product_click", "add_to_cart", "purchase")
_EVENT_WEIGHTS = (50, 12, 24, 10, 4)
_MIN_STOCK, _MAX_DELIVERY = 3, 12


@contextmanager
def running_traffic(url: str, issue_token: Callable[[], str]) -> Iterator[None]:
    """Send traffic to the server at `url` from a thread of its own until the context ends.

    `issue_token` returns a token of the demo user. Only their store with the most products, a published one, is edited.
    """
    stopping = threading.Event()
    run = partial(asyncio.run, _send_until(stopping, url, issue_token))
    threading.Thread(target=run, name="demo-traffic", daemon=True).start()
    try:
        yield
    finally:
        stopping.set()


async def _send_until(stopping: threading.Event, url: str, issue_token: Callable[[], str]) -> None:
    while not stopping.is_set():
        try:
            # Issued again after each failure, such as its expiry. It runs an event loop of its own.
            await _send(stopping, url, await asyncio.to_thread(issue_token))
        except Exception as error:
            # Not ready yet, or it refuses the requests. Traffic is not worth more than a line in the log.
            log.debug("Demo traffic pauses: %s", type(error).__name__)
            await _wait(stopping, 1.0 if isinstance(error, httpx.ConnectError) else _RETRY_SECONDS)


async def _send(stopping: threading.Event, url: str, token: str) -> None:
    rng = Random()
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http:
        owner = {"authorization": f"Bearer {token}"}
        while True:
            stores = (await _ask(http, _STORE, {}, owner))["me"]["configs"]["nodes"]
            stores = [store for store in stores if store["isPublished"] and store["products"]["nodes"]]
            if not stores:
                raise LookupError("The demo user has no published store with products.")
            store = max(stores, key=lambda store: len(store["products"]["nodes"]))
            product = rng.choice(store["products"]["nodes"])
            await _ask(http, _ADJUST, {"input": {"changes": [_choose_delivery(product, rng)]}}, owner)
            for _ in range(int(EDIT_INTERVAL_SECONDS / VISIT_INTERVAL_SECONDS)):
                await _ask(http, _TRACK, {"input": _make_visit(store, rng)}, {})
                if await _wait(stopping, VISIT_INTERVAL_SECONDS):
                    return


def _choose_delivery(product: dict[str, Any], rng: Random) -> dict[str, Any]:
    variant = rng.choice(product["variants"]["nodes"])
    is_sold = (variant["inventory"] or 0) > _MIN_STOCK
    return {"id": variant["id"], "delta": -1 if is_sold else rng.randint(2, _MAX_DELIVERY)}


def _make_visit(store: dict[str, Any], rng: Random) -> dict[str, Any]:
    product = rng.choice(store["products"]["nodes"])
    session, agent = f"sess_{rng.getrandbits(64):016x}", rng.choice(words.USER_AGENTS)
    kinds = rng.choices(_EVENTS, _EVENT_WEIGHTS, k=rng.randint(1, 3))
    return {
        "configId": store["id"],
        "consent": True,
        "events": [
            {
                "event": kind,
                "sessionId": session,
                "userAgent": agent,
                "properties": _make_properties(kind, product, rng),
            }
            for kind in kinds
        ],
    }


def _make_properties(kind: str, product: dict[str, Any], rng: Random) -> dict[str, Any]:
    if kind == "search":
        return {"query": rng.choice(product["title"].lower().split()), "path": "/search"}
    properties = {"productId": product["id"], "path": f"/products/{product['handle']}"}
    return properties | {"total": product["price"], "currency": product["currency"]} if kind == "purchase" else properties


async def _ask(http: httpx.AsyncClient, query: str, variables: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    response = await http.post("/graphql", json={"query": query, "variables": variables}, headers=headers)
    answer = response.json()
    if answer.get("errors"):
        raise RuntimeError(answer["errors"][0]["message"])
    data: dict[str, Any] = answer["data"]
    return data


async def _wait(stopping: threading.Event, seconds: float) -> bool:
    """Wait that long, or until the traffic has to stop; returns whether it has to."""
    return await asyncio.to_thread(stopping.wait, seconds)
