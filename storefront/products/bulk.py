"""Writes of many products at once, and of stock: set-based, so that 250 rows cost the statements of one."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import orjson
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from storefront.core.casing import camel, snake
from storefront.core.db.database import Row, Statement, compiled
from storefront.models import products
from storefront.queries.projection import COLUMNS
from storefront.writes import validation
from storefront.writes.authorization import missing, own_product, own_products, own_variant
from storefront.writes.changelog import record_part, record_product
from storefront.writes.optimistic_lock import Stale, stale
from storefront.writes.product_validation import MOST_INT, PRODUCT, contradictions
from storefront.writes.transaction import Code, Failure, Refused, Unit, invalid, taken

Values = Mapping[str, Any]
Numbered = tuple[int, dict[str, Any]]
# A store and a handle in it.
Place = tuple[str, str]

MOST_ROWS = 250

ROW: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is, **PRODUCT}
# What one column takes from a row of a bulk: its own new value, or what it was.
_KEPT = "{name} = CASE WHEN entry.given ? '{name}' THEN {value} ELSE products.{name} END"
_VALUE = {"images": "entry.given -> 'images'", "tags": "entry.given -> 'tags'"}
_FIELDS = [snake(name) for name in PRODUCT]


async def bulk_update_products(unit: Unit, values: Values) -> Sequence[Row | None]:
    """Rows of changes, each as `update_product` takes it; the results stand in the order of the rows.

    `errorPolicy` all_or_nothing refuses everything for one bad row; valid_rows does the good ones. Faults of rows are told by
    their paths: rows.3.price.
    """
    return await _bulk(unit, values["rows"], "rows", all_or_nothing=values["errorPolicy"] == "all_or_nothing")


async def update_product_prices(unit: Unit, values: Values) -> Sequence[Row | None]:
    """Prices of many products, all of them or none."""
    return await _bulk(unit, values["prices"], "prices", all_or_nothing=True)


async def _bulk(unit: Unit, rows: Sequence[Values], field: str, *, all_or_nothing: bool) -> Sequence[Row | None]:
    good = _checked(unit, rows, field)
    stored = await own_products(unit, [row["id"] for _, row in good])
    fit = await _with_free_handles(unit, await _fit(unit, good, field, stored), field, stored)
    unit.failures.sort(key=lambda failure: int(failure.path[1]))
    if unit.failures and all_or_nothing:
        raise Refused(*unit.failures)
    changes = {row["id"]: _change(stored[row["id"]], row) for _, row in fit}
    updated = await _update(unit, {id_: change for id_, change in changes.items() if change})
    for id_, new in updated.items():
        fields = [camel(name) for name in changes[id_]]
        record_product(unit, "product_updated", stored[id_], new, fields)
    done = {n: updated.get(row["id"], stored[row["id"]]) for n, row in fit}
    return [done.get(n) for n in range(len(rows))]


def _checked(unit: Unit, rows: Sequence[Values], field: str) -> list[Numbered]:
    if not 1 <= len(rows) <= MOST_ROWS:
        raise Refused(invalid([field], f"must have 1 to {MOST_ROWS} entries, not {len(rows):,}."))
    good: dict[str, Numbered] = {}
    for n, row in enumerate(rows):
        clean, faults = validation.checked(ROW, row, [field, str(n)])
        if not faults and clean["id"] in good:
            faults = [invalid([field, str(n), "id"], f"is in row {good[clean['id']][0]} already. Join the two.")]
        unit.failures += faults
        if not faults:
            good[clean["id"]] = (n, clean)
    return list(good.values())


async def _fit(unit: Unit, rows: Sequence[Numbered], field: str, stored: Mapping[str, Row]) -> list[Numbered]:
    """The rows that can be written on what is stored."""
    fit: list[Numbered] = []
    outdated: list[Stale] = []
    for n, row in rows:
        path, old, expected = [field, str(n)], stored.get(row["id"]), row.get("expectedVersion")
        if old is None:
            unit.failures.append(missing("product", row["id"], [*path, "id"]))
        elif expected not in (None, old.version):
            outdated.append(Stale(old, expected, old.config_id, path))
        elif faults := contradictions({camel(name): value for name, value in old._asdict().items()} | row, path):
            unit.failures += faults
        else:
            fit.append((n, row))
    unit.failures += await stale(unit, outdated)
    return fit


async def _with_free_handles(unit: Unit, rows: Sequence[Numbered], field: str, stored: Mapping[str, Row]) -> list[Numbered]:
    """The rows whose new handle no product of the store has; of several that want the same one the first gets it."""
    wanted = {row["id"]: _wanted(stored[row["id"]], row) for _, row in rows}
    had = await _had(unit, [place for place in wanted.values() if place])
    free: list[Numbered] = []
    for n, row in rows:
        place = wanted[row["id"]]
        if place in had:
            unit.failures.append(taken("products_config_id_handle_key", [field, str(n)]))
        else:
            free.append((n, row))
            had |= {place} if place else set()
    return free


def _wanted(old: Row, row: Values) -> Place | None:
    return (old.config_id, row["handle"]) if row.get("handle", old.handle) != old.handle else None


async def _had(unit: Unit, places: Sequence[Place]) -> set[Place]:
    if not places:
        return set()
    config_ids, handles = zip(*places, strict=True)
    found = await unit.fetch(_have_handles(), {"config_ids": list(config_ids), "handles": list(handles)})
    return {(row.config_id, row.handle) for row in found}


@cache
def _have_handles() -> Statement:
    return compiled(
        text(
            "SELECT config_id, handle FROM products JOIN unnest(CAST(:config_ids AS uuid[]), CAST(:handles AS text[])) "
            "AS wanted (config_id, handle) USING (config_id, handle)"
        )
    )


def _change(old: Row, row: Values) -> dict[str, Any]:
    given = {snake(name): value for name, value in row.items() if name not in ("id", "expectedVersion")}
    return {name: value for name, value in given.items() if getattr(old, name) != value}


async def _update(unit: Unit, changes: Mapping[str, Values]) -> dict[str, Row]:
    if not changes:
        return {}
    rows = orjson.dumps([{"id": id_, "given": change} for id_, change in changes.items()]).decode()
    return {row.id: row for row in await unit.fetch(_update_all(), {"rows": rows})}


@cache
def _update_all() -> Statement:
    columns = ", ".join(_KEPT.format(name=name, value=_value(name)) for name in _FIELDS)
    statement = f"""
UPDATE products SET {columns}, version = version + 1, updated_at = now()
FROM jsonb_to_recordset(:rows) AS entry(id uuid, given jsonb)
WHERE products.id = entry.id
RETURNING {", ".join(f"products.{column.name}" for column in COLUMNS)}
"""
    return compiled(text(statement).bindparams(bindparam("rows", type_=JSONB)))


def _value(name: str) -> str:
    kind = products.c[name].type
    return _VALUE.get(name, f"(entry.given ->> '{name}')::{kind.compile()}")


# --------------------------------------------------------------------------------------------------- stock


async def adjust_inventory(unit: Unit, values: Values) -> Sequence[Row]:
    """More or less stock of a product or of one of its variants; never below zero. Returns its product."""
    target = "variantId" if values.get("variantId") is not None else "productId"
    clean = validation.require({target: validation.key, "delta": _delta}, _chosen(values, target))
    if target == "variantId":
        row, product = await own_variant(unit, clean[target], [target])
        changed, whole = await _adjusted(unit, "product_variants", row, product.id, clean["delta"])
        fields = ["variants.inventory"]
    else:
        row = product = await own_product(unit, clean[target], [target])
        changed, whole = await _adjusted(unit, "products", row, product.id, clean["delta"])
        fields = ["inventory"]
    record_part(unit, product.id, product, changed, fields)
    return [whole]


def _delta(value: int) -> int:
    if value == 0:
        raise validation.Unfit("must not be 0: that changes nothing.")
    return int(validation.whole(-MOST_INT, MOST_INT)(value))


def _chosen(values: Values, target: str) -> Values:
    if (values.get("variantId") is None) == (values.get("productId") is None):
        raise Refused(invalid(["productId"], "give either productId or variantId."))
    return {target: values[target], "delta": values["delta"]}


async def _adjusted(unit: Unit, table: str, row: Row, product_id: str, delta: int) -> tuple[Row, Row]:
    """The row with its new stock, and its product as it is then."""
    if row.inventory is None:
        raise Refused(invalid(["delta"], "this stock is not counted. Set inventory to a number first."))
    if row.inventory + delta > MOST_INT:
        raise Refused(invalid(["delta"], f"would make more than {MOST_INT:,}."))
    adjusted = unit.send(_adjust(table), {"id": row.id, "delta": delta})
    [whole] = await unit.fetch(_product(), {"id": product_id})
    if not adjusted.rows:
        message = f"delta: only {row.inventory:,} are in stock, {-delta:,} were asked for."
        raise Refused(Failure(Code.INSUFFICIENT_STOCK, message, ("delta",), {"available": row.inventory}))
    return adjusted.rows[0], whole


@cache
def _adjust(table: str) -> Statement:
    # The condition stands in the statement that takes the stock: between a look and a write there is no moment to lose.
    touched = ", updated_at = now()" if table == "products" else ""
    return compiled(
        text(
            f"UPDATE {table} SET inventory = inventory + :delta, version = version + 1{touched} "
            "WHERE id = CAST(:id AS uuid) AND inventory + :delta >= 0 RETURNING id, inventory, version"
        )
    )


@cache
def _product() -> Statement:
    columns = ", ".join(column.name for column in COLUMNS)
    return compiled(text(f"SELECT {columns} FROM products WHERE id = CAST(:id AS uuid)"))
