"""Imports and exports as their owners see them."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, cast

import strawberry

from storefront.core.db.database import Row
from storefront.execution.batch_field import batch_field
from storefront.graph import arguments, loaders
from storefront.graph.context import Info
from storefront.graph.pagination import Connection
from storefront.graph.scalars import Position, format_datetime
from storefront.graph.types import After, Config, First, build_reference_batch

# Seconds for which the address of a finished export is good.
DOWNLOAD_URL_SECONDS = 3_600


@strawberry.enum(description="How a job stands.")
class JobStatus(Enum):
    QUEUED = strawberry.enum_value("queued", description="It waits: for its turn, or to be tried again.")
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = strawberry.enum_value("failed", description="`error` says why. What was imported until then stays.")
    CANCELLED = strawberry.enum_value("cancelled", description="What was imported until then stays.")


@strawberry.enum
class ImportSource(Enum):
    SHOPIFY_CSV = strawberry.enum_value("shopify_csv", description="An uploaded file, as Shopify exports products.")
    SHOPIFY_STORE = strawberry.enum_value("shopify_store", description="The shop that is connected in `integrations.shopify`.")


@strawberry.type(description="Why a job failed, or has to be tried again.")
class JobError:
    message: str = strawberry.field(description="For people: what is wrong and how to mend it.")
    field: str | None = strawberry.field(description="What it is about, such as integrations.shopify.accessToken.")


@strawberry.type(description="A row that was left out.")
class JobIssue:
    row: int | None = strawberry.field(description="Of a file its line, the header being line 1; of a shop its number.")
    handle: str | None
    field: str | None = strawberry.field(description="The column, as the source spells it. Null: the whole row.")
    message: str


@strawberry.type
class JobIssueConnection(Connection[JobIssue]):
    """A page of rows that were left out."""


async def _resolve_issues(
    jobs: Sequence[Row], info: Info, first: First = 20, after: After = None
) -> Sequence[JobIssueConnection]:
    window = arguments.build_window(first, after)
    pages = await info.context.load_many(loaders.load_job_issues, [row.id for row in jobs], window)
    return [
        JobIssueConnection(page=page, count=_build_issue_counter(info, row.id)) for row, page in zip(jobs, pages, strict=True)
    ]


def _build_issue_counter(info: Info, job_id: str) -> Callable[[], Awaitable[int]]:
    return lambda: info.context.load(loaders.count_job_issues, job_id)


def _resolve_error(self: Any) -> JobError | None:
    error = cast(Row, self).error
    return JobError(message=error["message"], field=error.get("field")) if error else None


def _resolve_progress(self: Any) -> float | None:
    row = cast(Row, self)
    if row.status == "succeeded":
        return 1.0
    return min(row.done / row.total, 1.0) if row.total else None


PROGRESS_DESCRIPTION = "From 0 to 1; null where it is not known how much there is to do."


@strawberry.type(description="An import of products into a store.")
class ImportJob:
    id: strawberry.ID
    status: JobStatus
    source: ImportSource
    file_name: str | None
    progress: float | None = strawberry.field(resolver=_resolve_progress, description=PROGRESS_DESCRIPTION)
    rows: int = strawberry.field(description="Those that were read so far, without a header.")
    created: int = strawberry.field(description="Products.")
    updated: int
    unchanged: int
    rejected: int = strawberry.field(description="Rows.")
    error: JobError | None = strawberry.field(resolver=_resolve_error)
    position: Position | None = strawberry.field(description="Where the store's log stood with the last change of it.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @strawberry.field(description="Whether it only tells what it would do.")
    def preview(self) -> bool:
        return bool(cast(Row, self).options.get("preview"))

    config: Config = batch_field(build_reference_batch(loaders.load_configs, "config_id", "store"))

    issues: JobIssueConnection = batch_field(
        _resolve_issues, description="Rows that were left out, in their order: the first 1,000."
    )


@strawberry.type(description="An address to download a file from. Whoever has it may.")
class Download:
    url: str
    expires_at: datetime
    file_name: str
    size: int = strawberry.field(description="In bytes.")


@strawberry.type(description="An export of a store's products.")
class ExportJob:
    id: strawberry.ID
    status: JobStatus
    progress: float | None = strawberry.field(resolver=_resolve_progress, description=PROGRESS_DESCRIPTION)
    error: JobError | None = strawberry.field(resolver=_resolve_error)
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @strawberry.field(description="Products that were written so far.")
    def products(self) -> int:
        return int(cast(Row, self).done)

    @strawberry.field(description="The file, once it is there: a new address each time that it is asked for.")
    def download(self, info: Info) -> Download | None:
        row = cast(Row, self)
        if row.status != "succeeded":
            return None
        name = f"products-{str(row.finished_at)[:10]}.csv"
        url = info.context.media_config.objects.presign_get(row.object_key, seconds=DOWNLOAD_URL_SECONDS, filename=name)
        expires = format_datetime(datetime.now(UTC) + timedelta(seconds=DOWNLOAD_URL_SECONDS))
        return Download(url=url, expires_at=expires, file_name=name, size=row.object_size)

    config: Config = batch_field(build_reference_batch(loaders.load_configs, "config_id", "store"))

    issues: JobIssueConnection = batch_field(
        _resolve_issues, description="Products that no file can tell, and that are not in it."
    )


@strawberry.type
class ImportJobConnection(Connection[ImportJob]):
    """A page of imports."""


@strawberry.type
class ExportJobConnection(Connection[ExportJob]):
    """A page of exports."""
