"""Jobs (imports and exports): by id, by store, and the issues and changes of each."""

from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

from sqlalchemy import Table, bindparam, func, select, text

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.models import configs, job_changes, job_issues, jobs
from storefront.models.row_keys import (
    RowKey,
    are_of_single_store,
    bind_keys,
    bind_store,
    build_key_parameters,
    build_store_parameters,
    get_store,
    has_key,
    have_single_store,
    is_any_store,
)
from storefront.models.rows import JobChangeRow, JobIssueRow, JobRow, OwnedJobRow
from storefront.queries import keyset
from storefront.queries.batching import align_by_key, group_by_parent
from storefront.queries.paging import limit_newest, load_page_per_parent, select_of_keys, select_per_parent


async def load_job(database: Database, key: RowKey) -> OwnedJobRow | None:
    """A job, with the owner and the state of its store. Does not check permissions."""
    rows = await database.fetch(_select_by_key(), key._asdict())
    return rows[0] if rows else None


@cache
def _select_by_key() -> Statement:
    joined = jobs.join(configs, configs.c.id == bind_store())
    owner_columns = (configs.c.user_id.label("owner_id"), configs.c.is_published)
    return compile_statement(select(jobs, *owner_columns).select_from(joined).where(has_key(jobs)))


async def load_jobs_by_keys(database: Database, keys: Sequence[RowKey]) -> list[JobRow | None]:
    """The job of each key; None for an upload that no import was requested for. Does not check permissions."""
    rows = await database.fetch(_select_by_keys(are_of_single_store(keys)), build_key_parameters(keys))
    return align_by_key(rows, [key.id for key in keys])


@cache
def _select_by_keys(is_single_store: bool) -> Statement:
    return compile_statement(select_of_keys(select(jobs).where(_IS_SUBMITTED), jobs, is_single_store))


async def load_jobs_of_stores(
    database: Database, keys: Sequence[str], window: keyset.Window, kinds: Sequence[str] | None
) -> list[keyset.Page]:
    """A page of each store's jobs, newest first. `kinds` filters them; None: all."""
    parameters = {**build_store_parameters(keys), "kinds": None if kinds is None else list(kinds)}
    build_statement = partial(_select_of_stores, have_single_store(keys))
    return await load_page_per_parent(database, build_statement, window, "jobs", keys, "config_id", parameters)


# An upload becomes a job when its import is requested.
_IS_SUBMITTED = jobs.c.status != "uploading"
_IS_OF_REQUESTED_KIND = text("(CAST(:kinds AS text[]) IS NULL OR jobs.kind = ANY (CAST(:kinds AS text[])))")


@cache
def _select_of_stores(is_single_store: bool, has_cursor: bool) -> Statement:
    store = bind_store() if is_single_store else configs.c.id
    store_jobs = select(jobs).where(jobs.c.config_id == store, _IS_OF_REQUESTED_KIND, _IS_SUBMITTED)
    page = limit_newest(store_jobs, jobs.c.created_at, jobs.c.id, has_cursor=has_cursor)
    return compile_statement(select_per_parent(configs, page, is_any_store(configs.c.id, is_single_store)))


async def count_jobs_of_stores(database: Database, keys: Sequence[str], kinds: Sequence[str] | None) -> list[int]:
    """The number of jobs of each store, of some kinds or (None) of all."""
    parameters = {**build_store_parameters(keys), "kinds": None if kinds is None else list(kinds)}
    rows = align_by_key(await database.fetch(_select_counts(have_single_store(keys)), parameters), keys, "config_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_counts(is_single_store: bool) -> Statement:
    query = select(jobs.c.config_id, func.count().label("count")).where(
        is_any_store(jobs.c.config_id, is_single_store), _IS_OF_REQUESTED_KIND, _IS_SUBMITTED
    )
    return compile_statement(query.group_by(jobs.c.config_id))


class _NumberedRows(NamedTuple):
    """A table with rows of jobs, numbered in the order of the source. `name` identifies the list in cursors."""

    table: Table
    name: str


_ISSUES, _CHANGES = _NumberedRows(job_issues, "issues"), _NumberedRows(job_changes, "changes")


async def load_issues_of_jobs(database: Database, keys: Sequence[RowKey], window: keyset.Window) -> list[keyset.Page]:
    """A page of each job's issues, in source order. Raises InvalidInput for a cursor of another job."""
    return await _load_numbered_rows(database, _ISSUES, keys, window)


async def load_changes_of_jobs(database: Database, keys: Sequence[RowKey], window: keyset.Window) -> list[keyset.Page]:
    """A page of what each job would change, in source order. Raises InvalidInput for a cursor of another job."""
    return await _load_numbered_rows(database, _CHANGES, keys, window)


async def count_issues_of_jobs(database: Database, keys: Sequence[RowKey]) -> list[int]:
    """The number of stored issues of each job."""
    return await _count_numbered_rows(database, _ISSUES, keys)


async def count_changes_of_jobs(database: Database, keys: Sequence[RowKey]) -> list[int]:
    """The number of stored changes of each job."""
    return await _count_numbered_rows(database, _CHANGES, keys)


async def _load_numbered_rows(
    database: Database, source: _NumberedRows, keys: Sequence[RowKey], window: keyset.Window
) -> list[keyset.Page]:
    def compute_digest(job_id: str) -> str:
        return keyset.compute_list_digest(source.name, job_id)

    def encode_cursor(row: JobIssueRow | JobChangeRow) -> str:
        return keyset.encode_cursor(compute_digest(row.job_id), keyset.Cursor(row.number, row.job_id))

    cursor = keyset.decode_window_cursor(window, (compute_digest(key.id) for key in keys), _is_number)
    parameters = {**build_key_parameters(keys), "limit": window.limit + 1, "after": int(cursor.value) if cursor else 0}
    found = await database.fetch(_select_numbered_rows(source, are_of_single_store(keys)), parameters)
    rows = group_by_parent(found, [key.id for key in keys], "job_id")
    return [keyset.build_page(page_rows, window, encode_cursor) for page_rows in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


async def _count_numbered_rows(database: Database, source: _NumberedRows, keys: Sequence[RowKey]) -> list[int]:
    counts = await database.fetch(_select_row_counts(source, are_of_single_store(keys)), build_key_parameters(keys))
    rows = align_by_key(counts, [key.id for key in keys], "job_id")
    return [row.count if row else 0 for row in rows]


@cache
def _select_numbered_rows(source: _NumberedRows, is_single_store: bool) -> Statement:
    table, key = source.table, bind_keys(is_single_store)
    is_of_job = (table.c.config_id == get_store(key, is_single_store)) & (table.c.job_id == key.c.id)
    next_rows = select(table).where(is_of_job, table.c.number > bindparam("after"))
    page = next_rows.order_by(table.c.number).limit(bindparam("limit"))
    query = select_per_parent(key, page)
    return compile_statement(query.order_by(query.selected_columns.job_id, query.selected_columns.number))


@cache
def _select_row_counts(source: _NumberedRows, is_single_store: bool) -> Statement:
    table, key = source.table, bind_keys(is_single_store)
    is_of_job = (table.c.config_id == get_store(key, is_single_store)) & (table.c.job_id == key.c.id)
    row_count = select(key.c.id.label("job_id"), func.count().label("count")).select_from(table).where(is_of_job)
    return compile_statement(select_per_parent(key, row_count, name="counted"))
