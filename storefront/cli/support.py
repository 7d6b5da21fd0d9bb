"""What all commands share: settings, the database they run against, console output, and failing with a message."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console

from storefront.core.db import migrations
from storefront.core.db.cluster import EmbeddedPostgresError
from storefront.core.db.database import Database
from storefront.core.db.embedded_postgres import embedded_postgres
from storefront.core.settings import Settings, get_settings

T = TypeVar("T")

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


def load_settings() -> Settings:
    """The settings of this process; prints what is wrong with them and exits with 1 where they are invalid."""
    try:
        return get_settings()
    except ValidationError as error:
        # Only names and reasons: a value may be a secret.
        for problem in error.errors():
            err.print(f"STOREFRONT_{'_'.join(str(segment) for segment in problem['loc']).upper()}: {problem['msg']}")
        fail("Correct the settings above; docs/settings.md lists all of them.")


@contextmanager
def running_postgres(options: Settings) -> Iterator[str]:
    """Yield the URL of the database: of the settings, or of an embedded server that runs until the context ends."""
    if options.database_url is not None:
        yield options.database_url.get_secret_value()
        return
    unwind_on_signals()
    try:
        with embedded_postgres(options.data_dir) as url:
            yield url
    except EmbeddedPostgresError as error:
        fail(str(error))


def unwind_on_signals() -> None:
    """Have SIGTERM and SIGHUP raise SystemExit, so that context managers stop what this process has started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup makes the process ignore SIGHUP: leave it ignored.
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda received, _: sys.exit(128 + received))


def check_migrations(url: str) -> None:
    """Exit with 1 unless the database has the newest schema."""
    with migrations.connect(url) as connection:
        revision = migrations.get_current_revision(connection)
    try:
        migrations.check_revision(revision)
    except migrations.NewerSchemaError as error:
        fail(str(error))
    if revision != migrations.get_head_revision():
        fail(f"The database is at {revision}, this version needs {migrations.get_head_revision()}. Run: storefront migrate")


def run_with_database(url: str, action: Callable[[Database], Awaitable[T]]) -> T:
    """Run an action with a database of two connections and no statement timeout; returns its result."""

    async def run() -> T:
        async with Database(url, size=2, statement_timeout=0) as database:
            return await action(database)

    return asyncio.run(run())


def fail(message: str) -> NoReturn:
    """Print a message to stderr and exit with 1."""
    # No markup: a path may contain brackets.
    err.print(message, style="red", markup=False, highlight=False)
    raise typer.Exit(1)
