"""`storefront import shopify-csv` and `storefront export`, as an operator runs them."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner, Result

from storefront.cli.main import app
from storefront.core.ids import new_id
from storefront.core.settings import get_settings
from tests.imports.catalogues import catalogue


@pytest.fixture
def url(empty_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A database with two stores, set as the database of the command line."""
    monkeypatch.setenv("STOREFRONT_DATABASE_URL", empty_url)
    monkeypatch.setenv("STOREFRONT_DATA_DIR", str(tmp_path))
    get_settings.cache_clear()
    with psycopg.connect(empty_url) as connection:
        user = new_id()
        connection.execute("INSERT INTO users (id, email) VALUES (%s, 'o@example.com')", [user])
        for slug in ("one", "two"):
            values = [new_id(), user, slug, slug]
            connection.execute("INSERT INTO configs (id, user_id, store_name, slug) VALUES (%s, %s, %s, %s)", values)
    yield empty_url
    get_settings.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_command_line_import_export_round_trip(url: str, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first.csv", "second.csv", "third.csv"))
    first.write_bytes(catalogue(300).encode())
    done = run("import", "shopify-csv", str(first), "--config", "one")
    assert done.exit_code == 0, done.output
    assert "created 1" in done.output and "first.csv:" in done.output
    assert "not an amount of 0 or more" in done.output
    assert run("export", str(second), "--config", "one").exit_code == 0
    again = run("import", "shopify-csv", str(second), "--config", "one").output
    assert "created 0, updated 0" in again and "rejected 0" in again
    assert run("import", "shopify-csv", str(second), "--config", "two").exit_code == 0
    assert run("export", str(third), "--config", "two").exit_code == 0
    assert third.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob(".*unfinished"))


def test_dry_run_writes_nothing(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("Handle,Title,Price\nmug,Mug,5\n")
    received = run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one", "--dry-run").output
    assert "would be created 1" in received
    run("export", str(tmp_path / "out.csv"), "--config", "one")
    assert (tmp_path / "out.csv").read_text().count("\n") == 1


def test_export_can_leave_formulas_unquoted(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("Handle,Title,Price\nmug,=1+1,5\n")
    run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one")
    for words, cell in (((), ",'=1+1,"), (("--raw",), ",=1+1,")):
        run("export", str(tmp_path / "out.csv"), "--config", "one", *words)
        assert cell in (tmp_path / "out.csv").read_text()


def test_unknown_store_and_unreadable_file_are_reported(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("name;price\n")
    for words in (
        ("export", str(tmp_path / "x.csv"), "--config", "three"),
        ("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one"),
    ):
        done = run(*words)
        assert done.exit_code == 1
        assert "three" in done.output or "Handle" in done.output


def test_import_stops_after_too_many_rejected_rows(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("Handle,Title,Price\nmug,Mug,5\n" + "bad,,5\n" * 4)
    done = run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one", "--max-rejected", "3")
    assert done.exit_code == 1
    assert "created 1" in done.output and "more than 3 rows were rejected" in done.output
    assert run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one", "--max-rejected", "4").exit_code == 0


def test_handle_repeated_in_later_batch_is_rejected(url: str, tmp_path: Path) -> None:
    rows = "".join(f"mug-{n},Mug,5\n" for n in range(1_200))
    (tmp_path / "shop.csv").write_text(f"Handle,Title,Price\n{rows}mug-3,Late,7\n")
    output = run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one").output
    assert "created 1,200, updated 0" in output and "rows rejected 1" in output
    assert "shop.csv:1202: Handle: the rows of this product started on line 5" in output


def test_oversized_file_is_not_opened(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOREFRONT_MAX_IMPORT", "1000")
    (tmp_path / "shop.csv").write_text("Handle,Title,Price\n" + "mug,Mug,5\n" * 200)
    done = run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one")
    assert done.exit_code == 1 and "STOREFRONT_MAX_IMPORT" in done.output
