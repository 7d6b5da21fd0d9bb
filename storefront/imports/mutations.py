"""Fields that order imports and exports."""

from functools import partial
from typing import Any, TypeVar, cast

import strawberry

from storefront.core.db.database import Row
from storefront.core.errors import Unavailable
from storefront.core.storage.base import StorageError
from storefront.graph.context import Info
from storefront.graph.mutations import MutationInput, Payload, common_payload_fields, mutate
from storefront.graph.uploads import UPLOAD_DESCRIPTION, Upload, build_upload
from storefront.imports import job_commands
from storefront.imports.jobs.queue import JOBS_CHANNEL, cancel_channel
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT
from storefront.imports.types import ExportJob, ImportJob, ImportSource
from storefront.writes.transaction import Command

P = TypeVar("P", bound=Payload)

# Seconds for which a file may be uploaded to the address that was given for it.
UPLOAD_URL_SECONDS = 3_600
UPLOAD_CONTENT_TYPE = "text/csv"


@strawberry.input
class CreateImportUploadInput(MutationInput):
    config_id: strawberry.ID
    file_name: str = strawberry.field(description="Told again with what is wrong with its rows.")
    size: int = strawberry.field(description="Bytes of the file, exactly.")


@strawberry.input
class ImportProductsInput(MutationInput):
    config_id: strawberry.ID
    source: ImportSource
    upload_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Of a file that was uploaded: `id` of createImportUpload."
    )
    preview: bool = strawberry.field(default=False, description="Only tell what would be done.")
    max_rejected_rows: int = strawberry.field(
        default=DEFAULT_MAX_REJECTED_ROWS,
        description=f"The import fails as soon as more rows than that are rejected, 0 to {MAX_REJECTED_ROWS_LIMIT:,}. "
        "What was imported until then stays.",
    )


@strawberry.input
class ExportProductsInput(MutationInput):
    config_id: strawberry.ID
    quote_formulas: bool = strawberry.field(
        default=True,
        description="Put an apostrophe before cells that a spreadsheet would take for formulas. Imported here again, the file "
        "says the same either way. False: for a file that goes to another shop.",
    )


@strawberry.input
class CancelImportInput(MutationInput):
    id: strawberry.ID


@strawberry.input
class RetryImportInput(MutationInput):
    id: strawberry.ID


@strawberry.input
class CancelExportInput(MutationInput):
    id: strawberry.ID


@strawberry.input
class RetryExportInput(MutationInput):
    id: strawberry.ID


@strawberry.type(description=f"{UPLOAD_DESCRIPTION} Its id is the `uploadId` of importProducts.")
class ImportUpload(Upload):
    pass


@strawberry.type
class CreateImportUploadPayload(Payload):
    upload: ImportUpload | None


@strawberry.type
class ImportProductsPayload(Payload):
    job: ImportJob | None


@strawberry.type
class CancelImportPayload(Payload):
    job: ImportJob | None


@strawberry.type
class RetryImportPayload(Payload):
    job: ImportJob | None


@strawberry.type
class ExportProductsPayload(Payload):
    job: ExportJob | None


@strawberry.type
class CancelExportPayload(Payload):
    job: ExportJob | None


@strawberry.type
class RetryExportPayload(Payload):
    job: ExportJob | None


@strawberry.type
class JobMutation:
    @strawberry.mutation(description="A place to upload a file of products to, good for an hour. importProducts then imports it.")
    async def create_import_upload(self, info: Info, input: CreateImportUploadInput) -> CreateImportUploadPayload:
        command = partial(job_commands.create_upload, max_bytes=info.context.media_config.max_import_bytes)
        result = await mutate(info, input, command)
        upload = _presign_upload(info, result.rows[0]) if result.rows else None
        return CreateImportUploadPayload(upload=upload, **common_payload_fields(result, input))

    @strawberry.mutation(
        description="Create or update products from a file or a connected shop, as a job that goes on when this has answered. "
        "Products are known by their handles, variants by SKU, else by their options. Others stay as they are."
    )
    async def import_products(self, info: Info, input: ImportProductsInput) -> ImportProductsPayload:
        command = partial(
            job_commands.import_products,
            objects=info.context.media_config.objects,
            client_mutation_id=input.client_mutation_id or None,
        )
        return await _mutate_job(info, input, command, ImportProductsPayload, JOBS_CHANNEL)

    @strawberry.mutation(description="Stop an import. What was imported until then stays.")
    async def cancel_import(self, info: Info, input: CancelImportInput) -> CancelImportPayload:
        command = partial(job_commands.cancel_job, kind="import")
        return await _mutate_job(info, input, command, CancelImportPayload, cancel_channel(input.id))

    @strawberry.mutation(description="Go on with an import that failed or was cancelled, from where it was.")
    async def retry_import(self, info: Info, input: RetryImportInput) -> RetryImportPayload:
        return await _mutate_job(info, input, partial(job_commands.retry_job, kind="import"), RetryImportPayload, JOBS_CHANNEL)

    @strawberry.mutation(
        description="Write all products of a store of one's own to a file, as Shopify's CSV. importProducts makes the same of it."
    )
    async def export_products(self, info: Info, input: ExportProductsInput) -> ExportProductsPayload:
        return await _mutate_job(info, input, job_commands.export_products, ExportProductsPayload, JOBS_CHANNEL)

    @strawberry.mutation(description="Stop an export.")
    async def cancel_export(self, info: Info, input: CancelExportInput) -> CancelExportPayload:
        command = partial(job_commands.cancel_job, kind="export")
        return await _mutate_job(info, input, command, CancelExportPayload, cancel_channel(input.id))

    @strawberry.mutation(description="Begin an export anew that failed or was cancelled.")
    async def retry_export(self, info: Info, input: RetryExportInput) -> RetryExportPayload:
        return await _mutate_job(info, input, partial(job_commands.retry_job, kind="export"), RetryExportPayload, JOBS_CHANNEL)


async def _mutate_job(info: Info, input_: MutationInput, command: Command, payload: type[P], channel: str) -> P:
    """The payload of a mutation of one job. Whoever is to hear of it does."""
    result = await mutate(info, input_, command)
    job: Any = result.rows[0] if result.rows else None
    if job is not None and not result.is_replayed:
        for key in (channel, job.id):
            info.context.feed.wakeups.publish(key)
    return payload(job=job, **common_payload_fields(result, input_))  # type: ignore[call-arg]


def _presign_upload(info: Info, row: Row | None) -> ImportUpload:
    job = cast(Row, row)
    try:
        presigned_put = info.context.media_config.objects.presign_put(
            job.object_key, content_type=UPLOAD_CONTENT_TYPE, size=job.object_size, seconds=UPLOAD_URL_SECONDS
        )
    except StorageError:
        raise Unavailable("The object store does not answer just now. Try again soon.") from None
    return build_upload(ImportUpload, job.id, presigned_put)
