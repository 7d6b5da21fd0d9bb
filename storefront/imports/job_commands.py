"""Jobs as their owners order them: an upload, an import, an export; cancelled, tried again. Each is a mutation's command."""

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

from sqlalchemy import bindparam, func, select, text

from storefront.core.db.database import Row, Statement, compiled
from storefront.core.errors import Forbidden
from storefront.core.ids import new_id
from storefront.core.net.shopify_client import is_shop
from storefront.core.storage.base import Objects, StorageFailed
from storefront.imports.jobs.handlers import NOT_CONNECTED
from storefront.imports.product_writer import HIGHEST_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS
from storefront.models import configs, jobs
from storefront.writes import validation
from storefront.writes.authorization import missing, own_store
from storefront.writes.sql import as_parameters, inserted, names
from storefront.writes.transaction import Code, Failure, Refused, Unit, Written, invalid
from storefront.writes.validation import as_is, optional

Values = Mapping[str, Any]

# Jobs of a store that are not done yet. One runs at a time.
MOST_WAITING = 10
# Uploads of a store that nobody has imported yet.
MOST_UPLOADS = 20

UPLOAD: validation.Rules = {"configId": validation.key, "fileName": validation.text(255), "size": as_is}
IMPORT: validation.Rules = {
    "configId": validation.key,
    "source": as_is,
    "uploadId": optional(validation.key),
    "preview": as_is,
    "maxRejectedRows": validation.whole(0, HIGHEST_MAX_REJECTED_ROWS),
}
EXPORT: validation.Rules = {"configId": validation.key, "quoteFormulas": as_is}
ONE: validation.Rules = {"id": validation.key}


async def create_upload(unit: Unit, values: Values, *, most_bytes: int) -> Sequence[Written]:
    """A place for a file that is to be imported."""
    clean = validation.require({**UPLOAD, "size": validation.whole(1, most_bytes)}, values)
    store = (await own_store(unit, clean["configId"], ["configId"])).id
    await _check_room(unit, store, "uploading", MOST_UPLOADS, "uploads that nobody has imported. Import one, or try tomorrow")
    id_ = new_id()
    facts = {"object_key": f"imports/{store}/{id_}.csv", "object_size": clean["size"], "file_name": clean["fileName"]}
    return [_made(unit, store, kind="import", source="shopify_csv", status="uploading", id=id_, **facts)]


async def import_products(unit: Unit, values: Values, *, objects: Objects, client_mutation_id: str | None) -> Sequence[Any]:
    """An import of what was uploaded, or of the connected shop."""
    clean = validation.require(IMPORT, values)
    store = await own_store(unit, clean["configId"], ["configId"])
    await _check_room(unit, store.id, "queued", MOST_WAITING, "jobs that wait. Let some of them finish, or cancel them")
    given = {
        "preview": clean.get("preview", False),
        "clientMutationId": client_mutation_id,
        "maxRejectedRows": clean.get("maxRejectedRows", MAX_REJECTED_ROWS),
    }
    if clean["source"] == "shopify_store":
        _check_shop(store, clean.get("uploadId"))
        return [_made(unit, store.id, kind="import", source="shopify_store", status="queued", options=given)]
    if clean.get("uploadId") is None:
        raise Refused(invalid(["uploadId"], "is needed for a file: upload it first, see createImportUpload."))
    upload = await _own(unit, clean["uploadId"], "import", ["uploadId"], "upload")
    if upload.config_id != store.id:
        raise Refused(missing("upload", clean["uploadId"], ["uploadId"]))
    await _check_upload(upload, objects)
    return await unit.fetch(_queue(), {"id": upload.id, "options": as_parameters(jobs, {"options": given})["options"]})


async def export_products(unit: Unit, values: Values) -> Sequence[Written]:
    """An export of all products."""
    clean = validation.require(EXPORT, values)
    store = (await own_store(unit, clean["configId"], ["configId"])).id
    await _check_room(unit, store, "queued", MOST_WAITING, "jobs that wait. Let some of them finish, or cancel them")
    options = {"quoteFormulas": clean.get("quoteFormulas", True)}
    return [_made(unit, store, kind="export", source="catalogue", status="queued", options=options)]


async def cancel(unit: Unit, values: Values, *, kind: str) -> Sequence[Row]:
    """End a job: at once where it has not begun, else as soon as whoever runs it hears of it."""
    clean = validation.require(ONE, values)
    job = await _own(unit, clean["id"], kind, ["id"], kind)
    if job.status in ("succeeded", "failed", "cancelled"):
        raise Refused(invalid(["id"], f"this {kind} is over: it has {job.status.replace('cancelled', 'been cancelled')}."))
    return await unit.fetch(_cancel(), {"id": job.id})


async def retry(unit: Unit, values: Values, *, kind: str) -> Sequence[Row]:
    """Go on with a job that failed or was cancelled, from where it was."""
    clean = validation.require(ONE, values)
    job = await _own(unit, clean["id"], kind, ["id"], kind)
    if job.status not in ("failed", "cancelled"):
        raise Refused(invalid(["id"], f"only what failed or was cancelled can be tried again, and this {kind} is {job.status}."))
    await _check_room(unit, job.config_id, "queued", MOST_WAITING, "jobs that wait. Let some of them finish, or cancel them")
    return await unit.fetch(_retry(), {"id": job.id})


# ------------------------------------------------------------------------------------------------- pieces


def _made(unit: Unit, store: str, **facts: Any) -> Written:
    row = {"id": new_id(), "config_id": store, "user_id": unit.actor_id, "options": {}, **facts}
    return Written(SimpleNamespace(**row), unit.send(inserted(jobs, names(row)), as_parameters(jobs, row)))


async def _check_room(unit: Unit, store: str, status: str, most: int, what: str) -> None:
    # The store's row is locked: no two orders count at the same time.
    [(found,)] = await unit.fetch(_waiting(), {"config_id": store, "status": status})
    if found >= most:
        raise Refused(invalid(["configId"], f"this store has {found} {what}."))


def _check_shop(store: Row, upload_id: str | None) -> None:
    if upload_id is not None:
        raise Refused(invalid(["uploadId"], "is for files. Leave it out to import the connected shop."))
    connected = (store.integrations or {}).get("shopify") or {}
    if not connected.get("accessToken"):
        raise Refused(Failure(Code.INVALID_INPUT, NOT_CONNECTED, ("configId",)))
    if not is_shop(connected["domain"]):
        problem = "integrations.shopify.domain: must be the shop's own host at Shopify, such as my-shop.myshopify.com."
        raise Refused(Failure(Code.INVALID_INPUT, problem, ("configId",)))


async def _check_upload(upload: Row, objects: Objects) -> None:
    if upload.status != "uploading":
        raise Refused(invalid(["uploadId"], f"was imported already: it is the import {upload.id}. Upload the file once more."))
    try:
        stored = await objects.head(upload.object_key)
    except StorageFailed:
        raise Refused(invalid(["uploadId"], "the object store does not answer just now. Try again soon.")) from None
    if stored is None:
        raise Refused(invalid(["uploadId"], "nothing has come yet. PUT the file to the address first, with the headers given."))


async def _own(unit: Unit, id_: str, kind: str, path: Sequence[str], noun: str) -> Row:
    """A job of the actor's, locked."""
    for row in await unit.fetch(_job(), {"id": id_, "kind": kind, "actor_id": unit.actor_id}):
        if row.mine:
            return row
        if row.is_published:
            raise Forbidden(f"This {noun} belongs to somebody else.")
    raise Refused(missing(noun, id_, path))


@cache
def _job() -> Statement:
    joined = jobs.join(configs, configs.c.id == jobs.c.config_id)
    mine = (configs.c.user_id == bindparam("actor_id")).label("mine")
    found = select(jobs, mine, configs.c.is_published).select_from(joined)
    chosen = found.where(jobs.c.id == bindparam("id"), jobs.c.kind == bindparam("kind"))
    return compiled(chosen.with_for_update(of=jobs, key_share=True))


@cache
def _waiting() -> Statement:
    mine = (jobs.c.config_id == bindparam("config_id")) & (jobs.c.status == bindparam("status"))
    return compiled(select(func.count()).where(mine))


@cache
def _queue() -> Statement:
    changed = "UPDATE jobs SET status = 'queued', options = :options, created_at = now(), not_before = now() WHERE id = :id"
    return compiled(text(f"{changed} RETURNING *").bindparams(bindparam("id", type_=jobs.c.id.type), _options()))


def _options() -> Any:
    return bindparam("options", type_=jobs.c.options.type)


@cache
def _cancel() -> Statement:
    changed = """
UPDATE jobs SET is_cancelled = true, status = CASE status WHEN 'running' THEN status ELSE 'cancelled' END,
  finished_at = CASE status WHEN 'running' THEN NULL ELSE now() END
WHERE id = :id RETURNING *
"""
    return compiled(text(changed).bindparams(bindparam("id", type_=jobs.c.id.type)))


@cache
def _retry() -> Statement:
    changed = """
UPDATE jobs SET status = 'queued', is_cancelled = false, attempts = 0, crashes = 0, error = NULL, finished_at = NULL,
  not_before = now(), checkpoint = checkpoint || jsonb_build_object('forgiven', rejected)
WHERE id = :id RETURNING *
"""
    return compiled(text(changed).bindparams(bindparam("id", type_=jobs.c.id.type)))


async def sweep_jobs(database: Any, *, days: int) -> int:
    """Forget jobs that were over so many days ago, and uploads that nobody has imported for a day; returns how many."""
    return len(await database.fetch(_sweep(), {"days": days}))


@cache
def _sweep() -> Statement:
    old = """
DELETE FROM jobs WHERE finished_at < now() - make_interval(days => :days)
  OR (status = 'uploading' AND created_at < now() - interval '1 day')
RETURNING 1 AS one
"""
    return compiled(text(old).bindparams(bindparam("days", type_=jobs.c.attempts.type)))
