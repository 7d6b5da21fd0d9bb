"""A real PgBouncer in transaction mode in front of a test's Postgres."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.ports import free_port
from tests.postgres_proxy import postgres_proxy

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

needs_pgbouncer = pytest.mark.skipif(PGBOUNCER is None, reason="no PgBouncer: install Debian's package pgbouncer")


@contextmanager
def pgbouncer(target: str, *, backends: int = 3, mode: str = "transaction") -> Iterator[str]:
    """Run a PgBouncer with `backends` server connections; yields its URL."""
    parameters = conninfo_to_dict(target)
    database, user = str(parameters["dbname"]), str(parameters["user"])
    # PgBouncer does not run as root, and other users cannot reach the socket of Postgres: hence a TCP proxy.
    with postgres_proxy(target) as proxy, tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)
        password = f" password='{parameters['password']}'" if parameters.get("password") else ""
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{database} = host=127.0.0.1 port={proxy.port} user='{user}'{password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {mode}\ndefault_pool_size = {backends}\nmax_client_conn = 500\nlogfile =\npidfile =\n"
        )
        process = subprocess.Popen(
            [str(PGBOUNCER), "--quiet", str(folder / "pgbouncer.ini")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user="nobody" if os.geteuid() == 0 else None,
        )
        try:
            _wait_until_listening(process, port)
            yield f"postgresql://{user}@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_listening(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "PgBouncer ended by itself"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("PgBouncer does not listen")
