"""Set-up of the peers: their npm packages in a cached folder, and a database with our rows in the original's tables."""

import hashlib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.stage import FOLDER, Stage
from storefront.core.db.embedded_postgres import build_database_url, create_database
from storefront.serving.graphiql.assets import run_npm_ci

HERE = Path(__file__).parent
NAME = "peers"

COLUMNS = {
    "users": "id, email, name, image, created_at, updated_at",
    "configs": "id, user_id, store_name, slug, description, theme, layout, integrations, is_published, created_at, updated_at",
    "products": "id, config_id, title, description, price, compare_at_price, images, category, tags, inventory, track_inventory, "
    "seo_title, seo_description, status, created_at, updated_at",
    "product_variants": "id, product_id, name, price, compare_at_price, attributes, inventory, sku, is_available, created_at",
    "reviews": "id, product_id, user_id, rating, title, body, created_at",
    "analytics_events": "id, config_id, event, properties, session_id, user_id, user_agent, ip_address, referrer, utm_source, "
    "utm_medium, utm_campaign, timestamp",
}


def install_peers() -> Path:
    """The folder with the GraphQL and tRPC peers in JavaScript and their locked packages."""
    return _install("peers", HERE, ["mercurius.mjs", "postgraphile.mjs", "trpc.mjs", "catalogue.graphql"])


def install_fanout_server() -> Path:
    """The folder with the graphql-ws server and its locked packages. Its graphql is 17, that of the other peers 16."""
    return _install("fanout", HERE / "fanout", ["server.mjs"])


def _install(name: str, source: Path, files: Iterable[str]) -> Path:
    lock = (source / "package-lock.json").read_bytes()
    folder = (FOLDER / f"{name}-{hashlib.blake2b(lock, digest_size=4).hexdigest()}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "installed").exists():
        print(f"installing the packages of {name} (once, a minute)", file=sys.stderr)
        _copy(source, ["package.json", "package-lock.json", ".npmrc"], folder)
        run_npm_ci(folder)
        (folder / "installed").touch()
    _copy(source, files, folder)
    return folder


def _copy(source: Path, names: Iterable[str], folder: Path) -> None:
    for name in names:
        shutil.copy(source / name, folder / name)


def database(stage: Stage) -> str:
    """The URL of the peers' database, beside ours on the same server; filled the first time."""
    url, ready = build_database_url(stage.url, NAME), stage.data / f"peers-{_tables()}"
    if not ready.exists():
        print("copying our rows into the peers' tables (once, half a minute)", file=sys.stderr)
        with psycopg.connect(stage.url, autocommit=True) as ours:
            ours.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)".encode())
        create_database(stage.url, NAME)
        _fill(stage.url, url)
        ready.touch()
    return url


def _tables() -> str:
    text = b"".join((HERE / name).read_bytes() for name in ("tables.sql", "postgraphile.sql"))
    return hashlib.blake2b(text, digest_size=4).hexdigest()


def _fill(source: str, target: str) -> None:
    with psycopg.connect(source) as ours, psycopg.connect(target) as theirs:
        theirs.execute((HERE / "tables.sql").read_bytes())
        for table, columns in COLUMNS.items():
            out, into = f"COPY (SELECT {columns} FROM {table} ORDER BY id) TO STDOUT", f"COPY {table} ({columns}) FROM STDIN"
            with ours.cursor().copy(out.encode()) as rows, theirs.cursor().copy(into.encode()) as copied:
                for chunk in rows:
                    copied.write(chunk)
        theirs.execute((HERE / "postgraphile.sql").read_bytes())
    with psycopg.connect(target, autocommit=True) as theirs:
        theirs.execute("VACUUM ANALYZE")


def environment(url: str) -> dict[str, str]:
    """Where the database is, in the variables that the clients of all languages read."""
    given = conninfo_to_dict(url)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    return {variable: str(given[name]) for name, variable in names.items() if given.get(name)}
