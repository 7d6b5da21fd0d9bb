"""Fields that write pictures: upload and confirm, name and order, remove."""

from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import strawberry

from storefront.core.db.database import Row
from storefront.core.errors import Unavailable
from storefront.core.storage.base import StorageFailed
from storefront.graph.context import Files, Info
from storefront.graph.cost_hints import costs
from storefront.graph.images import Image
from storefront.graph.mutations import EXPECTED, MutationInput, Payload, common, mutate
from storefront.graph.types import Product
from storefront.graph.uploads import SENT, Upload, permitted
from storefront.media import commands
from storefront.media.upload_processing import Print, discard, printed, upload_key
from storefront.queries.images import Shown
from storefront.writes.transaction import Outcome

POSITION = "Its place among the product's images, from 0 on. "


@strawberry.input
class CreateImageUploadInput(MutationInput):
    config_id: strawberry.ID
    content_type: str = strawberry.field(description="image/jpeg, image/png, image/webp, image/avif or image/gif, as it is.")
    size: int = strawberry.field(description="Bytes of the file, exactly.")
    filename: str | None = None


@strawberry.type(description=f"{SENT} It may be confirmed until an hour after its address has ended.")
class ImageUpload(Upload):
    pass


@strawberry.type
class CreateImageUploadPayload(Payload):
    upload: ImageUpload | None


@strawberry.input
class ConfirmImageUploadInput(MutationInput):
    upload_id: strawberry.ID
    product_id: strawberry.ID
    alt: str | None = strawberry.field(default=None, description="What is to be seen, at most 512 characters.")
    position: int | None = strawberry.field(default=None, description=POSITION + "Last unless given.")


@strawberry.input(description="Fields that are left out stay as they are.")
class UpdateImageInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)
    alt: str | None = strawberry.UNSET
    position: int | None = strawberry.field(default=strawberry.UNSET, description=POSITION + "The others keep their order.")


@strawberry.input
class RemoveImageInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED)


@strawberry.type
class ImagePayload(Payload):
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
    @strawberry.mutation(description="Have an address signed to which a picture may be sent, past this server.")
    async def create_image_upload(self, info: Info, input: CreateImageUploadInput) -> CreateImageUploadPayload:
        files = info.context.files
        outcome = await mutate(info, input, partial(commands.create_upload, most_bytes=files.most_image_bytes))
        upload = _signed(files, cast(Row, outcome.rows[0])) if outcome.rows else None
        return CreateImageUploadPayload(upload=upload, **common(outcome, input))

    @strawberry.mutation(
        description="Have an uploaded picture looked at, and show it with a product. What cannot be used is removed. "
        "Confirmed again, the answer is that of the first time.",
        metadata=costs(100),
    )
    async def confirm_image_upload(self, info: Info, input: ConfirmImageUploadInput) -> ConfirmImageUploadPayload:
        files, viewer = info.context.files, info.context.signed_in()
        try:
            made = await printed(info.context.database, files.objects, files.pictures, str(input.upload_id), viewer.id)
        except (StorageFailed, OSError) as error:
            raise Unavailable("Uploads are out of reach at the moment. Nothing was done: try again.") from error
        outcome = await mutate(info, input, partial(commands.confirm_upload, made=made, base_url=files.base_url))
        await _tidied(files, str(input.upload_id), made, outcome)
        return ConfirmImageUploadPayload(**_shown(outcome), **common(outcome, input))

    @strawberry.mutation(description="Say what is to be seen on a picture, or put it elsewhere among those of its product.")
    async def update_image(self, info: Info, input: UpdateImageInput) -> UpdateImagePayload:
        outcome = await mutate(info, input, commands.update_image)
        return UpdateImagePayload(**_shown(outcome), **common(outcome, input))

    @strawberry.mutation(description="Take a picture off its product. Its files are removed a day later.")
    async def remove_image(self, info: Info, input: RemoveImageInput) -> RemoveImagePayload:
        outcome = await mutate(info, input, commands.remove_image)
        return RemoveImagePayload(**_shown(outcome), **common(outcome, input))


def _signed(files: Files, row: Row) -> ImageUpload:
    # A retry gets what is left of the time.
    left = (datetime.fromisoformat(row.expires_at) - datetime.now(UTC)).total_seconds()
    seconds = min(commands.SIGNED_FOR, max(1, round(left)))
    permit = files.objects.presign_put(upload_key(row.id), content_type=row.content_type, size=row.size, seconds=seconds)
    return permitted(ImageUpload, row.id, permit)


async def _tidied(files: Files, upload_id: str, made: Print | None, outcome: Outcome) -> None:
    """Remove what was made and is not shown, and the upload once it is."""
    shown = cast(Shown, outcome.rows[1]) if outcome.rows else None
    is_superfluous = made is not None and (shown is None or shown.place != made.place)
    await discard(files.objects, upload_id if shown else None, made.place if made and is_superfluous else None)


def _shown(outcome: Outcome) -> dict[str, Any]:
    product, image = outcome.rows or (None, None)
    return {"product": product, "image": image}
