"""Mutation fields of images: create and confirm uploads, update and remove images."""

from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import strawberry

from storefront.core.errors import Unavailable
from storefront.core.storage.base import StorageError
from storefront.graph.context import Info, MediaConfig
from storefront.graph.cost_hints import costs
from storefront.graph.images import Image
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    MutationInput,
    ReplayablePayload,
    VersionedUpdateInput,
    build_payload,
    mutate,
)
from storefront.graph.scalars import FileSize
from storefront.graph.types.catalogue import Product
from storefront.graph.uploads import SignedUpload, build_signed_upload
from storefront.media import commands
from storefront.media.upload_processing import ProcessedUpload, discard_upload, process_image_upload, upload_key
from storefront.models.rows import ImageUploadRow
from storefront.queries.images import ProductImage
from storefront.writes.transaction import MutationResult

IMAGE_ID_DESCRIPTION = "ID of an uploaded image."
ALT_DESCRIPTION = "Alternative text, at most 512 characters."


@strawberry.input
class CreateImageUploadInput(MutationInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    content_type: str = strawberry.field(
        description="Actual media type of the file: image/jpeg, image/png, image/webp, image/avif or image/gif."
    )
    size: FileSize = strawberry.field(description="Exact size of the file.")
    file_name: str | None = strawberry.field(default=None, description="Name of the file.")


@strawberry.type
class CreateImageUploadPayload(ReplayablePayload):
    upload: SignedUpload | None = strawberry.field(
        description="Where to upload the image. It can be confirmed until an hour after the URL has expired."
    )


@strawberry.input
class ConfirmImageUploadInput(MutationInput):
    upload_id: strawberry.ID = strawberry.field(description="`id` of the upload.")
    product_id: strawberry.ID = strawberry.field(description="ID of the product to add the image to.")
    alt: str | None = strawberry.field(default=None, description=ALT_DESCRIPTION)
    index: int | None = strawberry.field(
        default=None, description="Zero-based index among the product's images; last if omitted."
    )


@strawberry.input(description="Input of `updateImage`. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateImageInput(MutationInput, VersionedUpdateInput):
    id: strawberry.ID = strawberry.field(description=IMAGE_ID_DESCRIPTION)
    alt: str | None = strawberry.field(default=strawberry.UNSET, description=ALT_DESCRIPTION)
    index: int | None = strawberry.field(
        default=strawberry.UNSET, description="New zero-based index among the product's images. The others keep their order."
    )


@strawberry.input
class RemoveImageInput(MutationInput):
    id: strawberry.ID = strawberry.field(description=IMAGE_ID_DESCRIPTION)
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.type
class ImagePayload(ChangePayload):
    product: Product | None = strawberry.field(description="The product.")
    image: Image | None = strawberry.field(description="The image.")


@strawberry.type
class ConfirmImageUploadPayload(ImagePayload):
    pass


@strawberry.type
class UpdateImagePayload(ImagePayload):
    pass


@strawberry.type
class RemoveImagePayload(ImagePayload):
    pass


@strawberry.type
class MediaMutation:
    @strawberry.mutation(description="Returns a signed request for uploading an image to storage.")
    async def create_image_upload(self, info: Info, input: CreateImageUploadInput) -> CreateImageUploadPayload | None:
        media_config = info.context.media_config
        result = await mutate(info, input, partial(commands.create_upload, max_bytes=media_config.max_image_bytes))
        upload = _presign_upload(media_config, result.rows[0]) if result.rows else None
        return build_payload(CreateImageUploadPayload, result, input, upload=upload)

    @strawberry.mutation(
        description="Checks an uploaded image and adds it to a product. Unsuitable files are deleted. Confirming again returns "
        "the first result.",
        metadata=costs(100),
    )
    async def confirm_image_upload(self, info: Info, input: ConfirmImageUploadInput) -> ConfirmImageUploadPayload | None:
        media_config, viewer = info.context.media_config, info.context.require_viewer()
        try:
            processed = await process_image_upload(
                info.context.database, media_config.objects, media_config.image_processor, str(input.upload_id), viewer.id
            )
        except (StorageError, OSError) as error:
            raise Unavailable("Uploads are not available at the moment. Nothing was changed: try again.") from error
        result = await mutate(info, input, partial(commands.confirm_upload, processed=processed, base_url=media_config.base_url))
        await _discard_leftovers(media_config, str(input.upload_id), processed, result)
        return build_payload(ConfirmImageUploadPayload, result, input, **_to_payload_fields(result))

    @strawberry.mutation(description="Changes the alternative text or place of an image.")
    async def update_image(self, info: Info, input: UpdateImageInput) -> UpdateImagePayload | None:
        result = await mutate(info, input, commands.update_image)
        return build_payload(UpdateImagePayload, result, input, **_to_payload_fields(result))

    @strawberry.mutation(description="Removes an image from its product. Its files are deleted a day later.")
    async def remove_image(self, info: Info, input: RemoveImageInput) -> RemoveImagePayload | None:
        result = await mutate(info, input, commands.remove_image)
        return build_payload(RemoveImagePayload, result, input, **_to_payload_fields(result))


def _presign_upload(media_config: MediaConfig, row: ImageUploadRow) -> SignedUpload:
    """The presigned URL of an upload: a PUT of exactly the declared type and size."""
    # A replay of the mutation gets the remaining time.
    remaining_seconds = (datetime.fromisoformat(row.expires_at) - datetime.now(UTC)).total_seconds()
    seconds = min(commands.UPLOAD_URL_SECONDS, max(1, round(remaining_seconds)))
    presigned_put = media_config.objects.presign_put(
        upload_key(row.id), content_type=row.content_type, size=row.size, seconds=seconds
    )
    return build_signed_upload(row.id, presigned_put)


async def _discard_leftovers(
    media_config: MediaConfig, upload_id: str, processed: ProcessedUpload | None, result: MutationResult
) -> None:
    """Delete the objects of an image that was not attached, and the upload once it is."""
    image = cast(ProductImage, result.rows[1]) if result.rows else None
    is_unused = processed is not None and (image is None or image.place != processed.place)
    await discard_upload(media_config.objects, upload_id if image else None, processed.place if processed and is_unused else None)


def _to_payload_fields(result: MutationResult) -> dict[str, Any]:
    product, image = result.rows or (None, None)
    return {"product": product, "image": image}
