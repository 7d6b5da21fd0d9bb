"""Commands that import and export products as files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from storefront.cli.support import check_migrations, err, fail, load_settings, out, run_with_database, running_postgres
from storefront.core.db.database import Database
from storefront.core.image_processing import ImageProcessor
from storefront.core.net.network_policy import NetworkPolicy
from storefront.core.net.safe_http import SafeHttpClient
from storefront.core.storage import factory
from storefront.imports import exports
from storefront.imports.catalogue_file import FileOptions, open_catalogue
from storefront.imports.changes import ProductChange
from storefront.imports.exports import ExportFormat, ExportSummary
from storefront.imports.files.numbers import DecimalSeparator
from storefront.imports.files.opening import UnreadableFileError
from storefront.imports.formats import parse_mapping
from storefront.imports.jobs.checkpoints import SqliteHandleStore
from storefront.imports.jobs.image_fetching import MAX_PAGE_PRODUCTS, ImageProgress, fetch_images_of_products
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT, ImportSummary, import_products
from storefront.imports.reports import (
    REPORT_COLUMNS,
    build_change_rows,
    build_error_row,
    build_reading_rows,
    describe_reading,
    render_rows,
)
from storefront.media.remote_images import RemoteImages
from storefront.queries import configs
from storefront.writes.amounts import load_currency

# Changes of a dry run that are printed.
MAX_SHOWN_CHANGES = 1_000

app = typer.Typer()
import_app = typer.Typer(no_args_is_help=True, help="Import products from files.")
app.add_typer(import_app, name="import")


@import_app.command("shopify-csv")
@import_app.command("file")
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="Product files: .csv, .xlsx, or such a file in .zip or .gz."
        ),
    ],
    config: Annotated[str, typer.Option(help="The slug of the store to import into.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would change, and change nothing.")] = False,
    max_rejected: Annotated[
        int,
        typer.Option(min=0, max=MAX_REJECTED_ROWS_LIMIT, help="Maximum rejected rows: beyond, the import of a file stops."),
    ] = DEFAULT_MAX_REJECTED_ROWS,
    delete_missing_variants: Annotated[
        bool,
        typer.Option("--delete-missing-variants", help="Delete the variants of imported products that the file does not have."),
    ] = False,
    decimal: Annotated[
        DecimalSeparator,
        typer.Option(help="The decimal separator of numbers; auto: a comma in columns that leave no doubt, or else a point."),
    ] = DecimalSeparator.AUTO,
    entry: Annotated[
        str | None, typer.Option(help="The file of an archive, or the sheet of a workbook, to import, where there are several.")
    ] = None,
    map_: Annotated[
        list[str],
        typer.Option("--map", help="A column of the file and its field: “Preis=price”. The field “option” makes it an option."),
    ] = [],  # noqa: B006  typer copies it
    fetch_images: Annotated[
        bool,
        typer.Option(
            "--fetch-images/--no-fetch-images",
            help="Fetch images that are hosted elsewhere, once the file is imported, and show the stored ones instead.",
        ),
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, writable=True, help="A CSV file to write: each change, and each row that was rejected."),
    ] = None,
) -> None:
    """Import products from files. What a file has no column or no row for stays as it is, and importing again changes nothing.

    Exits with status 1 if a row was rejected.
    """
    is_complete, mapping = True, _parse_mapping(map_)
    with running_postgres(load_settings()) as url, ImportReport.open(report) as import_report:
        check_migrations(url)
        for file in files:
            is_complete &= _import_file(
                url,
                file,
                config,
                import_report,
                FileOptions(entry, decimal, mapping),
                dry_run=dry_run,
                fetches_images=fetch_images and not dry_run,
                max_rejected_rows=max_rejected,
                delete_missing_variants=delete_missing_variants,
            )
    if not is_complete:
        raise typer.Exit(1)


@app.command("export")
def export_(
    config: Annotated[str, typer.Option(help="The slug of the store to export.")],
    file: Annotated[Path, typer.Argument(dir_okay=False, writable=True, help="The file to write. An existing file is replaced.")],
    format_: Annotated[
        ExportFormat | None, typer.Option("--format", help="The format; without it JSON Lines for .jsonl, and else CSV.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not quote cells that a spreadsheet would run as formulas (CSV injection).")
    ] = False,
) -> None:
    """Export all products of a store as Shopify's product CSV, or as JSON Lines. Importing the file again changes nothing."""
    with running_postgres(load_settings()) as url:
        check_migrations(url)
        by_name = ExportFormat.JSON_LINES if file.suffix == ".jsonl" else ExportFormat.SHOPIFY_CSV
        _export_file(url, file, config, export_format=format_ or by_name, quote_formulas=not raw)


def _parse_mapping(words: Sequence[str]) -> dict[str, str]:
    pairs = [word.rpartition("=")[::2] for word in words]
    if wrong := next((word for word, (column, field) in zip(words, pairs, strict=True) if not column or not field), None):
        fail(f"--map: “{wrong}” is no column with a field, such as “Preis=price”.")
    try:
        return parse_mapping(pairs)
    except ValueError as error:
        fail(f"--map: {error}")


def _import_file(
    url: str,
    file: Path,
    slug: str,
    report: "ImportReport",
    file_options: FileOptions,
    *,
    dry_run: bool,
    fetches_images: bool,
    **limits: Any,
) -> bool:
    """Import a file; False if a row was rejected."""
    size, options = file.stat().st_size, load_settings()
    if size > options.max_import:
        fail(f"{file}: has {size:,} bytes, at most {options.max_import:,} are imported (STOREFRONT_MAX_IMPORT). Split it.")

    async def run_import(database: Database) -> ImportSummary:
        config_id = await _require_store(database, slug)
        async with database.transaction() as connection:
            in_currency = replace(file_options, currency=await load_currency(connection, config_id))
        bounds = {"max_bytes": options.max_import, "max_rows": options.max_import_rows}
        with file.open("rb") as source, SqliteHandleStore() as handles:
            async with open_catalogue(source, file.name, in_currency, None, **bounds) as catalogue:
                with _counting_progress(file.name, catalogue.size, "rows") as update_bar:
                    summary = await import_products(
                        database,
                        config_id,
                        catalogue.items,
                        dry_run=dry_run,
                        checkpointer=handles,
                        on_progress=lambda summary: update_bar(catalogue.text_file.tell(), summary.rows),
                        on_changes=report.add_changes,
                        **limits,
                    )
            if fetches_images and handles.has_images:
                await _fetch_images(database, config_id, handles)
            return summary

    try:
        summary = run_with_database(url, run_import)
    except UnreadableFileError as error:
        fail(f"{file}: {error}")
    report.add_summary(summary)
    if dry_run:
        report.print_changes()
    _print_import_summary(summary, file, dry_run)
    return not summary.rejected


async def _fetch_images(database: Database, config_id: str, handles: SqliteHandleStore) -> None:
    """Fetch the images of the imported products, and print which stay where they are."""
    options, progress = load_settings(), ImageProgress()
    objects, processor = factory.create_object_storage(options), ImageProcessor(options.max_image_pixels)
    client = SafeHttpClient(NetworkPolicy(options.networks()))
    images = RemoteImages(database, objects, processor, client, options.max_image_bytes, options.base_url())
    owner_id = await configs.load_owner_id(database, config_id)
    async with objects.running(), processor.running(), client.running(), images.session(config_id, owner_id) as session:
        while not progress.is_full and (keys := handles.list_handles(progress.after, MAX_PAGE_PRODUCTS)):
            async for issues in fetch_images_of_products(database, images, session, config_id, keys, progress):
                for issue in issues:
                    err.print(f"{issue.handle}: {issue.problem}", markup=False, highlight=False)
            progress.after = keys[-1]
    out.print(f"Images fetched {progress.fetched:,}, not fetched {progress.failed:,}.")


def _export_file(url: str, file: Path, slug: str, **options: Any) -> None:
    async def run_export(database: Database) -> ExportSummary:
        config_id, summary = await _require_store(database, slug), ExportSummary()
        total = await exports.count_products(database, config_id)
        # Write to a temporary file first: an interrupted export must not destroy an existing file.
        temporary_file = file.with_name(f".{file.name}.unfinished")
        with temporary_file.open("wb") as target, _counting_progress(file.name, total, "products") as update_bar:
            async for chunk in exports.export_products(database, config_id, **options, summary=summary):
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


class ImportReport:
    """What an import changes and rejects: a table of the first changes, and a CSV file of all."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._shown = list[tuple[str, ...]]()
        self._change_count = 0
        self._write_row(REPORT_COLUMNS)

    @classmethod
    @contextmanager
    def open(cls, path: Path | None) -> Iterator["ImportReport"]:
        """A report, with a file if there is a path."""
        if path is None:
            yield cls(None)
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            yield cls(file)

    def add_changes(self, changes: Sequence[ProductChange]) -> None:
        """Add what a batch changes."""
        for product in changes:
            for row in build_change_rows(product):
                self._change_count += 1
                if len(self._shown) < MAX_SHOWN_CHANGES:
                    self._shown.append(row)
                self._write_row(row)

    def add_summary(self, summary: ImportSummary) -> None:
        """Add how the file was read, and the rows that were rejected."""
        for row in (*build_reading_rows(summary.file), *map(build_error_row, summary.row_errors)):
            self._write_row(row)

    def print_changes(self) -> None:
        """Print the table of changes, and start the next one."""
        table = Table(*REPORT_COLUMNS, box=None, pad_edge=False)
        for column in table.columns:
            column.overflow = "fold"
        for row in self._shown:
            table.add_row(*map(escape, row))
        if self._shown:
            out.print(table, highlight=False)
        if (omitted := self._change_count - len(self._shown)) > 0:
            out.print(f"… and {omitted:,} more changes: --report writes all of them to a file.")
        self._shown, self._change_count = [], 0

    def _write_row(self, row: Sequence[str]) -> None:
        if self._file:
            self._file.write(render_rows([row]))


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
    if (omitted := summary.rejected - sum(rejection.row_count for rejection in summary.row_errors)) > 0:
        err.print(f"… and {omitted:,} more rows.")
    for column, count in summary.ignored_columns.items():
        err.print(f"{file.name}: column {column} is not imported: {count:,} cells", markup=False, highlight=False)
    if reading := describe_reading(summary.file):
        out.print(f"{file.name}: {', '.join(f'{name} {value}' for name, value in reading.items())}.", markup=False)
    prefix = "would be " if dry_run else ""
    out.print(
        f"{file.name}: {summary.rows:,} rows; {prefix}created {summary.created:,}, {prefix}updated {summary.updated:,}, "
        f"unchanged {summary.unchanged:,}, rows rejected {summary.rejected:,}."
    )
    if summary.stop:
        fail(f"{file.name}: {summary.stop.problem}")
