"""Writes which product shows an uploaded image, after the `images` of products have changed.

An image belongs to the first product of its store that lists its URL. Another one may take it over afterwards.
"""

from collections.abc import Iterable, Sequence
from functools import cache

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.db.database import Connection, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.models.row_keys import bind_store_type
from storefront.queries.images import parse_image_id

# A product's id, and its `images` before and after the change.
ImageChange = tuple[str, Sequence[str], Sequence[str]]


def enqueue_image_changes(connection: Connection, config_id: str, changes: Iterable[ImageChange]) -> None:
    """Write the products of the images that products of a store, which are written, show now or no longer show."""
    # By image.
    former_products: dict[str, list[str]] = {}
    products: dict[str, str] = {}
    for product_id, former, present in changes:
        former_ids, present_ids = _list_image_ids(former), _list_image_ids(present)
        for image_id in former_ids - present_ids:
            former_products.setdefault(image_id, []).append(product_id)
        for image_id in present_ids - former_ids:
            products.setdefault(image_id, product_id)
    rows = [
        {"id": image_id, "former_id": former_id, "product_id": products.get(image_id)}
        for image_id in sorted(former_products.keys() | products.keys())
        for former_id in former_products.get(image_id) or (None,)
    ]
    if rows:
        connection.enqueue(_update_images(), {"config_id": config_id, "rows": to_json(rows)})


def _list_image_ids(addresses: Sequence[str]) -> set[str]:
    return {image_id for address in addresses if (image_id := parse_image_id(address))}


@cache
def _update_images() -> Statement:
    # An image that garbage collection has marked is not served any more.
    sql = """
UPDATE images SET product_id = changed.product_id
FROM jsonb_to_recordset(:rows) AS changed (id uuid, former_id uuid, product_id uuid)
WHERE images.config_id = :config_id AND images.id = changed.id AND images.swept_at IS NULL
  AND (images.product_id = changed.former_id OR images.product_id IS NULL AND changed.product_id IS NOT NULL)
"""
    return compile_statement(text(sql).bindparams(bind_store_type(is_single_store=True), bindparam("rows", type_=JSONB)))
