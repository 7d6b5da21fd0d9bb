"""Removes from the object store what nobody needs any more, whoever is killed meanwhile.

Every object has a row that says where it is, written before it and removed after it. So there is nothing to be looked for.
Between the moment from which a thing may no longer be used and its removal there is time for whoever still uses it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from sqlalchemy import text

from storefront.core.db.database import Database, Row, Statement, compiled
from storefront.core.storage.base import Objects, remove
from storefront.media.upload_processing import KEPT, UPLOADS, upload_key

# Rows that are done at a time.
MOST = 200

_OLD_UPLOADS = f"""
SELECT upload.id, upload.places, image.place FROM image_uploads AS upload LEFT JOIN images AS image USING (id)
WHERE upload.expires_at < now() - interval '2 hours' ORDER BY upload.expires_at LIMIT {MOST}
"""
_FORGET_UPLOADS = "DELETE FROM image_uploads WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING id"

# A day's time to change one's mind. Meanwhile the address may have been written to another product of the store.
_MARK = f"""
WITH old AS (
  SELECT id, config_id FROM images
  WHERE product_id IS NULL AND swept_at IS NULL AND detached_at < now() - interval '1 day'
  ORDER BY detached_at LIMIT {MOST} FOR UPDATE SKIP LOCKED
),
shown AS (
  SELECT DISTINCT ON (old.id) old.id, product.id AS product_id
  FROM products AS product
  CROSS JOIN LATERAL unnest(storefront_image_ids(product.images)) AS listed (id)
  JOIN old ON old.id = listed.id AND old.config_id = product.config_id
  WHERE product.config_id IN (SELECT config_id FROM old) AND product.images::text LIKE '%/media/%'
  ORDER BY old.id, product.id
)
UPDATE images SET product_id = shown.product_id, swept_at = CASE WHEN shown.product_id IS NULL THEN now() END
FROM old LEFT JOIN shown USING (id) WHERE images.id = old.id
RETURNING images.id
"""
_MARKED = f"SELECT id, place FROM images WHERE swept_at < now() - interval '10 minutes' ORDER BY swept_at LIMIT {MOST}"
_FORGET_IMAGES = "DELETE FROM images WHERE id = ANY(CAST(:ids AS uuid[])) AND swept_at IS NOT NULL RETURNING id"


async def sweep_images(database: Database, objects: Objects) -> int:
    """Remove old uploads, and pictures that no product has shown for a day; returns how many of both. Safe at any time."""
    done = 0
    while uploads := await database.fetch(_old_uploads()):
        for upload in uploads:
            await _cleared(objects, upload)
        done += len(await database.fetch(_forget_uploads(), {"ids": [upload.id for upload in uploads]}))
    while await database.fetch(_mark()):
        pass
    while pictures := await database.fetch(_marked()):
        for picture in pictures:
            await remove(objects, f"{picture.place}/")
        done += len(await database.fetch(_forget_images(), {"ids": [picture.id for picture in pictures]}))
    return done


# Objects that are looked for in the database at a time.
AT_A_TIME = 1_000
_KNOWN = """
SELECT place FROM images WHERE place = ANY(CAST(:names AS text[]))
UNION ALL SELECT unnest(places) FROM image_uploads WHERE places && CAST(:names AS text[])
UNION ALL SELECT '{uploads}' || id FROM image_uploads WHERE '{uploads}' || id = ANY(CAST(:names AS text[]))
"""


async def sweep_strays(database: Database, objects: Objects) -> int:
    """Remove objects that no row knows of and that are older than a day; returns how many. It reads all there is.

    There are some where the database was set back to an earlier moment, and otherwise none.
    """
    removed = 0
    for prefix in (UPLOADS, KEPT):
        old: list[str] = []
        async for stored in objects.list(prefix):
            if stored.modified < datetime.now(UTC) - timedelta(days=1):
                old.append(stored.key)
            if len(old) >= AT_A_TIME:
                removed += await _removed_unknown(database, objects, old)
                old = []
        removed += await _removed_unknown(database, objects, old)
    return removed


async def _removed_unknown(database: Database, objects: Objects, keys: Sequence[str]) -> int:
    # A picture's objects are known by the place that they are at.
    names = {key: key if key.startswith(UPLOADS) else key.rpartition("/")[0] for key in keys}
    rows = await database.fetch(_known(), {"names": sorted(set(names.values()))}) if names else []
    known = {row.place for row in rows}
    unknown = [key for key, name in names.items() if name not in known]
    for key in unknown:
        await objects.delete(key)
    return len(unknown)


async def _cleared(objects: Objects, upload: Row) -> None:
    await objects.delete(upload_key(upload.id))
    for place in upload.places:
        if place != upload.place:
            await remove(objects, f"{place}/")


@cache
def _known() -> Statement:
    return compiled(text(_KNOWN.format(uploads=UPLOADS)))


@cache
def _old_uploads() -> Statement:
    return compiled(text(_OLD_UPLOADS))


@cache
def _forget_uploads() -> Statement:
    return compiled(text(_FORGET_UPLOADS))


@cache
def _mark() -> Statement:
    return compiled(text(_MARK))


@cache
def _marked() -> Statement:
    return compiled(text(_MARKED))


@cache
def _forget_images() -> Statement:
    return compiled(text(_FORGET_IMAGES))
