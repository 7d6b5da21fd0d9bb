"""GraphQL types of jobs: imports and exports of products."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import strawberry

from storefront.core.db.database import Row
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.batches import build_reference_batch, load_for_owned_stores
from storefront.graph.context import Info
from storefront.graph.limits import limits
from storefront.graph.pagination import After, Connection, First
from storefront.graph.scalars import FileSize, Position, format_datetime
from storefront.graph.types.node import Node

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
    QUEUED = strawberry.enum_value("queued", description="Waits to be started or retried.")
    RUNNING = strawberry.enum_value("running", description="Is running.")
    SUCCEEDED = strawberry.enum_value("succeeded", description="Has finished.")
    FAILED = strawberry.enum_value("failed", description="Has stopped because of `error`. What was done until then is kept.")
    CANCELLED = strawberry.enum_value("cancelled", description="Was cancelled. What was done until then is kept.")


@strawberry.enum(description="Where imported products come from. More values may be added.")
class ImportSource(Enum):
    SHOPIFY_CSV = strawberry.enum_value("shopify_csv", description="An uploaded CSV file in Shopify's format.")
    SHOPIFY_STORE = strawberry.enum_value("shopify_store", description="The Shopify shop of `integrations.shopify`.")


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


async def _load_issues(jobs: Sequence[Row], info: Info, first: First = 20, after: After = None) -> Sequence[JobIssueConnection]:
    window = arguments.build_window(first, after)
    pages = await info.context.load_many(loaders.load_job_issues, [row.id for row in jobs], window)
    return [
        JobIssueConnection(page=page, count=_build_issue_counter(info, row.id)) for row, page in zip(jobs, pages, strict=True)
    ]


def _build_issue_counter(info: Info, job_id: str) -> Callable[[], Awaitable[int]]:
    return lambda: info.context.load(loaders.count_job_issues, job_id)


@strawberry.interface(description="A long-running task of a store. Owner only.")
class Job(Node):
    kind: JobKind = strawberry.field(description="Kind of the job.")
    status: JobStatus = strawberry.field(description="Status of the job.")

    @strawberry.field(description="Progress from 0 to 1; null if the amount of work is not known.")
    def progress(self) -> float | None:
        row = cast(Row, self)
        if row.status == "succeeded":
            return 1.0
        return min(row.done / row.total, 1.0) if row.total else None

    @strawberry.field(description="Why the job failed or is going to be retried.")
    def error(self) -> JobError | None:
        error = cast(Row, self).error
        return JobError(message=error["message"], path=_split_path(error.get("field"))) if error else None

    created_at: datetime = strawberry.field(description="When the job was created.")
    started_at: datetime | None = strawberry.field(description="When the job was started.")
    finished_at: datetime | None = strawberry.field(description="When the job succeeded, failed or was cancelled.")

    config: Annotated["Config", strawberry.lazy("storefront.graph.types.catalogue")] = batch_field(
        build_reference_batch(loaders.load_configs, "config_id", "store"), description="The store."
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


@strawberry.type(description="An import of products.")
class ImportJob(Job):
    source: ImportSource = strawberry.field(description="Where the products come from.")
    file_name: str | None = strawberry.field(description="Name of the uploaded file; null for other sources.")

    @strawberry.field(description="Whether the import only reports what it would do.")
    def is_dry_run(self) -> bool:
        return bool(cast(Row, self).options.get("preview"))

    rows: int = strawberry.field(name="rowsRead", description="Rows read so far, without the header.")
    rejected: int = strawberry.field(name="rowsRejected", description="Rows that could not be imported so far; see `issues`.")
    created: int = strawberry.field(name="productsCreated", description="Products created so far.")
    updated: int = strawberry.field(name="productsUpdated", description="Products updated so far.")
    unchanged: int = strawberry.field(name="productsUnchanged", description="Products that were the same already.")
    position: Position | None = strawberry.field(description="Log position of the latest change; null if there is none.")


@strawberry.type(description="A file to download, without signing in.")
class Download:
    url: str = strawberry.field(description="URL of the file.")
    expires_at: datetime = strawberry.field(description="When the URL expires.")
    file_name: str = strawberry.field(description="Suggested file name.")
    size: FileSize = strawberry.field(description="Size of the file.")


@strawberry.type(description="An export of products as a CSV file in Shopify's format.")
class ExportJob(Job):
    # Not `done: int`: of an import it is part of the source, in bytes or products.
    @strawberry.field(description="Products written so far.")
    def products_written(self) -> int:
        return int(cast(Row, self).done)

    @strawberry.field(description="The file, once the job has succeeded. Each request returns a new URL.")
    def download(self, info: Info) -> Download | None:
        row = cast(Row, self)
        if row.status != "succeeded":
            return None
        name = f"products-{str(row.finished_at)[:10]}.csv"
        url = info.context.media_config.objects.presign_get(row.object_key, seconds=DOWNLOAD_URL_SECONDS, filename=name)
        expires = format_datetime(datetime.now(UTC) + timedelta(seconds=DOWNLOAD_URL_SECONDS))
        return Download(url=url, expires_at=expires, file_name=name, size=row.object_size)


@strawberry.type(description="A page of jobs.")
class JobConnection(Connection[Job]):
    pass


JobKinds = Annotated[
    list[JobKind] | None,
    strawberry.argument(description="Limits the jobs to some kinds.", metadata=limits(items=len(JobKind))),
]


async def load_jobs_of_stores(
    stores: Sequence[Row], info: Info, kinds: JobKinds = None, first: First = 20, after: After = None
) -> Sequence[JobConnection | None]:
    """A page of each store's jobs; None for stores of others."""
    window, context = arguments.build_window(first, after), info.context
    # Sorted, so that equal arguments share one batch.
    kind_values = None if kinds is None else tuple(sorted({str(kind.value) for kind in kinds}))
    pages = await load_for_owned_stores(
        info, stores, lambda ids: context.load_many(loaders.load_config_jobs, ids, window, kind_values)
    )
    return [
        None
        if page is None
        else JobConnection(page=page, count=partial(context.load, loaders.count_config_jobs, row.id, kind_values))
        for row, page in zip(stores, pages, strict=True)
    ]
