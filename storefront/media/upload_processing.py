"""What becomes of an upload before it is confirmed: it is looked at, and a picture of it is put where nobody else can write."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.core.ids import parse_id
from storefront.core.image_processing import TYPES, Developed, Pictures, Unusable
from storefront.core.storage.base import Missing, Objects, StorageFailed, WrongSize, read, remove
from storefront.queries.images import FULL

log = logging.getLogger("storefront")

UPLOADS, KEPT = "uploads/images/", "media/"
# What is under a key never changes.
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Print:
    """A picture that is kept at a place of its own, with its columns; or the problem with what was uploaded."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def place(self) -> str | None:
        """Where it is."""
        return self.columns.get("place")


def upload_key(upload_id: str) -> str:
    """Where an upload is put."""
    return f"{UPLOADS}{upload_id}"


async def printed(database: Database, objects: Objects, pictures: Pictures, upload_id: str, actor_id: str) -> Print | None:
    """What becomes of an upload of the actor's; None where there is none. What cannot be used is removed.

    Nothing is locked meanwhile: reading and decoding may take seconds. Each call has a place of its own, so that two of them do
    not get in each other's way; whoever does not use theirs gives it back with `discard`.
    """
    key = parse_id(upload_id)
    for upload in await database.fetch(_upload(), {"id": key, "actor_id": actor_id}) if key else []:
        try:
            content = await _content(objects, upload)
            picture = await pictures.develop(content, upload.content_type)
        except Unusable as unusable:
            await objects.delete(upload_key(upload.id))
            return Print(problem=f"what was uploaded {unusable}")
        return await _kept(database, objects, upload.id, picture)
    return None


async def _content(objects: Objects, upload: Row) -> bytes:
    try:
        content = await read(objects, upload_key(upload.id), upload.size)
    except Missing:
        raise Unusable("is not there yet. Send it with the method, address and headers of createImageUpload first.") from None
    except WrongSize:
        content = b""
    if len(content) != upload.size:
        raise Unusable(f"does not have the {upload.size:,} bytes that were announced.")
    return content


async def _kept(database: Database, objects: Objects, upload_id: str, picture: Developed) -> Print:
    # Not to be guessed: a bucket may be open to all who know a key, as the server is to all who know an address.
    token = secrets.token_hex(16)
    place = f"{KEPT}{upload_id}-{token}"
    # Noted first: whatever happens from here on, the sweep knows of it.
    await database.fetch(_note(), {"id": upload_id, "place": place})
    content_type = TYPES[picture.extension]
    await objects.put(f"{place}/{FULL}.{picture.extension}", picture.content, content_type, cache_control=FOR_EVER)
    size = {"width": picture.width, "height": picture.height}
    return Print({"place": place, "token": token, "extension": picture.extension, "placeholder": picture.placeholder, **size})


async def discard(objects: Objects, upload_id: str | None, place: str | None) -> None:
    """Remove what is not needed any more. What cannot be removed now is found by the sweep."""
    try:
        if upload_id:
            await objects.delete(upload_key(upload_id))
        if place:
            await remove(objects, f"{place}/")
    except (StorageFailed, OSError):
        log.warning("an upload could not be removed; it is left to the sweep", exc_info=True)


# The uploads of an actor, and those that may be confirmed: the sweep begins with others a while after that.
PENDING = (
    "SELECT upload.* FROM image_uploads AS upload "
    "JOIN configs ON configs.id = upload.config_id AND configs.user_id = CAST(:actor_id AS uuid)"
)
CONFIRMABLE = "upload.confirmed_at IS NULL AND upload.expires_at > now() - interval '1 hour'"


@cache
def _upload() -> Statement:
    return compiled(text(f"{PENDING} WHERE upload.id = CAST(:id AS uuid) AND {CONFIRMABLE}"))


@cache
def _note() -> Statement:
    noted = "places = array_append(places, CAST(:place AS text))"
    return compiled(text(f"UPDATE image_uploads SET {noted} WHERE id = CAST(:id AS uuid) RETURNING id"))
