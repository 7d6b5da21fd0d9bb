"""Mutation fields of imports and exports."""

from functools import partial
from typing import Any, TypeVar

import strawberry

from storefront.core.errors import Unavailable
from storefront.core.storage.base import StorageError
from storefront.graph.context import Info
from storefront.graph.mutations import MutationInput, MutationPayload, ReplayablePayload, build_payload, mutate
from storefront.graph.uploads import UPLOAD_DESCRIPTION, Upload, build_upload
from storefront.imports import job_commands
from storefront.imports.jobs.queue import JOBS_CHANNEL, cancel_channel
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT
from storefront.imports.types import ExportJob, ImportJob, ImportSource
from storefront.models.rows import FileJobRow
from storefront.writes.transaction import Command

P = TypeVar("P", bound=MutationPayload)

# Seconds until the presigned URL of an upload expires.
UPLOAD_URL_SECONDS = 3_600
UPLOAD_CONTENT_TYPE = "text/csv"


@strawberry.input
class CreateImportUploadInput(MutationInput):
    config_id: strawberry.ID
    file_name: str = strawberry.field(description="The name of the file, for error messages.")
    size: int = strawberry.field(description="The exact size of the file in bytes.")


@strawberry.input
class ImportProductsInput(MutationInput):
    config_id: strawberry.ID
    source: ImportSource
    upload_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="Required for SHOPIFY_CSV: the `id` of an upload by createImportUpload."
    )
    preview: bool = strawberry.field(default=False, description="Dry run: report what would change, without writing.")
    max_rejected_rows: int = strawberry.field(
        default=DEFAULT_MAX_REJECTED_ROWS,
        description=f"The import fails once more rows than this are rejected, 0 to {MAX_REJECTED_ROWS_LIMIT:,}. "
        "Products imported until then stay.",
    )


@strawberry.input
class ExportProductsInput(MutationInput):
    config_id: strawberry.ID
    quote_formulas: bool = strawberry.field(
        default=True,
        description="Prevent CSV injection: put an apostrophe before cells that a spreadsheet would read as formulas. "
        "importProducts reads either file the same. False: for a file that another shop imports.",
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
class CreateImportUploadPayload(ReplayablePayload):
    upload: ImportUpload | None


@strawberry.type
class ImportProductsPayload(ReplayablePayload):
    job: ImportJob | None


@strawberry.type
class CancelImportPayload(ReplayablePayload):
    job: ImportJob | None


@strawberry.type
class RetryImportPayload(ReplayablePayload):
    job: ImportJob | None


@strawberry.type
class ExportProductsPayload(ReplayablePayload):
    job: ExportJob | None


@strawberry.type
class CancelExportPayload(ReplayablePayload):
    job: ExportJob | None


@strawberry.type
class RetryExportPayload(ReplayablePayload):
    job: ExportJob | None


@strawberry.type
class JobMutation:
    @strawberry.mutation(
        description="Create a presigned URL to upload a product CSV to, valid for an hour. importProducts then imports the file."
    )
    async def create_import_upload(self, info: Info, input: CreateImportUploadInput) -> CreateImportUploadPayload | None:
        command = partial(job_commands.create_upload, max_bytes=info.context.media_config.max_import_bytes)
        result = await mutate(info, input, command)
        upload = _presign_upload(info, result.rows[0]) if result.rows else None
        return build_payload(CreateImportUploadPayload, result, input, upload=upload)

    @strawberry.mutation(
        description="Create or update products from a CSV file or a connected shop, as a background job. Products are matched by "
        "handle, variants by SKU, else by their options. Products that the source does not have stay as they are."
    )
    async def import_products(self, info: Info, input: ImportProductsInput) -> ImportProductsPayload | None:
        command = partial(
            job_commands.import_products,
            objects=info.context.media_config.objects,
            client_mutation_id=input.client_mutation_id or None,
        )
        return await _mutate_job(info, input, command, ImportProductsPayload, JOBS_CHANNEL)

    @strawberry.mutation(description="Cancel an import. Products imported until then stay.")
    async def cancel_import(self, info: Info, input: CancelImportInput) -> CancelImportPayload | None:
        command = partial(job_commands.cancel_job, kind="import")
        return await _mutate_job(info, input, command, CancelImportPayload, cancel_channel(input.id))

    @strawberry.mutation(description="Retry a failed or cancelled import from its last checkpoint.")
    async def retry_import(self, info: Info, input: RetryImportInput) -> RetryImportPayload | None:
        return await _mutate_job(info, input, partial(job_commands.retry_job, kind="import"), RetryImportPayload, JOBS_CHANNEL)

    @strawberry.mutation(
        description="Export all products of a store that the viewer owns as Shopify CSV. importProducts reads it back unchanged."
    )
    async def export_products(self, info: Info, input: ExportProductsInput) -> ExportProductsPayload | None:
        return await _mutate_job(info, input, job_commands.export_products, ExportProductsPayload, JOBS_CHANNEL)

    @strawberry.mutation(description="Cancel an export.")
    async def cancel_export(self, info: Info, input: CancelExportInput) -> CancelExportPayload | None:
        command = partial(job_commands.cancel_job, kind="export")
        return await _mutate_job(info, input, command, CancelExportPayload, cancel_channel(input.id))

    @strawberry.mutation(description="Restart a failed or cancelled export.")
    async def retry_export(self, info: Info, input: RetryExportInput) -> RetryExportPayload | None:
        return await _mutate_job(info, input, partial(job_commands.retry_job, kind="export"), RetryExportPayload, JOBS_CHANNEL)


async def _mutate_job(info: Info, input_: MutationInput, command: Command, payload: type[P], channel: str) -> P:
    """Run a mutation of one job and build its payload. Notifies the channel and the subscriptions to the job."""
    result = await mutate(info, input_, command)
    job: Any = result.rows[0] if result.rows else None
    if job is not None and not result.is_replayed:
        for key in (channel, job.id):
            info.context.feed.wakeups.publish(key)
    return build_payload(payload, result, input_, job=job)


def _presign_upload(info: Info, job: FileJobRow) -> ImportUpload:
    """The presigned URL of an upload: a PUT of exactly the announced size. Raises Unavailable."""
    try:
        presigned_put = info.context.media_config.objects.presign_put(
            job.object_key, content_type=UPLOAD_CONTENT_TYPE, size=job.object_size, seconds=UPLOAD_URL_SECONDS
        )
    except StorageError:
        raise Unavailable("The object store is not available at the moment. Try again soon.") from None
    return build_upload(ImportUpload, job.id, presigned_put)
