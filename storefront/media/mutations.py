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
    build_payload,
    mutate,
)
from storefront.graph.types.catalogue import Product
from storefront.graph.uploads import UPLOAD_DESCRIPTION, Upload, build_upload
from storefront.media import commands
from storefront.media.upload_processing import ProcessedUpload, discard_upload, process_image_upload, upload_key
from storefront.models.rows import ImageUploadRow
from storefront.queries.images import ProductImage
from storefront.writes.transaction import MutationResult

POSITION_DESCRIPTION = "Its position among the product's images, from 0. "


@strawberry.input
class CreateImageUploadInput(MutationInput):
    config_id: strawberry.ID
    content_type: str = strawberry.field(
        description="The type of the file: image/jpeg, image/png, image/webp, image/avif or image/gif."
    )
    size: int = strawberry.field(description="The exact size of the file in bytes.")
    filename: str | None = None


@strawberry.type(description=f"{UPLOAD_DESCRIPTION} It can be confirmed until an hour after its presigned URL has expired.")
class ImageUpload(Upload):
    pass


@strawberry.type
class CreateImageUploadPayload(ReplayablePayload):
    upload: ImageUpload | None


@strawberry.input
class ConfirmImageUploadInput(MutationInput):
    upload_id: strawberry.ID
    product_id: strawberry.ID
    alt: str | None = strawberry.field(default=None, description="Alternative text of the image, at most 512 characters.")
    position: int | None = strawberry.field(default=None, description=POSITION_DESCRIPTION + "The last one by default.")


@strawberry.input(description="Fields that are left out stay as they are.")
class UpdateImageInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    alt: str | None = strawberry.UNSET
    position: int | None = strawberry.field(
        default=strawberry.UNSET, description=POSITION_DESCRIPTION + "The others keep their order."
    )


@strawberry.input
class RemoveImageInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.type
class ImagePayload(ChangePayload):
    product: Product | None
    image: Image | None


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
    @strawberry.mutation(
        description="Create a presigned URL to upload an image to, which bypasses this server if a bucket is configured."
    )
    async def create_image_upload(self, info: Info, input: CreateImageUploadInput) -> CreateImageUploadPayload | None:
        media_config = info.context.media_config
        result = await mutate(info, input, partial(commands.create_upload, max_bytes=media_config.max_image_bytes))
        upload = _presign_upload(media_config, result.rows[0]) if result.rows else None
        return build_payload(CreateImageUploadPayload, result, input, upload=upload)

    @strawberry.mutation(
        description="Validate an uploaded image, and add it to a product. An unusable upload is deleted. "
        "Idempotent: a repeated confirmation returns the first result.",
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

    @strawberry.mutation(description="Update the alternative text of an image, or its position among the images of its product.")
    async def update_image(self, info: Info, input: UpdateImageInput) -> UpdateImagePayload | None:
        result = await mutate(info, input, commands.update_image)
        return build_payload(UpdateImagePayload, result, input, **_to_payload_fields(result))

    @strawberry.mutation(description="Remove an image from its product. Its files are deleted a day later.")
    async def remove_image(self, info: Info, input: RemoveImageInput) -> RemoveImagePayload | None:
        result = await mutate(info, input, commands.remove_image)
        return build_payload(RemoveImagePayload, result, input, **_to_payload_fields(result))


def _presign_upload(media_config: MediaConfig, row: ImageUploadRow) -> ImageUpload:
    """The presigned URL of an upload: a PUT of exactly the declared type and size."""
    # A replay of the mutation gets the remaining time.
    remaining_seconds = (datetime.fromisoformat(row.expires_at) - datetime.now(UTC)).total_seconds()
    seconds = min(commands.UPLOAD_URL_SECONDS, max(1, round(remaining_seconds)))
    presigned_put = media_config.objects.presign_put(
        upload_key(row.id), content_type=row.content_type, size=row.size, seconds=seconds
    )
    return build_upload(ImageUpload, row.id, presigned_put)


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
