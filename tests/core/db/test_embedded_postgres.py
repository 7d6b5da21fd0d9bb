"""The embedded Postgres: authentication, permissions, sharing by processes, and recovery from crashes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from storefront.core.db.cluster import Cluster, EmbeddedPostgresError
from storefront.core.db.embedded_postgres import (
    build_database_url,
    build_superuser_url,
    create_database,
    embedded_postgres,
    embedded_server,
)
from storefront.core.db.migrations import migrate
from storefront.core.db.postgres_binaries import MAJOR_VERSION, find_installed_programs

ROOT = Path(__file__).parents[3]
IS_ROOT = os.geteuid() == 0
LONG = "a folder with a long name " * 5
ODD = "spaces, 'quotes', \"double\", $(touch x), `y`, ü, %41, [red], a:b"

as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: it looks at what root does, or becomes another user")

HOLD = """
import sys
from pathlib import Path
from storefront.core.db.embedded_postgres import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def shared_folder() -> Iterator[Path]:
    """A data folder with our database, created with umask 0. It is shared, because creating one takes a second."""
    before = os.umask(0)
    try:
        with tempfile.TemporaryDirectory(prefix="storefront-") as folder:
            Path(folder).chmod(0o755)
            with embedded_postgres(Path(folder) / "new" / "data"):
                pass
            yield Path(folder) / "new" / "data"
    finally:
        os.umask(before)


@pytest.fixture
def empty_folder() -> Iterator[Path]:
    """An empty folder with a short path, which all users may enter."""
    with tempfile.TemporaryDirectory(prefix="storefront-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def move_folder(shared_folder: Path, empty_folder: Path) -> Iterator[Callable[[str], Path]]:
    """Moves the shared data folder to a path below the empty folder, for the duration of a test."""
    moved: list[Path] = []

    def move(path: str) -> Path:
        moved.append(empty_folder / path)
        moved[0].parent.mkdir(parents=True, exist_ok=True)
        return shared_folder.rename(moved[0])

    yield move
    for path in moved:
        path.rename(shared_folder)


@pytest.fixture
def copied_folder(shared_folder: Path, empty_folder: Path) -> Path:
    """A copy of the data folder, for tests that damage it."""
    subprocess.run(["/bin/cp", "-a", str(shared_folder), str(empty_folder / "data")], check=True)
    return empty_folder / "data"


def socket_folder(url: str) -> Path:
    return Path(parse_qs(urlsplit(url).query)["host"][0])


def query_value(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
        return row[0] if row else None


def postmaster(data_dir: Path) -> psutil.Process:
    return psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))


def processes(data_dir: Path) -> list[psutil.Process]:
    return list(Cluster(data_dir.resolve())._find_processes())


def is_clean(data_dir: Path) -> bool:
    """Whether no process runs, and no runtime files are left."""
    left = [name for name in os.listdir(data_dir / "postgres") if name == "postmaster.pid" or name.startswith(".s.")]
    return not processes(data_dir) and not left and not (data_dir / "postgres.runtime").is_symlink()


@contextmanager
def hold_server(data_dir: Path, program: str = HOLD, packages: Path = ROOT) -> Iterator[subprocess.Popen[str]]:
    """Another process that uses the server: it prints the URL, and exits at the end of its input."""
    command = [sys.executable, "-c", program, str(data_dir)]
    paths = [str(packages), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


# ------------------------------------------------------------------------------------------ authentication


@pytest.mark.parametrize("path", ["short", LONG, ODD], ids=["short", "long", "odd"])
def test_socket_folder_is_private(move_folder: Callable[[str], Path], path: str) -> None:
    data_dir = move_folder(path)
    with embedded_postgres(data_dir) as url:
        folder = socket_folder(url)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert folder.samefile(data_dir / "postgres")
        assert (folder / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
        # The temporary folder has no predictable name that another user could take first.
        assert folder == data_dir / "postgres" or folder.parent.stat().st_mode & 0o777 == 0o700
        assert query_value(url, "SELECT current_user::text") == "storefront"
    assert is_clean(data_dir)
    assert folder == data_dir / "postgres" or not folder.parent.exists()


def connect_as_nobody(folder: Path, role: str) -> str:
    """The error of psql for the user nobody; empty if the connection succeeds."""
    command = [str(find_installed_programs() / "psql"), "-h", str(folder), "-U", role, "-d", "postgres", "-c", "SELECT 1"]
    try:
        found = subprocess.run(
            command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, text=True, check=False
        )
    except PermissionError:
        pytest.skip("other users cannot run what is installed here")
    return str(found.stderr)


@as_root
@pytest.mark.parametrize("role", ["postgres", "storefront"])
def test_other_users_cannot_connect(move_folder: Callable[[str], Path], role: str) -> None:
    data_dir = move_folder(LONG)
    with embedded_postgres(data_dir) as url:
        assert "Permission denied" in connect_as_nobody(socket_folder(url), role)
        # Even with open folders, peer authentication applies.
        for path in (socket_folder(url).parent, data_dir, data_dir / "postgres", data_dir / "postgres" / ".s.PGSQL.5432"):
            path.chmod(0o777)
        assert "Peer authentication failed" in connect_as_nobody(socket_folder(url), role)
        data_dir.chmod(0o755)


def test_application_role_cannot_run_programs(move_folder: Callable[[str], Path]) -> None:
    with embedded_postgres(move_folder("data")) as url:
        assert query_value(url, "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user") is False
        assert (
            query_value(url, "SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()") == "storefront"
        )
        with psycopg.connect(url) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'true'")
        migrate(url)


OLD_OBJECTS = """
CREATE TABLE parents (id serial PRIMARY KEY, kept text) PARTITION BY RANGE (id);
CREATE TABLE children PARTITION OF parents FOR VALUES FROM (1) TO (10);
CREATE SEQUENCE alone;
CREATE VIEW seen AS SELECT kept FROM parents;
CREATE MATERIALIZED VIEW stored AS SELECT kept FROM parents;
CREATE TYPE kind AS ENUM ('a');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION "odd ""name"() RETURNS int LANGUAGE sql RETURN 1;
CREATE PROCEDURE act() LANGUAGE sql AS '';
CREATE SCHEMA "other ""schema";
CREATE TABLE "other ""schema".inside (id int);
INSERT INTO parents (kept) VALUES ('kept');
"""

OWNED_BY_SUPERUSER = """
SELECT count(*) FROM (
  SELECT relnamespace AS space FROM pg_class WHERE relowner = 10 UNION ALL SELECT pronamespace FROM pg_proc WHERE proowner = 10
  UNION ALL SELECT typnamespace FROM pg_type WHERE typowner = 10 UNION ALL SELECT oid FROM pg_namespace WHERE nspowner = 10
) AS found WHERE space::regnamespace::text !~ '^(pg_|information_schema)'
"""


def test_older_data_folder_is_reassigned(copied_folder: Path) -> None:
    with embedded_server(copied_folder) as uri:
        server = build_superuser_url(uri)
        create_database(server, "older")
        with psycopg.connect(build_database_url(server, "older")) as connection:
            connection.execute(OLD_OBJECTS.encode())
        assert query_value(build_database_url(server, "older"), OWNED_BY_SUPERUSER) > 10
    for name in ("pg_hba.conf", "pg_ident.conf"):
        (copied_folder / "postgres" / name).write_text("local all all trust\n" if name == "pg_hba.conf" else "")
    with embedded_server(copied_folder) as uri:
        older = build_database_url(uri, "older")
        assert query_value(older, OWNED_BY_SUPERUSER) == 0
        assert query_value(older, "SELECT kept FROM parents") == "kept"
        assert query_value(build_superuser_url(older), "SELECT string_agg(auth_method, ',') FROM pg_hba_file_rules") == "peer"
        with psycopg.connect(older) as connection:
            connection.execute('DROP TABLE parents CASCADE; DROP SCHEMA "other ""schema" CASCADE; DROP FUNCTION "odd ""name"()')


# ------------------------------------------------------------------------------------ folders


def modes_above(path: Path) -> dict[str, int]:
    return {str(above): above.stat().st_mode for above in path.resolve().parents}


def test_modes_of_other_folders_are_unchanged(move_folder: Callable[[str], Path]) -> None:
    data_dir = move_folder("private/data")
    (data_dir.parent).chmod(0o700)
    before = modes_above(data_dir)
    with embedded_postgres(data_dir) as url:
        assert query_value(url, "SELECT 1") == 1
        assert modes_above(data_dir) == before
    assert modes_above(data_dir) == before


@pytest.mark.parametrize("name", ["private", 'odd "$(touch x)`y` folder'])
def test_unusable_programs_are_copied(move_folder: Callable[[str], Path], empty_folder: Path, name: str) -> None:
    if name == "private" and not IS_ROOT:
        pytest.skip("needs root: the server's user is this user, who reaches the programs")
    package = find_installed_programs().parents[1]
    folder = empty_folder / name
    folder.mkdir(mode=0o700)
    for part in (package, package.with_name(f"{package.name}.libs")):
        (folder / part.name).symlink_to(part)
    data_dir = move_folder("data")
    with hold_server(data_dir, packages=folder) as process:
        url = read_line(process.stdout)
        assert query_value(url, "SELECT 1") == 1
        runtime = (data_dir / "postgres.runtime").readlink()
        assert str(runtime) in postmaster(data_dir).cmdline()[0]
        process.communicate()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert is_clean(data_dir) and not runtime.exists()


def test_umask_zero_grants_no_access(shared_folder: Path) -> None:
    found = [shared_folder.parent, shared_folder, *shared_folder.rglob("*")]
    assert (shared_folder / "postgres" / "PG_VERSION") in found
    assert [path for path in found if path.lstat().st_mode & 0o022] == []


def test_environment_does_not_change_the_server(move_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGPORT": "1",
        "PGDATA": "/nowhere",
        "TMPDIR": "/long" * 40,
        "LC_ALL": "xx",
        "LANG": "xx",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HOME", raising=False)
    with embedded_postgres(move_folder(LONG)) as url:
        assert query_value(url, "SELECT 1") == 1


def test_secrets_are_not_in_the_servers_environment(move_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOREFRONT_SECRET", "a secret of the application")
    data_dir = move_folder("data")
    with embedded_postgres(data_dir):
        assert not [name for name in postmaster(data_dir).environ() if name.startswith("STOREFRONT")]


# -------------------------------------------------------------------------------------- errors


def test_other_major_version_is_named(copied_folder: Path) -> None:
    for version in ("16", "19"):
        (copied_folder / "postgres" / "PG_VERSION").write_text(f"{version}\n")
        with pytest.raises(EmbeddedPostgresError, match=f"created by Postgres {version}, .* Postgres {MAJOR_VERSION}.*pg_dump"):
            embedded_server(copied_folder).__enter__()


def test_foreign_folder_is_rejected_unchanged(empty_folder: Path) -> None:
    (empty_folder / "postgres").mkdir(mode=0o755)
    (empty_folder / "postgres" / "notes.txt").write_text("notes")
    with pytest.raises(EmbeddedPostgresError, match="is not empty"):
        embedded_server(empty_folder).__enter__()
    assert os.listdir(empty_folder / "postgres") == ["notes.txt"]
    assert (empty_folder / "postgres").stat().st_mode & 0o777 == 0o755


@as_root
def test_folder_of_root_is_named(copied_folder: Path) -> None:
    os.chown(copied_folder / "postgres", 0, 0)
    with pytest.raises(EmbeddedPostgresError, match=r"belongs to root.*chown -R pgserver"):
        embedded_server(copied_folder).__enter__()


def test_unwritable_place_is_named() -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"/proc/storefront.*STOREFRONT_DATA_DIR"):
        embedded_server(Path("/proc/storefront/data")).__enter__()


# --------------------------------------------------------------------------------------- shared processes


def test_last_process_stops_the_server(move_folder: Callable[[str], Path]) -> None:
    data_dir = move_folder("data")
    with hold_server(data_dir) as process:
        url = read_line(process.stdout)
        with embedded_postgres(data_dir) as ours:
            assert ours == url
            process.communicate()
            assert query_value(url, "SELECT 1") == 1
    assert is_clean(data_dir)


@pytest.mark.parametrize("path", ["data", LONG], ids=["short", "long"])
def test_killed_process_releases_the_server(move_folder: Callable[[str], Path], path: str) -> None:
    data_dir = move_folder(path)
    with hold_server(data_dir) as process:
        read_line(process.stdout)
        process.kill()
    orphan, runtime = postmaster(data_dir), (data_dir / "postgres.runtime")
    left = runtime.readlink() if runtime.is_symlink() else None
    assert orphan.is_running()
    with embedded_postgres(data_dir) as url:
        assert query_value(url, "SELECT 1") == 1
    assert is_clean(data_dir)
    assert left is None or not left.exists()


def test_first_start_of_two_at_once(empty_folder: Path) -> None:
    with hold_server(empty_folder) as one, hold_server(empty_folder) as other:
        urls = {read_line(one.stdout), read_line(other.stdout)}
        assert len(urls) == 1 and query_value(urls.pop(), "SELECT 1") == 1
        one.communicate()
        other.communicate()
    assert is_clean(empty_folder)


@pytest.mark.soak
def test_demo_data_is_loaded_once_by_two_at_once(empty_folder: Path) -> None:
    program = """
import sys
from pathlib import Path
from storefront.cli.database import load_demo_if_empty, migrate_database
from storefront.cli.support import running_postgres
from storefront.core.settings import Settings
with running_postgres(Settings(data_dir=Path(sys.argv[1]))) as url:
    migrate_database(url)
    load_demo_if_empty(url)
"""
    with hold_server(empty_folder, program) as one, hold_server(empty_folder, program) as other:
        outputs = [process.communicate()[0] for process in (one, other)]
        assert [one.returncode, other.returncode] == [0, 0]
    assert sorted("Made " in text for text in outputs) == [False, True]
    assert is_clean(empty_folder)


def test_killed_first_start_is_repeated(empty_folder: Path) -> None:
    with hold_server(empty_folder) as process:
        while not (empty_folder / "postgres" / "PG_VERSION").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert (empty_folder / "postgres.unfinished").exists()
    with embedded_postgres(empty_folder) as url:
        assert query_value(url, "SELECT 1") == 1
    assert is_clean(empty_folder)


def test_killed_postmaster_is_restarted(move_folder: Callable[[str], Path]) -> None:
    data_dir = move_folder("data")
    with embedded_postgres(data_dir) as url, psycopg.connect(url) as busy:
        killed = postmaster(data_dir)
        killed.kill()
        with embedded_postgres(data_dir) as again:
            assert again == url and query_value(url, "SELECT 1") == 1
            assert postmaster(data_dir).pid != killed.pid
        assert query_value(url, "SELECT 1") == 1
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
    assert is_clean(data_dir)


def test_reused_process_id_is_ignored(move_folder: Callable[[str], Path]) -> None:
    data_dir = move_folder("data")
    owner = (data_dir / "postgres").stat().st_uid
    with subprocess.Popen(["/bin/sleep", "600"], user=owner if IS_ROOT else None) as other:
        try:
            with embedded_server(data_dir):
                outputs = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
            # As after a power failure: a stale postmaster.pid whose process id belongs to another process.
            (data_dir / "postgres" / "postmaster.pid").write_text("\n".join([str(other.pid), *outputs[1:]]))
            with embedded_postgres(data_dir) as url:
                assert query_value(url, "SELECT 1") == 1
            assert other.poll() is None
        finally:
            other.kill()


def test_server_of_another_system_is_left_alone(move_folder: Callable[[str], Path]) -> None:
    data_dir = move_folder("data")
    stale = data_dir / "postgres" / ".s.PGSQL.5432"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(stale))
        other.listen()
        with pytest.raises(EmbeddedPostgresError, match="another container"):
            embedded_server(data_dir).__enter__()
        assert stale.is_socket()
    # Nothing listens now: the socket is stale.
    with embedded_postgres(data_dir) as url:
        assert query_value(url, "SELECT 1") == 1


def test_failed_start_names_the_reason(copied_folder: Path) -> None:
    with (copied_folder / "postgres" / "postgresql.conf").open("a") as file:
        file.write("max_connections = none\n")
    with pytest.raises(EmbeddedPostgresError, match=r'did not start .*postgres.log.*"max_connections"'):
        embedded_server(copied_folder).__enter__()
    assert is_clean(copied_folder)


FULL = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
{HOLD}
"""


@pytest.mark.soak
def test_first_start_on_full_disk_is_repeated(empty_folder: Path) -> None:
    with hold_server(empty_folder, FULL) as process:
        assert read_line(process.stdout) == ""
        assert process.wait() == 1
    with embedded_postgres(empty_folder) as url:
        assert query_value(url, "SELECT 1") == 1


def test_closed_terminal_stops_the_server(move_folder: Callable[[str], Path]) -> None:
    data_dir = move_folder("data")
    program = """
import sys
from pathlib import Path
from storefront.cli.support import running_postgres
from storefront.core.settings import Settings
with running_postgres(Settings(data_dir=Path(sys.argv[1]))) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
    with hold_server(data_dir, program) as process:
        read_line(process.stdout)
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 128 + signal.SIGHUP
    assert is_clean(data_dir)
