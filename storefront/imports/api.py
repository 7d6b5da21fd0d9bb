"""Query and subscription fields of imports and exports."""

from collections.abc import AsyncGenerator
from typing import Any, cast

import strawberry

from storefront.core.db.database import DATABASE_ERRORS
from storefront.core.errors import Forbidden, NotFound
from storefront.graph import arguments, loaders
from storefront.graph.context import Context, Info
from storefront.graph.pagination import After, First
from storefront.imports.jobs.queue import PROGRESS_POLL_INTERVAL_SECONDS, TERMINAL_STATUSES
from storefront.imports.types import ExportJob, ExportJobConnection, ImportJob, ImportJobConnection
from storefront.models.rows import JobRow
from storefront.queries import jobs
from storefront.queries.keyset import Page


@strawberry.type
class JobQuery:
    @strawberry.field(description="An import into a store that the viewer owns, or null.")
    async def import_job(self, info: Info, id: strawberry.ID) -> ImportJob | None:
        return cast(ImportJob | None, await _load_job(info.context, arguments.check_id(id, "id"), "import"))

    @strawberry.field(description="The imports into a store that the viewer owns, newest first.")
    async def import_jobs(
        self, info: Info, config_id: strawberry.ID, first: First = 20, after: After = None
    ) -> ImportJobConnection | None:
        store, page = await _load_page(info, config_id, "import", first, after)
        return ImportJobConnection(page=page, count=lambda: jobs.count_jobs_of_store(info.context.database, store, "import"))

    @strawberry.field(description="An export of a store that the viewer owns, or null.")
    async def export_job(self, info: Info, id: strawberry.ID) -> ExportJob | None:
        return cast(ExportJob | None, await _load_job(info.context, arguments.check_id(id, "id"), "export"))

    @strawberry.field(description="The exports of a store that the viewer owns, newest first.")
    async def export_jobs(
        self, info: Info, config_id: strawberry.ID, first: First = 20, after: After = None
    ) -> ExportJobConnection | None:
        store, page = await _load_page(info, config_id, "export", first, after)
        return ExportJobConnection(page=page, count=lambda: jobs.count_jobs_of_store(info.context.database, store, "export"))


@strawberry.type
class JobSubscription:
    @strawberry.subscription(
        description="The progress of an import: its state at once, then each change. Completes when the import is finished."
    )
    async def import_progress(self, info: Info, id: strawberry.ID) -> AsyncGenerator[ImportJob, None]:
        async for row in _watch_job(info.context, arguments.check_id(id, "id"), "import"):
            yield row

    @strawberry.subscription(
        description="The progress of an export: its state at once, then each change. Completes when the export is finished."
    )
    async def export_progress(self, info: Info, id: strawberry.ID) -> AsyncGenerator[ExportJob, None]:
        async for row in _watch_job(info.context, arguments.check_id(id, "id"), "export"):
            yield row


async def _watch_job(context: Context, job_id: str, kind: str) -> AsyncGenerator[Any, None]:
    """Yield the job at once and after each change. Ends when it is finished, or the viewer no longer owns the store."""
    row = await _load_job(context, job_id, kind)
    if row is None:
        raise NotFound(f"id: there is no {kind} of a store of yours with the id {job_id}.", "id")
    last_sent = None
    while row is not None:
        if row != last_sent:
            yield row
        if row.status in TERMINAL_STATUSES:
            return
        last_sent = row
        await context.feed.keyed_events.wait(job_id, PROGRESS_POLL_INTERVAL_SECONDS)
        row = await _reload_job(context, job_id, kind, row)


async def _reload_job(context: Context, job_id: str, kind: str, fallback: JobRow) -> JobRow | None:
    try:
        return await _load_job(context, job_id, kind)
    except Forbidden:
        return None
    except DATABASE_ERRORS:
        # The database is not available: try again at the next poll.
        return fallback


async def _load_job(context: Context, job_id: str, kind: str) -> JobRow | None:
    """A job of the viewer, or None. Raises Forbidden for a job of another user's published store."""
    viewer = context.require_viewer()
    row = await jobs.load_job(context.database, job_id)
    if row is None or row.kind != kind or row.status == "uploading":
        return None
    if row.owner_id == viewer.id:
        return row
    if row.is_published:
        raise Forbidden(f"id: this {kind} belongs to another user.", "id")
    return None


async def _load_page(info: Info, config_id: str, kind: str, first: int, after: str | None) -> tuple[str, Page]:
    info.context.require_viewer()
    store = arguments.check_id(config_id, "configId")
    if store not in info.context.owned_store_ids:
        if await info.context.load(loaders.load_configs, store) is None:
            raise NotFound(f"configId: no store that you may see has the id {store}.", "configId")
        raise Forbidden(f"configId: only the store's owner may see its {kind}s.", "configId")
    return store, await jobs.load_jobs_of_store(info.context.database, store, kind, arguments.build_window(first, after))
