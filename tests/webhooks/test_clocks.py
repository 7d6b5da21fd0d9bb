"""Servers with clocks that are seconds apart share a database: leases, signatures, tokens and feeds do not depend on them."""

import asyncio
import os
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from storefront.core.db.database import Database
from storefront.core.net.tls import load_tls_context
from tests.client import Client, token_of
from tests.factories import make_product, make_store, make_user
from tests.feed.processes import PatientFollower, StreamFollower, running
from tests.feed.test_faults import until
from tests.webhooks.hooks import CHANGE, create_webhook, run_mutation
from tests.webhooks.receiver import Receiver
from tests.webhooks.test_killed import OPTIONS

SECONDS_APART, PROCESSES, ROUNDS = 5, 3, 20
# Imported by Python when it starts, before everything else.
MOVE_CLOCK = "import time\nnow = time.time\ntime.time = lambda: now() + {seconds}\n"


@pytest.mark.soak
async def test_servers_with_different_clocks_work_together(
    empty_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make_user(database)
    store = await make_store(database, user_id=user)
    products = [await make_product(database, store) for _ in range(4)]
    path, token, times = os.environ.get("PYTHONPATH", ""), token_of(user), list[float]()
    async with Receiver().running() as receiver:
        with ExitStack() as stack:
            servers = []
            for number in range(PROCESSES):
                folder = tmp_path / f"clock {number}"
                folder.mkdir()
                moved = MOVE_CLOCK.format(seconds=SECONDS_APART * (number - 1))
                (folder / "sitecustomize.py").write_text(moved)
                monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), path])))
                # In a thread: waiting must not block the receiver.
                server = running(empty_url, tmp_path, is_forked=False, **OPTIONS)
                servers.append(await asyncio.to_thread(stack.enter_context, server))
            followers: list[PatientFollower | StreamFollower] = []
            for one in servers:
                followers += [PatientFollower(one.socket_address, store), StreamFollower(one.address, store)]
            following = [asyncio.create_task(follower.follow()) for follower in followers]
            clients = [httpx.AsyncClient(base_url=one.address, verify=load_tls_context(), timeout=30) for one in servers]
            try:
                owners = [Client(http, database, token) for http in clients]
                secret = (await create_webhook(owners[0], store, receiver.url))["secret"]
                for http in clients:
                    date = (await http.get("/healthz")).headers["date"]
                    times.append(parsedate_to_datetime(date).timestamp())
                # Each write goes to another server, and is heard of from all.
                for number in range(ROUNDS):
                    owner = owners[number % PROCESSES]
                    for product in products:
                        payload = await run_mutation(owner, CHANGE, id=product, title=f"Title {number}")
                        assert payload["userErrors"] == []
                count = ROUNDS * len(products)
                await receiver.wait(count, 120)
                await until(lambda: min(len(follower.seen) for follower in followers) >= count)
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
                for http in clients:
                    await http.aclose()
        # Stopped: nothing comes any more.
    assert max(times) - min(times) > SECONDS_APART, "the clocks are not apart"
    expected = list(range(1, count + 1))
    assert [follower.seen for follower in followers] == [expected] * (2 * PROCESSES)
    # No two servers believed to hold the same lease: each message was sent once, and one product's in order.
    assert sorted(receiver.positions) == expected
    for product in products:
        positions = [request.position for request in receiver.received if request.json["productId"] == product]
        assert positions == sorted(positions)
    for request in receiver.received:
        Webhook(secret).verify(request.body, request.headers)
