"""What becomes of an upload before it is confirmed: it is looked at, and a picture of it is put where nobody else can write."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.core.ids import parse_id
from storefront.core.image_processing import MEDIA_TYPES, ImageProcessor, ProcessedImage, UnusableImageError
from storefront.core.storage.base import (
    ObjectNotFoundError,
    ObjectStorage,
    SizeMismatchError,
    StorageError,
    delete_prefix,
    read_object,
)
from storefront.queries.images import FULL_SIZE_NAME

log = logging.getLogger("storefront")

UPLOAD_PREFIX, MEDIA_PREFIX = "uploads/images/", "media/"
# What is under a key never changes.
IMMUTABLE_CACHE_CONTROL = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class ProcessedUpload:
    """A picture that is kept at a place of its own, with its columns; or the problem with what was uploaded."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def place(self) -> str | None:
        """Where it is."""
        return self.columns.get("place")


def upload_key(upload_id: str) -> str:
    """Where an upload is put."""
    return f"{UPLOAD_PREFIX}{upload_id}"


async def process_image_upload(
    database: Database, objects: ObjectStorage, image_processor: ImageProcessor, upload_id: str, actor_id: str
) -> ProcessedUpload | None:
    """What becomes of an upload of the actor's; None where there is none. What cannot be used is removed.

    Nothing is locked meanwhile: reading and decoding may take seconds. Each call has a place of its own, so that two of them do
    not get in each other's way; whoever does not use theirs gives it back with `discard`.
    """
    key = parse_id(upload_id)
    for upload in await database.fetch(_select_upload_statement(), {"id": key, "actor_id": actor_id}) if key else []:
        try:
            content = await _read_upload(objects, upload)
            image = await image_processor.process_upload(content, upload.content_type)
        except UnusableImageError as error:
            await objects.delete(upload_key(upload.id))
            return ProcessedUpload(problem=f"what was uploaded {error}")
        return await _store_image(database, objects, upload.id, image)
    return None


async def _read_upload(objects: ObjectStorage, upload: Row) -> bytes:
    try:
        content = await read_object(objects, upload_key(upload.id), upload.size)
    except ObjectNotFoundError:
        raise UnusableImageError(
            "is not there yet. Send it with the method, address and headers of createImageUpload first."
        ) from None
    except SizeMismatchError:
        content = b""
    if len(content) != upload.size:
        raise UnusableImageError(f"does not have the {upload.size:,} bytes that were announced.")
    return content


async def _store_image(database: Database, objects: ObjectStorage, upload_id: str, image: ProcessedImage) -> ProcessedUpload:
    # Not to be guessed: a bucket may be open to all who know a key, as the server is to all who know an address.
    token = secrets.token_hex(16)
    place = f"{MEDIA_PREFIX}{upload_id}-{token}"
    # Noted first: whatever happens from here on, the sweep knows of it.
    await database.fetch(_record_place_statement(), {"id": upload_id, "place": place})
    content_type = MEDIA_TYPES[image.extension]
    await objects.put(
        f"{place}/{FULL_SIZE_NAME}.{image.extension}", image.content, content_type, cache_control=IMMUTABLE_CACHE_CONTROL
    )
    dimensions = {"width": image.width, "height": image.height}
    return ProcessedUpload(
        {"place": place, "token": token, "extension": image.extension, "placeholder": image.placeholder, **dimensions}
    )


async def discard_upload(objects: ObjectStorage, upload_id: str | None, place: str | None) -> None:
    """Remove what is not needed any more. What cannot be removed now is found by the sweep."""
    try:
        if upload_id:
            await objects.delete(upload_key(upload_id))
        if place:
            await delete_prefix(objects, f"{place}/")
    except (StorageError, OSError):
        log.warning("an upload could not be removed; it is left to the sweep", exc_info=True)


# The uploads of an actor, and those that may be confirmed: the sweep begins with others a while after that.
OWN_UPLOADS_SQL = (
    "SELECT upload.* FROM image_uploads AS upload "
    "JOIN configs ON configs.id = upload.config_id AND configs.user_id = CAST(:actor_id AS uuid)"
)
IS_CONFIRMABLE_SQL = "upload.confirmed_at IS NULL AND upload.expires_at > now() - interval '1 hour'"


@cache
def _select_upload_statement() -> Statement:
    return compile_statement(text(f"{OWN_UPLOADS_SQL} WHERE upload.id = CAST(:id AS uuid) AND {IS_CONFIRMABLE_SQL}"))


@cache
def _record_place_statement() -> Statement:
    assignment = "places = array_append(places, CAST(:place AS text))"
    return compile_statement(text(f"UPDATE image_uploads SET {assignment} WHERE id = CAST(:id AS uuid) RETURNING id"))
