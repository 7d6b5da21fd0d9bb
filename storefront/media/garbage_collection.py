"""Garbage collection of uploads and images in object storage. It is crash-safe: it may be killed at any point.

Each object has a row with its key, inserted before it and deleted after it, so that no listing is needed to find garbage. Between
the time from which an object may no longer be used and its deletion there is a grace period for requests that still use it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import BigInteger, bindparam, text

from storefront.core.db.database import Database, Row, Statement, compile_statement
from storefront.core.storage.base import ObjectStorage, delete_prefix
from storefront.media.upload_processing import UPLOAD_PREFIX, upload_key
from storefront.queries.images import MEDIA_PREFIX, SHARED_PREFIX

# Rows of one batch.
MAX_BATCH_ROWS = 200

_OLD_UPLOADS_SQL = """
SELECT upload.id, upload.places, image.place FROM image_uploads AS upload LEFT JOIN images AS image USING (config_id, id)
WHERE upload.expires_at < now() - interval '2 hours' ORDER BY upload.expires_at LIMIT :limit
"""
_DELETE_UPLOADS_SQL = "DELETE FROM image_uploads WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING id"

# A grace period of a day, to undo the removal. An image that another product of the store references by then is attached to it.
_MARK_IMAGES_SQL = """
WITH old AS (
  SELECT id, config_id FROM images
  WHERE product_id IS NULL AND swept_at IS NULL AND detached_at < now() - interval '1 day'
  ORDER BY detached_at LIMIT :limit FOR UPDATE SKIP LOCKED
),
shown AS (
  SELECT DISTINCT ON (old.config_id, old.id) old.config_id, old.id, product.id AS product_id
  FROM products AS product
  CROSS JOIN LATERAL unnest(storefront_image_ids(product.images)) AS listed (id)
  JOIN old ON old.id = listed.id AND old.config_id = product.config_id
  WHERE product.config_id IN (SELECT config_id FROM old) AND product.images::text LIKE '%/media/%'
  ORDER BY old.config_id, old.id, product.id
)
UPDATE images SET product_id = shown.product_id, swept_at = CASE WHEN shown.product_id IS NULL THEN now() END
FROM old LEFT JOIN shown USING (config_id, id) WHERE images.config_id = old.config_id AND images.id = old.id
RETURNING images.id
"""
_MARKED_IMAGES_SQL = "SELECT id, place FROM images WHERE swept_at < now() - interval '10 minutes' ORDER BY swept_at LIMIT :limit"
_DELETE_IMAGES_SQL = "DELETE FROM images WHERE id = ANY(CAST(:ids AS uuid[])) AND swept_at IS NOT NULL RETURNING id"


async def sweep_images(database: Database, objects: ObjectStorage) -> int:
    """Delete expired uploads, and images without a product for a day; returns how many of both. Safe to run concurrently."""
    removed_count = 0
    while uploads := await database.fetch(_select_old_uploads_statement(), {"limit": MAX_BATCH_ROWS}):
        for upload in uploads:
            await _remove_upload_objects(objects, upload)
        removed_count += len(await database.fetch(_delete_uploads_statement(), {"ids": [upload.id for upload in uploads]}))
    while await database.fetch(_mark_images_statement(), {"limit": MAX_BATCH_ROWS}):
        pass
    while images := await database.fetch(_select_marked_images_statement(), {"limit": MAX_BATCH_ROWS}):
        for image in images:
            if not image.place.startswith(SHARED_PREFIX):
                await delete_prefix(objects, f"{image.place}/")
        removed_count += len(await database.fetch(_delete_images_statement(), {"ids": [image.id for image in images]}))
    return removed_count


# Keys that are looked up in the database at a time.
MAX_LOOKUP_KEYS = 1_000
_REFERENCED_PLACES_SQL = """
SELECT place FROM images WHERE place = ANY(CAST(:names AS text[]))
UNION ALL SELECT unnest(places) FROM image_uploads WHERE places && CAST(:names AS text[])
UNION ALL SELECT '{uploads}' || id FROM image_uploads WHERE '{uploads}' || id = ANY(CAST(:names AS text[]))
"""


async def sweep_orphaned_objects(database: Database, objects: ObjectStorage) -> int:
    """Delete orphaned objects: without a row, and older than a day; returns how many. Lists all objects.

    There are orphans only after a restore of the database from a backup.
    """
    removed_count = 0
    for prefix in (UPLOAD_PREFIX, MEDIA_PREFIX):
        old_keys: list[str] = []
        async for stored in objects.list(prefix):
            if stored.modified_at < datetime.now(UTC) - timedelta(days=1):
                old_keys.append(stored.key)
            if len(old_keys) >= MAX_LOOKUP_KEYS:
                removed_count += await _remove_unreferenced(database, objects, old_keys)
                old_keys = []
        removed_count += await _remove_unreferenced(database, objects, old_keys)
    return removed_count


async def _remove_unreferenced(database: Database, objects: ObjectStorage, keys: Sequence[str]) -> int:
    # The rows of images have the prefix (`place`) of their objects.
    name_by_key = {key: key if key.startswith(UPLOAD_PREFIX) else key.rpartition("/")[0] for key in keys}
    rows = (
        await database.fetch(_select_referenced_statement(), {"names": sorted(set(name_by_key.values()))}) if name_by_key else []
    )
    referenced = {row.place for row in rows}
    unreferenced = [key for key, name in name_by_key.items() if name not in referenced]
    for key in unreferenced:
        await objects.delete(key)
    return len(unreferenced)


async def _remove_upload_objects(objects: ObjectStorage, upload: Row) -> None:
    await objects.delete(upload_key(upload.id))
    for place in upload.places:
        if place != upload.place:
            await delete_prefix(objects, f"{place}/")


@cache
def _select_referenced_statement() -> Statement:
    return compile_statement(text(_REFERENCED_PLACES_SQL.format(uploads=UPLOAD_PREFIX)))


def _compile_batch_statement(sql: str) -> Statement:
    return compile_statement(text(sql).bindparams(bindparam("limit", type_=BigInteger)))


@cache
def _select_old_uploads_statement() -> Statement:
    return _compile_batch_statement(_OLD_UPLOADS_SQL)


@cache
def _delete_uploads_statement() -> Statement:
    return compile_statement(text(_DELETE_UPLOADS_SQL))


@cache
def _mark_images_statement() -> Statement:
    return _compile_batch_statement(_MARK_IMAGES_SQL)


@cache
def _select_marked_images_statement() -> Statement:
    return _compile_batch_statement(_MARKED_IMAGES_SQL)


@cache
def _delete_images_statement() -> Statement:
    return compile_statement(text(_DELETE_IMAGES_SQL))
