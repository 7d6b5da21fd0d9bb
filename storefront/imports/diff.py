"""What a batch of products changes in a store, found set by set and written set by set. Knows no source and no job."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

import orjson
from sqlalchemy import ARRAY, Table, Text, Uuid, any_, bindparam, column, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql.selectable import TableValuedAlias

from storefront.core.casing import camel
from storefront.core.cooperative import Turns, in_thread_if_long
from storefront.core.db.database import Connection, Row, Statement, compiled
from storefront.core.ids import new_id
from storefront.feed.log import Entry
from storefront.imports.row_types import ProductRow, VariantRow
from storefront.models import products as product_table
from storefront.models import variants as variant_table

FACTS = (
    *("title", "description", "price", "compare_at_price", "images", "category", "tags"),
    *("inventory", "track_inventory", "seo_title", "seo_description", "status"),
)
VARIANT_FACTS = ("name", "price", "compare_at_price", "attributes", "inventory", "sku", "is_available")
# Stored variants that are compared with at a time.
MAX_STORED_VARIANTS = 2_048
AMOUNTS = frozenset({"price", "compare_at_price"})

Facts = dict[str, Any]


@dataclass(slots=True)
class Plan:
    """What one batch is going to write."""

    created: list[Facts] = field(default_factory=list)
    updated: list[Facts] = field(default_factory=list)
    variants_created: list[Facts] = field(default_factory=list)
    variants_updated: list[Facts] = field(default_factory=list)
    variants_removed: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


async def plans(
    connection: Connection, config_id: str, batch: Sequence[ProductRow], signature: Mapping[str, Any]
) -> AsyncIterator[Plan]:
    """What is to be written that the products of a store become those of the batch: one plan for most batches, several where
    there are many variants to compare with. `signature` is of its entries in the log.
    """
    handles = [product.handle for product in batch]
    # The lock order of every command: products by id, then their variants.
    rows = await connection.fetch(_stored_products(), {"config_id": config_id, "handles": handles})
    stored = {row.handle: row for row in rows}
    turns = Turns()
    for group in _groups(batch, stored):
        variants: dict[str, list[Row]] = {stored[product.handle].id: [] for product in group if product.handle in stored}
        for row in await connection.fetch(_stored_variants(), {"ids": list(variants)}) if variants else ():
            variants[row.product_id].append(row)
        plan = Plan()
        for product in group:
            old = stored.get(product.handle)
            had = variants[old.id] if old else []
            await in_thread_if_long(len(product.variants) + len(had), _plan_product, plan, product, old, had, signature)
            await turns.over()
        yield plan


def _groups(batch: Sequence[ProductRow], stored: Mapping[str, Row]) -> Iterator[list[ProductRow]]:
    """Products that together have so many stored variants, or one that has more: as many rows as are held at a time."""
    group, held = list[ProductRow](), 0
    for product in batch:
        own = stored[product.handle].variants_total if product.handle in stored else 0
        if group and held + own > MAX_STORED_VARIANTS:
            yield group
            group, held = [], 0
        group.append(product)
        held += own
    if group:
        yield group


def _plan_product(plan: Plan, product: ProductRow, old: Row | None, variants: list[Row], signature: Mapping[str, Any]) -> None:
    facts = _kept(_facts(product, FACTS), old, product.given)
    new: Facts = {"id": old.id if old else new_id(), "handle": product.handle, **facts}
    changed = [name for name in FACTS if old and getattr(old, name) != new[name]]
    if _plan_variants(plan, product, new["id"], variants):
        changed.append("variants")
    if old and not changed:
        return
    (plan.updated if old else plan.created).append(new)
    entry = Entry(
        kind="product_updated" if old else "product_created",
        entity_id=new["id"],
        product_id=new["id"],
        version=old.version + 1 if old else 1,
        was_visible=old is not None and old.status == "active",
        is_visible=new["status"] == "active",
        changed_fields=[camel(name) for name in changed] if old else [],
        **signature,
    )
    plan.entries.append(entry)


def _plan_variants(plan: Plan, product: ProductRow, product_id: str, stored: list[Row]) -> bool:
    pairs = _pairs(product.variants, stored)
    kept = {old.id for _, old in pairs if old}
    gone = [old.id for old in stored if old.id not in kept] if product.complete else []
    created = [(_facts(new, VARIANT_FACTS), old) for new, old in pairs if not old]
    known = [(_kept(_facts(new, VARIANT_FACTS), old, product.given), old) for new, old in pairs if old]
    updated = [(facts, old) for facts, old in known if _differs(facts, old)]
    plan.variants_removed += gone
    plan.variants_created += [{"id": new_id(), "product_id": product_id, **facts} for facts, _ in created]
    plan.variants_updated += [{"id": old.id, **facts} for facts, old in updated]
    return bool(gone or created or updated)


def _pairs(wanted: list[VariantRow], stored: list[Row]) -> list[tuple[VariantRow, Row | None]]:
    """Each variant of the batch with the stored one that it is.

    That of the same SKU; else the one alike in name and attributes, else in attributes, else in name.
    """
    if not stored:
        return [(variant, None) for variant in wanted]
    found: dict[int, Row] = {}
    free = {row.id: row for row in stored}
    sku = _sku_of(wanted, stored)
    for identity in (sku, _whole, _attributes, _name):
        by_identity = {key: row for row in reversed(free.values()) if (key := identity(row)) is not None}
        for n, variant in enumerate(wanted):
            if n not in found and (row := by_identity.pop(identity(variant), None)):
                found[n] = free.pop(row.id)
    return [(variant, found.get(n)) for n, variant in enumerate(wanted)]


def _sku_of(wanted: list[VariantRow], stored: list[Row]) -> Callable[[VariantRow | Row], object]:
    """The SKU of a variant where it tells it from all others on either side."""
    lone = [{sku for sku, count in Counter(row.sku for row in rows).items() if count == 1} for rows in (wanted, stored)]
    both = (lone[0] & lone[1]) - {None}
    return lambda row: row.sku if row.sku in both else None


def _whole(variant: VariantRow | Row) -> object:
    return variant.name, _attributes(variant)


def _attributes(variant: VariantRow | Row) -> object:
    return frozenset((name, str(value)) for name, value in variant.attributes.items())


def _name(variant: VariantRow | Row) -> object:
    return variant.name


def _facts(row: ProductRow | VariantRow, names: Iterable[str]) -> Facts:
    """The columns as the database gives them back: amounts are text with two decimals."""
    facts = {name: getattr(row, name) for name in names}
    return {name: str(value) if name in AMOUNTS and value is not None else value for name, value in facts.items()}


def _kept(facts: Facts, old: Row | None, given: frozenset[str]) -> Facts:
    """The facts as they will stand: a column that the file does not have leaves what is stored."""
    if old is None:
        return facts
    merged = {name: value if name in given else getattr(old, name) for name, value in facts.items()}
    compared = merged["compare_at_price"]
    if compared is not None and Decimal(compared) <= Decimal(merged["price"]):
        merged["compare_at_price"] = None
    return merged


def _differs(facts: Facts, old: Row) -> bool:
    return any(getattr(old, name) != value for name, value in facts.items())


async def apply(connection: Connection, config_id: str, plan: Plan) -> bool:
    """Write the plan, or tell that it is out of date: someone else made one of its products meanwhile."""
    if plan.created:
        created = await connection.fetch(_insert_products(), {"config_id": config_id, "rows": _json(plan.created)})
        if len(created) < len(plan.created):
            return False
    for statement, rows in (
        (_update_products, plan.updated),
        (_update_variants, plan.variants_updated),
        (_insert_variants, plan.variants_created),
    ):
        if rows:
            await connection.fetch(statement(), {"rows": _json(rows)})
    if plan.variants_removed:
        await connection.fetch(_delete_variants(), {"ids": plan.variants_removed})
    return True


def _json(rows: list[Facts]) -> str:
    return orjson.dumps(rows).decode()


def _entries(table: Table, *names: str) -> TableValuedAlias:
    columns = (column(name, table.c[name].type) for name in names)
    rows = func.jsonb_to_recordset(bindparam("rows", type_=JSONB)).table_valued(*columns)
    return rows.render_derived(name="entry", with_types=True)


@cache
def _stored_products() -> Statement:
    own = product_table.c.config_id == bindparam("config_id")
    named = product_table.c.handle == any_(bindparam("handles", type_=ARRAY(Text)))
    columns = [product_table.c[name] for name in ("id", "handle", "version", "variants_total", *FACTS)]
    return compiled(select(*columns).where(own & named).order_by(product_table.c.id).with_for_update())


@cache
def _stored_variants() -> Statement:
    theirs = variant_table.c.product_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    columns = [variant_table.c[name] for name in ("id", "product_id", *VARIANT_FACTS)]
    return compiled(select(*columns).where(theirs).order_by(variant_table.c.id).with_for_update())


@cache
def _insert_products() -> Statement:
    names = ["id", "handle", *FACTS]
    entry = _entries(product_table, *names)
    # Two imports that create the same products meet in the order of handles, so that neither waits for the other in a circle.
    rows = select(bindparam("config_id", type_=product_table.c.config_id.type), *entry.c).order_by(entry.c.handle)
    new = upsert(product_table).from_select(["config_id", *names], rows, include_defaults=False)
    unique = [product_table.c.config_id, product_table.c.handle]
    return compiled(new.on_conflict_do_nothing(index_elements=unique).returning(product_table.c.id))


@cache
def _update_products() -> Statement:
    entry = _entries(product_table, "id", *FACTS)
    facts = {name: entry.c[name] for name in FACTS}
    changed = update(product_table).values(**facts, version=product_table.c.version + 1, updated_at=func.now())
    return compiled(changed.where(product_table.c.id == entry.c.id))


@cache
def _update_variants() -> Statement:
    entry = _entries(variant_table, "id", *VARIANT_FACTS)
    facts = {name: entry.c[name] for name in VARIANT_FACTS}
    changed = update(variant_table).values(**facts, version=variant_table.c.version + 1)
    return compiled(changed.where(variant_table.c.id == entry.c.id))


@cache
def _insert_variants() -> Statement:
    names = ["id", "product_id", *VARIANT_FACTS]
    entry = _entries(variant_table, *names)
    return compiled(insert(variant_table).from_select(names, select(*entry.c), include_defaults=False))


@cache
def _delete_variants() -> Statement:
    return compiled(delete(variant_table).where(variant_table.c.id == any_(bindparam("ids", type_=ARRAY(Uuid)))))
