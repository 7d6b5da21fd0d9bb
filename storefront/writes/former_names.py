"""Writes of former handles and slugs. A row that gets a name takes it over from the row that had it before.

The statements are enqueued after the one that writes the present names. That one waits for transactions that give them up, and
these then see what was committed.
"""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from storefront.core.db.database import Connection, Statement, compile_statement
from storefront.core.db.json_parameters import to_json
from storefront.models.row_keys import bind_store_type
from storefront.models.rows import ConfigRow, ProductRow


def enqueue_handle_takeover(connection: Connection, config_id: str, product_ids: Sequence[str]) -> None:
    """Forget the handles of these new products of a store as former ones of others."""
    connection.enqueue(_delete_taken_handles(), {"config_id": config_id, "ids": list(product_ids)})


def enqueue_former_handles(connection: Connection, config_id: str, renamed: Sequence[tuple[ProductRow, str]]) -> None:
    """Remember the handles that products of a store had: `renamed` are their rows of before, with the new handles."""
    rows = [{"product_id": row.id, "former": row.handle, "present": handle} for row, handle in renamed]
    connection.enqueue(_upsert_former_handles(), {"config_id": config_id, "rows": to_json(rows)})


def enqueue_slug_takeover(connection: Connection, slug: str) -> None:
    """Forget the slug of a new store as a former one of another."""
    connection.enqueue(_delete_taken_slug(), {"slug": slug})


def enqueue_former_slug(connection: Connection, renamed: ConfigRow, slug: str) -> None:
    """Remember the slug that a store had: `renamed` is its row of before, `slug` the new one."""
    connection.enqueue(_upsert_former_slug(), {"former": renamed.slug, "present": slug, "config_id": renamed.id})


@cache
def _delete_taken_handles() -> Statement:
    sql = """
DELETE FROM former_handles AS former USING products
WHERE former.config_id = :config_id AND products.config_id = :config_id AND products.id = ANY(:ids)
  AND former.handle = products.handle
"""
    return compile_statement(text(sql).bindparams(bind_store_type(is_single_store=True), bindparam("ids", type_=ARRAY(UUID))))


@cache
def _upsert_former_handles() -> Statement:
    sql = """
WITH renamed AS (
  SELECT * FROM jsonb_to_recordset(:rows) AS renamed (product_id uuid, former text, present text)
), taken AS (
  DELETE FROM former_handles AS former USING renamed WHERE former.config_id = :config_id AND former.handle = renamed.present
)
INSERT INTO former_handles (config_id, handle, product_id) SELECT :config_id, former, product_id FROM renamed
ON CONFLICT (config_id, handle) DO UPDATE SET product_id = excluded.product_id
"""
    return compile_statement(text(sql).bindparams(bind_store_type(is_single_store=True), bindparam("rows", type_=JSONB)))


@cache
def _delete_taken_slug() -> Statement:
    return compile_statement(text("DELETE FROM former_slugs WHERE slug = :slug"))


@cache
def _upsert_former_slug() -> Statement:
    sql = """
WITH taken AS (DELETE FROM former_slugs WHERE slug = :present)
INSERT INTO former_slugs (slug, config_id) VALUES (:former, :config_id)
ON CONFLICT (slug) DO UPDATE SET config_id = excluded.config_id
"""
    return compile_statement(text(sql).bindparams(bindparam("config_id", type_=UUID)))
