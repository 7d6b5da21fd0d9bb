"""Commands of the job mutations: create an upload, start an import or an export, cancel and retry jobs."""

from collections.abc import Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import bindparam, func, select, text

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.db.sweeps import Sweep, run_sweep, sweep_rows
from storefront.core.errors import Forbidden
from storefront.core.ids import new_id
from storefront.core.net.shopify_client import is_shop_domain
from storefront.core.storage.base import ObjectStorage, StorageError
from storefront.imports.formats import parse_mapping
from storefront.imports.jobs.handlers import SHOP_NOT_CONNECTED_MESSAGE
from storefront.imports.jobs.queue import TERMINAL_STATUSES
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT
from storefront.models import configs, jobs
from storefront.models.row_keys import bind_store, has_key
from storefront.models.rows import ConfigRow, JobRow
from storefront.queries.store_lookup import find_row_key
from storefront.writes import validation
from storefront.writes.authorization import lock_own_store
from storefront.writes.field_errors import (
    FieldError,
    InvalidInputReason,
    MutationRejected,
    UserErrorCode,
    make_invalid_input_error,
    make_invalid_state_error,
    make_limit_reached_error,
    make_not_found_error,
)
from storefront.writes.sql import build_insert, convert_to_parameters, sort_column_names
from storefront.writes.transaction import PendingRow, UnitOfWork
from storefront.writes.validation import accept_any, optional_rule

Values = Mapping[str, Any]

# Queued jobs of a store. One of them runs at a time.
MAX_QUEUED_JOBS = 10
# Uploads of a store that have not been imported.
MAX_PENDING_UPLOADS = 20

MAX_MAPPED_COLUMNS = 100


def _validate_mapping(mapping: Any) -> Any:
    """The mapping as it is stored. Raises InvalidValueError."""
    try:
        return parse_mapping((entry["column"], entry["field"]) for entry in mapping)
    except ValueError as error:
        raise validation.InvalidValueError(str(error)) from None


UPLOAD_RULES: validation.Rules = {"configId": validation.validate_id, "fileName": validation.text_rule(255), "size": accept_any}
IMPORT_RULES: validation.Rules = {
    "configId": validation.validate_id,
    "source": accept_any,
    "uploadId": optional_rule(validation.validate_id),
    "dryRun": accept_any,
    "deleteMissingVariants": accept_any,
    "fetchImages": accept_any,
    "decimalSeparator": accept_any,
    "columnMapping": _validate_mapping,
    "archiveEntry": optional_rule(validation.text_rule(1_024)),
    "maxRejectedRows": validation.integer_rule(0, MAX_REJECTED_ROWS_LIMIT),
}
EXPORT_RULES: validation.Rules = {"configId": validation.validate_id, "format": accept_any, "escapeFormulas": accept_any}
JOB_RULES: validation.Rules = {"id": validation.validate_id}


async def create_upload(unit: UnitOfWork, values: Values, *, max_bytes: int) -> Sequence[PendingRow]:
    """Create an upload: the object key for a file to import, which the mutation returns as a presigned URL."""
    clean = validation.require_valid_fields({**UPLOAD_RULES, "size": validation.integer_rule(1, max_bytes)}, values)
    store = (await lock_own_store(unit, clean["configId"], ["configId"])).id
    await _check_capacity(
        unit, store, "uploading", MAX_PENDING_UPLOADS, "uploads that were not imported. Import one of them, or try again tomorrow"
    )
    id_ = new_id()
    columns = {"object_key": f"imports/{store}/{id_}.csv", "object_size": clean["size"], "file_name": clean["fileName"]}
    return [_insert_job(unit, store, kind="import", source="shopify_csv", status="uploading", id=id_, **columns)]


async def import_products(
    unit: UnitOfWork, values: Values, *, objects: ObjectStorage, client_mutation_id: str | None
) -> Sequence[Any]:
    """Queue an import of an uploaded file, or of the connected shop."""
    clean = validation.require_valid_fields(IMPORT_RULES, values)
    store = await lock_own_store(unit, clean["configId"], ["configId"])
    await _check_capacity(unit, store.id, "queued", MAX_QUEUED_JOBS, "queued jobs. Wait until some have finished, or cancel them")
    options = {
        "preview": clean.get("dryRun", False),
        "deleteMissingVariants": clean.get("deleteMissingVariants", False),
        "fetchImages": clean.get("fetchImages", True),
        "decimalSeparator": clean.get("decimalSeparator", "auto"),
        "archiveEntry": clean.get("archiveEntry"),
        "columnMapping": clean.get("columnMapping", {}),
        "clientMutationId": client_mutation_id,
        "maxRejectedRows": clean.get("maxRejectedRows", DEFAULT_MAX_REJECTED_ROWS),
    }
    if clean["source"] == "shopify_store":
        _check_shop_connected(store, clean.get("uploadId"))
        return [_insert_job(unit, store.id, kind="import", source="shopify_store", status="queued", options=options)]
    if clean.get("uploadId") is None:
        raise MutationRejected(
            make_invalid_input_error(
                ["uploadId"],
                "is required for files: create an upload with createImportUpload first.",
                InvalidInputReason.REQUIRED,
            )
        )
    upload = await _load_own_job(unit, clean["uploadId"], ["uploadId"], "upload")
    if upload.kind != "import" or upload.config_id != store.id:
        raise MutationRejected(make_not_found_error("upload", clean["uploadId"], ["uploadId"]))
    await _check_upload(upload, objects)
    return await unit.fetch(
        _queue_upload_statement(),
        {"config_id": store.id, "id": upload.id, "options": convert_to_parameters(jobs, {"options": options})["options"]},
    )


async def export_products(unit: UnitOfWork, values: Values) -> Sequence[PendingRow]:
    """Queue an export of all products."""
    clean = validation.require_valid_fields(EXPORT_RULES, values)
    store = (await lock_own_store(unit, clean["configId"], ["configId"])).id
    await _check_capacity(unit, store, "queued", MAX_QUEUED_JOBS, "queued jobs. Wait until some have finished, or cancel them")
    options = {"quoteFormulas": clean.get("escapeFormulas", True), "format": clean.get("format", "shopify_csv")}
    return [_insert_job(unit, store, kind="export", source="catalogue", status="queued", options=options)]


async def cancel_job(unit: UnitOfWork, values: Values) -> Sequence[JobRow]:
    """Cancel a job: at once if it is queued; a running job is stopped by its worker."""
    clean = validation.require_valid_fields(JOB_RULES, values)
    job = await _load_own_submitted_job(unit, clean["id"])
    if job.status in TERMINAL_STATUSES:
        raise MutationRejected(
            make_invalid_state_error(
                ["id"], f"this {job.kind} is finished: it has {job.status.replace('cancelled', 'been cancelled')}."
            )
        )
    return await unit.fetch(_cancel_job_statement(), {"config_id": job.config_id, "id": job.id})


async def retry_job(unit: UnitOfWork, values: Values) -> Sequence[JobRow]:
    """Requeue a failed or cancelled job, which resumes from its checkpoint."""
    clean = validation.require_valid_fields(JOB_RULES, values)
    job = await _load_own_submitted_job(unit, clean["id"])
    if job.status not in ("failed", "cancelled"):
        raise MutationRejected(
            make_invalid_state_error(
                ["id"], f"only failed and cancelled jobs can be retried, and this {job.kind} is {job.status}."
            )
        )
    await _check_capacity(
        unit, job.config_id, "queued", MAX_QUEUED_JOBS, "queued jobs. Wait until some have finished, or cancel them"
    )
    return await unit.fetch(_retry_job_statement(), {"config_id": job.config_id, "id": job.id})


# ------------------------------------------------------------------------------------------------ helpers


def _insert_job(unit: UnitOfWork, store: str, **columns: Any) -> PendingRow:
    row = {"id": new_id(), "config_id": store, "user_id": unit.actor_id, "options": {}, **columns}
    return PendingRow(
        SimpleNamespace(**row), unit.enqueue(build_insert(jobs, sort_column_names(row)), convert_to_parameters(jobs, row))
    )


async def _check_capacity(unit: UnitOfWork, store: str, status: str, limit: int, description: str) -> None:
    # The row of the store is locked, so that concurrent requests do not count at the same time.
    [(count,)] = await unit.fetch(_count_jobs_statement(), {"config_id": store, "status": status})
    if count >= limit:
        raise MutationRejected(make_limit_reached_error(["configId"], f"this store has {count} {description}.", limit))


def _check_shop_connected(store: ConfigRow, upload_id: str | None) -> None:
    if upload_id is not None:
        raise MutationRejected(
            make_invalid_input_error(
                ["uploadId"],
                "is only for files. Leave it out to import the connected shop.",
                InvalidInputReason.CONFLICTING,
            )
        )
    integration = (store.integrations or {}).get("shopify") or {}
    if not integration.get("accessToken"):
        raise MutationRejected(FieldError(UserErrorCode.INVALID_STATE, SHOP_NOT_CONNECTED_MESSAGE, ("configId",)))
    if not is_shop_domain(integration["domain"]):
        problem = "integrations.shopify.domain: must be the shop's own host at Shopify, such as my-shop.myshopify.com."
        raise MutationRejected(FieldError(UserErrorCode.INVALID_STATE, problem, ("configId",)))


async def _check_upload(upload: JobRow, objects: ObjectStorage) -> None:
    if upload.status != "uploading":
        raise MutationRejected(
            make_invalid_state_error(["uploadId"], f"was imported already, as the import {upload.id}. Upload the file again.")
        )
    try:
        stored = await objects.head(cast(str, upload.object_key))
    except StorageError:
        raise MutationRejected(
            make_invalid_state_error(["uploadId"], "the object store is not available at the moment. Try again soon.")
        ) from None
    if stored is None:
        raise MutationRejected(
            make_invalid_state_error(
                ["uploadId"], "nothing was uploaded yet. PUT the file to the presigned URL first, with its headers."
            )
        )


async def _load_own_submitted_job(unit: UnitOfWork, id_: str) -> JobRow:
    """Load and lock a job of the actor that is no mere upload. Raises MutationRejected and Forbidden."""
    job = await _load_own_job(unit, id_, ["id"], "job")
    if job.status == "uploading":
        raise MutationRejected(make_not_found_error("job", id_, ["id"]))
    return job


async def _load_own_job(unit: UnitOfWork, id_: str, path: Sequence[str], noun: str) -> JobRow:
    """Load and lock a job or upload of the actor. Raises MutationRejected and Forbidden."""
    key = await find_row_key(unit.connection, id_)
    for row in await unit.fetch(_own_job_statement(), {**key._asdict(), "actor_id": unit.actor_id}) if key else []:
        if row.mine:
            return row
        if row.is_published:
            raise Forbidden(f"This {noun} belongs to another user.")
    raise MutationRejected(make_not_found_error(noun, id_, path))


@cache
def _own_job_statement() -> Statement:
    joined = jobs.join(configs, configs.c.id == bind_store())
    is_own = (configs.c.user_id == bindparam("actor_id")).label("mine")
    selection = select(jobs, is_own, configs.c.is_published).select_from(joined)
    return compile_statement(selection.where(has_key(jobs)).with_for_update(of=jobs, key_share=True))


@cache
def _count_jobs_statement() -> Statement:
    condition = (jobs.c.config_id == bindparam("config_id")) & (jobs.c.status == bindparam("status"))
    return compile_statement(select(func.count()).where(condition))


@cache
def _queue_upload_statement() -> Statement:
    sql = "UPDATE jobs SET status = 'queued', options = :options, created_at = now(), not_before = now()"
    clause = text(f"{sql} WHERE config_id = :config_id AND id = :id RETURNING *")
    return compile_statement(clause.bindparams(*_KEY_PARAMETERS, _options_parameter()))


_KEY_PARAMETERS = [bindparam(column.name, type_=column.type) for column in jobs.primary_key]


def _options_parameter() -> Any:
    return bindparam("options", type_=jobs.c.options.type)


@cache
def _cancel_job_statement() -> Statement:
    sql = """
UPDATE jobs SET is_cancelled = true, status = CASE status WHEN 'running' THEN status ELSE 'cancelled' END,
  finished_at = CASE status WHEN 'running' THEN NULL ELSE now() END
WHERE config_id = :config_id AND id = :id RETURNING *
"""
    return compile_statement(text(sql).bindparams(*_KEY_PARAMETERS))


@cache
def _retry_job_statement() -> Statement:
    sql = """
UPDATE jobs SET status = 'queued', is_cancelled = false, attempts = 0, crashes = 0, error = NULL, finished_at = NULL,
  not_before = now(), checkpoint = checkpoint || jsonb_build_object('forgiven', rejected)
WHERE config_id = :config_id AND id = :id RETURNING *
"""
    return compile_statement(text(sql).bindparams(*_KEY_PARAMETERS))


async def sweep_jobs(database: Database, *, days: int) -> int:
    """Delete jobs that finished so many days ago, and uploads that were not imported within a day; returns how many."""
    return await run_sweep(database, _sweep_jobs(), {"days": days})


# A job has up to thousands of issues, which are deleted with it.
_MAX_SWEPT_JOBS = 50


@cache
def _sweep_jobs() -> Sweep:
    is_expired = """(finished_at < now() - make_interval(days => :days)
      OR (status = 'uploading' AND created_at < now() - interval '1 day'))"""
    return sweep_rows("jobs", is_expired, batch_rows=_MAX_SWEPT_JOBS)
