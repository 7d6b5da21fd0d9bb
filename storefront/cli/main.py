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
from storefront.configs.secret_rotation import Rotation, rotate_tokens
from storefront.core import logs
from storefront.core.auth.tokens import Claims, sign
from storefront.core.db import migrations
from storefront.core.db.cluster import EmbeddedPostgresError
from storefront.core.db.database import Database, Row
from storefront.core.db.embedded_postgres import embedded_postgres
from storefront.core.encryption import Vault
from storefront.core.settings import Settings, settings
from storefront.core.storage.factory import opened
from storefront.demo.commands import AlreadySeeded, SeedSummary, is_empty
from storefront.demo.commands import seed as load_demo
from storefront.feed.log import leap
from storefront.imports import exports
from storefront.imports.exports import ExportSummary
from storefront.imports.jobs.checkpoints import HandlesOnDisk
from storefront.imports.product_writer import HIGHEST_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS, ImportSummary, import_products
from storefront.imports.shopify.csv_file import UnreadableFile, read_in_turns
from storefront.media.garbage_collection import sweep_images, sweep_strays
from storefront.queries import configs, webhooks
from storefront.schema import documents
from storefront.schema import schema as graphql_schema
from storefront.serving.documents.manifests import UnusableManifest
from storefront.serving.server import websocket_protocol
from storefront.serving.server.supervisor import WorkerSupervisor
from storefront.users.administration import (
    MergeRefused,
    UserNotFound,
    find_or_make_user,
    find_user,
    merge_users,
    sign_in_as,
)
from storefront.users.commands import sign_out

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="A GraphQL storefront backend. Settings come from STOREFRONT_* variables or .env.")
importing = typer.Typer(no_args_is_help=True, help="Bring catalogues in.")
app.add_typer(importing, name="import")
out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

APPLICATION = "storefront.app:create_server"
DEMO_USER = "demo@example.com"
_BY_EMAIL = "Whose: the user's verified address."
_BY_ID = "Whose: the user's id, in place of the address."
DAY = 86_400


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
    given = {"host": host, "port": port, "workers": workers}
    options = _settings().model_copy(update={name: value for name, value in given.items() if value is not None})
    logs.hide(options.secret_words())
    _unwind_on_signals()
    with _postgres(options) as url:
        if demo or options.database_url is None:
            _migrate(url)
        if demo:
            _load_demo(url)
        _check_migrations(url)
        _check_documents(options)
        _announce(options, url, demo)
        _hand_over(options, url)
        _run_server(options, reload)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema. Safe to run at any time, and from several machines at once."""
    with _postgres(_settings()) as url:
        _migrate(url)
        out.print(f"The database is at {migrations.head()}, the newest schema.")
        if (found := asyncio.run(checkup.users(url))).mend:
            err.print(f"{found.state}\n  → {found.mend}", markup=False, highlight=False)


@app.command()
def seed(
    products: Annotated[int, typer.Option(min=0, max=1_000_000, help="How many products, over all demo stores.")] = 2_000,
    events: Annotated[int, typer.Option(min=0, max=100_000_000, help="How many analytics events.")] = 20_000,
) -> None:
    """Load demo data: the same numbers on the same day make the same rows."""
    with _postgres(_settings()) as url:
        _migrate(url)
        try:
            _tell(_seed(url, products, events))
        except AlreadySeeded as error:
            _fail(str(error))


@importing.command("shopify-csv")
def import_shopify_csv(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, help="Product exports of Shopify.")],
    config: Annotated[str, typer.Option(help="The slug of the store to import into.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")] = False,
    max_rejected: Annotated[
        int,
        typer.Option(min=0, max=HIGHEST_MAX_REJECTED_ROWS, help="With more rejected rows than that the import of a file stops."),
    ] = MAX_REJECTED_ROWS,
) -> None:
    """Import Shopify's product CSV. Products are matched by handle, so that importing again changes nothing."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        for file in files:
            _import(url, file, config, dry_run, max_rejected)


@app.command("export")
def export_(
    config: Annotated[str, typer.Option(help="The slug of the store to export.")],
    file: Annotated[
        Path, typer.Argument(dir_okay=False, writable=True, help="The file to write: it is replaced if it is there.")
    ],
    raw: Annotated[bool, typer.Option("--raw", help="Leave cells as they are that a spreadsheet takes for formulas.")] = False,
) -> None:
    """Export all products of a store as Shopify's product CSV. Importing the file again changes nothing."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        _export(url, file, config, quotes=not raw)


@app.command()
def token(
    email: Annotated[str | None, typer.Option(help=f"{_BY_EMAIL} The user is made if there is none yet.")] = None,
    user: Annotated[str | None, typer.Option(help=_BY_ID)] = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="How long it is good for.")] = 30,
) -> None:
    """Print a bearer token for a user."""
    _require_one(email, user)
    with _postgres(_settings()) as url:
        _check_migrations(url)
        print(_token(_settings(), url, email, user, days))


@app.command("sign-out")
def sign_out_(
    email: Annotated[str | None, typer.Option(help=_BY_EMAIL)] = None,
    user: Annotated[str | None, typer.Option(help=_BY_ID)] = None,
) -> None:
    """Sign a user out everywhere: what was issued to them before is refused, and their open sockets are closed."""
    _require_one(email, user)

    async def work(database: Database) -> None:
        await sign_out(database, await find_user(database, email=email, user_id=user))

    with _postgres(_settings()) as url:
        _check_migrations(url)
        _with_user(url, work)
        out.print("Signed out everywhere.")


@app.command("merge-users")
def merge_users_(
    keep: Annotated[str, typer.Argument(help="The id of the user who gets all that the other one has.")],
    other: Annotated[str, typer.Argument(help="The id of the user who is then deleted.")],
) -> None:
    """Make one user of two that are the same person. Look first whether they are: it cannot be undone."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        moved = _with_user(url, lambda database: merge_users(database, keep, other))
        out.print("Merged. Moved " + (", ".join(f"{count:,} of {name}" for name, count in moved.items()) or "nothing") + ".")


@app.command()
def schema() -> None:
    """Print the GraphQL schema (SDL)."""
    print(graphql_schema.as_str())


@app.command("refresh-popularity")
def refresh_popularity_() -> None:
    """Count what shoppers want anew. The server does this by itself every STOREFRONT_POPULARITY_INTERVAL seconds."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        out.print(f"{_with_database(url, refresh_popularity):,} products have another popularity now.")


@app.command("roll-up")
def roll_up_() -> None:
    """Count the events that have come in. The server does this by itself every STOREFRONT_ROLLUP_INTERVAL seconds."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        out.print(f"Counted {_with_database(url, partial(roll_up, wait=True)):,} batches of events.")


@app.command("sweep-images")
def sweep_images_(
    strays: Annotated[
        bool, typer.Option("--strays", help="Files too that no row knows of: after a backup was restored.")
    ] = False,
) -> None:
    """Remove images that no product has shown for a day, and old uploads. The server does this by itself every hour."""

    async def work(database: Database) -> int:
        objects = opened(_settings())
        async with objects.running():
            swept = await sweep_images(database, objects)
            return swept + (await sweep_strays(database, objects) if strays else 0)

    with _postgres(_settings()) as url:
        _check_migrations(url)
        out.print(f"Removed {_with_database(url, work):,} images, uploads and strays.")


@app.command("after-restore")
def after_restore() -> None:
    """After a backup was restored, before the server starts: listeners and caches are to take nothing for what it is not."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        out.print(f"Moved the logs of {_with_database(url, leap):,} stores on. Whoever listened to them is told to refetch.")


@app.command("webhooks")
def webhooks_(
    store: Annotated[str | None, typer.Option(help="The slug of one store. Without it: of all.")] = None,
    most: Annotated[int, typer.Option("--most", min=1, max=10_000, help="How many are shown, those in trouble first.")] = 50,
) -> None:
    """Show how far webhooks are behind, and what keeps them."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        if store is not None and _with_database(url, lambda database: configs.id_by_slug(database, store)) is None:
            _fail(f"There is no store with the slug {store!r}.")
        _tell_webhooks(_with_database(url, lambda database: webhooks.overview(database, store, most)))


@app.command("rotate-secrets")
def rotate_secrets() -> None:
    """Encrypt the stores' secrets anew, under the newest of STOREFRONT_ENCRYPTION_KEYS. Safe to run again at any time."""
    with _postgres(_settings()) as url:
        _check_migrations(url)
        _tell_rotation(_rotate(url, _settings().vault()))


@app.command()
def doctor() -> None:
    """Look the set-up over: settings, database, storage, broadcaster, rates, documents, pages. Exits with 1 if it finds fault."""
    options = _settings()
    with _postgres(options) as url:
        database = [*checkup.database(url)]
        if not any(finding.mend for finding in database):
            database.append(asyncio.run(checkup.users(url)))
        findings = [
            checkup.settings(options, url),
            *database,
            asyncio.run(checkup.storage(options)),
            asyncio.run(checkup.broadcaster(options, url)),
            asyncio.run(checkup.rates(options)),
            checkup.clients(options),
            checkup.documents(options),
            checkup.watch(options),
            checkup.graphiql(),
            checkup.dashboard(),
        ]
    for finding in findings:
        mark = "[red]✗[/red]" if finding.mend else "[green]✓[/green]"
        out.print(f"{mark} {finding.subject:<12} {finding.state}" + (f"\n  → {finding.mend}" if finding.mend else ""))
    raise typer.Exit(any(finding.mend for finding in findings))


# ------------------------------------------------------------------------------------------------- pieces


def _settings() -> Settings:
    try:
        return settings()
    except ValidationError as error:
        # Only names and reasons: a value may be a secret.
        for problem in error.errors():
            err.print(f"STOREFRONT_{'_'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}")
        _fail("Correct the settings above; the README lists all of them.")


@contextmanager
def _postgres(options: Settings) -> Iterator[str]:
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


def _migrate(url: str) -> None:
    try:
        migrations.migrate(url)
    except migrations.NewerSchema as error:
        _fail(str(error))


def _check_migrations(url: str) -> None:
    with migrations.connect(url) as connection:
        found = migrations.current(connection)
    try:
        migrations.check_known(found)
    except migrations.NewerSchema as error:
        _fail(str(error))
    if found != migrations.head():
        _fail(f"The database is at {found}, this version needs {migrations.head()}. Run: storefront migrate")


def _run_server(options: Settings, reload: bool) -> None:
    given: dict[str, Any] = {
        "factory": True,
        "host": options.host,
        "port": options.port,
        "workers": options.workers,
        # The application itself asks which proxies are trusted: uvicorn would trust whatever runs on this machine.
        "proxy_headers": False,
        "reload": reload,
        **websocket_protocol.OPTIONS,
        # Far above our own limit, which says what is wrong; this one only ends what would not end.
        "ws_max_size": 4 * options.max_message,
        "timeout_graceful_shutdown": 10,
        # A worker that is still importing answers nobody: on a busy machine five seconds would never be enough.
        "timeout_worker_healthcheck": 60,
        "log_config": logs.configuration(options.log_format, options.log_level),
        "access_log": options.log_level in ("debug", "info"),
    }
    if options.workers > 1 and not reload:
        config = uvicorn.Config(APPLICATION, **given)
        WorkerSupervisor(config, [config.bind_socket()], options.shutdown_delay).run()
        return
    try:
        uvicorn.run(APPLICATION, **given)
    except SystemExit as ended:
        # It was told to stop, and has stopped in good order, as several workers do.
        if ended.code != 128 + signal.SIGTERM:
            raise


def _check_documents(options: Settings) -> None:
    # Here rather than where the first worker fails at it.
    try:
        documents(options)
    except UnusableManifest as error:
        _fail(str(error))


def _with_database(url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Database(url, size=2, statement_timeout=0) as database:
            return await work(database)

    return asyncio.run(run())


def _load_demo(url: str) -> None:
    if not _with_database(url, is_empty):
        return
    # Another process that was started at the same moment may have loaded it meanwhile.
    with suppress(AlreadySeeded):
        _tell(_seed(url, products=2_000, events=20_000))


def _seed(url: str, products: int, events: int) -> SeedSummary:
    columns = TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, int] = {}

        def show(table: str, done: int, total: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table, total=total)
            bars.update(tasks[table], completed=done, total=total)  # type: ignore[arg-type]

        async def work(database: Database) -> SeedSummary:
            summary = await load_demo(database, products=products, events=events, progress=show)
            await roll_up(database, wait=True)
            await refresh_popularity(database)
            return summary

        return _with_database(url, work)


def _tell(made: SeedSummary) -> None:
    counts = {name: getattr(made, name) for name in ("users", "configs", "products", "variants", "reviews", "events")}
    out.print("Made " + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + f" in {made.seconds:.1f} s.")
    out.print(f"The biggest store is [bold]{made.slug}[/bold], of {made.owner_email}.")


def _tell_webhooks(found: Sequence[Row]) -> None:
    for hook in found:
        # What stands behind the host may be a password of its kind.
        host = urlsplit(hook.url).netloc
        state = "disabled" if hook.disabled_at else "resting" if hook.resting_until else "failing" if hook.failures else "well"
        behind = f"{hook.unread:,} entries unread, {hook.pending:,} waiting" + (f" since {hook.oldest}" if hook.oldest else "")
        out.print(f"{hook.slug}  {hook.id}  {host}  {state}; {behind}", markup=False, highlight=False)
        why = hook.disabled_reason or (f"failing since {hook.failing_since}: {hook.error}" if hook.failing_since else None)
        if why:
            out.print(f"  → {why}", markup=False, highlight=False)
    out.print(f"{len(found):,} webhooks.")


def _rotate(url: str, vault: Vault) -> Rotation:
    with Progress(TextColumn("stores"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=err) as bars:
        bar = bars.add_task("stores", total=None)

        def show(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        return _with_database(url, lambda database: rotate_tokens(database, vault, show))


def _tell_rotation(rotation: Rotation) -> None:
    out.print(f"{rotation.rotated:,} secrets are encrypted anew; {rotation.current:,} were under the newest key already.")
    if rotation.unreadable:
        some = ", ".join(rotation.unreadable[:10])
        _fail(
            f"{len(rotation.unreadable):,} open with none of the keys and were left as they are, in the stores {some}. "
            "Add the key that they were encrypted with, or have their owners connect again."
        )


def _import(url: str, file: Path, slug: str, dry_run: bool, max_rejected: int) -> None:
    size, options = file.stat().st_size, _settings()
    if size > options.max_import:
        _fail(f"{file}: has {size:,} bytes, at most {options.max_import:,} are imported (STOREFRONT_MAX_IMPORT). Split it.")

    async def work(database: Database) -> ImportSummary:
        config_id = await _store(database, slug)
        with file.open("rb") as source, HandlesOnDisk() as handles, _counter(file.name, size, "rows") as show:
            return await import_products(
                database,
                config_id,
                read_in_turns(source, file.name, remembers=False, max_rows=options.max_import_rows),
                dry_run=dry_run,
                keeper=handles,
                max_rejected=max_rejected,
                progress=lambda summary: show(source.tell(), summary.rows),
            )

    try:
        _report(_with_database(url, work), file, dry_run)
    except UnreadableFile as error:
        _fail(f"{file}: {error}")


def _export(url: str, file: Path, slug: str, *, quotes: bool) -> None:
    async def work(database: Database) -> ExportSummary:
        config_id, summary = await _store(database, slug), ExportSummary()
        total = await exports.count(database, config_id)
        # Aside first: what was there is not lost for an export that is stopped.
        aside = file.with_name(f".{file.name}.unfinished")
        with aside.open("wb") as target, _counter(file.name, total, "products") as show:
            async for part in exports.export_products(database, config_id, quotes=quotes, summary=summary):
                target.write(part)
                show(summary.products, summary.products)
        aside.replace(file)
        return summary

    summary = _with_database(url, work)
    for issue in summary.issues:
        err.print(f"{issue.handle}: {issue.reason}: left out", markup=False, highlight=False)
    if (untold := summary.rejected - len(summary.issues)) > 0:
        err.print(f"… and {untold:,} more products.")
    out.print(f"{file.name}: {summary.products - summary.rejected:,} products, left out {summary.rejected:,}.")


async def _store(database: Database, slug: str) -> str:
    config_id = await configs.id_by_slug(database, slug)
    if config_id is None:
        _fail(f"There is no store with the slug {slug!r}. `storefront seed` makes some.")
    return config_id


@contextmanager
def _counter(name: str, total: int, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar; what it gives is told how much of the total is done, and how many of what is counted."""
    columns = (TextColumn(name), BarColumn(), TextColumn(f"{{task.fields[count]:,}} {what}"), TimeElapsedColumn())
    with Progress(*columns, console=err) as bars:
        bar = bars.add_task(what, total=total, count=0)
        yield lambda done, count: bars.update(bar, completed=done, count=count)


def _report(summary: ImportSummary, file: Path, dry_run: bool) -> None:
    for rejection in summary.rejections:
        err.print(f"{file.name}:{rejection.line}: {rejection.reason}", markup=False, highlight=False)
    if (untold := summary.rejected - len(summary.rejections)) > 0:
        err.print(f"… and {untold:,} more rows.")
    would = "would be " if dry_run else ""
    out.print(
        f"{file.name}: {summary.rows:,} rows; {would}created {summary.created:,}, {would}updated {summary.updated:,}, "
        f"unchanged {summary.unchanged:,}, rows rejected {summary.rejected:,}."
    )
    if summary.stop:
        _fail(f"{file.name}: {summary.stop.problem}")


def _token(options: Settings, url: str, email: str | None, user_id: str | None, days: int) -> str:
    async def work(database: Database) -> tuple[Claims, float]:
        if email is None:
            return await sign_in_as(database, await find_user(database, user_id=user_id))
        found, is_new = await find_or_make_user(database, email)
        if is_new:
            err.print(f"No user had the address {email.strip()}: made one.", markup=False, highlight=False)
        return await sign_in_as(database, found)

    claims, now = _with_user(url, work)
    return sign(claims, options.signing_secret(), seconds=days * DAY, database_time=now)


def _require_one(email: str | None, user: str | None) -> None:
    if (email is None) == (user is None):
        _fail("Name the user with either --email or --user.")


def _with_user(url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    try:
        return _with_database(url, work)
    except (UserNotFound, MergeRefused) as error:
        _fail(str(error))


def _announce(options: Settings, url: str, demo: bool) -> None:
    """What to open, a token and a line to try, for somebody who has just started this for the first time."""
    base = f"http://{options.host}:{options.port}"
    store = _with_database(url, configs.busiest)
    slug = store.slug if store else "my-store"
    document = f'{{ config(by: {{slug: "{slug}"}}) {{ storeName products(first: 3) {{ nodes {{ title price }} }} }} }}'
    query = json.dumps({"query": document})
    out.print(f"\nstorefront is starting on [bold]{base}[/bold]   (Ctrl-C stops it)\n\n  GraphiQL     {base}/graphql")
    out.print(f"  Dashboard    {base}/dashboard/{slug}")
    out.print(
        f"  Try          curl -s {base}/graphql -H 'content-type: application/json' -d '{query}'", markup=False, highlight=False
    )
    if not demo:
        return
    # Only here: elsewhere this would put a working token into whatever keeps the server's output.
    out.print(f"  Token        {_token(options, url, DEMO_USER, None, days=1)}", markup=False, highlight=False)
    out.print(f"               of {DEMO_USER}, good for a day, for the header Authorization: Bearer <token>\n")


def _hand_over(options: Settings, url: str) -> None:
    # Worker processes read their settings themselves: they get what was settled here.
    os.environ["STOREFRONT_DATABASE_URL"] = url
    os.environ["STOREFRONT_SECRET"] = options.signing_secret()
    os.environ["STOREFRONT_WORKERS"] = str(options.workers)
    # Whether other machines reach the server decides on its rates.
    os.environ["STOREFRONT_HOST"] = options.host
    os.environ["STOREFRONT_PUBLIC_URL"] = options.base_url()
    settings.cache_clear()


def _fail(message: str) -> NoReturn:
    # Not as markup: a path may have brackets.
    err.print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)
