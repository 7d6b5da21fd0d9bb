"""Processing of an upload before its confirmation: validates, re-encodes and stores the image where clients cannot write."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Database, Statement, compile_statement
from storefront.core.ids import parse_id
from storefront.core.image_processing import MEDIA_TYPES, ImageProcessor, ProcessedImage, UnusableImageError
from storefront.core.storage.base import (
    IMMUTABLE_CACHE_CONTROL,
    ObjectNotFoundError,
    ObjectStorage,
    SizeMismatchError,
    StorageError,
    delete_prefix,
    read_object,
)
from storefront.models.row_keys import RowKey
from storefront.models.rows import ImageUploadRow
from storefront.queries.images import FULL_SIZE_NAME, MEDIA_PREFIX
from storefront.queries.store_lookup import find_row_key

log = logging.getLogger("storefront")

UPLOAD_PREFIX = "uploads/images/"


@dataclass(frozen=True, slots=True)
class ProcessedUpload:
    """The stored image, as the columns of its row; or the problem with the upload."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def place(self) -> str | None:
        """The key prefix of the image's objects; None if there is a problem."""
        return self.columns.get("place")


def upload_key(upload_id: str) -> str:
    """The object key of an upload, which its presigned URL writes to."""
    return f"{UPLOAD_PREFIX}{upload_id}"


async def process_image_upload(
    database: Database, objects: ObjectStorage, image_processor: ImageProcessor, upload_id: str, actor_id: str
) -> ProcessedUpload | None:
    """Process an upload of the actor; None if there is none. An unusable upload is deleted. Raises StorageError and OSError.

    Takes no lock, because reading and decoding may take seconds. Each call stores to a prefix of its own, so that concurrent
    calls do not conflict; the caller deletes an unused one with `discard_upload`.
    """
    id_ = parse_id(upload_id)
    key = await find_row_key(database, id_) if id_ else None
    for upload in await database.fetch(_select_upload_statement(), {**key._asdict(), "actor_id": actor_id}) if key else []:
        try:
            content = await _read_upload(objects, upload)
            image = await image_processor.process_upload(content, upload.content_type)
        except UnusableImageError as error:
            await objects.delete(upload_key(upload.id))
            return ProcessedUpload(problem=f"the upload {error}")
        return await store_image(database, objects, RowKey(upload.config_id, upload.id), image)
    return None


async def _read_upload(objects: ObjectStorage, upload: ImageUploadRow) -> bytes:
    try:
        content = await read_object(objects, upload_key(upload.id), upload.size)
    except ObjectNotFoundError:
        raise UnusableImageError(
            "was not found. Send it to the presigned URL of createImageUpload first, with its method and headers."
        ) from None
    except SizeMismatchError:
        content = b""
    if len(content) != upload.size:
        raise UnusableImageError(f"does not have the declared size of {upload.size:,} bytes.")
    return content


async def store_image(database: Database, objects: ObjectStorage, upload: RowKey, image: ProcessedImage) -> ProcessedUpload:
    """Store the image of an upload; returns the columns of its row."""
    # An unguessable key: objects of a public bucket are readable by anyone who knows their key, as images are by their URL.
    token = secrets.token_hex(16)
    place = f"{MEDIA_PREFIX}{upload.id}-{token}"
    # Recorded before the object is written: after a crash garbage collection finds it.
    await database.fetch(_record_place_statement(), {**upload._asdict(), "place": place})
    content_type = MEDIA_TYPES[image.extension]
    await objects.put(
        f"{place}/{FULL_SIZE_NAME}.{image.extension}", image.content, content_type, cache_control=IMMUTABLE_CACHE_CONTROL
    )
    dimensions = {"width": image.width, "height": image.height}
    return ProcessedUpload(
        {"place": place, "token": token, "extension": image.extension, "placeholder": image.placeholder, **dimensions}
    )


async def discard_upload(objects: ObjectStorage, upload_id: str | None, place: str | None) -> None:
    """Delete an upload, and the objects of an unused image. If this fails, garbage collection deletes them later."""
    try:
        if upload_id:
            await objects.delete(upload_key(upload_id))
        if place:
            await delete_prefix(objects, f"{place}/")
    except (StorageError, OSError):
        log.warning("an upload could not be deleted; garbage collection will retry", exc_info=True)


def build_key_condition(table: str) -> str:
    """SQL: whether a row has the key `config_id` and `id`."""
    return f"{table}.config_id = CAST(:config_id AS uuid) AND {table}.id = CAST(:id AS uuid)"


# An upload of an actor; and the condition for uploads that may be confirmed. Garbage collection starts an hour later.
OWNER_JOIN_SQL = "JOIN configs ON configs.id = CAST(:config_id AS uuid) AND configs.user_id = CAST(:actor_id AS uuid)"
OWN_UPLOAD_SQL = f"SELECT upload.* FROM image_uploads AS upload {OWNER_JOIN_SQL} WHERE {build_key_condition('upload')}"
IS_CONFIRMABLE_SQL = "upload.confirmed_at IS NULL AND upload.expires_at > now() - interval '1 hour'"


@cache
def _select_upload_statement() -> Statement:
    return compile_statement(text(f"{OWN_UPLOAD_SQL} AND {IS_CONFIRMABLE_SQL}"))


@cache
def _record_place_statement() -> Statement:
    assignment = "places = array_append(places, CAST(:place AS text))"
    sql = f"UPDATE image_uploads SET {assignment} WHERE {build_key_condition('image_uploads')} RETURNING id"
    return compile_statement(text(sql))
