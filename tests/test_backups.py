"""The documented commands dump a database and restore it over a used one, with the real pg_dump, pg_restore and psql."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from storefront.core.db.database import Database
from storefront.core.db.postgres_binaries import MAJOR_VERSION, find_installed_programs
from storefront.demo.commands import seed
from tests.test_migrations import objects

ROOT = Path(__file__).parents[1]
DUMP, RESTORE, AFTER_RESTORE = re.findall(
    r"```sh\n(.*?)```",
    re.findall(r"^## Backups$(.*?)^## ", (ROOT / "docs/deploying.md").read_text(), re.DOTALL | re.MULTILINE)[0],
    re.DOTALL,
)
PROGRAMS = ("pg_dump", "pg_restore", "psql")


def find_programs() -> Path | None:
    """The folder of the programs with the major version of the tests' server: an older pg_dump refuses it."""
    for folder in (find_installed_programs(), *(Path(path) for path in os.get_exec_path())):
        if all((folder / name).is_file() for name in PROGRAMS):
            command = [str(folder / "pg_dump"), "--version"]
            if f" {MAJOR_VERSION}." in subprocess.run(command, capture_output=True, text=True, check=True).stdout:
                return folder
    return None


needs_programs = pytest.mark.skipif(find_programs() is None, reason=f"no {', '.join(PROGRAMS)} of Postgres {MAJOR_VERSION}")


def run(commands: str, url: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(map(str, (find_programs(), Path(sys.executable).parent, os.environ["PATH"])))
    environment = os.environ | {"PATH": path, "STOREFRONT_DATABASE_URL": url}
    return subprocess.run(["/bin/sh", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def read_content(url: str) -> dict[str, object]:
    """Each table with the number and a digest of its rows, and the objects of the schema."""
    with psycopg.connect(url) as connection:
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        digest = "SELECT count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {} AS t"
        content = {name: connection.execute(digest.format(name).encode()).fetchone() for name in tables}
        access = connection.execute("SELECT has_schema_privilege('public', 'public', 'USAGE')").fetchone()
    return {**content, "objects": objects(url), "access": access}


async def load_rows(url: str) -> None:
    async with Database(url) as database:
        await seed(database, products=20, events=200)


def use(url: str) -> None:
    """What happens to a store after the dump: rows are added, changed and deleted, and partitions are created."""
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM products WHERE id IN (SELECT id FROM products ORDER BY id LIMIT 5)")
        connection.execute("UPDATE products SET title = title || ' (new)'")
        connection.execute("SELECT storefront_event_partitions(now() + interval '5 months', now() + interval '7 months')")


@needs_programs
async def test_restore_over_used_database_is_exact(empty_url: str, tmp_path: Path) -> None:
    await load_rows(empty_url)
    content = read_content(empty_url)
    # Twice: a dump of a restored database can be restored as well.
    for _ in range(2):
        assert run(DUMP, empty_url, tmp_path).returncode == 0
        use(empty_url)
        assert read_content(empty_url) != content
        restored = run(RESTORE, empty_url, tmp_path)
        assert (restored.returncode, restored.stdout, restored.stderr) == (0, "", "")
        assert read_content(empty_url) == content


@needs_programs
async def test_failed_restore_changes_nothing(empty_url: str, tmp_path: Path) -> None:
    assert run(DUMP, empty_url, tmp_path).returncode == 0
    await load_rows(empty_url)
    content = read_content(empty_url)
    dump = tmp_path / "storefront.dump"
    complete = dump.read_bytes()
    dump.write_bytes(complete[: len(complete) // 2])
    assert run(RESTORE, empty_url, tmp_path).returncode != 0
    dump.write_bytes(complete)
    assert run(f"{RESTORE.rstrip()} --command='SELECT no_such_column'", empty_url, tmp_path).returncode != 0
    assert read_content(empty_url) == content


@needs_programs
async def test_restored_database_is_migrated_and_its_logs_advanced(empty_url: str, tmp_path: Path) -> None:
    await load_rows(empty_url)
    positions = read_positions(empty_url)
    done = run(AFTER_RESTORE, empty_url, tmp_path)
    assert done.returncode == 0, done.stderr
    moved = read_positions(empty_url)
    assert positions and all(moved[store] > position + 10**8 for store, position in positions.items())


def read_positions(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        return {str(store): position for store, position in connection.execute("SELECT config_id, position FROM store_positions")}
