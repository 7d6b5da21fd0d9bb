"""`storefront doctor` says what is missing for production, and which setting has it."""

import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from storefront import doctor
from storefront.cli.main import app
from storefront.core.db.embedded_postgres import build_superuser_url, embedded_server
from storefront.core.encryption import generate_key
from storefront.core.settings import Settings
from storefront.core.settings.protection import DEFAULT_ADDRESS_RATE
from tests.client import SECRET

FIT: dict[str, Any] = {
    "database_url": SecretStr("postgresql://db.shop.example/storefront"),
    "secret": SecretStr(SECRET),
    "encryption_keys": SecretStr(generate_key()),
    "allowed_origins": "https://shop.example",
    "public_url": "https://api.shop.example",
    "trusted_proxies": "127.0.0.1",
    "rate_limit_address": DEFAULT_ADDRESS_RATE,
    "s3_bucket": "images",
    "s3_access_key_id": "key",
    "s3_secret_access_key": SecretStr("secret"),
}


def find_remedies(**options: Any) -> list[str]:
    settings = Settings(**FIT | options)
    findings = [*doctor.check_production(settings), doctor.check_clients(settings, in_production=True)]
    return [finding.remedy for finding in findings if finding.remedy]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allowed_origins": "", "trusted_proxies": ""},
        {"host": "0.0.0.0", "rate_limit_address": None},  # noqa: S104
        {"rate_limit_address": "off"},
        {"s3_bucket": None},
    ],
)
def test_complete_settings_are_fit_for_production(options: dict[str, Any]) -> None:
    assert find_remedies(**options) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", None),
        ("secret", None),
        ("encryption_keys", None),
        ("allowed_origins", None),
        ("allowed_origins", "http://localhost:*"),
        ("allowed_origins", "https://shop.example, https://127.0.0.1:5173"),
        ("allowed_origins", "https://shop.example, http://shop.example"),
        ("public_url", None),
        ("public_url", "http://api.shop.example"),
        ("public_url", "https://localhost:8000"),
        ("trusted_proxies", None),
        ("rate_limit_address", None),
    ],
)
def test_missing_setting_is_named(name: str, value: str | None) -> None:
    [remedy] = find_remedies(**{name: value})
    assert f"STOREFRONT_{name.upper()}" in remedy


def test_generated_keys_are_found_and_not_created(tmp_path: Path) -> None:
    unset = {"secret": None, "encryption_keys": None, "data_dir": tmp_path}
    assert len(find_remedies(**unset)) == 2 and list(tmp_path.iterdir()) == []
    settings = Settings(**FIT | unset)
    settings.load_signing_secret(), settings.load_vault()
    secret_remedy, keys_remedy = find_remedies(**unset)
    assert str(tmp_path / "secret") in secret_remedy and str(tmp_path / "encryption-key") in keys_remedy


def test_bucket_is_advice_only() -> None:
    [finding] = [found for found in doctor.check_production(Settings(**FIT | {"s3_bucket": None})) if found.advice]
    assert "STOREFRONT_S3_BUCKET" in finding.advice and not finding.remedy


def test_command_exits_with_1_unless_fit(empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(options: dict[str, Any], *arguments: str) -> tuple[int, str]:
        # The bucket is a server of its own, which other tests start.
        given = Settings(**options | {"database_url": SecretStr(empty_url), "data_dir": tmp_path, "s3_bucket": None})
        monkeypatch.setattr("storefront.cli.support.get_settings", lambda: given)
        result = CliRunner().invoke(app, ["doctor", *arguments])
        return result.exit_code, result.output

    status, output = run(FIT)
    assert (status, output.splitlines()[-1]) == (0, "Fit for production.")
    assert "does not archive its WAL" in output and "STOREFRONT_S3_BUCKET" in output
    status, output = run({"secret": SecretStr(SECRET)})
    assert status == 1
    assert output.splitlines()[-1] == "Not fit for production: keys, origins, url, clients."
    assert run({"secret": SecretStr(SECRET)}, "--development")[0] == 0


def test_archive_of_wal_is_checked() -> None:
    with tempfile.TemporaryDirectory(prefix="storefront-") as folder:
        with embedded_server(Path(folder)) as uri, psycopg.connect(build_superuser_url(uri), autocommit=True) as connection:
            for setting in ("archive_mode = on", "archive_command = 'false'", "fsync = off"):
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
        with embedded_server(Path(folder)) as uri, psycopg.connect(build_superuser_url(uri), autocommit=True) as connection:
            # Nothing had to be archived so far.
            assert doctor.check_backups(uri).remedy == ""
            assert "archive_command" in archive(connection, uri, "failed_count").remedy
            connection.execute("ALTER SYSTEM SET archive_command = 'true'")
            connection.execute("SELECT pg_reload_conf()")
            assert archive(connection, uri, "archived_count").remedy == ""


def archive(connection: psycopg.Connection, uri: str, counter: str) -> doctor.Finding:
    """The finding once the archiver has tried a segment."""
    connection.execute("SELECT pg_logical_emit_message(false, 'test', ''), pg_switch_wal()")
    while connection.execute(f"SELECT {counter} > 0 FROM pg_stat_archiver".encode()).fetchone() != (True,):
        time.sleep(0.02)
    return doctor.check_backups(uri)
