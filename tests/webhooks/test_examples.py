"""The example receivers of the guide accept signed messages, and reject all others."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from storefront.serving.graphiql import assets
from storefront.webhooks.signing import build_signature_headers, generate_secret
from tests.clients.npm import CLIENTS, environment, marked
from tests.webhooks.hooks import TEST, create_webhook, delivering, owner_with_store, run_mutation

EXAMPLES = CLIENTS / "webhooks"
RECEIVERS = ["receiver.mjs", "receiver.py"]
GUIDE = (CLIENTS.parent / "docs" / "webhooks.md").read_text()


@asynccontextmanager
async def receiving(name: str, secret: str) -> AsyncIterator[tuple[int, Any]]:
    """Run an example receiver; yields its port and its output."""
    program = str(assets.find_node_and_npm()[0]) if name.endswith(".mjs") else sys.executable
    given = environment() | {"WEBHOOK_SECRET": secret, "PORT": "0"}
    process = await asyncio.create_subprocess_exec(program, str(EXAMPLES / name), stdout=PIPE, env=given)
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            yield json.loads(await process.stdout.readline())["port"], process.stdout
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("name", RECEIVERS)
async def test_example_receiver_verifies_signatures(name: str) -> None:
    secret, body, now = generate_secret(), '{"type":"webhook.test","title":"Tasse für Öl"}'.encode(), int(time.time())
    good = build_signature_headers([generate_secret(), secret], "some id", now, body)
    bad = {
        "another secret": build_signature_headers([generate_secret()], "some id", now, body),
        "too old": build_signature_headers([secret], "some id", now - 301, body),
        "too new": build_signature_headers([secret], "some id", now + 330, body),
        "another id": good | {"webhook-id": "other"},
        "another time": good | {"webhook-timestamp": str(now - 1)},
        "no signature": {"webhook-id": "some id", "webhook-timestamp": str(now)},
        "another version": good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")},
        "nothing": {},
    }
    async with receiving(name, secret) as (port, printed), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for why, headers in bad.items():
            assert (await http.post("/", content=body, headers=headers)).status_code == 400, why
        assert (await http.post("/", content=body + b" ", headers=good)).status_code == 400
        assert (await http.post("/", content=body, headers=good)).status_code == 204
        assert json.loads(await printed.readline()) == json.loads(body)


@pytest.mark.parametrize("name", RECEIVERS)
async def test_example_receiver_accepts_server_messages(empty_url: str, tmp_path: Path, name: str) -> None:
    async with delivering(empty_url, tmp_path) as shop:
        owner, store = await owner_with_store(shop)
        hook = await create_webhook(owner, store, "http://127.0.0.1:1025/", query=None)
        async with receiving(name, hook["secret"]) as (port, printed):
            update = "mutation($i: UpdateWebhookInput!) { updateWebhook(input: $i) { userErrors { message } } }"
            assert (await run_mutation(owner, update, id=hook["id"], url=f"http://127.0.0.1:{port}/"))["userErrors"] == []
            assert (await run_mutation(owner, TEST, id=hook["id"]))["delivery"]["status"] == "DELIVERED"
            assert json.loads(await printed.readline())["type"] == "webhook.test"


@pytest.mark.parametrize("name", ["receiver.mjs", "verifying.py"])
def test_guide_contains_tested_example(name: str) -> None:
    assert marked(EXAMPLES / name) in GUIDE
