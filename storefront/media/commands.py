"""Writes of pictures, each with the change of its product that it records."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from sqlalchemy import bindparam, select, text

from storefront.core.db.database import Row, Statement, compiled
from storefront.core.ids import new_id
from storefront.core.image_processing import FORMATS
from storefront.media.upload_processing import CONFIRMABLE, PENDING, Print
from storefront.models import image_uploads, images
from storefront.models import products as product_table
from storefront.queries.images import Shown, address_of, id_in, of_row
from storefront.writes import validation
from storefront.writes.authorization import missing, own_product, own_store
from storefront.writes.changelog import record_part, record_product
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.product_validation import MOST_IMAGES
from storefront.writes.sql import as_parameters, change_row, inserted, names
from storefront.writes.transaction import Refused, Unit, Written, invalid

Values = Mapping[str, Any]

# Seconds for which an upload is signed.
SIGNED_FOR = 900
# Uploads of a store that wait to be confirmed.
MOST_PENDING = 250

ALT = validation.optional(validation.text(512, least=0))


def _content_type(value: str) -> str:
    if value not in FORMATS:
        raise validation.Unfit(f"must be one of {', '.join(FORMATS)}, not {value[:60]!r}.")
    return value


CONFIRM: validation.Rules = {
    "uploadId": validation.key,
    "productId": validation.key,
    "alt": ALT,
    "position": validation.optional(validation.whole(0, MOST_IMAGES)),
}
UPDATE: validation.Rules = {
    "id": validation.key,
    "expectedVersion": validation.as_is,
    "alt": ALT,
    "position": validation.given(validation.whole(0, MOST_IMAGES)),
}
REMOVE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is}


async def create_upload(unit: Unit, values: Values, *, most_bytes: int) -> Sequence[Row]:
    """Room for a picture that is about to be uploaded."""
    rows: validation.Rules = {
        "configId": validation.key,
        "contentType": _content_type,
        "size": validation.whole(1, most_bytes),
        "filename": validation.optional(validation.text(255)),
    }
    clean = validation.require(rows, values)
    store = await own_store(unit, clean["configId"], ["configId"])
    [(pending,)] = await unit.fetch(_pending(), {"config_id": store.id})
    if pending >= MOST_PENDING:
        problem = (
            f"the store has {pending} uploads that were not confirmed, and may have at most {MOST_PENDING}. Try again in an hour."
        )
        raise Refused(invalid(["configId"], problem))
    row = {"id": new_id(), "config_id": store.id, "content_type": clean["contentType"], "size": clean["size"]}
    row["filename"] = clean.get("filename")
    statement = inserted(image_uploads, names(row), (("expires_at", f"now() + interval '{SIGNED_FOR} seconds'"),))
    return await unit.fetch(statement, as_parameters(image_uploads, row))


async def confirm_upload(unit: Unit, values: Values, *, made: Print | None, base_url: str) -> Sequence[Any]:
    """The picture that was made of an upload, shown by a product. Confirmed again, what came of it the first time."""
    clean = validation.require(CONFIRM, values)
    product = await own_product(unit, clean["productId"], ["productId"])
    for upload in await unit.fetch(_upload(), {"id": clean["uploadId"], "actor_id": unit.actor_id}):
        if made is None:
            # It was not there when it was looked at, before this began.
            break
        return await _shown_first(unit, product, upload, made, clean, base_url)
    for row in await unit.fetch(_image(), {"id": clean["uploadId"], "actor_id": unit.actor_id}):
        return _again(product, row, base_url)
    raise Refused(missing("upload", clean["uploadId"], ["uploadId"]))


async def _shown_first(unit: Unit, product: Row, upload: Row, made: Print, clean: Values, base_url: str) -> Sequence[Any]:
    if made.problem:
        raise Refused(invalid(["uploadId"], made.problem))
    if upload.config_id != product.config_id:
        raise Refused(invalid(["productId"], "belongs to another store than the upload."))
    if len(product.images) >= MOST_IMAGES:
        raise Refused(invalid(["productId"], f"the product has {MOST_IMAGES} images, which is as many as it may have."))
    keys = {"id": upload.id, "config_id": product.config_id, "product_id": product.id}
    row = {**keys, "alt": clean.get("alt") or None, **made.columns}
    unit.send(inserted(images, names(row)), as_parameters(images, row))
    unit.send(_confirmed(), {"id": upload.id})
    address = address_of(base_url, upload.id, made.columns["token"], made.columns["extension"])
    position = clean.get("position")
    before = product.images[:position]
    written = _show(unit, product, [*before, address, *product.images[len(before) :]])
    (stored,) = await unit.fetch(_image(), {"id": upload.id, "actor_id": unit.actor_id})
    return [written, of_row(address, stored)]


def _again(product: Row, row: Row, base_url: str) -> Sequence[Any]:
    if row.product_id not in (product.id, None):
        raise Refused(invalid(["productId"], "the upload was confirmed for another product."))
    return [product, of_row(address_of(base_url, row.id, row.token, row.extension), row)]


def _show(unit: Unit, product: Row, addresses: Sequence[str]) -> Written:
    made = change_row(unit, product_table, product, {"images": [*addresses]})
    if made.fields:
        record_product(unit, "product_updated", product, made.state, made.fields)
    return made


async def update_image(unit: Unit, values: Values) -> Sequence[Any]:
    """What a picture is called, and where it stands among those of its product."""
    clean = validation.require(UPDATE, values)
    old, product = await _own_image(unit, clean["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), product.config_id)
    row, written = old, Written(product, None)
    if "alt" in clean and (clean["alt"] or None) != old.alt:
        (row,) = await unit.fetch(_name(), {"id": old.id, "alt": clean["alt"] or None})
        record_part(unit, product.id, product, row, ["images.alt"])
    shown = _found(product, row)
    if "position" in clean:
        others = [address for address in product.images if address != shown.address]
        written = _show(unit, product, [*others[: clean["position"]], shown.address, *others[clean["position"] :]])
    return [written, shown]


async def remove_image(unit: Unit, values: Values) -> Sequence[Any]:
    """A picture off its product. It is gone for good once the sweep finds that no other product of the store shows it."""
    clean = validation.require(REMOVE, values)
    old, product = await _own_image(unit, clean["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), product.config_id)
    return [_show(unit, product, [address for address in product.images if id_in(address) != old.id]), _found(product, old)]


async def _own_image(unit: Unit, image_id: str) -> tuple[Row, Row]:
    for parent in await unit.fetch(_product_of_image(), {"id": image_id}):
        # What is hidden of others is not told by the name of another thing that is hidden.
        with suppress(Refused):
            product = await own_product(unit, parent.product_id, ["id"])
            # It may have been taken off while its product was waited for.
            for row in await unit.fetch(_image(), {"id": image_id, "actor_id": unit.actor_id}):
                if row.product_id == product.id:
                    return row, product
    raise Refused(missing("image", image_id, ["id"]))


def _found(product: Row, row: Row) -> Shown:
    address = next((address for address in product.images if id_in(address) == row.id), "")
    return of_row(address, row)


@cache
def _pending() -> Statement:
    mine = f"upload.config_id = CAST(:config_id AS uuid) AND {CONFIRMABLE}"
    return compiled(text(f"SELECT count(*) AS pending FROM image_uploads AS upload WHERE {mine}"))


_MINE = "JOIN configs ON configs.id = {0}.config_id AND configs.user_id = CAST(:actor_id AS uuid)"


@cache
def _upload() -> Statement:
    # A second confirmation waits, and then finds the picture. The sweep is for what is older.
    return compiled(text(f"{PENDING} WHERE upload.id = CAST(:id AS uuid) AND {CONFIRMABLE} FOR UPDATE OF upload"))


@cache
def _image() -> Statement:
    mine = _MINE.format("image")
    return compiled(
        text(f"SELECT image.* FROM images AS image {mine} WHERE image.id = CAST(:id AS uuid) FOR NO KEY UPDATE OF image")
    )


@cache
def _confirmed() -> Statement:
    return compiled(text("UPDATE image_uploads SET confirmed_at = now() WHERE id = CAST(:id AS uuid)"))


@cache
def _product_of_image() -> Statement:
    return compiled(select(images.c.product_id).where(images.c.id == bindparam("id"), images.c.product_id.is_not(None)))


@cache
def _name() -> Statement:
    return compiled(
        text("UPDATE images SET alt = CAST(:alt AS text), version = version + 1 WHERE id = CAST(:id AS uuid) RETURNING *")
    )
