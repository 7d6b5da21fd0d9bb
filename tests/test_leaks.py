"""Secrets are used in every possible way, then searched in all responses, logs, files and tables."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pydantic import SecretStr
from typer.testing import CliRunner

from storefront.cli.main import app
from storefront.core.db.database import Statement
from storefront.core.encryption import Vault, generate_key
from storefront.core.settings import get_settings
from tests.client import SECRET, Client
from tests.conftest import serving
from tests.factories import make_user
from tests.ports import free_port
from tests.serving.observability.test_tracing import collector
from tests.shopify import DOMAIN, Fault, Shopify, product, selling
from tests.webhooks.hooks import CREATE as HOOK
from tests.webhooks.hooks import QUICK, TEST
from tests.webhooks.receiver import Receiver

MARK = "shpat_marked0123456789marked0123456789"
INTEGRATIONS = "integrations { shopify { domain isConnected } stripe { publishableKey } analytics { googleAnalyticsId } }"
ERRORS = "userErrors { code message path }"
CREATE = f"mutation($i: CreateConfigInput!) {{ createConfig(input: $i) {{ config {{ id {INTEGRATIONS} }} {ERRORS} }} }}"
UPDATE = f"mutation($i: UpdateConfigInput!) {{ updateConfig(input: $i) {{ config {{ id {INTEGRATIONS} }} {ERRORS} }} }}"
ADD = "mutation($i: CreateProductInput!) { createProduct(input: $i) { product { id } position } }"
CHECK = f"mutation($i: TestIntegrationInput!) {{ testIntegration(input: $i) {{ result {{ isWorking message }} {ERRORS} }} }}"
FEED = f"""subscription($c: ID!) {{ productFeed(configId: $c, after: "0") {{ __typename
  ... on ProductCreated {{ product {{ config {{ {INTEGRATIONS} }} }} }} }} }}"""
CHANGES = """query($c: ID!) { productChanges(configId: $c, after: "0") { changes { __typename
  ... on ProductUpdated { changedFields } ... on FeedReset { reason } } } }"""
SELECTED = f"query($configId: ID!) {{ config(by: {{id: $configId}}) {{ storeName {INTEGRATIONS} owner {{ name }} }} }}"
SHOP = {"domain": DOMAIN, "accessToken": MARK}


async def test_no_secret_leaks_or_is_stored_unencrypted(
    empty_url: str, tmp_path: Path, log_lines: list[dict[str, Any]], monkeypatch: Any
) -> None:
    key, port, said = generate_key(), free_port(), list[str]()
    async with selling(Shopify([product(1)], token=MARK)) as shopify, Receiver().running() as receiver:
        with collector() as (endpoint, spans):
            options = QUICK | {
                "shopify_url": shopify.url,
                "traces_endpoint": endpoint,
                "metrics_port": port,
                "slow_operation": 1e-9,
            }
            async with serving(empty_url, tmp_path, encryption_keys=SecretStr(key), **options) as shop:
                secret = await use_secrets(shop, shopify, receiver, said)
                async with httpx.AsyncClient() as http:
                    said.append((await http.get(f"http://127.0.0.1:{port}/metrics")).text)
    outside = {
        "responses": "\n".join(said),
        "webhooks": "\n".join(f"{request.headers} {request.body.decode()}" for request in receiver.received),
        "log": json.dumps(log_lines),
        "traces": str(spans),
        "tables": dump_tables(empty_url),
        "files": read_files(tmp_path),
        "command line": await asyncio.to_thread(run_commands, empty_url, key, tmp_path, monkeypatch),
    }
    # The secret was in use, and none of the searched outputs is empty.
    assert Vault([key]).decrypt(dump_stored(empty_url)) == MARK and len(shopify.asked) >= 2
    assert all(len(text) > 100 for text in outside.values()), {name: len(text) for name, text in outside.items()}
    assert "slow operation" in outside["log"] and "pk_test_12345678" in outside["webhooks"]
    for where, text in outside.items():
        for word in (MARK, MARK.removeprefix("shpat_"), secret, secret.removeprefix("whsec_"), SECRET, key):
            assert word not in text, f"{where} has {word}"


async def use_secrets(shop: Client, shopify: Shopify, receiver: Receiver, said: list[str]) -> str:
    """Use all features that involve secrets, and record the responses; returns the secret of a webhook, which is shown once."""
    owner = shop.signed_in(await make_user(shop.database))

    async def ask(client: Client, document: str, **variables: Any) -> Any:
        response = await client.post(document, **variables)
        said.append(response.text)
        return response.json().get("data")

    both = {"shopify": SHOP, "stripe": {"publishableKey": "pk_test_12345678"}}
    about = {"storeName": "Shop", "slug": "shop", "integrations": both, "isPublished": True, "idempotencyKey": "a key"}
    for _ in range(2):
        store = (await ask(owner, CREATE, i=about))["createConfig"]["config"]["id"]
    for wrong in ({"shopify": {"domain": "no", "accessToken": MARK}}, {"shopify": MARK}, {"stripe": {"publishableKey": MARK}}):
        await ask(owner, UPDATE, i={"id": store, "integrations": wrong})
    topics = ["PRODUCT_CREATED", "CONFIG_UPDATED"]
    hooks = [
        {"configId": store, "url": receiver.url, "topics": topics, "query": SELECTED, "readAs": r} for r in ("OWNER", "SHOPPER")
    ]
    created = [(await owner.ask(HOOK, i=hook))["createWebhook"] for hook in hooks]
    await ask(owner, UPDATE, i={"id": store, "integrations": {"shopify": SHOP, "analytics": {"googleAnalyticsId": "G-12345678"}}})
    await ask(owner, ADD, i={"configId": store, "title": "Mug", "price": "1"})
    await receiver.wait(4)
    await ask(owner, TEST, i={"id": created[0]["webhook"]["id"]})
    await ask(owner, CHECK, i={"configId": store, "integration": "SHOPIFY"})
    await owner.database.fetch(Statement("UPDATE integration_checks SET checked_at = '2026-01-01' RETURNING 1", {}))
    shopify.faults.append(Fault(200, body={"errors": [{"message": f"nothing for {MARK}"}]}))
    await ask(owner, CHECK, i={"configId": store, "integration": "SHOPIFY"})
    await _run_jobs(partial(ask, owner), store)
    for client in (owner, shop):
        await ask(client, CHANGES, c=store)
        await ask(client, f"{{ configs {{ nodes {{ {INTEGRATIONS} }} }} }}")
        said.append(await _first_event(client, store))
    hooks_of_store = "webhooks { id url query deliveries { nodes { attempts { error } } } }"
    await ask(owner, f"query($c: ID!) {{ config(by: {{id: $c}}) {{ {hooks_of_store} }} }}", c=store)
    return str(created[0]["secret"])


async def _run_jobs(ask: Callable[..., Awaitable[Any]], store: str) -> None:
    """Import products from the shop with the token, and export them to a file."""
    document = "query($i: ID!) { job(id: $i) { status error { message } issues { nodes { message } } } }"
    for mutation, environment in (
        ("importProducts", {"configId": store, "source": "SHOPIFY_STORE"}),
        ("exportProducts", {"configId": store}),
    ):
        kind = f"{mutation[0].upper()}{mutation[1:]}Input"
        begun = await ask(f"mutation($i: {kind}!) {{ {mutation}(input: $i) {{ job {{ id }} {ERRORS} }} }}", i=environment)
        id_ = begun[mutation]["job"]["id"]
        async with asyncio.timeout(20):
            while (found := (await ask(document, i=id_))["job"])["status"] not in ("SUCCEEDED", "FAILED"):  # noqa: ASYNC110  over HTTP
                await asyncio.sleep(0.1)
        assert found["status"] == "SUCCEEDED"


async def _first_event(client: Client, store: str) -> str:
    headers = {"accept": "text/event-stream"} | ({"authorization": f"Bearer {client.token}"} if client.token else {})
    body = {"query": FEED, "variables": {"c": store}}
    async with client.http.stream("POST", "/graphql", json=body, headers=headers) as response:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                return line
    raise AssertionError("no event arrived")


def read_files(folder: Path) -> str:
    """The content of all files of the server."""
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def dump_tables(url: str) -> str:
    """Every row of every table, as text."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return "\n".join(str(connection.execute(f"SELECT t::text FROM {name} t".encode()).fetchall()) for (name,) in names)


def dump_stored(url: str) -> str:
    with psycopg.connect(url) as connection:
        [(token,)] = connection.execute("SELECT integrations #>> '{shopify,accessToken}' FROM configs").fetchall()
    return str(token)


def run_commands(url: str, key: str, folder: Path, monkeypatch: Any) -> str:
    """The output of the commands for operators."""
    environment = {"DATABASE_URL": url, "DATA_DIR": str(folder), "ENCRYPTION_KEYS": key, "SECRET": SECRET}
    for name, value in environment.items():
        monkeypatch.setenv(f"STOREFRONT_{name}", value)
    get_settings.cache_clear()
    try:
        results = [CliRunner().invoke(app, [command]) for command in ("webhooks", "rotate-secrets", "doctor")]
    finally:
        get_settings.cache_clear()
    assert "127.0.0.1" in results[0].output and "hooks?from" not in results[0].output
    return "\n".join(result.output for result in results)
