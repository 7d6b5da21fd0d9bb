"""Key rotation of stored secrets: complete, idempotent, and safe during concurrent changes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from storefront.cli.main import app
from storefront.configs import secret_rotation as rotating
from storefront.configs.secret_rotation import RotationSummary, rotate_stored_secrets
from storefront.core.db.database import Database
from storefront.core.encryption import Vault, generate_key
from storefront.core.settings import get_settings
from tests.factories import count_statements, insert, make_store, make_user

OLD, NEW = generate_key(), generate_key()
BEFORE, AFTER = Vault([OLD]), Vault([NEW, OLD])


def silent(_done: int, _total: int) -> None:
    pass


async def connected(database: Database, token: str, **values: Any) -> str:
    """A store with this token."""
    shopify = {"domain": "x.myshopify.com", "accessToken": token}
    return await make_store(database, integrations={"shopify": shopify, "analytics": {"id": "G-1"}}, **values)


async def integrations(database: Database, store: str) -> Any:
    async with database.transaction() as connection:
        cursor = await connection.raw.execute("SELECT integrations FROM configs WHERE id = %s", [store])
        [value] = await cursor.fetchone() or [None]
    return value


async def token_of(database: Database, store: str) -> str:
    return str((await integrations(database, store))["shopify"]["accessToken"])


async def test_rotation_reencrypts_tokens_and_nothing_else(database: Database) -> None:
    old = await connected(database, BEFORE.encrypt("shpat_1"))
    current = await connected(database, token := AFTER.encrypt("shpat_2"))
    without = [await make_store(database, integrations=value) for value in ({}, {"shopify": {"domain": "x"}}, {"analytics": 1})]
    assert await rotate_stored_secrets(database, AFTER, silent) == RotationSummary(rotated=1, current=1)
    assert Vault([NEW]).decrypt(await token_of(database, old)) == "shpat_1"
    assert await token_of(database, current) == token
    kept = await integrations(database, old)
    assert (kept["shopify"]["domain"], kept["analytics"]) == ("x.myshopify.com", {"id": "G-1"})
    assert [await integrations(database, store) for store in without] == [{}, {"shopify": {"domain": "x"}}, {"analytics": 1}]


async def test_rotation_reencrypts_webhook_secrets(database: Database) -> None:
    store = await make_store(database)
    about = {"config_id": store, "url": "https://example.com", "read_as": "shopper", "position": 0}
    secrets = {"secret": BEFORE.encrypt("whsec_new"), "previous_secret": BEFORE.encrypt("whsec_old")}
    both = await insert(database, "webhooks", **about, **secrets)
    lost = await insert(database, "webhooks", **about, secret=Vault([generate_key()]).encrypt("whsec_lost"))
    assert await rotate_stored_secrets(database, AFTER, silent) == RotationSummary(rotated=2, unreadable=(store,))
    async with database.transaction() as connection:
        cursor = await connection.raw.execute("SELECT id::text, secret, previous_secret FROM webhooks")
        rows = {row[0]: row[1:] for row in await cursor.fetchall()}
    assert [Vault([NEW]).decrypt(secret) for secret in rows[both]] == ["whsec_new", "whsec_old"]
    assert rows[lost][1] is None and not AFTER.is_current(rows[lost][0])


async def test_second_rotation_writes_nothing(database: Database) -> None:
    await connected(database, BEFORE.encrypt("shpat_1"))
    await rotate_stored_secrets(database, AFTER, silent)
    with count_statements(database) as statements:
        assert await rotate_stored_secrets(database, AFTER, silent) == RotationSummary(current=1)
    assert not [sql for sql in statements if "UPDATE" in sql]


@pytest.mark.parametrize("number", [0, 1, 10])
async def test_batches_reach_every_store(database: Database, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotating, "BATCH_ROWS", 4)
    user = await make_user(database)
    stores = [await connected(database, BEFORE.encrypt(f"shpat_{n}"), user_id=user) for n in range(number)]
    received: list[tuple[int, int]] = []
    rotation = await rotate_stored_secrets(database, AFTER, lambda done, total: received.append((done, total)))
    assert rotation == RotationSummary(rotated=number)
    assert received == [(done, number) for done in range(4, number, 4)] + ([(number, number)] if number else [])
    assert all([AFTER.is_current(await token_of(database, store)) for store in stores])


async def test_undecryptable_secrets_stay_and_are_reported(database: Database) -> None:
    lost = await connected(database, token := Vault([generate_key()]).encrypt("shpat_1"))
    plain = await connected(database, "shpat_in_the_clear")
    good = await connected(database, BEFORE.encrypt("shpat_2"))
    rotation = await rotate_stored_secrets(database, AFTER, silent)
    assert rotation == RotationSummary(rotated=1, unreadable=tuple(sorted([lost, plain])))
    assert (await token_of(database, lost), await token_of(database, plain)) == (token, "shpat_in_the_clear")
    assert AFTER.is_current(await token_of(database, good))


async def test_concurrently_changed_token_is_not_overwritten(database: Database) -> None:
    store = await connected(database, BEFORE.encrypt("shpat_old"))
    read = rotating._select_secrets(rotating.SHOPIFY_TOKEN_COLUMN)
    [row] = await database.fetch(read, {"after": None, "limit": 10})
    newer = AFTER.encrypt("shpat_new")
    async with database.transaction() as connection:
        await connection.raw.execute(
            "UPDATE configs SET integrations = jsonb_set(integrations, '{shopify,accessToken}', to_jsonb(%s::text))", [newer]
        )
    assert (await rotating._rotate_batch(database, AFTER, rotating.SHOPIFY_TOKEN_COLUMN, [row])) == RotationSummary()
    assert await token_of(database, store) == newer


async def test_command_reports_counts(
    database: Database, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connected(database, BEFORE.encrypt("shpat_1"))
    await connected(database, "shpat_in_the_clear")
    monkeypatch.setenv("STOREFRONT_DATABASE_URL", empty_url)
    monkeypatch.setenv("STOREFRONT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("STOREFRONT_ENCRYPTION_KEYS", f"{NEW},{OLD}")
    get_settings.cache_clear()
    try:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["rotate-secrets"])
    finally:
        get_settings.cache_clear()
    assert result.exit_code == 1
    assert "1 secrets are encrypted anew; 0 were under the newest key already." in result.output
    assert "1 open with none of the keys" in result.output
    assert "shpat" not in result.output
