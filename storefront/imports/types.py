"""GraphQL types of import and export jobs."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.batches import build_reference_batch
from storefront.graph.context import Info
from storefront.graph.pagination import After, Connection, First
from storefront.graph.rows import as_row
from storefront.graph.scalars import Position, format_datetime
from storefront.graph.types.catalogue import Config
from storefront.models.rows import FileJobRow, JobRow

# Seconds until the presigned URL of an exported file expires.
DOWNLOAD_URL_SECONDS = 3_600


@strawberry.enum(description="The status of a job.")
class JobStatus(Enum):
    QUEUED = strawberry.enum_value("queued", description="Waits for a worker, or for a retry.")
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = strawberry.enum_value("failed", description="`error` says why. Products imported until then stay.")
    CANCELLED = strawberry.enum_value("cancelled", description="Products imported until then stay.")


@strawberry.enum
class ImportSource(Enum):
    SHOPIFY_CSV = strawberry.enum_value("shopify_csv", description="An uploaded file in the format of Shopify's product export.")
    SHOPIFY_STORE = strawberry.enum_value("shopify_store", description="The shop that is connected in `integrations.shopify`.")


@strawberry.type(description="Why a job failed, or is retried.")
class JobError:
    message: str = strawberry.field(description="For users: what is wrong, and how to fix it.")
    field: str | None = strawberry.field(description="The field at fault, such as integrations.shopify.accessToken.")


@strawberry.type(description="A rejected row.")
class JobIssue:
    row: int | None = strawberry.field(description="The line in the file, where the header is line 1; the row number for a shop.")
    handle: str | None
    field: str | None = strawberry.field(description="The column at fault, as the source spells it. Null: the whole row.")
    message: str


@strawberry.type
class JobIssueConnection(Connection[JobIssue]):
    """A page of rejected rows."""


async def _resolve_issues(
    jobs: Sequence[JobRow], info: Info, first: First = 20, after: After = None
) -> Sequence[JobIssueConnection]:
    window = arguments.build_window(first, after)
    pages = await info.context.load_many(loaders.load_job_issues, [row.id for row in jobs], window)
    return [
        JobIssueConnection(page=page, count=_build_issue_counter(info, row.id)) for row, page in zip(jobs, pages, strict=True)
    ]


def _build_issue_counter(info: Info, job_id: str) -> Callable[[], Awaitable[int]]:
    return lambda: info.context.load(loaders.count_job_issues, job_id)


def _resolve_error(self: "ImportJob | ExportJob") -> JobError | None:
    error = as_row(self, JobRow).error
    return JobError(message=error["message"], field=error.get("field")) if error else None


def _resolve_progress(self: "ImportJob | ExportJob") -> float | None:
    row = as_row(self, JobRow)
    if row.status == "succeeded":
        return 1.0
    return min(row.done / row.total, 1.0) if row.total else None


PROGRESS_DESCRIPTION = "From 0 to 1; null while the total is unknown."


@strawberry.type(description="An import of products into a store.")
class ImportJob:
    id: strawberry.ID
    status: JobStatus
    source: ImportSource
    file_name: str | None
    progress: float | None = strawberry.field(resolver=_resolve_progress, description=PROGRESS_DESCRIPTION)
    rows: int = strawberry.field(description="Rows that were read so far, without the header.")
    created: int = strawberry.field(description="Created products.")
    updated: int
    unchanged: int
    rejected: int = strawberry.field(description="Rejected rows.")
    error: JobError | None = strawberry.field(resolver=_resolve_error)
    position: Position | None = strawberry.field(description="Position of the last change by this import in the store's log.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @strawberry.field(description="Whether it is a dry run.")
    def preview(self) -> bool:
        return bool(as_row(self, JobRow).options.get("preview"))

    config: Config = batch_field(build_reference_batch(loaders.load_configs, "config_id", "store"))

    issues: JobIssueConnection = batch_field(
        _resolve_issues, description="The first 1,000 rejected rows, in the order of the source."
    )


@strawberry.type(description="A presigned URL to download a file. It needs no credentials.")
class Download:
    url: str
    expires_at: datetime
    file_name: str
    size: int = strawberry.field(description="Size of the file in bytes.")


@strawberry.type(description="An export of a store's products.")
class ExportJob:
    id: strawberry.ID
    status: JobStatus
    progress: float | None = strawberry.field(resolver=_resolve_progress, description=PROGRESS_DESCRIPTION)
    error: JobError | None = strawberry.field(resolver=_resolve_error)
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @strawberry.field(description="Products that were exported so far.")
    def products(self) -> int:
        return int(as_row(self, JobRow).done)

    @strawberry.field(description="The file of a successful export, as a new presigned URL for each request; else null.")
    def download(self, info: Info) -> Download | None:
        row = as_row(self, FileJobRow)
        if row.status != "succeeded":
            return None
        name = f"products-{str(row.finished_at)[:10]}.csv"
        url = info.context.media_config.objects.presign_get(row.object_key, seconds=DOWNLOAD_URL_SECONDS, filename=name)
        expires = format_datetime(datetime.now(UTC) + timedelta(seconds=DOWNLOAD_URL_SECONDS))
        return Download(url=url, expires_at=expires, file_name=name, size=row.object_size)

    config: Config = batch_field(build_reference_batch(loaders.load_configs, "config_id", "store"))

    issues: JobIssueConnection = batch_field(
        _resolve_issues, description="Products that CSV cannot represent, which the file leaves out."
    )


@strawberry.type
class ImportJobConnection(Connection[ImportJob]):
    """A page of imports."""


@strawberry.type
class ExportJobConnection(Connection[ExportJob]):
    """A page of exports."""
