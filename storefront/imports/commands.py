"""Brings the products of a file into one store, in batches and set by set, and writes only what differs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any

import orjson
from psycopg import Rollback
from sqlalchemy import ARRAY, Table, Text, Uuid, any_, bindparam, column, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.sql.selectable import TableValuedAlias

from storefront.core.database import Connection, Database, Row, Statement, compiled
from storefront.core.ids import new_id
from storefront.core.names import camel
from storefront.feed.log import Entry, append
from storefront.imports.shopify_csv import ProductRow, Rejection, VariantRow
from storefront.models import products as product_table
from storefront.models import variants as variant_table

BATCH = 500
# A batch also ends at this much text, in characters: indexing it all has to fit into one statement's time.
BATCH_TEXT = 1_000_000
FACTS = (
    *("title", "description", "price", "compare_at_price", "images", "category", "tags"),
    *("inventory", "track_inventory", "seo_title", "seo_description", "status"),
)
VARIANT_FACTS = ("name", "price", "compare_at_price", "attributes", "inventory", "sku")
AMOUNTS = frozenset({"price", "compare_at_price"})

Facts = dict[str, Any]


@dataclass(slots=True)
class ImportSummary:
    """What became of a file. `rows` are CSV rows without the header; `position` is the last one logged, None if none was."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejections: list[Rejection] = field(default_factory=list)
    rows: int = 0
    position: int | None = None


@dataclass(slots=True)
class _Plan:
    """What one batch is going to write."""

    created: list[Facts] = field(default_factory=list)
    updated: list[Facts] = field(default_factory=list)
    variants_created: list[Facts] = field(default_factory=list)
    variants_updated: list[Facts] = field(default_factory=list)
    variants_removed: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)


async def import_products(
    database: Database,
    config_id: str,
    products: Iterable[ProductRow | Rejection],
    *,
    dry_run: bool = False,
    actor_id: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> ImportSummary:
    """Create or update products of a store by handle, each batch in a transaction of its own; other products stay as they are.

    A product's variants become those of the file. Where a row of it was rejected none is removed: the row may have been one of
    them. `progress` gets the number of rows done, after each batch. A dry run rolls every batch back.
    """
    summary = ImportSummary()
    for batch in _batches(products, summary):
        while (plan := await _write(database, config_id, batch, summary, dry_run, actor_id)) is None:
            pass  # Someone else created one of the products meanwhile: plan again, now it is there to be updated.
        summary.created += len(plan.created)
        summary.updated += len(plan.updated)
        summary.unchanged += len(batch) - len(plan.created) - len(plan.updated)
        summary.rows += sum(product.rows for product in batch)
        progress(summary.rows)
    return summary


def _batches(products: Iterable[ProductRow | Rejection], summary: ImportSummary) -> Iterator[list[ProductRow]]:
    batch: dict[str, ProductRow] = {}
    text = 0
    for product in products:
        if isinstance(product, Rejection):
            summary.rejections.append(product)
            summary.rows += 1
            continue
        # Two files in a row may hold the same product; the later one then updates what the earlier one made.
        if len(batch) == BATCH or text > BATCH_TEXT or product.handle in batch:
            yield list(batch.values())
            batch, text = {}, 0
        batch[product.handle] = product
        text += len(product.description or "") + sum(map(len, product.tags))
    if batch:
        yield list(batch.values())


async def _write(
    database: Database, config_id: str, batch: Sequence[ProductRow], summary: ImportSummary, dry_run: bool, actor_id: str | None
) -> _Plan | None:
    done: _Plan | None = None
    async with database.transaction() as connection:
        plan = await _planned(connection, config_id, batch, actor_id)
        if not await _apply(connection, config_id, plan):
            raise Rollback
        done = plan
        position = await append(connection, config_id, plan.entries) if plan.entries else summary.position
        if dry_run:
            raise Rollback
        summary.position = position
    return done


async def _planned(connection: Connection, config_id: str, batch: Sequence[ProductRow], actor_id: str | None) -> _Plan:
    handles = [product.handle for product in batch]
    # The lock order of every command: products by id, then their variants.
    rows = await connection.fetch(_stored_products(), {"config_id": config_id, "handles": handles})
    stored = {row.handle: row for row in rows}
    variants: dict[str, list[Row]] = {row.id: [] for row in rows}
    for row in await connection.fetch(_stored_variants(), {"ids": list(variants)}):
        variants[row.product_id].append(row)
    plan = _Plan()
    for product in batch:
        old = stored.get(product.handle)
        _plan_product(plan, product, old, variants[old.id] if old else [], actor_id)
    return plan


def _plan_product(plan: _Plan, product: ProductRow, old: Row | None, variants: list[Row], actor_id: str | None) -> None:
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
        actor_id=actor_id,
    )
    plan.entries.append(entry)


def _plan_variants(plan: _Plan, product: ProductRow, product_id: str, stored: list[Row]) -> bool:
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
    """Each variant of the file with the stored one that it is: alike in name and attributes, else in attributes, else in name."""
    if not stored:
        return [(variant, None) for variant in wanted]
    found: dict[int, Row] = {}
    free = {row.id: row for row in stored}
    for identity in (_whole, _attributes, _name):
        by_identity = {identity(row): row for row in reversed(free.values())}
        for n, variant in enumerate(wanted):
            if n not in found and (row := by_identity.pop(identity(variant), None)):
                found[n] = free.pop(row.id)
    return [(variant, found.get(n)) for n, variant in enumerate(wanted)]


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


async def _apply(connection: Connection, config_id: str, plan: _Plan) -> bool:
    """Write the plan, or tell that it is out of date."""
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
    columns = [product_table.c[name] for name in ("id", "handle", "version", *FACTS)]
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
