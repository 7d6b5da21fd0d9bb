"""Commands of the image mutations. Each records the change of its product in the log."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from sqlalchemy import select, text

from storefront.core.db.database import Statement, compile_statement
from storefront.core.ids import new_id
from storefront.core.image_processing import UPLOAD_FORMATS
from storefront.media.upload_processing import (
    IS_CONFIRMABLE_SQL,
    OWN_UPLOAD_SQL,
    OWNER_JOIN_SQL,
    ProcessedUpload,
    build_key_condition,
)
from storefront.models import image_uploads, images
from storefront.models import products as product_table
from storefront.models.product import MAX_ALT_CHARACTERS, MAX_IMAGES
from storefront.models.row_keys import has_key
from storefront.models.rows import ImageRow, ImageUploadRow, ProductRow
from storefront.queries.images import ProductImage, build_image_address, build_product_image, parse_image_id
from storefront.queries.store_lookup import find_row_key
from storefront.writes import validation
from storefront.writes.authorization import lock_own_product, lock_own_store
from storefront.writes.changelog import record_child_change, record_product_change
from storefront.writes.field_errors import (
    InvalidInputReason,
    MutationRejected,
    make_invalid_input_error,
    make_invalid_state_error,
    make_limit_reached_error,
    make_not_found_error,
)
from storefront.writes.image_changes import enqueue_image_changes
from storefront.writes.optimistic_lock import reject_stale_version
from storefront.writes.sql import build_insert, convert_to_parameters, sort_column_names, update_row
from storefront.writes.transaction import PendingRow, UnitOfWork

Values = Mapping[str, Any]

# Seconds until the presigned URL of an upload expires.
UPLOAD_URL_SECONDS = 900
# Unconfirmed uploads of a store.
MAX_PENDING_UPLOADS = 250

ALT_RULE = validation.optional_rule(validation.text_rule(MAX_ALT_CHARACTERS, min_characters=0))


def _check_content_type(value: str) -> str:
    if value not in UPLOAD_FORMATS:
        raise validation.InvalidValueError(
            f"must be one of {', '.join(UPLOAD_FORMATS)}, not {value[:60]!r}.", InvalidInputReason.NOT_ALLOWED
        )
    return value


CONFIRM_RULES: validation.Rules = {
    "uploadId": validation.validate_id,
    "productId": validation.validate_id,
    "alt": ALT_RULE,
    "index": validation.optional_rule(validation.integer_rule(0, MAX_IMAGES)),
}
UPDATE_RULES: validation.Rules = {
    **validation.UPDATE_LOCK_RULES,
    "alt": ALT_RULE,
    "index": validation.non_null_rule(validation.integer_rule(0, MAX_IMAGES)),
}
REMOVE_RULES: validation.Rules = {"id": validation.validate_id, "expectedVersion": validation.accept_any}


async def create_upload(unit: UnitOfWork, values: Values, *, max_bytes: int) -> Sequence[ImageUploadRow]:
    """Create an upload, which the mutation returns as a presigned URL."""
    upload_rules: validation.Rules = {
        "configId": validation.validate_id,
        "contentType": _check_content_type,
        "size": validation.integer_rule(1, max_bytes),
        "fileName": validation.optional_rule(validation.text_rule(255)),
    }
    clean = validation.require_valid_fields(upload_rules, values)
    store = await lock_own_store(unit, clean["configId"], ["configId"])
    [(pending,)] = await unit.fetch(_count_pending_statement(), {"config_id": store.id})
    if pending >= MAX_PENDING_UPLOADS:
        problem = f"the store has {pending} unconfirmed uploads, at most {MAX_PENDING_UPLOADS} are allowed. Try again in an hour."
        raise MutationRejected(make_limit_reached_error(["configId"], problem, MAX_PENDING_UPLOADS))
    row = {"id": new_id(), "config_id": store.id, "content_type": clean["contentType"], "size": clean["size"]}
    row["filename"] = clean.get("fileName")
    statement = build_insert(
        image_uploads, sort_column_names(row), (("expires_at", f"now() + interval '{UPLOAD_URL_SECONDS} seconds'"),)
    )
    return await unit.fetch(statement, convert_to_parameters(image_uploads, row))


async def confirm_upload(unit: UnitOfWork, values: Values, *, processed: ProcessedUpload | None, base_url: str) -> Sequence[Any]:
    """Attach the image of a processed upload to a product. Idempotent: a repeated confirmation returns the first result."""
    clean = validation.require_valid_fields(CONFIRM_RULES, values)
    product = await lock_own_product(unit, clean["productId"], ["productId"])
    if (key := await find_row_key(unit.connection, clean["uploadId"])) is None:
        raise MutationRejected(make_not_found_error("upload", clean["uploadId"], ["uploadId"]))
    parameters = {**key._asdict(), "actor_id": unit.actor_id}
    for upload in await unit.fetch(_lock_upload_statement(), parameters):
        if processed is None:
            # The upload was not found when it was processed, before this transaction.
            break
        return await _attach_image(unit, product, upload, processed, clean, base_url)
    for row in await unit.fetch(_lock_image_statement(), parameters):
        return _return_confirmed_image(product, row, base_url)
    raise MutationRejected(make_not_found_error("upload", clean["uploadId"], ["uploadId"]))


async def _attach_image(
    unit: UnitOfWork, product: ProductRow, upload: ImageUploadRow, processed: ProcessedUpload, clean: Values, base_url: str
) -> Sequence[Any]:
    if processed.problem:
        raise MutationRejected(make_invalid_input_error(["uploadId"], processed.problem, InvalidInputReason.MALFORMED))
    if upload.config_id != product.config_id:
        raise MutationRejected(
            make_invalid_input_error(["productId"], "belongs to another store than the upload.", InvalidInputReason.CONFLICTING)
        )
    if len(product.images) >= MAX_IMAGES:
        raise MutationRejected(
            make_limit_reached_error(
                ["productId"], f"the product has {MAX_IMAGES} images, the maximum. Remove one first.", MAX_IMAGES
            )
        )
    key = {"config_id": product.config_id, "id": upload.id}
    row = {**key, "product_id": product.id, "alt": clean.get("alt") or None, **processed.columns}
    unit.enqueue(build_insert(images, sort_column_names(row)), convert_to_parameters(images, row))
    unit.enqueue(mark_confirmed_statement(), key)
    address = build_image_address(base_url, upload.id, processed.columns["token"], processed.columns["extension"])
    preceding = product.images[: clean.get("index")]
    pending_product = _set_product_images(unit, product, [*preceding, address, *product.images[len(preceding) :]])
    (stored,) = await unit.fetch(_lock_image_statement(), {**key, "actor_id": unit.actor_id})
    return [pending_product, build_product_image(address, stored)]


def _return_confirmed_image(product: ProductRow, row: ImageRow, base_url: str) -> Sequence[Any]:
    if row.product_id not in (product.id, None):
        raise MutationRejected(make_invalid_state_error(["productId"], "the upload was confirmed for another product."))
    return [product, build_product_image(build_image_address(base_url, row.id, row.token, row.extension), row)]


def _set_product_images(unit: UnitOfWork, product: ProductRow, addresses: Sequence[str]) -> PendingRow:
    change = update_row(unit, product_table, product, {"images": [*addresses]})
    if change.changed_fields:
        enqueue_image_changes(unit.connection, product.config_id, [(product.id, product.images, addresses)])
        record_product_change(unit, "product_updated", product, change.state, change.changed_fields)
    return change


async def update_image(unit: UnitOfWork, values: Values) -> Sequence[Any]:
    """Update the alt text of an image, and its index among the images of its product."""
    clean = validation.require_valid_fields(UPDATE_RULES, values)
    old, product = await _load_own_image(unit, clean["id"])
    await reject_stale_version(unit, old, clean, product.config_id)
    row, pending_product = old, PendingRow(product, None)
    if "alt" in clean and (clean["alt"] or None) != old.alt:
        key = {"config_id": old.config_id, "id": old.id}
        (row,) = await unit.fetch(_update_alt_statement(), {**key, "alt": clean["alt"] or None})
        record_child_change(unit, product, row, ["images.alt"])
    image = _build_image(product, row)
    if "index" in clean:
        others = [address for address in product.images if address != image.address]
        pending_product = _set_product_images(
            unit, product, [*others[: clean["index"]], image.address, *others[clean["index"] :]]
        )
    return [pending_product, image]


async def remove_image(unit: UnitOfWork, values: Values) -> Sequence[Any]:
    """Detach an image from its product. Garbage collection deletes it once no product of the store references it."""
    clean = validation.require_valid_fields(REMOVE_RULES, values)
    old, product = await _load_own_image(unit, clean["id"])
    await reject_stale_version(unit, old, clean, product.config_id)
    return [
        _set_product_images(unit, product, [address for address in product.images if parse_image_id(address) != old.id]),
        _build_image(product, old),
    ]


async def _load_own_image(unit: UnitOfWork, image_id: str) -> tuple[ImageRow, ProductRow]:
    key = await find_row_key(unit.connection, image_id)
    for parent in await unit.fetch(_select_image_product_statement(), key._asdict()) if key else []:
        # The error of the product is not revealed for an image: both are NOT_FOUND by the image's id.
        with suppress(MutationRejected):
            product = await lock_own_product(unit, parent.product_id, ["id"])
            # The image may have been detached while this waited for the lock of the product.
            parameters = {"config_id": product.config_id, "id": image_id, "actor_id": unit.actor_id}
            for row in await unit.fetch(_lock_image_statement(), parameters):
                if row.product_id == product.id:
                    return row, product
    raise MutationRejected(make_not_found_error("image", image_id, ["id"]))


def _build_image(product: ProductRow, row: ImageRow) -> ProductImage:
    address = next((address for address in product.images if parse_image_id(address) == row.id), "")
    return build_product_image(address, row)


@cache
def _count_pending_statement() -> Statement:
    condition = f"upload.config_id = CAST(:config_id AS uuid) AND {IS_CONFIRMABLE_SQL}"
    return compile_statement(text(f"SELECT count(*) AS pending FROM image_uploads AS upload WHERE {condition}"))


@cache
def _lock_upload_statement() -> Statement:
    # A concurrent confirmation waits for this lock, and then finds the image. Garbage collection takes older uploads only.
    return compile_statement(text(f"{OWN_UPLOAD_SQL} AND {IS_CONFIRMABLE_SQL} FOR UPDATE OF upload"))


@cache
def _lock_image_statement() -> Statement:
    sql = f"SELECT image.* FROM images AS image {OWNER_JOIN_SQL} WHERE {build_key_condition('image')} FOR NO KEY UPDATE OF image"
    return compile_statement(text(sql))


@cache
def mark_confirmed_statement() -> Statement:
    """Mark an upload as confirmed, by its key."""
    return compile_statement(text(f"UPDATE image_uploads SET confirmed_at = now() WHERE {build_key_condition('image_uploads')}"))


@cache
def _select_image_product_statement() -> Statement:
    return compile_statement(select(images.c.product_id).where(has_key(images), images.c.product_id.is_not(None)))


@cache
def _update_alt_statement() -> Statement:
    sql = f"UPDATE images SET alt = CAST(:alt AS text), version = version + 1 WHERE {build_key_condition('images')} RETURNING *"
    return compile_statement(text(sql))
