"""Writes variants of products as sets, and matches new ones with stored ones."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import delete, func, select, update

from storefront.core.db.database import Connection, Statement, compile_statement
from storefront.core.db.json_parameters import render_rows, to_json
from storefront.models import VARIANT_FIELDS, variants
from storefront.models.former_values import FormerVariants, get_former_variant
from storefront.models.row_keys import bind_store, has_any_id
from storefront.models.rows import VariantRow
from storefront.writes.sql import build_insert_of_rows, select_json_rows
from storefront.writes.transaction import UnitOfWork

VARIANT_COLUMN_NAMES = (*(field.name for field in VARIANT_FIELDS), "position")
# The values of a new variant that its input leaves out.
VARIANT_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in VARIANT_FIELDS if not field.is_required}

T = TypeVar("T")
Row = Mapping[str, Any]


async def lock_variants(connection: Connection, config_id: str, product_ids: Sequence[str]) -> list[VariantRow]:
    """Lock all variants of these products of a store, which have been locked before, by id."""
    parameters = {"config_id": config_id, "ids": list(product_ids)}
    return await connection.fetch(_lock_variants(), parameters) if product_ids else []


async def write_variants(
    connection: Connection,
    config_id: str,
    *,
    created: Sequence[Row] = (),
    updated: Sequence[Row] = (),
    removed_ids: Sequence[str] = (),
) -> None:
    """Write variants of a store, with VARIANT_COLUMN_NAMES and `id`; new ones also with `config_id` and `product_id`.

    In this order, so that a variant may take the attributes of one that is removed or changed.
    """
    if removed_ids:
        await connection.fetch(_delete_variants(), {"config_id": config_id, "ids": list(removed_ids)})
    if updated:
        await connection.fetch(_update_variants(), {"config_id": config_id, "rows": await render_rows(list(updated))})
    if created:
        await connection.fetch(_insert_variants(), {"rows": await render_rows(list(created))})


def get_former_variants(
    stored: Iterable[VariantRow], created: Iterable[Row], updated: Iterable[Row], removed_ids: Iterable[str]
) -> FormerVariants:
    """The variants that `write_variants` writes, as they were before, for the log. `stored`: all of the product."""
    changed_by_id = {row["id"]: row for row in updated} | {id_: {} for id_ in removed_ids}
    former: FormerVariants = {row["id"]: None for row in created}
    for row in stored:
        changed, values = changed_by_id.get(row.id), get_former_variant(row)
        if changed is not None and any(changed.get(name) != value for name, value in values.items()):
            former[row.id] = values
    return former


def enqueue_renames(unit: UnitOfWork, config_id: str, rows: Sequence[Row]) -> None:
    """Enqueue new names and attributes of variants of a store, by `id`."""
    unit.enqueue(_rename_variants(), {"config_id": config_id, "rows": to_json(list(rows))})


def match_rows(incoming: Sequence[Any], stored: Sequence[T], keys: Sequence[Callable[[Any], object]]) -> dict[int, T]:
    """The stored row that each incoming row updates, by its number: the first key that is equal, and not None, decides."""
    matches: dict[int, T] = {}
    unmatched = {id(row): row for row in stored}
    for get_key in keys:
        unmatched_by_key = {key: row for row in reversed(unmatched.values()) if (key := get_key(row)) is not None}
        for n, row in enumerate(incoming):
            if n not in matches and (found := unmatched_by_key.pop(get_key(row), None)) is not None:
                matches[n] = unmatched.pop(id(found))
    return matches


def make_unique_key(get_key: Callable[[Any], Any], *groups: Sequence[Any]) -> Callable[[Any], object]:
    """A key function that is None where another row of the same group has the same key."""
    unique_keys = [{key for key, count in Counter(map(get_key, rows)).items() if count == 1} for rows in groups]
    shared_keys = set.intersection(*unique_keys) - {None}
    return lambda row: key if (key := get_key(row)) in shared_keys else None


@cache
def _lock_variants() -> Statement:
    of_products = has_any_id(variants, "product_id")
    columns = [variants.c[name] for name in ("id", "product_id", *VARIANT_COLUMN_NAMES)]
    return compile_statement(
        select(*columns).where(of_products).order_by(variants.c.id).with_for_update(), needs_custom_plan=True
    )


@cache
def _rename_variants() -> Statement:
    return _build_update("name", "attributes")


@cache
def _update_variants() -> Statement:
    return _build_update(*VARIANT_COLUMN_NAMES)


def _build_update(*names: str) -> Statement:
    entry = select_json_rows(variants, "id", *names)
    values = {name: entry.c[name] for name in names}
    statement = update(variants).values(**values, version=variants.c.version + 1, updated_at=func.now())
    return compile_statement(statement.where(variants.c.config_id == bind_store(), variants.c.id == entry.c.id))


def _insert_variants() -> Statement:
    return build_insert_of_rows(variants, ("id", "config_id", "product_id", *VARIANT_COLUMN_NAMES))


@cache
def _delete_variants() -> Statement:
    return compile_statement(delete(variants).where(has_any_id(variants)), needs_custom_plan=True)
