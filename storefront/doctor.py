"""Looks a set-up over: what is wrong, and how to mend it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec

import httpx
import psycopg
from pydantic import SecretStr

from storefront import schema
from storefront.analytics.dashboard import assets
from storefront.core.auth.email_addresses import normalize_email
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.ids import new_id
from storefront.core.settings import Settings
from storefront.core.storage.base import Missing, Objects, StorageFailed, read
from storefront.core.storage.disk import Disk
from storefront.core.storage.factory import opened
from storefront.feed.pubsub import broadcast_to
from storefront.queries.users import address_conflicts, id_by_email
from storefront.serving.documents.manifests import UnusableManifest
from storefront.serving.graphiql.assets import absent, missing
from storefront.serving.protection.rate_limit import reach

OLDEST_POSTGRES = 150_000
# How often two connections are asked for their backends: a pooler need not give them the same one at once.
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `mend` is empty where all is well."""

    subject: str
    state: str
    mend: str = ""


def database(url: str) -> Iterator[Finding]:
    """Whether Postgres answers, is new enough and has our newest schema."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            version, size = connection.info.server_version, connection.info.dbname
    except psycopg.OperationalError as error:
        yield Finding("database", _line(error), "Check STOREFRONT_DATABASE_URL, and that the server runs and lets you in.")
        return
    old = "Use Postgres 15 or newer." if version < OLDEST_POSTGRES else ""
    yield Finding("database", f"Postgres {version // 10_000}.{version % 10_000}, database {size}", old)
    if _is_pooled_by_transaction(url):
        yield Finding("pooler", "a connection pooler in transaction mode stands before Postgres: nothing is prepared", "")
    with migrations.connect(url) as connection_:
        found, newest = migrations.current(connection_), migrations.head()
    mend = "" if found == newest else "Run: storefront migrate"
    if found != "base" and not migrations.knows(found):
        mend = str(migrations.NewerSchema(found))
    yield Finding("migrations", f"at {found}, newest is {newest}", mend)


async def users(url: str) -> Finding:
    """Whether each verified address leads to the one user who has proven it, and some credentials to every user."""
    async with Database(url, size=1, statement_timeout=0) as database:
        found = await address_conflicts(database)
        pairs = [(user.id, user.holder_id or await _holder(database, user.email)) for user in found]
    if not pairs:
        return Finding("users", "each verified address leads to one user")
    named = ", ".join(f"{user_id} (address leads to {holder_id or 'nobody'})" for user_id, holder_id in pairs)
    return Finding("users", f"to {len(pairs)} their own address does not lead: {named}", _MERGE)


async def _holder(database: Database, email: str) -> str | None:
    address = normalize_email(email)
    return await id_by_email(database, address) if address else None


_MERGE = (
    "Where both are one person: storefront merge-users KEEP OTHER. Where they are not, leave them as they are. "
    "For a user who has never signed in: storefront token --user ID."
)


def _is_pooled_by_transaction(url: str) -> bool:
    """Whether two connections that are open at the same time are served by one backend."""
    with ExitStack() as stack:
        pair = [stack.enter_context(psycopg.connect(url, autocommit=True, prepare_threshold=None)) for _ in range(2)]
        for _ in range(_ROUNDS):
            numbers = [connection.execute("SELECT pg_backend_pid()").fetchone() for connection in pair]
            if numbers[0] == numbers[1]:
                return True
    return False


def settings(options: Settings, database_url: str) -> Finding:
    """Which settings are in force, secrets aside."""
    where = "an external Postgres" if options.database_url else f"the embedded Postgres in {options.data_dir}"
    return Finding(
        "settings", f"{where}; wake-ups over {_wakeups_url(options, database_url).partition(':')[0]}; {options.workers} worker(s)"
    )


async def storage(options: Settings) -> Finding:
    """Whether files can be written, read, listed and removed where they are kept, and where clients are told to find us."""
    try:
        objects = opened(options)
    except RuntimeError as error:
        return Finding("storage", str(error).partition(". ")[0], str(error).partition(". ")[2])
    mend = "Check STOREFRONT_S3_*, that the bucket is there, and that the key may read, write, delete and list in it."
    if isinstance(objects, Disk):
        mend = "Let this user write to STOREFRONT_DATA_DIR, and see that its disk has room."
    try:
        async with asyncio.timeout(20), objects.running():
            await _tried(objects)
    except (StorageFailed, Missing, TimeoutError, OSError) as error:
        return Finding("storage", f"{objects.describe()}: {str(error) or type(error).__name__}", mend)
    mend = _unreachable(options) or await _closed_to_pages(objects, options)
    return Finding("storage", f"{objects.describe()}; clients come to {options.base_url()}", mend)


async def _tried(objects: Objects) -> None:
    key = f"doctor/{new_id()}"
    await objects.put(key, b"A try.", "text/plain")
    if await read(objects, key, 100) != b"A try." or key not in [stored.key async for stored in objects.list("doctor/")]:
        raise StorageFailed("what was written is not what is read")
    await objects.delete(key)


async def _closed_to_pages(objects: Objects, options: Settings) -> str:
    """How to let the pages of the allowed origins send to a bucket, if they may not. Our own routes let all of them."""
    permit = objects.presign_put("doctor/page", content_type="image/png", size=1, seconds=60)
    asked = {"access-control-request-method": permit.method, "access-control-request-headers": "content-type"}
    async with httpx.AsyncClient(timeout=5) as client:
        for origin in [] if isinstance(objects, Disk) else sorted(options.origins()):
            answer = await client.options(permit.url, headers={"origin": origin, **asked})
            if answer.headers.get("access-control-allow-origin") not in ("*", origin):
                return f"Let pages of {origin} send to the bucket: docs/media.md has the rules for it (CORS)."
    return ""


def _unreachable(options: Settings) -> str:
    is_anywhere = options.public_url is None and options.host in ("0.0.0.0", "::")  # noqa: S104
    return "Set STOREFRONT_PUBLIC_URL to where clients reach this server." if is_anywhere else ""


def _wakeups_url(options: Settings, database_url: str) -> str:
    # As `serve` hands its workers the address of the embedded server.
    return options.model_copy(update={"database_url": SecretStr(database_url)}).wakeups_url()


async def broadcaster(options: Settings, database_url: str) -> Finding:
    """Whether processes can wake each other."""
    url = _wakeups_url(options, database_url)
    scheme = url.partition(":")[0]
    try:
        async with asyncio.timeout(5), broadcast_to(url) as broadcast:
            await broadcast.publish("storefront-doctor", "")
    except Exception as error:
        # Whatever the backend's own client raises, its type is enough to say that this address does not work.
        return Finding("broadcaster", f"{scheme}: {type(error).__name__}", "Check STOREFRONT_BROADCAST_URL.")
    if scheme.startswith("postgres") and _is_pooled_by_transaction(url):
        mend = (
            "Set STOREFRONT_BROADCAST_URL to Postgres itself, past the pooler: notifications do not pass one in transaction mode."
        )
        return Finding("broadcaster", f"{scheme} over a connection pooler", mend)
    alone = options.workers > 1 and scheme == "memory"
    return Finding(
        "broadcaster", f"{scheme} works", "memory:// reaches one process: several workers need another one." if alone else ""
    )


async def rates(options: Settings) -> Finding:
    """Where requests are counted for their limits."""
    url = options.rate_limit_url
    if url is None:
        return Finding("rates", "counted by each worker for itself" if options.workers > 1 else "counted in the process")
    try:
        async with asyncio.timeout(5):
            await reach(url.get_secret_value())
    except Exception as error:
        # Not installed, not there or not let in: its type is enough to say that this address does not work.
        mend = "Check STOREFRONT_RATE_LIMIT_URL; it needs the extra redis: pip install 'storefront[redis]'"
        return Finding("rates", f"counted by each worker for itself: {type(error).__name__}", mend)
    return Finding("rates", "counted together in Redis")


def clients(options: Settings) -> Finding:
    """How often an address may come, and whether it is the clients' own."""
    rate = options.address_rate()
    chosen = "" if options.rate_limit_address is not None else " (the default)"
    state = f"{rate} for each address{chosen}" if rate else "any number of requests from an address"
    proxies = f"proxies: {options.trusted_proxies or 'none'}" if options.trusted_proxies is not None else "no proxies are set"
    is_unclear = options.is_exposed() and options.trusted_proxies is None
    mend = (
        "Behind a proxy set STOREFRONT_TRUSTED_PROXIES to its addresses: else all of its clients are counted as one address, "
        "or not at all where it is a private one. Without a proxy set it to nothing (STOREFRONT_TRUSTED_PROXIES=)."
    )
    return Finding("clients", f"{state}; {proxies}", mend if is_unclear else "")


def documents(options: Settings) -> Finding:
    """Whether the trusted documents can be run."""
    manifests = len(options.manifests())
    try:
        known = schema.documents(options)
    except UnusableManifest as error:
        return Finding("documents", str(error), "Build the manifests anew against schema.graphql.")
    others = "no others" if known.policy.only_trusted else "and any other"
    return Finding("documents", f"{known.trusted} trusted ones of {manifests} manifests, {others}" if manifests else "any")


def watch(options: Settings) -> Finding:
    """Who sees what a server does."""
    if options.traces_endpoint and find_spec("opentelemetry") is None:
        return Finding("watch", "traces need OpenTelemetry", "Run: pip install 'storefront[otel]'")
    metrics = f"metrics on {options.metrics_host}:{options.metrics_port}" if options.metrics_port else "no metrics"
    return Finding("watch", f"{metrics}, {'traces' if options.traces_endpoint else 'no traces'}, the log as {options.log_format}")


def graphiql() -> Finding:
    """Whether the files of GraphiQL are there."""
    return _files("graphiql", missing())


def dashboard() -> Finding:
    """Whether the files of the dashboard are there."""
    return _files("dashboard", absent(assets.FOLDER, assets.FILES))


def _files(subject: str, left: Sequence[str]) -> Finding:
    if left:
        return Finding(subject, f"{len(left)} files missing", "Run: make install")
    return Finding(subject, "installed")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
