"""A Postgres with streaming replicas, whose processes tests kill and pause."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from storefront.core.db.cluster import SYSTEM_ACCOUNT
from storefront.core.db.postgres_binaries import copy_programs, find_installed_programs
from tests.ports import free_port

SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '16MB'
fsync = off
wal_retrieve_retry_interval = '100ms'
"""


class PostgresServer:
    """A Postgres of a folder, on a port of its own."""

    def __init__(self, programs: Path, path: Path) -> None:
        self.path, self.port = path, free_port()
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Create its files."""
        arguments = ["-D", str(self.path), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run([str(self._programs / "initdb"), *arguments], check=True, capture_output=True, **_as_account())
        with (self.path / "postgresql.conf").open("a") as settings:
            settings.write(SETTINGS)

    def copy_from(self, primary: "PostgresServer") -> None:
        """Become a replica of a primary that is not running."""
        shutil.copytree(primary.path, self.path)
        (self.path / "standby.signal").touch()
        with (self.path / "postgresql.conf").open("a") as settings:
            settings.write(f"primary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres'")
        if account := _as_account():
            for path in (self.path, *self.path.rglob("*")):
                os.chown(path, account["user"], account["group"])

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.path / "postmaster.pid").unlink(missing_ok=True)
        with self.path.with_suffix(".log").open("ab") as log:
            command = [str(self._programs / "postgres"), "-D", str(self.path), "-p", str(self.port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **_as_account())
        end = time.monotonic() + 60
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert time.monotonic() < end and self._process.poll() is None, self.path.with_suffix(".log").read_text()
                time.sleep(0.02)
            else:
                return

    def execute(self, sql: str) -> None:
        """Execute a statement."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(sql.encode())

    def send_signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        for process in (parent, *parent.children()):
            process.send_signal(number)

    def kill(self) -> None:
        """Kill it, so that connections to it are reset and refused."""
        if self._process is not None:
            self.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None


@contextmanager
def replicated(replica_count: int) -> Iterator[tuple[PostgresServer, list[PostgresServer]]]:
    """A primary and its replicas, which are killed at the end."""
    with tempfile.TemporaryDirectory(prefix="storefront-") as name, ExitStack() as stack:
        folder = Path(name)
        if account := _as_account():
            os.chown(folder, account["user"], account["group"])
        # The account may not enter the folder where they are installed.
        programs = copy_programs(folder / "programs") if account else find_installed_programs()
        folder.chmod(0o755)
        primary = PostgresServer(programs, folder / "primary")
        primary.create()
        replicas = [PostgresServer(programs, folder / f"replica{number}") for number in range(replica_count)]
        for replica in replicas:
            replica.copy_from(primary)
        for server in (primary, *replicas):
            stack.callback(server.kill)
            server.start()
        yield primary, replicas


def _as_account() -> dict[str, Any]:
    # Postgres refuses to run as root.
    if os.geteuid():
        return {}
    account = pwd.getpwnam(SYSTEM_ACCOUNT)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
