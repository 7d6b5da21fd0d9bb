"""Commands for the database: migrate it, seed it with demo data, repair it after a restore."""

import asyncio
from contextlib import suppress
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from storefront import doctor
from storefront.analytics.commands import refresh_popularity
from storefront.analytics.rollups import roll_up
from storefront.cli.support import check_migrations, err, fail, load_settings, out, run_with_database, running_postgres
from storefront.core.db import migrations
from storefront.core.db.database import Database
from storefront.core.settings import Settings
from storefront.core.storage.base import StorageError
from storefront.core.storage.factory import create_object_storage
from storefront.demo.commands import AlreadySeededError, SeedSummary, is_empty, store_pictures
from storefront.demo.commands import seed as load_demo
from storefront.feed.log import advance_positions

app = typer.Typer()


@app.command()
def migrate() -> None:
    """Migrate the database to the newest schema. Safe to run at any time, and from several machines at once."""
    with running_postgres(load_settings()) as url:
        migrate_database(url)
        out.print(f"The database is at {migrations.get_head_revision()}, the newest schema.")
        if (finding := asyncio.run(doctor.check_users(url))).remedy:
            err.print(f"{finding.state}\n  → {finding.remedy}", markup=False, highlight=False)


@app.command()
def seed(
    products: Annotated[int, typer.Option(min=0, max=1_000_000, help="Number of products, over all demo stores.")] = 2_000,
    events: Annotated[int, typer.Option(min=0, max=100_000_000, help="Number of analytics events.")] = 20_000,
) -> None:
    """Load demo data. It is deterministic: the same numbers on the same day create the same rows."""
    options = load_settings()
    with running_postgres(options) as url:
        migrate_database(url)
        try:
            _print_seed_summary(_seed_with_progress(options, url, products, events))
        except AlreadySeededError as error:
            fail(str(error))


@app.command("after-restore")
def after_restore() -> None:
    """Run after restoring a backup, before the server starts: invalidates the log positions of clients and caches."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        out.print(
            f"Advanced the logs of {run_with_database(url, advance_positions):,} stores. Their listeners receive FeedReset."
        )


def migrate_database(url: str) -> None:
    """Migrate to the newest schema; exits with 1 where the database has a newer one."""
    try:
        migrations.migrate(url)
    except migrations.NewerSchemaError as error:
        fail(str(error))


def load_demo_if_empty(options: Settings, url: str) -> None:
    """Load demo data of the default size, unless the database has data."""
    if not run_with_database(url, is_empty):
        return
    # Another process that started at the same time may have seeded the database meanwhile.
    with suppress(AlreadySeededError):
        _print_seed_summary(_seed_with_progress(options, url, products=2_000, events=20_000))


def _seed_with_progress(options: Settings, url: str, products: int, events: int) -> SeedSummary:
    columns = TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, int] = {}

        def update_bar(table: str, done: int, total: int) -> None:
            if table not in tasks:
                tasks[table] = bars.add_task(table, total=total)
            bars.update(tasks[table], completed=done, total=total)  # type: ignore[arg-type]

        async def seed_database(database: Database) -> SeedSummary:
            loading = load_demo(database, products=products, events=events, base_url=options.base_url(), progress=update_bar)
            # The pictures are drawn while Postgres works.
            summary, _ = await asyncio.gather(loading, _store_pictures(options))
            await roll_up(database, wait=True)
            await refresh_popularity(database)
            return summary

        try:
            return run_with_database(url, seed_database)
        except (StorageError, OSError) as error:
            fail(f"The pictures of the demo data could not be stored: {error}")


async def _store_pictures(options: Settings) -> None:
    objects = create_object_storage(options)
    async with objects.running():
        await store_pictures(objects)


def _print_seed_summary(summary: SeedSummary) -> None:
    counts = {name: getattr(summary, name) for name in ("users", "configs", "products", "variants", "reviews", "events")}
    out.print("Made " + ", ".join(f"{count:,} {name}" for name, count in counts.items()) + f" in {summary.seconds:.1f} s.")
    out.print(f"The biggest store is [bold]{summary.slug}[/bold], of {summary.owner_email}.")
