"""An embedded Postgres for development and tests: no server to install, no port, one data folder.

docs/adr/embedded-postgres.md describes its authentication, and how processes share it.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql
from psycopg.errors import DuplicateDatabase, UniqueViolation

from storefront.core.db.cluster import APPLICATION_ROLE, PORT, SUPERUSER, Cluster, EmbeddedPostgresError
from storefront.core.db.postgres_binaries import make_folders

DATABASE_NAME = "storefront"
CONNECT_TIMEOUT_SECONDS = 60

# The objects that the superuser owns: older releases created everything as superuser. Objects of extensions are excluded.
_OWNED_BY_SUPERUSER_SQL = """
WITH extended AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
schemas AS (SELECT oid, nspowner, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
SELECT format('ALTER TABLE %s OWNER TO', c.oid::regclass) FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
WHERE c.relowner = 10 AND c.relkind = ANY ('{r,p,v,m,f,S}') AND ('pg_class'::regclass, c.oid) NOT IN (TABLE extended)
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
UNION ALL
SELECT format('ALTER ROUTINE %s OWNER TO', p.oid::regprocedure) FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace
WHERE p.proowner = 10 AND ('pg_proc'::regclass, p.oid) NOT IN (TABLE extended)
UNION ALL
SELECT format('ALTER TYPE %s OWNER TO', t.oid::regtype) FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace
LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE t.typowner = 10 AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
  AND ('pg_type'::regclass, t.oid) NOT IN (TABLE extended)
UNION ALL
SELECT format('ALTER SCHEMA %I OWNER TO', nspname) FROM schemas WHERE nspowner = 10
"""


@contextmanager
def embedded_server(data_dir: Path) -> Iterator[str]:
    """Run the embedded server on `data_dir`/postgres and yield its URI, for a role that may create databases.

    Processes share the server (reference counting by file locks). The last one stops it; the next one removes what killed
    processes left. Raises EmbeddedPostgresError where it cannot run.
    """
    with _translating_errors(data_dir):
        make_folders(data_dir)
        folder = data_dir.resolve()
        cluster = Cluster(folder)
        users_lock = _open_lock(folder / "postgres.users")
        try:
            with _exclusive_lock(folder / "postgres.lock") as lock:
                _join_server(cluster, users_lock, lock)
        except BaseException:
            os.close(users_lock)
            raise
    try:
        yield _build_uri(cluster, APPLICATION_ROLE)
    finally:
        with _translating_errors(data_dir), _exclusive_lock(folder / "postgres.lock"):
            _leave_server(cluster, users_lock)


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """Run the embedded server and yield the URL of our database, which is created on the first start."""
    with embedded_server(data_dir) as uri:
        create_database(uri, DATABASE_NAME)
        yield build_database_url(uri, DATABASE_NAME)


def build_database_url(server_uri: str, name: str) -> str:
    """The URL of another database of the same server."""
    scheme, _, query = server_uri.partition("?")
    return f"{scheme.rpartition('/')[0]}/{quote(name)}" + (f"?{query}" if query else "")


def build_superuser_url(url: str) -> str:
    """The URL of the same database for the embedded server's superuser: for tests and benchmarks, never for a server."""
    return url.replace(f"//{APPLICATION_ROLE}@", f"//{SUPERUSER}@", 1)


def create_database(server_uri: str, name: str, template: str = "template0") -> None:
    """Create the database if it is missing. Its locale is fixed: sorting and case do not depend on the machine."""
    with psycopg.connect(server_uri, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            return
        locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C' ENCODING 'UTF8'" if template == "template0" else ""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} " + locale).format(sql.Identifier(name), sql.Identifier(template))
        try:
            connection.execute(statement)
        except (DuplicateDatabase, UniqueViolation):
            # Another process has created it at the same time.
            return


# ------------------------------------------------------------------------------------------------ processes


def _join_server(cluster: Cluster, users_lock: int, lock: int) -> None:
    """Register this process as a user of the server, and start the server unless it runs."""
    # A shared lock is a reference count that survives crashes: the kernel releases the locks of killed processes.
    is_first = _try_lock(users_lock, fcntl.LOCK_EX)
    if is_first or not _is_running(cluster):
        cluster.start(lock, is_first=is_first)
        try:
            _prepare_roles(cluster)
        except BaseException:
            if is_first:
                cluster.stop()
            raise
    fcntl.flock(users_lock, fcntl.LOCK_SH)


def _is_running(cluster: Cluster) -> bool:
    try:
        _connect_as_superuser(cluster).close()
    except psycopg.OperationalError:
        if cluster.is_listening():
            raise
        return False
    return True


def _leave_server(cluster: Cluster, users_lock: int) -> None:
    try:
        if _try_lock(users_lock, fcntl.LOCK_EX):
            cluster.stop()
    finally:
        os.close(users_lock)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _try_lock(descriptor: int, lock_type: int) -> bool:
    try:
        fcntl.flock(descriptor, lock_type | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[int]:
    """Hold the lock under which one process at a time starts or stops the server; yields its file descriptor."""
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _translating_errors(data_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = (
            "Make room on the disk, or set STOREFRONT_DATABASE_URL to another Postgres"
            if is_full
            else "Set STOREFRONT_DATA_DIR to a folder that this user can write to"
        )
        raise EmbeddedPostgresError(
            f"The embedded Postgres cannot run: {error.filename or data_dir}: {error.strerror or error}. {fix}."
        ) from error
    except (psutil.Error, psycopg.OperationalError) as error:
        raise EmbeddedPostgresError(f"The embedded Postgres in {data_dir} cannot run: {error}") from error


# ----------------------------------------------------------------------------------------------------- roles


def _build_uri(cluster: Cluster, role: str, database: str = "postgres") -> str:
    # An explicit port, which takes precedence over PGPORT.
    return f"postgresql://{role}@/{quote(database)}?host={cluster.socket_folder}&port={PORT}"


def _connect_as_superuser(cluster: Cluster, database: str = "postgres") -> psycopg.Connection:
    """A connection as superuser. It is retried while the server recovers from a crash."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_SECONDS
    while True:
        try:
            return psycopg.connect(_build_uri(cluster, SUPERUSER, database), autocommit=True, connect_timeout=10)
        except psycopg.OperationalError:
            if time.monotonic() > deadline or not cluster.is_listening():
                raise
            time.sleep(0.1)


def _prepare_roles(cluster: Cluster) -> None:
    """Create the application's role, without superuser rights, and give it what older releases created as superuser."""
    role = sql.Identifier(APPLICATION_ROLE)
    with _connect_as_superuser(cluster) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [APPLICATION_ROLE]).fetchone():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(role))
        databases = connection.execute(
            "SELECT datname FROM pg_database WHERE datdba = 10 AND datallowconn AND NOT datistemplate AND datname <> 'postgres'"
        ).fetchall()
        for (name,) in databases:
            with _connect_as_superuser(cluster, name) as database_connection, database_connection.transaction():
                for (statement,) in database_connection.execute(_OWNED_BY_SUPERUSER_SQL.encode()).fetchall():
                    database_connection.execute(sql.SQL(statement + " {}").format(role))
            # Last: the owner of a database marks that all of its objects have been reassigned.
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(name), role))
