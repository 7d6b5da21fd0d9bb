"""Mutation fields of imports and exports."""

from functools import partial
from typing import Any, TypeVar

import strawberry

from storefront.core.errors import Unavailable
from storefront.core.storage.base import StorageError
from storefront.graph.context import Info
from storefront.graph.limits import limits
from storefront.graph.mutations import MutationInput, MutationPayload, ReplayablePayload, build_payload, mutate
from storefront.graph.scalars import FileSize
from storefront.graph.types.jobs import DecimalSeparator, ExportFormat, ExportJob, ImportJob, ImportSource, Job
from storefront.graph.uploads import SignedUpload, build_signed_upload
from storefront.imports import job_commands
from storefront.imports.job_commands import MAX_MAPPED_COLUMNS
from storefront.imports.jobs.queue import JOBS_CHANNEL, cancel_channel
from storefront.imports.product_writer import DEFAULT_MAX_REJECTED_ROWS, MAX_REJECTED_ROWS_LIMIT
from storefront.models.rows import FileJobRow
from storefront.writes.transaction import Command

P = TypeVar("P", bound=MutationPayload)

# Seconds until the presigned URL of an upload expires.
UPLOAD_URL_SECONDS = 3_600
UPLOAD_CONTENT_TYPE = "text/csv"


@strawberry.input
class CreateImportUploadInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    file_name: str = strawberry.field(description="Name of the file, for display.")
    size: FileSize = strawberry.field(description="Exact size of the file.")


@strawberry.input(description="A column of a file, and the field that it is imported as.")
class ColumnMappingInput:
    column: str = strawberry.field(description="Name of the column in the file, without regard to case.")
    field: str = strawberry.field(
        description="Name of a field, such as `handle`, `sku`, `title`, `price`, `stock` or `image`, or of a column of Shopify's "
        "CSV. `option`: the column is an option of variants, and its name that of the option."
    )


@strawberry.input
class ImportProductsInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    source: ImportSource = strawberry.field(description="Where the products come from.")
    upload_id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="`id` of the upload. Required for files."
    )
    # Not `dry_run`, which `mutate` reads: it would roll back the creation of the job.
    is_dry_run: bool = strawberry.field(default=False, name="dryRun", description="Whether to only report what would be done.")
    delete_missing_variants: bool = strawberry.field(
        default=False,
        description="Whether to delete variants that the source does not have, of products whose options it has and of which no "
        "row was rejected.",
    )
    fetch_images: bool = strawberry.field(
        default=True,
        description="Whether to fetch images that are hosted elsewhere, once the products are imported, and to show the stored "
        "ones instead. Those that cannot be fetched are listed in `issues` and keep their URLs.",
    )
    decimal_separator: DecimalSeparator = strawberry.field(
        default=DecimalSeparator.AUTO, description="What separates the decimals of numbers in a file."
    )
    archive_entry: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Name of the file in an archive, or of the sheet in a workbook, to import. Required if there are several.",
    )
    column_mapping: list[ColumnMappingInput] = strawberry.field(
        default_factory=list,
        description="Columns of a file that have other names than those of its format.",
        metadata=limits(items=MAX_MAPPED_COLUMNS, characters=255),
    )
    max_rejected_rows: int = strawberry.field(
        default=DEFAULT_MAX_REJECTED_ROWS,
        description=f"Number of rejected rows, 0 to {MAX_REJECTED_ROWS_LIMIT:,}, beyond which the import fails. "
        "What was done until then is kept.",
    )


@strawberry.input
class ExportProductsInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    format: ExportFormat = strawberry.field(default=ExportFormat.SHOPIFY_CSV, description="Format of the file.")
    escape_formulas: bool = strawberry.field(
        default=True,
        description="Whether to put an apostrophe before cells of CSV that spreadsheets would run as formulas. Imports here "
        "remove it again. Use false for files that are imported elsewhere.",
    )


@strawberry.input
class CancelJobInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the job.")


@strawberry.input
class RetryJobInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the job.")


@strawberry.type
class CreateImportUploadPayload(ReplayablePayload):
    upload: SignedUpload | None = strawberry.field(description="Where to upload the file.")


@strawberry.type
class ImportProductsPayload(ReplayablePayload):
    job: ImportJob | None = strawberry.field(description="The job.")


@strawberry.type
class ExportProductsPayload(ReplayablePayload):
    job: ExportJob | None = strawberry.field(description="The job.")


@strawberry.type
class CancelJobPayload(ReplayablePayload):
    job: Job | None = strawberry.field(description="The job.")


@strawberry.type
class RetryJobPayload(ReplayablePayload):
    job: Job | None = strawberry.field(description="The job.")


@strawberry.type
class JobMutation:
    @strawberry.mutation(description="Returns a signed request for uploading a file that `importProducts` can import.")
    async def create_import_upload(self, info: Info, input: CreateImportUploadInput) -> CreateImportUploadPayload | None:
        command = partial(job_commands.create_upload, max_bytes=info.context.media_config.max_import_bytes)
        result = await mutate(info, input, command)
        upload = _presign_upload(info, result.rows[0]) if result.rows else None
        return build_payload(CreateImportUploadPayload, result, input, upload=upload)

    @strawberry.mutation(
        description="Starts a job that creates and updates products from a file or a connected shop. Products are matched by "
        "handle, variants by SKU or else by attributes. What the source has no column or no row for stays as it is."
    )
    async def import_products(self, info: Info, input: ImportProductsInput) -> ImportProductsPayload | None:
        command = partial(
            job_commands.import_products,
            objects=info.context.media_config.objects,
            client_mutation_id=input.client_mutation_id or None,
        )
        return await _mutate_job(info, input, command, ImportProductsPayload, JOBS_CHANNEL)

    @strawberry.mutation(
        description="Starts a job that writes all products to a file. Importing the file restores the same products."
    )
    async def export_products(self, info: Info, input: ExportProductsInput) -> ExportProductsPayload | None:
        return await _mutate_job(info, input, job_commands.export_products, ExportProductsPayload, JOBS_CHANNEL)

    @strawberry.mutation(description="Cancels a queued or running job. What was done until then is kept.")
    async def cancel_job(self, info: Info, input: CancelJobInput) -> CancelJobPayload | None:
        return await _mutate_job(info, input, job_commands.cancel_job, CancelJobPayload, cancel_channel(input.id))

    @strawberry.mutation(description="Retries a failed or cancelled job, which continues where it stopped.")
    async def retry_job(self, info: Info, input: RetryJobInput) -> RetryJobPayload | None:
        return await _mutate_job(info, input, job_commands.retry_job, RetryJobPayload, JOBS_CHANNEL)


async def _mutate_job(info: Info, input_: MutationInput, command: Command, payload: type[P], channel: str) -> P:
    """Run a mutation of one job and build its payload. Notifies the channel and the subscriptions to the job."""
    result = await mutate(info, input_, command)
    job: Any = result.rows[0] if result.rows else None
    if job is not None and not result.is_replayed:
        for key in (channel, job.id):
            info.context.feed.wakeups.publish(key)
    return build_payload(payload, result, input_, job=job)


def _presign_upload(info: Info, job: FileJobRow) -> SignedUpload:
    """The presigned URL of an upload: a PUT of exactly the announced size. Raises Unavailable."""
    try:
        presigned_put = info.context.media_config.objects.presign_put(
            job.object_key, content_type=UPLOAD_CONTENT_TYPE, size=job.object_size, seconds=UPLOAD_URL_SECONDS
        )
    except StorageError:
        raise Unavailable("The object store is not available at the moment. Try again soon.") from None
    return build_signed_upload(job.id, presigned_put)
