"""Commands that import and export products as files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from storefront.cli.support import check_migrations, err, fail, load_settings, out, run_with_database, running_postgres
from storefront.core.db.database import Database
from storefront.imports import exports
from storefront.imports.exports import ExportSummary
from storefront.imports.jobs.checkpoints import SqliteHandleStore
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT, ImportSummary, import_products
from storefront.imports.shopify.csv_file import UnreadableFileError, read_csv_products_cooperatively
from storefront.queries import configs

app = typer.Typer()
import_app = typer.Typer(no_args_is_help=True, help="Import products from files.")
app.add_typer(import_app, name="import")


@import_app.command("shopify-csv")
def import_shopify_csv(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, help="Product exports of Shopify.")],
    config: Annotated[str, typer.Option(help="The slug of the store to import into.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change, and change nothing.")] = False,
    max_rejected: Annotated[
        int,
        typer.Option(min=0, max=MAX_REJECTED_ROWS_LIMIT, help="Maximum rejected rows: beyond, the import of a file stops."),
    ] = DEFAULT_MAX_REJECTED_ROWS,
) -> None:
    """Import Shopify's product CSV. Products are matched by handle, so that importing again changes nothing."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        for file in files:
            _import_file(url, file, config, dry_run, max_rejected)


@app.command("export")
def export_(
    config: Annotated[str, typer.Option(help="The slug of the store to export.")],
    file: Annotated[Path, typer.Argument(dir_okay=False, writable=True, help="The file to write. An existing file is replaced.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not quote cells that a spreadsheet would run as formulas (CSV injection).")
    ] = False,
) -> None:
    """Export all products of a store as Shopify's product CSV. Importing the file again changes nothing."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        _export_file(url, file, config, quotes=not raw)


def _import_file(url: str, file: Path, slug: str, dry_run: bool, max_rejected: int) -> None:
    size, options = file.stat().st_size, load_settings()
    if size > options.max_import:
        fail(f"{file}: has {size:,} bytes, at most {options.max_import:,} are imported (STOREFRONT_MAX_IMPORT). Split it.")

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
        _print_import_summary(run_with_database(url, run_import), file, dry_run)
    except UnreadableFileError as error:
        fail(f"{file}: {error}")


def _export_file(url: str, file: Path, slug: str, *, quotes: bool) -> None:
    async def run_export(database: Database) -> ExportSummary:
        config_id, summary = await _require_store(database, slug), ExportSummary()
        total = await exports.count_products(database, config_id)
        # Write to a temporary file first: an interrupted export must not destroy an existing file.
        temporary_file = file.with_name(f".{file.name}.unfinished")
        with temporary_file.open("wb") as target, _counting_progress(file.name, total, "products") as update_bar:
            async for chunk in exports.export_products(database, config_id, quote_formulas=quotes, summary=summary):
                target.write(chunk)
                update_bar(summary.products, summary.products)
        temporary_file.replace(file)
        return summary

    summary = run_with_database(url, run_export)
    for issue in summary.issues:
        err.print(f"{issue.handle}: {issue.reason}: left out", markup=False, highlight=False)
    if (omitted := summary.rejected - len(summary.issues)) > 0:
        err.print(f"… and {omitted:,} more products.")
    out.print(f"{file.name}: {summary.products - summary.rejected:,} products, left out {summary.rejected:,}.")


async def _require_store(database: Database, slug: str) -> str:
    config_id = await configs.find_store_id_by_slug(database, slug)
    if config_id is None:
        fail(f"There is no store with the slug {slug!r}. `storefront seed` makes some.")
    return config_id


@contextmanager
def _counting_progress(name: str, total: int, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar. Yields a function of (done, count): the progress towards `total`, and the number of units so far."""
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
        fail(f"{file.name}: {summary.stop.problem}")
