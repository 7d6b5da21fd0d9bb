"""Imports and exports: single ones, those of a store, and what they left out."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, func, select, true

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.models import configs, job_issues, jobs
from storefront.queries import keyset
from storefront.queries.batching import by_key, by_parent
from storefront.queries.visibility import ids


async def by_id(database: Database, key: str) -> Row | None:
    """A job whoever asks, with its store's `owner_id` and whether that is published."""
    rows = await database.fetch(_by_id(), {"id": key})
    return rows[0] if rows else None


@cache
def _by_id() -> Statement:
    joined = jobs.join(configs, configs.c.id == jobs.c.config_id)
    owner = (configs.c.user_id.label("owner_id"), configs.c.is_published)
    return compiled(select(jobs, *owner).select_from(joined).where(jobs.c.id == bindparam("id")))


async def of_store(database: Database, config_id: str, kind: str, window: keyset.Window) -> keyset.Page:
    """The imports or exports of a store, newest first."""
    digest = keyset.digest("jobs", config_id, kind)
    cursor = keyset.resume(window, [digest], keyset.is_moment)
    parameters = {"config_id": config_id, "kind": kind, **keyset.parameters(window, cursor)}
    rows = await database.fetch(_of_store(cursor is not None), parameters)
    return keyset.page_of(rows, window, lambda row: keyset.encode(digest, keyset.Cursor(row.created_at, row.id)))


@cache
def _of_store(behind: bool) -> Statement:
    key, tie = jobs.c.created_at, jobs.c.id
    wanted = [keyset.behind(key, tie, descending=True)] if behind else []
    mine = select(jobs).where(jobs.c.config_id == bindparam("config_id"), jobs.c.kind == bindparam("kind"), _IS_BEGUN, *wanted)
    return compiled(mine.order_by(*keyset.order(key, tie, descending=True)).limit(bindparam("limit")))


# An upload that nobody has asked to import is no job yet.
_IS_BEGUN = jobs.c.status != "uploading"


async def count_of_store(database: Database, config_id: str, kind: str) -> int:
    """How many there are."""
    [(found,)] = await database.fetch(_count_of_store(), {"config_id": config_id, "kind": kind})
    return int(found)


@cache
def _count_of_store() -> Statement:
    mine = (jobs.c.config_id == bindparam("config_id")) & (jobs.c.kind == bindparam("kind"))
    return compiled(select(func.count()).where(mine, _IS_BEGUN))


async def issues_of(database: Database, keys: Sequence[str], window: keyset.Window) -> list[keyset.Page]:
    """A page of what each job left out, in the order of its source. A cursor is of one job: it fits no other."""
    cursor = keyset.resume(window, (_digest(key) for key in keys), _is_number)
    parameters = {"ids": list(keys), "limit": window.limit + 1, "after": int(cursor.value) if cursor else 0}
    rows = by_parent(await database.fetch(_issues_of(), parameters), keys, "job_id")
    return [keyset.page_of(found, window, _cursor_of) for found in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _digest(job_id: str) -> str:
    return keyset.digest("issues", job_id)


def _cursor_of(row: Row) -> str:
    return keyset.encode(_digest(row.job_id), keyset.Cursor(row.number, row.job_id))


@cache
def _issues_of() -> Statement:
    of_job = (job_issues.c.job_id == jobs.c.id) & (job_issues.c.number > bindparam("after"))
    mine = select(job_issues).where(of_job).correlate(jobs).order_by(job_issues.c.number)
    page = mine.limit(bindparam("limit")).lateral("page")
    found = select(page).select_from(jobs.join(page, true())).where(jobs.c.id == ids("ids"))
    return compiled(found.order_by(page.c.job_id, page.c.number))


async def issue_counts_of(database: Database, keys: Sequence[str]) -> list[int]:
    """How much is kept of what each job left out."""
    rows = by_key(await database.fetch(_issue_counts_of(), {"ids": list(keys)}), keys, "job_id")
    return [row.count if row else 0 for row in rows]


@cache
def _issue_counts_of() -> Statement:
    mine = select(job_issues.c.job_id, func.count().label("count")).where(job_issues.c.job_id == ids("ids"))
    return compiled(mine.group_by(job_issues.c.job_id))
