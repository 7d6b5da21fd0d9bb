"""Query and subscription fields of jobs."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, cast

import strawberry

from storefront.core.db.database import DATABASE_ERRORS
from storefront.core.errors import Forbidden, NotFound
from storefront.graph import arguments
from storefront.graph.context import Context, Info
from storefront.graph.types.jobs import Job
from storefront.imports.jobs.queue import PROGRESS_POLL_INTERVAL_SECONDS, TERMINAL_STATUSES
from storefront.models.rows import OwnedJobRow
from storefront.queries import jobs
from storefront.queries.store_lookup import find_row_key

JobId = Annotated[strawberry.ID, strawberry.argument(description="ID of the job.")]


@strawberry.type
class JobQuery:
    @strawberry.field(description="An import or export; null if it does not exist. Owner only.")
    async def job(self, info: Info, id: JobId) -> Job | None:
        return cast(Job | None, await _load_job(info.context, arguments.check_id(id, "id")))


@strawberry.type
class JobSubscription:
    @strawberry.subscription(
        description="An import or export: at once, then when it makes progress. Completes when the job is finished. Owner only."
    )
    async def job_progress(self, info: Info, id: JobId) -> AsyncGenerator[Job, None]:
        async for row in _watch_job(info.context, arguments.check_id(id, "id")):
            yield row


async def _watch_job(context: Context, job_id: str) -> AsyncGenerator[Any, None]:
    """Yield the job at once and after each change. Ends when it is finished, or the viewer no longer owns the store."""
    row = await _load_job(context, job_id)
    if row is None:
        raise NotFound(f"id: there is no job of a store of yours with the id {job_id}.", "id")
    last_sent = None
    while row is not None:
        if row != last_sent:
            yield row
        if row.status in TERMINAL_STATUSES:
            return
        last_sent = row
        await context.feed.keyed_events.wait(job_id, PROGRESS_POLL_INTERVAL_SECONDS)
        row = await _reload_job(context, job_id, row)


async def _reload_job(context: Context, job_id: str, fallback: OwnedJobRow) -> OwnedJobRow | None:
    try:
        return await _load_job(context, job_id)
    except Forbidden:
        return None
    except DATABASE_ERRORS:
        # The database is not available: try again at the next poll.
        return fallback


async def _load_job(context: Context, job_id: str) -> OwnedJobRow | None:
    """A job of the viewer, or None. Raises Forbidden for a job of another user's published store."""
    viewer = context.require_viewer()
    key = await find_row_key(context.database, job_id)
    row = await jobs.load_job(context.database, key) if key else None
    if row is None or row.status == "uploading":
        return None
    if row.owner_id == viewer.id:
        return row
    if row.is_published:
        raise Forbidden(f"id: this {row.kind} belongs to another user.", "id")
    return None
