"""`storefront import shopify-csv` and `storefront export`, as an operator runs them."""

import csv
import io
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from typer.testing import CliRunner, Result

from storefront.cli.main import app
from storefront.core.ids import new_id
from storefront.core.settings import get_settings
from tests.imports.catalogues import catalogue
from tests.pictures import picture


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
    # Some of its rows are rejected.
    assert done.exit_code == 1, done.output
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


TEE = "Handle,Title,Option1 Name,Option1 Value,Price,Tags,Vendor\n"


def test_dry_run_lists_each_change(url: str, tmp_path: Path) -> None:
    file, report = tmp_path / "shop.csv", tmp_path / "report.csv"
    file.write_text(f"{TEE}tee,Tee,Size,S,20,old,Acme\ntee,,,M,25,,\n")
    assert run("import", "shopify-csv", str(file), "--config", "one").exit_code == 0
    file.write_text(f'{TEE}tee,[Tee],Size,S,21,"old, sale",Acme\ntee,,,L,27,,\ncup,=Cup,,,5,,\nhat,Hat,,,free,,Hats\n')
    words = ("import", "shopify-csv", str(file), "--config", "one", "--delete-missing-variants", "--report", str(report))
    planned = run(*words, "--dry-run")
    lines = [
        ["2", "tee", "", "update product", "title", "Tee", "[Tee]"],
        ["2", "tee", "", "update product", "tags", "old", "old, sale"],
        ["2", "tee", "L", "create variant", "", "", "27.00"],
        ["2", "tee", "S", "update variant", "price", "20.00", "21.00"],
        ["2", "tee", "M", "delete variant", "", "25.00", ""],
        ["4", "cup", "", "create product", "", "", "'=Cup"],
        ["4", "cup", "Default", "create variant", "", "", "5.00"],
    ]
    for line in lines:
        pattern = r"\s+".join(re.escape(cell.removeprefix("'")) for cell in line if cell)
        assert re.search(pattern, planned.output), planned.output
    rejection = ["5", "hat", "", "reject", "Price", "", "“free” is not an amount of 0 or more"]
    [_, *rows] = csv.reader(io.StringIO(report.read_text(), newline=""))
    assert [*rows[:-1], rows[-1][:6]] == [*lines, rejection[:6]]
    assert planned.exit_code == 1
    # The real run makes these changes, and no others.
    run(*words)
    assert [*csv.reader(io.StringIO(report.read_text(), newline=""))][1:] == rows
    assert "updated 0" in run(*words).output


def test_columns_that_are_not_imported_are_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("Handle,Title,Price,Shade,Empty\nmug,Mug,5,x,\ncup,Cup,5,y,\nhat,Hat,5,,\n")
    output = run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one").output
    assert "column Shade is not imported: 2 cells" in output and "Empty" not in output


@pytest.mark.parametrize(("rows", "status"), [("mug,Mug,x\n", 1), ("mug,Mug,5\n", 0), ("mug,Mug,5\ncup,Cup,x\n", 1), ("", 0)])
def test_status_says_whether_rows_were_rejected(url: str, tmp_path: Path, rows: str, status: int) -> None:
    (tmp_path / "shop.csv").write_text(f"Handle,Title,Price\n{rows}")
    for words in (("--dry-run",), ()):
        assert run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one", *words).exit_code == status


def test_images_are_fetched_where_requested(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = picture("PNG", size=(60, 40))

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(png)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    monkeypatch.setenv("STOREFRONT_WEBHOOK_NETWORKS", "127.0.0.1/32")
    get_settings.cache_clear()
    with HTTPServer(("127.0.0.1", 0), Pictures) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "shop.csv").write_text(f"Handle,Title,Price,Image Src\nmug,Mug,5,{base}/a.png\ncup,Cup,5,{base}/b.png\n")
        words = ("import", "file", str(tmp_path / "shop.csv"), "--config", "one")
        assert "Images fetched" not in run(*words).output
        done = run(*words, "--fetch-images")
        server.shutdown()
    assert done.exit_code == 0 and "Images fetched 1, not fetched 1." in done.output
    assert re.search(r"cup: the image was not received: its host answered with status 404: \S+/b.png", done.output)
    with psycopg.connect(url) as connection:
        images: dict[str, str] = dict(connection.execute("SELECT handle, images ->> 0 FROM products").fetchall())
    assert "/media/" in images["mug"] and images["cup"] == f"{base}/b.png"


def test_export_can_leave_formulas_unquoted(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("Handle,Title,Price\nmug,=1+1,5\n")
    run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one")
    for words, cell in (((), ",'=1+1,"), (("--raw",), ",=1+1,")):
        run("export", str(tmp_path / "out.csv"), "--config", "one", *words)
        assert cell in (tmp_path / "out.csv").read_text()


def test_unknown_store_and_unreadable_file_are_reported(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("colour;price\n")
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
    done = run("import", "shopify-csv", str(tmp_path / "shop.csv"), "--config", "one", "--max-rejected", "4")
    assert done.exit_code == 1 and "rows rejected 4" in done.output


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
