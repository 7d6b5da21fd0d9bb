"""The command line: `storefront --help`. Wiring, no logic."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from storefront import __version__
from storefront import doctor as checkup
from storefront.analytics.commands import refresh_popularity
from storefront.analytics.rollups import roll_up
from storefront.configs.secret_rotation import RotationSummary, rotate_stored_secrets
from storefront.core import logs
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.db import migrations
from storefront.core.db.cluster import EmbeddedPostgresError
from storefront.core.db.database import Database, Row
from storefront.core.db.embedded_postgres import embedded_postgres
from storefront.core.encryption import Vault
from storefront.core.settings import Settings, get_settings
from storefront.core.storage.factory import create_object_storage
from storefront.demo.commands import AlreadySeededError, SeedSummary, is_empty
from storefront.demo.commands import seed as load_demo
from storefront.feed.log import advance_positions
from storefront.imports import exports
from storefront.imports.exports import ExportSummary
from storefront.imports.jobs.checkpoints import SqliteHandleStore
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT, ImportSummary, import_products
from storefront.imports.shopify.csv_file import UnreadableFileError, read_csv_products_cooperatively
from storefront.media.garbage_collection import sweep_images, sweep_orphaned_objects
from storefront.queries import configs, webhooks
from storefront.schema import build_document_store
from storefront.schema import schema as graphql_schema
from storefront.serving.documents.manifests import ManifestError
from storefront.serving.server import websocket_protocol
from storefront.serving.server.supervisor import WorkerSupervisor
from storefront.users.administration import (
    MergeRejectedError,
    UserNotFoundError,
    ensure_own_claims,
    find_or_create_user,
    find_user,
    merge_users,
)
from storefront.users.commands import sign_out

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="A GraphQL storefront backend. Settings come from STOREFRONT_* variables or .env.")
import_app = typer.Typer(no_args_is_help=True, help="Bring catalogues in.")
app.add_typer(import_app, name="import")
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

APPLICATION = "storefront.app:create_server"
DEMO_USER = "demo@example.com"
_EMAIL_HELP = "Whose: the user's verified address."
_USER_ID_HELP = "Whose: the user's id, in place of the address."
DAY_SECONDS = 86_400


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"storefront {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Server processes.")] = None,
    reload: Annotated[bool, typer.Option(help="Start again whenever a source file changes.")] = False,
    demo: Annotated[bool, typer.Option(help="First migrate, and load demo data into an empty database.")] = False,
) -> None:
    """Serve the API. Without STOREFRONT_DATABASE_URL an embedded Postgres is started, migrated and stopped again."""
    overrides = {"host": host, "port": port, "workers": workers}
    options = _load_settings().model_copy(update={name: value for name, value in overrides.items() if value is not None})
    logs.register_secrets(options.list_secret_values())
    _unwind_on_signals()
    with _running_postgres(options) as url:
        if demo or options.database_url is None:
            _migrate_database(url)
        if demo:
            _load_demo_if_empty(url)
        _check_migrations(url)
        _check_documents(options)
        _print_welcome(options, url, demo)
        _pass_settings_to_workers(options, url)
        _run_server(options, reload)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to run at any time, and from several machines at once."""
    with _running_postgres(_load_settings()) as url:
        _migrate_database(url)
        out.print(f"The database is at {migrations.get_head_revision()}, the newest schema.")
        if (finding := asyncio.run(checkup.check_users(url))).remedy:
            err.print(f"{finding.state}\n  → {finding.remedy}", markup=False, highlight=False)


@app.command()
def seed(
    products: Annotated[int, typer.Option(min=0, max=1_000_000, help="How many products, over all demo stores.")] = 2_000,
    events: Annotated[int, typer.Option(min=0, max=100_000_000, help="How many analytics events.")] = 20_000,
) -> None:
    """Load demo data: the same numbers on the same day make the same rows."""
    with _running_postgres(_load_settings()) as url:
        _migrate_database(url)
        try:
            _print_seed_summary(_seed_with_progress(url, products, events))
        except AlreadySeededError as error:
            _fail(str(error))


@import_app.command("shopify-csv")
def import_shopify_csv(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, help="Product exports of Shopify.")],
    config: Annotated[str, typer.Option(help="The slug of the store to import into.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    max_rejected: Annotated[
        int,
        typer.Option(min=0, max=MAX_REJECTED_ROWS_LIMIT, help="With more rejected rows than that the import of a file stops."),
    ] = DEFAULT_MAX_REJECTED_ROWS,
) -> None:
    """Import Shopify's product CSV. Products are matched by handle, so that importing again changes nothing."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        for file in files:
            _import_file(url, file, config, dry_run, max_rejected)


@app.command("export")
def export_(
    config: Annotated[str, typer.Option(help="The slug of the store to export.")],
    file: Annotated[
        Path, typer.Argument(dir_okay=False, writable=True, help="The file to write: it is replaced if it is there.")
    ],
    raw: Annotated[bool, typer.Option("--raw", help="Leave cells as they are that a spreadsheet takes for formulas.")] = False,
) -> None:
    """Export all products of a store as Shopify's product CSV. Importing the file again changes nothing."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        _export_file(url, file, config, quotes=not raw)


@app.command()
def token(
    email: Annotated[str | None, typer.Option(help=f"{_EMAIL_HELP} The user is made if there is none yet.")] = None,
    user: Annotated[str | None, typer.Option(help=_USER_ID_HELP)] = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="How long it is good for.")] = 30,
) -> None:
    """Print a bearer token for a user."""
    _require_email_or_user(email, user)
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        print(_issue_token(_load_settings(), url, email, user, days))


@app.command("sign-out")
def sign_out_(
    email: Annotated[str | None, typer.Option(help=_EMAIL_HELP)] = None,
    user: Annotated[str | None, typer.Option(help=_USER_ID_HELP)] = None,
) -> None:
    """Sign a user out everywhere: what was issued to them before is refused, and their open sockets are closed."""
    _require_email_or_user(email, user)

    async def sign_out_user(database: Database) -> None:
        await sign_out(database, await find_user(database, email=email, user_id=user))

    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        _run_for_user(url, sign_out_user)
        out.print("Signed out everywhere.")


@app.command("merge-users")
def merge_users_(
    keep: Annotated[str, typer.Argument(help="The id of the user who gets all that the other one has.")],
    other: Annotated[str, typer.Argument(help="The id of the user who is then deleted.")],
) -> None:
    """Make one user of two that are the same person. Look first whether they are: it cannot be undone."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        moved = _run_for_user(url, lambda database: merge_users(database, keep, other))
        out.print("Merged. Moved " + (", ".join(f"{count:,} of {name}" for name, count in moved.items()) or "nothing") + ".")


@app.command()
def schema() -> None:
    """Print the GraphQL schema (SDL)."""
    print(graphql_schema.as_str())


@app.command("refresh-popularity")
def refresh_popularity_() -> None:
    """Count what shoppers want anew. The server does this by itself every STOREFRONT_POPULARITY_INTERVAL seconds."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        out.print(f"{_run_with_database(url, refresh_popularity):,} products have another popularity now.")


@app.command("roll-up")
def roll_up_() -> None:
    """Count the events that have come in. The server does this by itself every STOREFRONT_ROLLUP_INTERVAL seconds."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        out.print(f"Counted {_run_with_database(url, partial(roll_up, wait=True)):,} batches of events.")


@app.command("sweep-images")
def sweep_images_(
    strays: Annotated[
        bool, typer.Option("--strays", help="Files too that no row knows of: after a backup was restored.")
    ] = False,
) -> None:
    """Remove images that no product has shown for a day, and old uploads. The server does this by itself every hour."""

    async def sweep_all(database: Database) -> int:
        objects = create_object_storage(_load_settings())
        async with objects.running():
            swept = await sweep_images(database, objects)
            return swept + (await sweep_orphaned_objects(database, objects) if strays else 0)

    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        out.print(f"Removed {_run_with_database(url, sweep_all):,} images, uploads and strays.")


@app.command("after-restore")
def after_restore() -> None:
    """After a backup was restored, before the server starts: listeners and caches are to take nothing for what it is not."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        out.print(
            f"Advanced the logs of {_run_with_database(url, advance_positions):,} stores. Their listeners receive FeedReset."
        )


@app.command("webhooks")
def webhooks_(
    store: Annotated[str | None, typer.Option(help="The slug of one store. Without it: of all.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=10_000, help="How many are shown, those in trouble first.")] = 50,
) -> None:
    """Show how far webhooks are behind, and what keeps them."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        if store is not None and _run_with_database(url, lambda database: configs.find_store_id_by_slug(database, store)) is None:
            _fail(f"There is no store with the slug {store!r}.")
        _print_webhooks(_run_with_database(url, lambda database: webhooks.load_webhook_overview(database, store, most)))


@app.command("rotate-secrets")
def rotate_secrets() -> None:
    """Encrypt the stores' secrets anew, under the newest of STOREFRONT_ENCRYPTION_KEYS. Safe to run again at any time."""
    with _running_postgres(_load_settings()) as url:
        _check_migrations(url)
        _print_rotation(_rotate_with_progress(url, _load_settings().load_vault()))


@app.command()
def doctor() -> None:
    """Look the set-up over: settings, database, storage, broadcaster, rates, documents, pages. Exits with 1 if it finds fault."""
    options = _load_settings()
    with _running_postgres(options) as url:
        database_findings = [*checkup.check_database(url)]
        if not any(finding.remedy for finding in database_findings):
            database_findings.append(asyncio.run(checkup.check_users(url)))
        findings = [
            checkup.describe_settings(options, url),
            *database_findings,
            asyncio.run(checkup.check_storage(options)),
            asyncio.run(checkup.check_broadcaster(options, url)),
            asyncio.run(checkup.check_rate_limits(options)),
            checkup.check_clients(options),
            checkup.check_documents(options),
            checkup.check_observability(options),
            checkup.check_graphiql(),
            checkup.check_dashboard(),
        ]
    for finding in findings:
        mark = "[red]✗[/red]" if finding.remedy else "[green]✓[/green]"
        out.print(f"{mark} {finding.subject:<12} {finding.state}" + (f"\n  → {finding.remedy}" if finding.remedy else ""))
    raise typer.Exit(any(finding.remedy for finding in findings))


# ------------------------------------------------------------------------------------------------- pieces


def _load_settings() -> Settings:
    try:
        return get_settings()
    except ValidationError as error:
        # Only names and reasons: a value may be a secret.
        for problem in error.errors():
            err.print(f"STOREFRONT_{'_'.join(str(segment) for segment in problem['loc']).upper()}: {problem['msg']}")
        _fail("Correct the settings above; the README lists all of them.")


@contextmanager
def _running_postgres(options: Settings) -> Iterator[str]:
    """The URL of the database: the one in the settings, or the embedded one while this lasts."""
    if options.database_url is not None:
        yield options.database_url.get_secret_value()
        return
    _unwind_on_signals()
    try:
        with embedded_postgres(options.data_dir) as url:
            yield url
    except EmbeddedPostgresError as error:
        _fail(str(error))


def _unwind_on_signals() -> None:
    """Let a signal end this process by unwinding it: what it started is stopped, also when its terminal is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup has SIGHUP ignored.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


def _migrate_database(url: str) -> None:
    try:
        migrations.migrate(url)
    except migrations.NewerSchemaError as error:
        _fail(str(error))


def _check_migrations(url: str) -> None:
    with migrations.connect(url) as connection:
        revision = migrations.get_current_revision(connection)
    try:
        migrations.check_revision(revision)
    except migrations.NewerSchemaError as error:
        _fail(str(error))
    if revision != migrations.get_head_revision():
        _fail(f"The database is at {revision}, this version needs {migrations.get_head_revision()}. Run: storefront migrate")


def _run_server(options: Settings, reload: bool) -> None:
    uvicorn_options: dict[str, Any] = {
        "factory": True,
        "host": options.host,
        "port": options.port,
        "workers": options.workers,
        # The application itself asks which proxies are trusted: uvicorn would trust whatever runs on this machine.
        "proxy_headers": False,
        "reload": reload,
        **websocket_protocol.UVICORN_OPTIONS,
        # Far above our own limit, which says what is wrong; this one only ends what would not end.
        "ws_max_size": 4 * options.max_message,
        "timeout_graceful_shutdown": 10,
        # A worker that is still importing answers nobody: on a busy machine five seconds would never be enough.
        "timeout_worker_healthcheck": 60,
        "log_config": logs.build_logging_config(options.log_format, options.log_level),
        "access_log": options.log_level in ("debug", "info"),
    }
    if options.workers > 1 and not reload:
        config = uvicorn.Config(APPLICATION, **uvicorn_options)
        WorkerSupervisor(config, [config.bind_socket()], options.shutdown_delay).run()
        return
    try:
        uvicorn.run(APPLICATION, **uvicorn_options)
    except SystemExit as exit_error:
        # It was told to stop, and has stopped in good order, as several workers do.
        if exit_error.code != 128 + signal.SIGTERM:
            raise


def _check_documents(options: Settings) -> None:
    # Here rather than where the first worker fails at it.
    try:
        build_document_store(options)
    except ManifestError as error:
        _fail(str(error))


def _run_with_database(url: str, action: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Database(url, size=2, statement_timeout=0) as database:
            return await action(database)

    return asyncio.run(run())


def _load_demo_if_empty(url: str) -> None:
    if not _run_with_database(url, is_empty):
        return
    # Another process that was started at the same moment may have loaded it meanwhile.
    with suppress(AlreadySeededError):
        _print_seed_summary(_seed_with_progress(url, products=2_000, events=20_000))


def _seed_with_progress(url: str, products: int, events: int) -> SeedSummary:
    columns = TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, int] = {}

        def update_bar(table: str, done: int, total: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table, total=total)
            bars.update(tasks[table], completed=done, total=total)  # type: ignore[arg-type]

        async def seed_database(database: Database) -> SeedSummary:
            summary = await load_demo(database, products=products, events=events, progress=update_bar)
            await roll_up(database, wait=True)
            await refresh_popularity(database)
            return summary

        return _run_with_database(url, seed_database)


def _print_seed_summary(summary: SeedSummary) -> None:
    counts = {name: getattr(summary, name) for name in ("users", "configs", "products", "variants", "reviews", "events")}
    out.print("Made " + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + f" in {summary.seconds:.1f} s.")
    out.print(f"The biggest store is [bold]{summary.slug}[/bold], of {summary.owner_email}.")


def _print_webhooks(webhook_rows: Sequence[Row]) -> None:
    for hook in webhook_rows:
        # What stands behind the host may be a password of its kind.
        host = urlsplit(hook.url).netloc
        state = "disabled" if hook.disabled_at else "resting" if hook.resting_until else "failing" if hook.failures else "well"
        backlog = f"{hook.unread:,} entries unread, {hook.pending:,} waiting" + (f" since {hook.oldest}" if hook.oldest else "")
        out.print(f"{hook.slug}  {hook.id}  {host}  {state}; {backlog}", markup=False, highlight=False)
        problem = hook.disabled_reason or (f"failing since {hook.failing_since}: {hook.error}" if hook.failing_since else None)
        if problem:
            out.print(f"  → {problem}", markup=False, highlight=False)
    out.print(f"{len(webhook_rows):,} webhooks.")


def _rotate_with_progress(url: str, vault: Vault) -> RotationSummary:
    with Progress(TextColumn("stores"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err) as bars:
        bar = bars.add_task("stores", total=None)

        def update_bar(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        return _run_with_database(url, lambda database: rotate_stored_secrets(database, vault, update_bar))


def _print_rotation(rotation: RotationSummary) -> None:
    out.print(f"{rotation.rotated:,} secrets are encrypted anew; {rotation.current:,} were under the newest key already.")
    if rotation.unreadable:
        example_stores = ", ".join(rotation.unreadable[:10])
        _fail(
            f"{len(rotation.unreadable):,} open with none of the keys and were left as they are, in the stores {example_stores}. "
            "Add the key that they were encrypted with, or have their owners connect again."
        )


def _import_file(url: str, file: Path, slug: str, dry_run: bool, max_rejected: int) -> None:
    size, options = file.stat().st_size, _load_settings()
    if size > options.max_import:
        _fail(f"{file}: has {size:,} bytes, at most {options.max_import:,} are imported (STOREFRONT_MAX_IMPORT). Split it.")

    async def run_import(database: Database) -> ImportSummary:
        config_id = await _require_store(database, slug)
        with file.open("rb") as source, SqliteHandleStore() as handles, _counting_progress(file.name, size, "rows") as update_bar:
            return await import_products(
                database,
                config_id,
                read_csv_products_cooperatively(source, file.name, remember_handles=False, max_rows=options.max_import_rows),
                dry_run=dry_run,
                checkpointer=handles,
                max_rejected_rows=max_rejected,
                on_progress=lambda summary: update_bar(source.tell(), summary.rows),
            )

    try:
        _print_import_summary(_run_with_database(url, run_import), file, dry_run)
    except UnreadableFileError as error:
        _fail(f"{file}: {error}")


def _export_file(url: str, file: Path, slug: str, *, quotes: bool) -> None:
    async def run_export(database: Database) -> ExportSummary:
        config_id, summary = await _require_store(database, slug), ExportSummary()
        total = await exports.count_products(database, config_id)
        # Aside first: what was there is not lost for an export that is stopped.
        temporary_file = file.with_name(f".{file.name}.unfinished")
        with temporary_file.open("wb") as target, _counting_progress(file.name, total, "products") as update_bar:
            async for chunk in exports.export_products(database, config_id, quote_formulas=quotes, summary=summary):
                target.write(chunk)
                update_bar(summary.products, summary.products)
        temporary_file.replace(file)
        return summary

    summary = _run_with_database(url, run_export)
    for issue in summary.issues:
        err.print(f"{issue.handle}: {issue.reason}: left out", markup=False, highlight=False)
    if (omitted := summary.rejected - len(summary.issues)) > 0:
        err.print(f"… and {omitted:,} more products.")
    out.print(f"{file.name}: {summary.products - summary.rejected:,} products, left out {summary.rejected:,}.")


async def _require_store(database: Database, slug: str) -> str:
    config_id = await configs.find_store_id_by_slug(database, slug)
    if config_id is None:
        _fail(f"There is no store with the slug {slug!r}. `storefront seed` makes some.")
    return config_id


@contextmanager
def _counting_progress(name: str, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar; what it gives is told how much of the total is done, and how many of what is counted."""
    columns = (TextColumn(name), BarColumn(), TextColumn(f"{{task.fields[count]:,}} {unit}"), TimeElapsedColumn())
    with Progress(*columns, console=err) as bars:
        bar = bars.add_task(unit, total=total, count=0)
        yield lambda done, count: bars.update(bar, completed=done, count=count)


def _print_import_summary(summary: ImportSummary, file: Path, dry_run: bool) -> None:
    for rejection in summary.row_errors:
        err.print(f"{file.name}:{rejection.line}: {rejection.reason}", markup=False, highlight=False)
    if (omitted := summary.rejected - len(summary.row_errors)) > 0:
        err.print(f"… and {omitted:,} more rows.")
    prefix = "would be " if dry_run else ""
    out.print(
        f"{file.name}: {summary.rows:,} rows; {prefix}created {summary.created:,}, {prefix}updated {summary.updated:,}, "
        f"unchanged {summary.unchanged:,}, rows rejected {summary.rejected:,}."
    )
    if summary.stop:
        _fail(f"{file.name}: {summary.stop.problem}")


def _issue_token(options: Settings, url: str, email: str | None, user_id: str | None, days: int) -> str:
    async def find_claims(database: Database) -> tuple[Claims, float]:
        if email is None:
            return await ensure_own_claims(database, await find_user(database, user_id=user_id))
        found_id, is_new = await find_or_create_user(database, email)
        if is_new:
            err.print(f"No user had the address {email.strip()}: made one.", markup=False, highlight=False)
        return await ensure_own_claims(database, found_id)

    claims, database_time = _run_for_user(url, find_claims)
    return sign_token(claims, options.load_signing_secret(), seconds=days * DAY_SECONDS, database_time=database_time)


def _require_email_or_user(email: str | None, user: str | None) -> None:
    if (email is None) == (user is None):
        _fail("Name the user with either --email or --user.")


def _run_for_user(url: str, action: Callable[[Database], Awaitable[T]]) -> T:
    try:
        return _run_with_database(url, action)
    except (UserNotFoundError, MergeRejectedError) as error:
        _fail(str(error))


def _print_welcome(options: Settings, url: str, demo: bool) -> None:
    """What to open, a token and a line to try, for somebody who has just started this for the first time."""
    base_url = f"http://{options.host}:{options.port}"
    store = _run_with_database(url, configs.load_busiest_store)
    slug = store.slug if store else "my-store"
    document = f'{{ config(by: {{slug: "{slug}"}}) {{ storeName products(first: 3) {{ nodes {{ title price }} }} }} }}'
    query = json.dumps({"query": document})
    out.print(f"\nstorefront is starting on [bold]{base_url}[/bold]   (Ctrl-C stops it)\n\n  GraphiQL     {base_url}/graphql")
    out.print(f"  Dashboard    {base_url}/dashboard/{slug}")
    out.print(
        f"  Try          curl -s {base_url}/graphql -H 'content-type: application/json' -d '{query}'",
        markup=False,
        highlight=False,
    )
    if not demo:
        return
    # Only here: elsewhere this would put a working token into whatever keeps the server's output.
    out.print(f"  Token        {_issue_token(options, url, DEMO_USER, None, days=1)}", markup=False, highlight=False)
    out.print(f"               of {DEMO_USER}, good for a day, for the header Authorization: Bearer <token>\n")


def _pass_settings_to_workers(options: Settings, url: str) -> None:
    # Worker processes read their settings themselves: they get what was settled here.
    os.environ["STOREFRONT_DATABASE_URL"] = url
    os.environ["STOREFRONT_SECRET"] = options.load_signing_secret()
    os.environ["STOREFRONT_WORKERS"] = str(options.workers)
    # Whether other machines reach the server decides on its rates.
    os.environ["STOREFRONT_HOST"] = options.host
    os.environ["STOREFRONT_PUBLIC_URL"] = options.base_url()
    get_settings.cache_clear()


def _fail(message: str) -> NoReturn:
    # Not as markup: a path may have brackets.
    err.print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)
