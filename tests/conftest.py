"""Shared fixtures: an embedded Postgres, a migrated database per test (copied from a template), servers on real sockets."""

import asyncio
import gc
import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
import uvicorn
from pydantic import SecretStr

from storefront.app import create_app
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import build_database_url, build_superuser_url, create_database, embedded_server
from storefront.core.db.migrations import migrate
from storefront.core.ids import uuid7
from storefront.core.logs import JsonLines
from storefront.core.memory import tune_garbage_collection
from storefront.core.net.tls import load_tls_context
from storefront.core.settings import Settings
from storefront.serving.server import websocket_protocol
from tests.client import SECRET, Client
from tests.prompt_server import PromptServer
from tests.s3 import S3Server
from tests.s3 import s3_server as started_s3

# Imports and collection allocate what stays: traversing it again and again takes a third of their time.
gc.disable()


# The files that take longest. Each of several processes runs whole files: one that began with these last would end alone.
LONGEST_FILES = """
    execution/test_differential.py feed/test_proxy_faults.py feed/test_faults.py feed/test_postgres_killed.py
    feed/test_limits.py imports/jobs/test_worker.py serving/test_graceful_shutdown.py writes/test_concurrency.py
    analytics/test_live_counters.py core/db/test_embedded_postgres.py webhooks/test_fairness.py analytics/test_rollups.py
    writes/test_crashes.py webhooks/test_killed.py clients/test_kit.py clients/test_http.py clients/test_examples.py
    execution/test_core.py
    feed/test_backends.py feed/test_positions.py feed/test_feed.py webhooks/test_delivery.py serving/test_patience.py
    serving/test_behind_nginx.py serving/cache/test_response_cache.py serving/server/test_backpressure.py
    media/test_in_browser.py test_migrations.py configs/test_stylesheet_in_browser.py serving/test_graphiql_in_browser.py
    analytics/test_dashboard.py serving/test_overload.py imports/jobs/test_queue.py test_bad_input.py test_any_input.py
    test_tenants.py test_caching.py core/test_pooler.py core/test_storage.py execution/test_corners.py analytics/test_reads.py
    analytics/test_top_products.py test_store_parameter.py feed/test_filtered_feed.py first_hour/test_documented_operations.py
    products/test_descriptions.py products/test_lists.py writes/test_merging.py test_language.py test_federation.py test_wheel.py
    test_statement_counts.py test_input_limits.py products/test_variant_summary.py products/test_categories.py
    products/test_facets.py users/test_signing_out.py products/test_search_documents.py search/test_judged.py
    feed/test_live_lists.py serving/test_replica_faults.py first_hour/test_local_pages.py
""".split()


# The memory file system of Linux, and how much of it has to be free.
MEMORY_FOLDER, MIN_FREE_BYTES = Path("/dev/shm"), 4_000_000_000  # noqa: S108


def use_memory_for_temporary_files() -> None:
    """Have temporary files, and with them the databases, in memory, where there is room.

    Tests create hundreds of databases of hundreds of files each: on a disk that takes ten times as long. TMPDIR overrides it.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY_FOLDER, os.W_OK | os.X_OK):
        return
    # Killed sessions leave theirs.
    for left in MEMORY_FOLDER.glob("storefront-[0-9]*"):
        if not Path(f"/proc/{left.name.removeprefix('storefront-')}").exists():
            shutil.rmtree(left, ignore_errors=True)
    # Some tests run programs that they put there.
    if os.statvfs(MEMORY_FOLDER).f_flag & os.ST_NOEXEC or shutil.disk_usage(MEMORY_FOLDER).free < MIN_FREE_BYTES:
        return
    folder = MEMORY_FOLDER / f"storefront-{os.getpid()}"
    # As /tmp: Postgres may run as another user.
    folder.mkdir()
    folder.chmod(0o1777)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    # Removed when this process exits, after what multiprocessing has there.
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)


# Processes that are started by this one, such as those of pytest-xdist, find it in their environment.
use_memory_for_temporary_files()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST_FILES)}
    assert all(path.is_file() for path in ranks)
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """Collect garbage from now on, among what tests allocate."""
    tune_garbage_collection()
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def frozen_objects() -> None:
    """What the modules and tests before have left need not be traversed again: it takes half a second in the end.

    A server freezes what its modules have allocated, too.
    """
    tune_garbage_collection()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URI of an embedded server in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="storefront-") as folder, embedded_server(Path(folder)) as uri:
        with psycopg.connect(build_superuser_url(uri), autocommit=True) as connection:
            # Durability is not needed in tests.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            # Its files stay until the end: a gigabyte per process without this.
            connection.execute("ALTER SYSTEM SET max_wal_size = '128MB'")
            # It would visit hundreds of databases, and most of them live for one test.
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("SELECT pg_reload_conf()")
        yield uri


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a migrated, empty database."""
    create_database(postgres, "template_storefront")
    migrate(build_database_url(postgres, "template_storefront"))
    return "template_storefront"


def fresh(postgres: str, template: str) -> str:
    """The URL of a new copy of the template."""
    name = f"test_{uuid7().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        # Without fsync, copying the files takes half the CPU of writing them to the log.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy".encode())
    return build_database_url(postgres, name)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3-compatible server."""
    with started_s3() as server:
        yield server


@pytest.fixture
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """The parsed JSON log lines of level info and above."""
    lines = Lines()
    lines.setFormatter(JsonLines())
    root = logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.INFO)
    yield lines.written
    root.removeHandler(lines)
    root.setLevel(before)


class Lines(logging.Handler):
    """Collects log lines."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect a line."""
        self.written.append(json.loads(self.format(record)))


@pytest.fixture
def empty_url(postgres: str, template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database."""
    url = fresh(postgres, template)
    yield url
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {url.partition('?')[0].rpartition('/')[2]} WITH (FORCE)".encode())


@pytest_asyncio.fixture
async def database(empty_url: str) -> AsyncIterator[Database]:
    """An open, fresh, migrated, empty database."""
    async with Database(empty_url) as opened:
        yield opened


@asynccontextmanager
async def serving(
    url: str, folder: Path, sockets: Mapping[str, Any] = websocket_protocol.UVICORN_OPTIONS, **options: Any
) -> AsyncIterator[Client]:
    """Run a server on a free port with this database; yields an anonymous client. `options` override settings."""
    # Bound before the application is created, which needs to know its own port.
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    defaults = {"database_url": SecretStr(url), "secret": SecretStr(SECRET), "data_dir": folder, "port": port}
    # Generous timeouts, for machines that are busy with other tests.
    defaults |= {"pool_timeout": 30, "lock_timeout": 20_000}
    # Background work is off: tests trigger it. So are the response cache and facet indexes: factories write without changelog
    # entries.
    settings = Settings(
        **{
            **defaults,
            "popularity_interval": 0,
            "rollup_interval": 0,
            "webhook_interval": 0,
            "response_cache_bytes": 0,
            "facet_index_bytes": 0,
            **options,
        }
    )
    app = create_app(settings)
    options = {
        "log_level": "warning",
        "lifespan": "on",
        "proxy_headers": False,
        "timeout_keep_alive": settings.keep_alive_timeout,
        **sockets,
    }
    server = PromptServer(uvicorn.Config(app, **options))
    task = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done(), "the server did not start"
    # Shared: loading certificate authorities takes longer than most tests.
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=load_tls_context()) as http:
        yield Client(http, app.state.database)
    server.should_exit = True
    await task


@pytest_asyncio.fixture
async def client(empty_url: str, tmp_path: Path) -> AsyncIterator[Client]:
    """An anonymous client of a server with a fresh, empty database."""
    async with serving(empty_url, tmp_path) as shopper:
        yield shopper


@pytest_asyncio.fixture(scope="session")
async def shopper(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """An anonymous client of a server that all tests share. Tests add their own stores and must not rely on other rows."""
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("server")) as shared:
        yield shared
