"""GraphQL types of jobs: imports and exports of products."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, cast

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.batches import build_reference_batch, load_for_owned_stores
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.limits import limits
from storefront.graph.pagination import After, Connection, First
from storefront.graph.rows import as_row
from storefront.graph.scalars import FileSize, Position, format_datetime
from storefront.graph.types.node import Node
from storefront.models.row_keys import RowKey, list_keys
from storefront.models.rows import ConfigRow, FileJobRow, JobRow

if TYPE_CHECKING:
    from storefront.graph.types.catalogue import Config

# Seconds until the presigned URL of an exported file expires.
DOWNLOAD_URL_SECONDS = 3_600


@strawberry.enum(description="Kind of a job. More values may be added.")
class JobKind(Enum):
    IMPORT = strawberry.enum_value("import", description="`ImportJob`")
    EXPORT = strawberry.enum_value("export", description="`ExportJob`")


@strawberry.enum(description="Status of a job.")
class JobStatus(Enum):
    QUEUED = strawberry.enum_value("queued", description="Waits to be started, continued or retried.")
    RUNNING = strawberry.enum_value("running", description="Is running.")
    SUCCEEDED = strawberry.enum_value("succeeded", description="Has finished.")
    FAILED = strawberry.enum_value("failed", description="Has stopped because of `error`. What was done until then is kept.")
    CANCELLED = strawberry.enum_value("cancelled", description="Was cancelled. What was done until then is kept.")


@strawberry.enum(description="Where imported products come from. More values may be added.")
class ImportSource(Enum):
    SHOPIFY_CSV = strawberry.enum_value(
        "shopify_csv", description="An uploaded file of products, of Shopify or of another format, recognised by its columns."
    )
    SHOPIFY_STORE = strawberry.enum_value("shopify_store", description="The Shopify shop of `integrations.shopify`.")


@strawberry.enum(description="What separates the decimals of numbers in a file.")
class DecimalSeparator(Enum):
    AUTO = strawberry.enum_value(
        "auto", description="A comma in columns that leave no doubt, or else a point. Other numbers are rejected."
    )
    POINT = strawberry.enum_value("point", description="A point; commas group thousands.")
    COMMA = strawberry.enum_value("comma", description="A comma; points group thousands.")


@strawberry.enum(description="Whose product file an imported file is. More values may be added.")
class FileFormat(Enum):
    SHOPIFY = strawberry.enum_value("shopify", description="Shopify's CSV.")
    MATRIXIFY = strawberry.enum_value("matrixify", description="Matrixify's sheet of products.")
    WOOCOMMERCE = strawberry.enum_value("woocommerce", description="WooCommerce's CSV.")
    MEDUSA = strawberry.enum_value("medusa", description="Medusa's template.")
    VENDURE = strawberry.enum_value("vendure", description="Vendure's template.")
    PLAIN = strawberry.enum_value("plain", description="A plain sheet with columns such as `sku`, `price` and `stock`.")
    JSON_LINES = strawberry.enum_value("json_lines", description="JSON Lines, as exports write them.")


@strawberry.type(description="How an imported file was read.")
class FileReading:
    format: FileFormat = strawberry.field(description="Whose file it is, recognised by its columns.")
    encoding: str = strawberry.field(description="Encoding of the text: UTF-8, UTF-8 with BOM, UTF-16 or Windows-1252.")
    delimiter: str | None = strawberry.field(description="Character between the cells of a row; null for JSON Lines.")
    entry: str | None = strawberry.field(description="Name of the file in its archive, or of the sheet in its workbook.")
    decimal_comma_columns: list[str] = strawberry.field(
        description="Columns whose numbers have decimal commas.", metadata=costs(size=5)
    )


@strawberry.type(description="Why a job failed or is going to be retried.")
class JobError:
    message: str = strawberry.field(description="Human-readable explanation, including how to correct the cause.")
    path: list[str] = strawberry.field(
        description='The setting to correct: ["integrations", "shopify", "accessToken"]. Empty if it is not a setting.'
    )


@strawberry.type(description="A row or product that a job could not process.")
class JobIssue:
    row: int | None = strawberry.field(
        description="Line of the file, where the header is line 1, or number of the product in the connected shop."
    )
    handle: str | None = strawberry.field(description="Handle of the product, if known.")
    field: str | None = strawberry.field(
        name="column", description="Column as it is named in the source; null for the whole row."
    )
    message: str = strawberry.field(description="Human-readable explanation.")


@strawberry.type(description="A page of issues.")
class JobIssueConnection(Connection[JobIssue]):
    pass


async def _load_issues(
    jobs: Sequence[JobRow], info: Info, first: First = 20, after: After = None
) -> Sequence[JobIssueConnection]:
    window, keys = arguments.build_window(first, after), list_keys(jobs)
    pages = await info.context.load_many(loaders.load_job_issues, keys, window)
    return [JobIssueConnection(page=page, count=_build_issue_counter(info, key)) for key, page in zip(keys, pages, strict=True)]


def _build_issue_counter(info: Info, key: RowKey) -> Callable[[], Awaitable[int]]:
    return lambda: info.context.load(loaders.count_job_issues, key)


@strawberry.enum(description="Kind of a change that an import makes. More values may be added.")
class ImportChangeKind(Enum):
    CREATE_PRODUCT = strawberry.enum_value("create_product", description="A product is created; `newValue` is its title.")
    UPDATE_PRODUCT = strawberry.enum_value("update_product", description="A field of a product is changed.")
    CREATE_VARIANT = strawberry.enum_value("create_variant", description="A variant is created; `newValue` is its price.")
    UPDATE_VARIANT = strawberry.enum_value("update_variant", description="A field of a variant is changed.")
    DELETE_VARIANT = strawberry.enum_value("delete_variant", description="A variant is deleted; `oldValue` is its price.")


@strawberry.type(description="A change that an import makes.")
class ImportChange:
    row: int = strawberry.field(description="Row of the source where the product begins.")
    handle: str = strawberry.field(description="Handle of the product.")
    kind: ImportChangeKind = strawberry.field(description="Kind of the change.")
    variant: str | None = strawberry.field(description="Name of the variant; null for a change of the product itself.")
    field: str | None = strawberry.field(description="Name of the field; null if a product or variant is created or deleted.")
    old_value: str | None = strawberry.field(description="Value before the change, as text, truncated to 255 characters.")
    new_value: str | None = strawberry.field(description="Value after the change, as text, truncated to 255 characters.")


@strawberry.type(description="A page of changes.")
class ImportChangeConnection(Connection[ImportChange]):
    pass


async def _load_changes(
    jobs: Sequence[JobRow], info: Info, first: First = 20, after: After = None
) -> Sequence[ImportChangeConnection]:
    window, keys, context = arguments.build_window(first, after), list_keys(jobs), info.context
    pages = await context.load_many(loaders.load_job_changes, keys, window)
    return [
        ImportChangeConnection(page=page, count=partial(context.load, loaders.count_job_changes, key))
        for key, page in zip(keys, pages, strict=True)
    ]


@strawberry.type(description="A column of a file that is not imported.")
class IgnoredColumn:
    name: str = strawberry.field(description="Name of the column.")
    cells: int = strawberry.field(description="Number of its cells that are not empty.")


@strawberry.interface(description="A long-running task of a store. Owner only.")
class Job(Node):
    kind: JobKind = strawberry.field(description="Kind of the job.")
    status: JobStatus = strawberry.field(description="Status of the job.")

    @strawberry.field(description="Progress from 0 to 1; null if the amount of work is not known.")
    def progress(self) -> float | None:
        row = as_row(self, JobRow)
        if row.status == "succeeded":
            return 1.0
        return min(row.done / row.total, 1.0) if row.total else None

    @strawberry.field(description="Why the job failed or is going to be retried.")
    def error(self) -> JobError | None:
        error = as_row(self, JobRow).error
        return JobError(message=error["message"], path=_split_path(error.get("field"))) if error else None

    created_at: datetime = strawberry.field(description="When the job was created.")
    started_at: datetime | None = strawberry.field(description="When the job was started.")
    finished_at: datetime | None = strawberry.field(description="When the job succeeded, failed or was cancelled.")

    config: Annotated["Config", strawberry.lazy("storefront.graph.types.catalogue")] = batch_field(
        build_reference_batch(loaders.load_configs, attrgetter("config_id"), "store"), description="The store."
    )

    issues: JobIssueConnection = batch_field(
        _load_issues, description="Rows or products that could not be processed, in order; the first 1,000."
    )

    @staticmethod
    def resolve_type(row: Any, *_: Any) -> str:
        """The name of the object type of a job's row."""
        return _TYPE_NAMES_BY_KIND[row.kind]


_TYPE_NAMES_BY_KIND = {"import": "ImportJob", "export": "ExportJob"}


def _split_path(field: str | None) -> list[str]:
    return field.split(".") if field else []


@strawberry.type(description="A file to download, without signing in.")
class Download:
    url: str = strawberry.field(description="URL of the file.")
    expires_at: datetime = strawberry.field(description="When the URL expires.")
    file_name: str = strawberry.field(description="Suggested file name.")
    size: FileSize = strawberry.field(description="Size of the file.")


def _build_download(info: Info, row: FileJobRow, file_name: str) -> Download:
    objects = info.context.media_config.objects
    url = objects.presign_get(row.object_key, seconds=DOWNLOAD_URL_SECONDS, filename=file_name)
    expires = format_datetime(datetime.now(UTC) + timedelta(seconds=DOWNLOAD_URL_SECONDS))
    return Download(url=url, expires_at=expires, file_name=file_name, size=FileSize(row.object_size))


@strawberry.type(description="An import of products.")
class ImportJob(Job):
    source: ImportSource = strawberry.field(description="Where the products come from.")
    file_name: str | None = strawberry.field(description="Name of the uploaded file; null for other sources.")

    @strawberry.field(description="Whether the import only reports what it would do.")
    def is_dry_run(self) -> bool:
        return bool(as_row(self, JobRow).options.get("preview"))

    @strawberry.field(description="Whether variants that the source does not have are deleted.")
    def deletes_missing_variants(self) -> bool:
        return bool(as_row(self, JobRow).options.get("deleteMissingVariants"))

    @strawberry.field(description="Whether images that are hosted elsewhere are fetched.")
    def fetches_images(self) -> bool:
        return bool(as_row(self, JobRow).options.get("fetchImages"))

    @strawberry.field(
        description="Whether the products are imported, and their images are being fetched or wait for it. The next job of the "
        "store may run meanwhile. False once the import has finished."
    )
    def is_fetching_images(self) -> bool:
        row = as_row(self, JobRow)
        return row.is_fetching_images and row.finished_at is None

    @strawberry.field(description="Number of images that were fetched so far.")
    def images_fetched(self) -> int:
        return int((as_row(self, JobRow).checkpoint or {}).get("images", {}).get("fetched", 0))

    @strawberry.field(description="How the file was read; null before, and for other sources.")
    def reading(self) -> FileReading | None:
        file = (as_row(self, JobRow).checkpoint or {}).get("file")
        if file is None:
            return None
        return FileReading(
            # As an enum in a row.
            format=cast(FileFormat, file["format"]),
            encoding=file["encoding"],
            delimiter=file["delimiter"],
            entry=file["entry"],
            decimal_comma_columns=file["decimalCommaColumns"],
        )

    @strawberry.field(
        description="Columns of the file that are not imported and have cells that are not empty, so far; the first 250.",
        metadata=costs(size=20),
    )
    def ignored_columns(self) -> list[IgnoredColumn]:
        columns = (as_row(self, JobRow).checkpoint or {}).get("ignoredColumns", {})
        return [IgnoredColumn(name=name, cells=cells) for name, cells in columns.items()]

    changes: ImportChangeConnection = batch_field(
        _load_changes,
        description="What a dry run would change, in the order of the source; the first 100,000. Empty for other imports.",
    )

    @strawberry.field(
        description="What a dry run would change and reject, as a CSV file, once it has succeeded. Each request returns a new "
        "URL. Null for other imports."
    )
    def report(self, info: Info) -> Download | None:
        row = as_row(self, JobRow)
        if row.status != "succeeded" or not row.options.get("preview"):
            return None
        return _build_download(info, as_row(self, FileJobRow), f"import-{str(row.finished_at)[:10]}.csv")

    rows: int = strawberry.field(name="rowsRead", description="Rows read so far, without the header.")
    rejected: int = strawberry.field(name="rowsRejected", description="Rows that could not be imported so far; see `issues`.")
    created: int = strawberry.field(name="productsCreated", description="Products created so far.")
    updated: int = strawberry.field(name="productsUpdated", description="Products updated so far.")
    unchanged: int = strawberry.field(name="productsUnchanged", description="Products that were the same already.")
    position: Position | None = strawberry.field(description="Log position of the latest change; null if there is none.")


@strawberry.enum(description="Format of an exported file. More values may be added.")
class ExportFormat(Enum):
    SHOPIFY_CSV = strawberry.enum_value("shopify_csv", description="Shopify's CSV.")
    JSON_LINES = strawberry.enum_value(
        "json_lines", description="A product with all of its fields in each line, as JSON. An import restores it exactly."
    )


_FILE_SUFFIXES = {"shopify_csv": "csv", "json_lines": "jsonl"}


@strawberry.type(description="An export of products to a file.")
class ExportJob(Job):
    @strawberry.field(description="Format of the file.")
    def format(self) -> ExportFormat:
        return cast(ExportFormat, as_row(self, JobRow).options.get("format", "shopify_csv"))

    # Not `done: int`: of an import it is part of the source, in bytes or products.
    @strawberry.field(description="Products written so far.")
    def products_written(self) -> int:
        return int(as_row(self, JobRow).done)

    @strawberry.field(description="The file, once the job has succeeded. Each request returns a new URL.")
    def download(self, info: Info) -> Download | None:
        row = as_row(self, JobRow)
        if row.status != "succeeded":
            return None
        name = f"products-{str(row.finished_at)[:10]}.{_FILE_SUFFIXES[row.options.get('format', 'shopify_csv')]}"
        return _build_download(info, as_row(self, FileJobRow), name)


@strawberry.type(description="A page of jobs.")
class JobConnection(Connection[Job]):
    pass


JobKinds = Annotated[
    list[JobKind] | None,
    strawberry.argument(description="Limits the jobs to some kinds.", metadata=limits(items=len(JobKind))),
]


async def load_jobs_of_stores(
    stores: Sequence[ConfigRow], info: Info, kinds: JobKinds = None, first: First = 20, after: After = None
) -> Sequence[JobConnection | None]:
    """A page of each store's jobs; None for stores of others."""
    window, context = arguments.build_window(first, after), info.context
    # Sorted, so that equal arguments share one batch. An empty list is no condition, as in filters.
    kind_values = tuple(sorted({str(kind.value) for kind in kinds})) if kinds else None
    pages = await load_for_owned_stores(
        info, stores, lambda ids: context.load_many(loaders.load_config_jobs, ids, window, kind_values)
    )
    return [
        None
        if page is None
        else JobConnection(page=page, count=partial(context.load, loaders.count_config_jobs, row.id, kind_values))
        for row, page in zip(stores, pages, strict=True)
    ]
