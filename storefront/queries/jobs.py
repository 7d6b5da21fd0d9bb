"""Jobs (imports and exports): by id, by store, and the issues of each."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.models import configs, job_issues, jobs
from storefront.models.rows import JobIssueRow, JobRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.paging import limit_newest, load_page_per_parent, select_per_parent
from storefront.queries.visibility import any_of_ids


async def load_job(database: Database, job_id: str) -> Row | None:
    """A job by id, with `owner_id` and `is_published` of its store. Does not check permissions."""
    rows = await database.fetch(_select_by_id(), {"id": job_id})
    return rows[0] if rows else None


@cache
def _select_by_id() -> Statement:
    joined = jobs.join(configs, configs.c.id == jobs.c.config_id)
    owner_columns = (configs.c.user_id.label("owner_id"), configs.c.is_published)
    return compile_statement(select(jobs, *owner_columns).select_from(joined).where(jobs.c.id == bindparam("id")))


async def load_jobs_by_ids(database: Database, keys: Sequence[str], owned_store_ids: Sequence[str]) -> list[JobRow | None]:
    """The job of each id, if it belongs to one of these stores; else None."""
    return align_by_key(await database.fetch(_select_own(), {"ids": list(keys), "stores": list(owned_store_ids)}), keys)


@cache
def _select_own() -> Statement:
    is_own = jobs.c.config_id == any_of_ids("stores")
    return compile_statement(select(jobs).where(jobs.c.id == any_of_ids("ids"), is_own, _IS_SUBMITTED))


async def load_jobs_of_stores(
    database: Database, keys: Sequence[str], window: keyset.Window, kinds: Sequence[str] | None
) -> list[keyset.Page]:
    """A page of each store's jobs, newest first. `kinds` filters them; None: all."""
    parameters = {"kinds": None if kinds is None else list(kinds)}
    return await load_page_per_parent(database, _select_of_stores, window, "jobs", keys, "config_id", parameters)


# An upload becomes a job when its import is requested.
_IS_SUBMITTED = jobs.c.status != "uploading"
_IS_OF_REQUESTED_KIND = text("(CAST(:kinds AS text[]) IS NULL OR jobs.kind = ANY (CAST(:kinds AS text[])))")


@cache
def _select_of_stores(has_cursor: bool) -> Statement:
    store_jobs = select(jobs).where(jobs.c.config_id == configs.c.id, _IS_OF_REQUESTED_KIND, _IS_SUBMITTED)
    page = limit_newest(store_jobs, jobs.c.created_at, jobs.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(configs, page))


async def count_jobs_of_stores(database: Database, keys: Sequence[str], kinds: Sequence[str] | None) -> list[int]:
    """The number of jobs of each store, of some kinds or (None) of all."""
    parameters = {"ids": list(keys), "kinds": None if kinds is None else list(kinds)}
    rows = align_by_key(await database.fetch(_select_counts(), parameters), keys, "config_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts() -> Statement:
    query = select(jobs.c.config_id, func.count().label("count")).where(
        jobs.c.config_id == any_of_ids("ids"), _IS_OF_REQUESTED_KIND, _IS_SUBMITTED
    )
    return compile_statement(query.group_by(jobs.c.config_id))


async def load_issues_of_jobs(database: Database, keys: Sequence[str], window: keyset.Window) -> list[keyset.Page]:
    """A page of each job's issues, in source order. Raises InvalidInput for a cursor of another job."""
    cursor = keyset.decode_window_cursor(window, (_compute_issue_digest(key) for key in keys), _is_issue_number)
    parameters = {"ids": list(keys), "limit": window.limit + 1, "after": int(cursor.value) if cursor else 0}
    rows = group_by_parent(await database.fetch(_select_issues(), parameters), keys, "job_id")
    return [keyset.build_page(page_rows, window, _encode_issue_cursor) for page_rows in rows]


def _is_issue_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _compute_issue_digest(job_id: str) -> str:
    return keyset.compute_list_digest("issues", job_id)


def _encode_issue_cursor(row: JobIssueRow) -> str:
    return keyset.encode_cursor(_compute_issue_digest(row.job_id), keyset.Cursor(row.number, row.job_id))


@cache
def _select_issues() -> Statement:
    is_next_of_job = (job_issues.c.job_id == jobs.c.id) & (job_issues.c.number > bindparam("after"))
    job_issue_rows = select(job_issues).where(is_next_of_job).order_by(job_issues.c.number).limit(bindparam("limit"))
    query = select_per_parent(jobs, job_issue_rows)
    return compile_statement(query.order_by(query.selected_columns.job_id, query.selected_columns.number))


async def count_issues_of_jobs(database: Database, keys: Sequence[str]) -> list[int]:
    """The number of stored issues of each job."""
    rows = align_by_key(await database.fetch(_select_issue_counts(), {"ids": list(keys)}), keys, "job_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_issue_counts() -> Statement:
    issue_counts = select(job_issues.c.job_id, func.count().label("count")).where(job_issues.c.job_id == any_of_ids("ids"))
    return compile_statement(issue_counts.group_by(job_issues.c.job_id))
