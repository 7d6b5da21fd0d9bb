"""Checks of a deployment: each finding has the state of a subsystem and, where something is wrong, a remedy."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
from pydantic import SecretStr

from storefront.analytics.dashboard import assets as dashboard_assets
from storefront.core.auth.email_addresses import normalize_email
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.ids import new_id
from storefront.core.settings import DEFAULT_ADDRESS_RATE, LOCAL_HOSTS, Settings
from storefront.core.settings.parsing import split_list
from storefront.core.storage.base import ObjectNotFoundError, ObjectStorage, StorageError, read_object
from storefront.core.storage.disk import DiskStorage
from storefront.core.storage.factory import create_object_storage
from storefront.feed.pubsub import create_broadcast
from storefront.queries.users import find_user_id_by_email, load_address_conflicts
from storefront.serving.documents.manifests import ManifestError
from storefront.serving.graphiql import assets as graphiql_assets
from storefront.serving.graphiql.assets import list_missing_files, list_missing_graphiql_files
from storefront.serving.protection.rate_limit import check_redis

MIN_POSTGRES_VERSION = 150_000
# How often two connections compare their backends: a pooler may give them different ones at first.
_POOLER_PROBES = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `remedy` is empty where it passed; `advice` is what to consider, and no failure."""

    subject: str
    state: str
    remedy: str = ""
    advice: str = ""


def check_database(url: str) -> Iterator[Finding]:
    """Check that Postgres is reachable and new enough, and has the newest schema."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            version, name = connection.info.server_version, connection.info.dbname
    except psycopg.OperationalError as error:
        yield Finding(
            "database",
            _format_error(error),
            "Check STOREFRONT_DATABASE_URL, and that the server runs and accepts the credentials.",
        )
        return
    upgrade_remedy = "Use Postgres 15 or newer." if version < MIN_POSTGRES_VERSION else ""
    yield Finding("database", f"Postgres {version // 10_000}.{version % 10_000}, database {name}", upgrade_remedy)
    if _has_transaction_pooler(url):
        yield Finding("pooler", "a connection pooler in transaction mode: statements are not prepared", "")
    with migrations.connect(url) as migration_connection:
        revision, newest_revision = migrations.get_current_revision(migration_connection), migrations.get_head_revision()
    remedy = "" if revision == newest_revision else "Run: storefront migrate"
    if revision != "base" and not migrations.has_revision(revision):
        remedy = str(migrations.NewerSchemaError(revision))
    yield Finding("migrations", f"at {revision}, newest is {newest_revision}", remedy)


async def check_users(url: str) -> Finding:
    """Check that each verified address belongs to one user, and that every user can sign in."""
    async with Database(url, size=1, statement_timeout=0) as database:
        conflicts = await load_address_conflicts(database)
        pairs = [(user.id, user.holder_id or await _load_address_holder(database, user.email)) for user in conflicts]
    if not pairs:
        return Finding("users", "each verified address leads to one user")
    description = ", ".join(f"{user_id} (address leads to {holder_id or 'nobody'})" for user_id, holder_id in pairs)
    return Finding("users", f"to {len(pairs)} their own address does not lead: {description}", _MERGE_REMEDY)


async def _load_address_holder(database: Database, email: str) -> str | None:
    address = normalize_email(email)
    return await find_user_id_by_email(database, address) if address else None


_MERGE_REMEDY = (
    "Where both are one person: storefront merge-users KEEP OTHER. Where they are not, leave them as they are. "
    "For a user who has never signed in: storefront token --user ID."
)


def _has_transaction_pooler(url: str) -> bool:
    """Whether one backend serves two connections that are open at the same time: a pooler in transaction mode."""
    with ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=None)) for _ in range(2)]
        for _ in range(_POOLER_PROBES):
            backend_pids = [connection.execute("SELECT pg_backend_pid()").fetchone() for connection in connections]
            if backend_pids[0] == backend_pids[1]:
                return True
    return False


def describe_settings(options: Settings, database_url: str) -> Finding:
    """The main settings in effect, without secrets."""
    location = "an external Postgres" if options.database_url else f"the embedded Postgres in {options.data_dir}"
    return Finding(
        "settings",
        f"{location}; wake-ups over {_get_wakeups_url(options, database_url).partition(':')[0]}; {options.workers} worker(s)",
    )


async def check_storage(options: Settings) -> Finding:
    """Check that object storage can write, read, list and delete, the public URL, and the CORS rules of a bucket."""
    try:
        objects = create_object_storage(options)
    except RuntimeError as error:
        return Finding("storage", str(error).partition(". ")[0], str(error).partition(". ")[2])
    remedy = "Check STOREFRONT_S3_*, that the bucket exists, and that the key may read, write, delete and list in it."
    if isinstance(objects, DiskStorage):
        remedy = "Let this user write to STOREFRONT_DATA_DIR, and check that its disk has free space."
    try:
        async with asyncio.timeout(20), objects.running():
            await _probe_storage(objects)
    except (StorageError, ObjectNotFoundError, TimeoutError, OSError) as error:
        return Finding("storage", f"{objects.describe()}: {str(error) or type(error).__name__}", remedy)
    remedy = _check_public_url(options) or await _check_bucket_cors(objects, options)
    return Finding("storage", f"{objects.describe()}; clients come to {options.base_url()}", remedy)


async def _probe_storage(objects: ObjectStorage) -> None:
    key = f"doctor/{new_id()}"
    await objects.put(key, b"A try.", "text/plain")
    if await read_object(objects, key, 100) != b"A try." or key not in [stored.key async for stored in objects.list("doctor/")]:
        raise StorageError("the content read differs from the content written")
    await objects.delete(key)


async def _check_bucket_cors(objects: ObjectStorage, options: Settings) -> str:
    """The remedy where the bucket's CORS rules reject uploads from an allowed origin. Our own endpoints allow all of them."""
    if isinstance(objects, DiskStorage):
        return ""
    presigned = objects.presign_put("doctor/page", content_type="image/png", size=1, seconds=60)
    preflight_headers = {"access-control-request-method": presigned.method, "access-control-request-headers": "content-type"}
    async with httpx.AsyncClient(timeout=5) as client:
        for origin in options.origins():
            response = await client.options(presigned.url, headers={"origin": origin, **preflight_headers})
            if response.headers.get("access-control-allow-origin") not in ("*", origin):
                return f"Allow uploads from {origin} in the CORS rules of the bucket: docs/media.md has an example."
    return ""


def _check_public_url(options: Settings) -> str:
    is_wildcard_host = options.public_url is None and options.host in ("0.0.0.0", "::")  # noqa: S104
    return "Set STOREFRONT_PUBLIC_URL to the URL under which clients reach this server." if is_wildcard_host else ""


def _get_wakeups_url(options: Settings, database_url: str) -> str:
    # `serve` passes the URL of the embedded server to its workers in the same way.
    return options.model_copy(update={"database_url": SecretStr(database_url)}).pubsub_url()


async def check_broadcaster(options: Settings, database_url: str) -> Finding:
    """Check that the pub/sub backend works, for wake-ups between processes."""
    url = _get_wakeups_url(options, database_url)
    scheme = url.partition(":")[0]
    try:
        async with asyncio.timeout(5), create_broadcast(url) as broadcast:
            await broadcast.publish("storefront-doctor", "")
    except Exception as error:
        # Clients of the backends raise exceptions of any type; the type is enough to report that the URL does not work.
        return Finding("broadcaster", f"{scheme}: {type(error).__name__}", "Check STOREFRONT_BROADCAST_URL.")
    if scheme.startswith("postgres") and _has_transaction_pooler(url):
        remedy = "Set STOREFRONT_BROADCAST_URL to Postgres itself: LISTEN/NOTIFY does not work over a pooler in transaction mode."
        return Finding("broadcaster", f"{scheme} over a connection pooler", remedy)
    is_process_local = options.workers > 1 and scheme == "memory"
    return Finding(
        "broadcaster",
        f"{scheme} works",
        "memory:// reaches one process: several workers need another backend." if is_process_local else "",
    )


async def check_rate_limits(options: Settings) -> Finding:
    """Check where requests are counted for rate limits."""
    url = options.rate_limit_url
    if url is None:
        return Finding("rates", "counted by each worker for itself" if options.workers > 1 else "counted in the process")
    try:
        async with asyncio.timeout(5):
            await check_redis(url.get_secret_value())
    except Exception as error:
        # Not installed, unreachable or unauthorized: the type of the exception is enough to report it.
        remedy = "Check STOREFRONT_RATE_LIMIT_URL; it needs the extra redis: pip install 'storefront[redis]'"
        return Finding("rates", f"counted by each worker for itself: {type(error).__name__}", remedy)
    return Finding("rates", "counted together in Redis")


def check_clients(options: Settings, *, in_production: bool = False) -> Finding:
    """Check the rate limit of addresses, and that trusted proxies are configured, so that addresses are those of clients.

    In production a server at a loopback address is behind a proxy: it needs both as one does that other machines reach.
    """
    rate = options.address_rate()
    suffix = "" if options.rate_limit_address is not None else " (the default)"
    state = f"{rate} for each address{suffix}" if rate else "any number of requests from an address"
    proxies = f"proxies: {options.trusted_proxies or 'none'}" if options.trusted_proxies is not None else "no proxies are set"
    remedies = []
    if options.trusted_proxies is None and (in_production or options.is_exposed()):
        remedies.append(_PROXIES_REMEDY)
    if in_production and not (rate or options.rate_limit_address):
        remedies.append(
            f'Set STOREFRONT_RATE_LIMIT_ADDRESS, such as "{DEFAULT_ADDRESS_RATE}", and STOREFRONT_RATE_LIMIT_EVENTS, or both to '
            '"off" where the proxy limits rates: by default only a server that listens on other addresses than loopback does.'
        )
    return Finding("clients", f"{state}; {proxies}", "\n  → ".join(remedies))


_PROXIES_REMEDY = (
    "Behind a proxy set STOREFRONT_TRUSTED_PROXIES to its addresses: else all of its clients are counted as one address, "
    "or not at all where it is a private one. Without a proxy set it to an empty value (STOREFRONT_TRUSTED_PROXIES=)."
)


def check_documents(options: Settings) -> Finding:
    """Check that all trusted documents are valid."""
    # Commands that use other checks do not wait until the schema is built.
    from storefront.schema import build_document_store  # noqa: PLC0415

    manifests = len(options.manifest_paths())
    try:
        document_store = build_document_store(options)
    except ManifestError as error:
        return Finding("documents", str(error), "Rebuild the manifests against schema.graphql.")
    others_allowed = "no others" if document_store.policy.only_trusted else "and any other"
    return Finding(
        "documents",
        f"{document_store.trusted_count} trusted ones of {manifests} manifests, {others_allowed}" if manifests else "any",
    )


def check_observability(options: Settings) -> Finding:
    """Describe metrics, traces and logs, and check that OpenTelemetry is installed where traces are on."""
    if options.traces_endpoint and find_spec("opentelemetry") is None:
        return Finding("watch", "traces need OpenTelemetry", "Run: pip install 'storefront[otel]'")
    metrics = f"metrics on {options.metrics_host}:{options.metrics_port}" if options.metrics_port else "no metrics"
    return Finding("watch", f"{metrics}, {'traces' if options.traces_endpoint else 'no traces'}, the log as {options.log_format}")


def check_graphiql() -> Finding:
    """Check that the files of GraphiQL are installed."""
    return _check_files("graphiql", list_missing_graphiql_files(), graphiql_assets.__name__)


def check_dashboard() -> Finding:
    """Check that the files of the dashboard are installed."""
    return _check_files(
        "dashboard", list_missing_files(dashboard_assets.FOLDER, dashboard_assets.FILES), dashboard_assets.__name__
    )


def _check_files(subject: str, missing_files: Sequence[str], installer: str) -> Finding:
    if missing_files:
        return Finding(subject, f"{len(missing_files)} files missing", f"Run: {sys.executable} -m {installer}")
    return Finding(subject, "installed")


def check_production(options: Settings) -> Iterator[Finding]:
    """Check the settings without which a server works for development, and is not fit for production."""
    folder = options.data_dir
    if options.database_url is None:
        yield Finding(
            "postgres", f"embedded, in {folder}", "Set STOREFRONT_DATABASE_URL: the embedded Postgres is for development."
        )
    if options.secret is None:
        remedy = "Set STOREFRONT_SECRET, the same on every machine." + _describe_generated(folder / "secret")
        yield Finding("secret", f"generated in {folder}: other machines refuse the tokens of this one", remedy)
    else:
        yield Finding("secret", "set")
    if options.encryption_keys is None:
        remedy = "Set STOREFRONT_ENCRYPTION_KEYS, and store a copy apart from the backups: without the keys, secrets are lost."
        remedy += _describe_generated(folder / "encryption-key")
        reader = "other machines cannot decrypt what this one stores in the external Postgres"
        state = f"generated in {folder}" + (f": {reader}" if options.database_url else "")
        yield Finding("keys", state, remedy)
    else:
        yield Finding("keys", "set")
    yield _check_origins(options)
    yield _check_url_of_clients(options)
    if options.s3_bucket is None:
        advice = "Set STOREFRONT_S3_BUCKET for several machines. On one machine have the folder persistent and backed up."
        yield Finding("bucket", f"none: images and files are in {folder / 'objects'}", advice=advice)


def _describe_generated(path: Path) -> str:
    return f" The one in use is in {path}." if path.exists() else ""


def _check_origins(options: Settings) -> Finding:
    if options.allowed_origins is None:
        remedy = (
            "Set STOREFRONT_ALLOWED_ORIGINS to the origins of your pages, such as https://shop.example, or to an empty value "
            "where all of them are of the server's own origin (STOREFRONT_ALLOWED_ORIGINS=)."
        )
        return Finding("origins", "not set: pages of other origins are refused", remedy)
    texts = split_list(options.allowed_origins)
    insecure = [text for text in texts if urlsplit(text).scheme != "https" or _is_local(text)]
    remedy = f"Remove {', '.join(insecure)} from STOREFRONT_ALLOWED_ORIGINS: name https:// origins only." if insecure else ""
    return Finding("origins", ", ".join(texts) or "of this server only", remedy)


def _check_url_of_clients(options: Settings) -> Finding:
    url = options.public_url
    is_fit = url is not None and urlsplit(url).scheme == "https" and not _is_local(url)
    remedy = "Set STOREFRONT_PUBLIC_URL to the https:// URL under which clients reach this server, with which image URLs begin."
    return Finding("url", options.base_url(), "" if is_fit else remedy)


def _is_local(url: str) -> bool:
    # With * as the port, which is none, only the host can be read.
    return urlsplit(url).hostname in LOCAL_HOSTS


def check_backups(url: str) -> Finding:
    """Check that Postgres archives its write-ahead log (WAL), where it is configured to. Dumps leave no trace in the database."""
    with psycopg.connect(url, prepare_threshold=None) as connection:
        row = connection.execute(_ARCHIVER).fetchone()
    mode, archived_at, is_failing = row or ("off", None, False)
    if mode == "off":
        advice = (
            "What is written after the last dump is lost with the disk: archive the WAL, or have dumps made often enough. "
            "docs/deploying.md, Backups, has both."
        )
        return Finding("backups", "Postgres does not archive its WAL", advice=advice)
    remedy = "Correct archive_command or archive_library: the log of Postgres says why it fails." if is_failing else ""
    return Finding("backups", f"Postgres archives its WAL, last {archived_at or 'never'}", remedy)


_ARCHIVER = """SELECT current_setting('archive_mode'), last_archived_time,
  coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver"""


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
