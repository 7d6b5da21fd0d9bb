"""Commands that write what the owner of a store adds to its categories, which follow from the products."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import text

from storefront.core.db.database import Statement, compile_statement
from storefront.models.categories import normalize_category
from storefront.queries.categories import CategoryKey
from storefront.writes import validation
from storefront.writes.authorization import lock_own_store
from storefront.writes.changelog import record_store_change
from storefront.writes.field_errors import FieldError, MutationRejected, UserErrorCode
from storefront.writes.sql import convert_to_columns
from storefront.writes.transaction import UnitOfWork
from storefront.writes.validation import optional_rule, text_rule

RULES: validation.Rules = {
    "configId": validation.validate_id,
    "path": text_rule(255),
    "image": optional_rule(validation.validate_url),
    "description": optional_rule(text_rule(65_536, min_characters=0)),
    "seoTitle": optional_rule(text_rule(255)),
    "seoDescription": optional_rule(text_rule(65_536, min_characters=0)),
}
_COLUMNS = ("image", "description", "seo_title", "seo_description")


async def update_category(unit: UnitOfWork, values: Mapping[str, Any]) -> Sequence[CategoryKey]:
    """Update what is added to a category that a product of the store is in, whatever its status. Returns its key."""
    clean = validation.require_valid_fields(RULES, values)
    store = await lock_own_store(unit, clean.pop("configId"), ["configId"])
    path = normalize_category(clean.pop("path"))
    key = {"config_id": store.id, "path": path}
    [stored] = await unit.fetch(_select_stored(), key)
    if not stored.is_known:
        problem = f"path: no product of this store is in the category {path!r}, or below it."
        raise MutationRejected(FieldError(UserErrorCode.NOT_FOUND, problem, ("path",)))
    columns = convert_to_columns(clean)
    changed = {name for name, value in columns.items() if getattr(stored, name) != value}
    if changed:
        present = {name: columns.get(name, getattr(stored, name)) for name in _COLUMNS}
        unit.enqueue(_upsert_details(), {**key, **present})
        record_store_change(unit, store, "categories")
    return [CategoryKey(store.id, path)]


@cache
def _select_stored() -> Statement:
    """The stored columns, null without a row, and whether there is such a category."""
    of_store = "config_id = CAST(:config_id AS uuid)"
    sql = f"""
SELECT EXISTS (
  SELECT FROM products WHERE {of_store} AND category_paths @> ARRAY[CAST(:path AS text)]
) AS is_known, {", ".join(f"details.{name}" for name in _COLUMNS)}
FROM (SELECT) AS one LEFT JOIN category_details AS details ON details.{of_store} AND details.path = CAST(:path AS text)
"""
    return compile_statement(text(sql), needs_custom_plan=True)


@cache
def _upsert_details() -> Statement:
    names = ", ".join(_COLUMNS)
    sql = f"""
INSERT INTO category_details (config_id, path, {names})
VALUES (CAST(:config_id AS uuid), :path, {", ".join(f":{name}" for name in _COLUMNS)})
ON CONFLICT (config_id, path) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)}, updated_at = now()
"""
    return compile_statement(text(sql))
