"""Writes of single products, each with the change that it records."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from types import SimpleNamespace
from typing import Any

import orjson
from sqlalchemy import text

from storefront.core.casing import camel
from storefront.core.db.database import Row, Statement, compiled
from storefront.core.db.pipeline import Sent
from storefront.core.ids import new_id
from storefront.models import products
from storefront.queries.search import fold
from storefront.writes import validation
from storefront.writes.authorization import OWN_STORE, lock_store, own_product
from storefront.writes.changelog import record_product
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.product_validation import MOST_VARIANTS, PRODUCT, VARIANT, contradictions
from storefront.writes.sql import as_parameters, change_row, columns, delete_row, inserted, names
from storefront.writes.transaction import Refused, Unit, Written

Values = Mapping[str, Any]

CREATE: validation.Rules = {
    "configId": validation.key,
    **PRODUCT,
    "handle": validation.optional(validation.slug),
    "variants": validation.listed(validation.record(VARIANT), MOST_VARIANTS, distinct=False),
}
UPDATE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is, **PRODUCT}
DELETE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is}


async def create_product(unit: Unit, values: Values) -> Sequence[Written]:
    """A product with its variants, in one transaction. Without a handle one is made of the title."""
    clean = validation.require(CREATE, values)
    forms = clean.pop("variants", [])
    faults = contradictions(clean) + [f for n, form in enumerate(forms) for f in contradictions(form, ["variants", str(n)])]
    if faults:
        raise Refused(*faults)
    config_id = clean.pop("configId")
    await lock_store(unit, config_id, ["configId"])
    parts = [{"id": new_id(), **_FORM, **columns(form)} for form in forms]
    row = {"id": new_id(), "config_id": config_id, "version": 1, "status": "active", **columns(clean), **_counted(parts)}
    made = Written(SimpleNamespace(**row), _send_product(unit, row))
    if parts:
        _send_variants(unit, row["id"], parts)
    record_product(unit, "product_created", None, made.state)
    return [made]


async def update_product(unit: Unit, values: Values) -> Sequence[Written]:
    """Those fields of a product that are given. What stays as it is makes no new version and no change."""
    clean = validation.require(UPDATE, values)
    old = await own_product(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), old.config_id)
    refuse_contradictions(old, clean)
    made = change_row(unit, products, old, columns(clean))
    if made.fields:
        record_product(unit, "product_updated", old, made.state, made.fields)
    return [made]


async def delete_product(unit: Unit, values: Values) -> Sequence[Row]:
    """A product with its variants and reviews."""
    clean = validation.require(DELETE, values)
    old = await own_product(unit, clean["id"], ["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), old.config_id)
    delete_row(unit, products, old)
    record_product(unit, "product_deleted", old, None)
    return [old]


def refuse_contradictions(old: Row, clean: Values, path: Sequence[str] = ()) -> None:
    """Faults of the row as it would stand."""
    faults = contradictions({camel(name): value for name, value in old._asdict().items()} | dict(clean), path)
    if faults:
        raise Refused(*faults)


# ------------------------------------------------------------------------------------------------ creating


def _send_product(unit: Unit, row: Values) -> Sent:
    computed = {"config_id": OWN_STORE}
    given: dict[str, Any] = {"store": row["config_id"], "actor_id": unit.actor_id}
    if row.get("handle") is None:
        computed["handle"] = _FREE_HANDLE
        given["base"] = _handle_of(row["title"])
    known = {name: value for name, value in row.items() if name not in computed}
    statement = inserted(products, names(known), tuple(computed.items()))
    return unit.send(statement, {**as_parameters(products, known), **given})


def _handle_of(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", fold(title)).strip("-")[:80].rstrip("-") or "product"


# The handle that a title makes, numbered where others have it. The store's row is locked: nobody takes it meanwhile.
_FREE_HANDLE = """(
WITH RECURSIVE tried (number, name) AS (
  SELECT 1, CAST(:base AS text)
  UNION ALL
  SELECT number + 1, CAST(:base AS text) || '-' || number + 1 FROM tried
  WHERE EXISTS (SELECT FROM products WHERE config_id = CAST(:store AS uuid) AND handle = tried.name)
)
SELECT name FROM tried ORDER BY number DESC LIMIT 1
)"""


def _counted(parts: Sequence[Values]) -> Values:
    """What the table's trigger makes of the variants. Where it stands there by then, the row is not written a second time."""
    if not parts:
        return {}
    available = [part for part in parts if part["is_available"]]
    prices = [part["price"] for part in sorted(available, key=lambda part: Decimal(part["price"]))]
    return {
        "variants_total": len(parts),
        "variants_available": len(available),
        "variants_in_stock": sum(part["inventory"] is None or part["inventory"] > 0 for part in available),
        "variants_min_price": prices[0] if prices else None,
        "variants_max_price": prices[-1] if prices else None,
    }


def _send_variants(unit: Unit, product_id: str, parts: Sequence[Values]) -> None:
    rows = [{"product_id": product_id, **part} for part in parts]
    unit.send(_insert_variants(), {"rows": orjson.dumps(rows).decode()})


# What the table's defaults are: a set of rows has one list of columns.
_FORM: Values = {"compare_at_price": None, "attributes": {}, "inventory": 0, "sku": None, "is_available": True}

_VARIANTS = """
INSERT INTO product_variants (id, product_id, name, price, compare_at_price, attributes, inventory, sku, is_available)
SELECT id, product_id, name, price, compare_at_price, attributes, inventory, sku, is_available
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS form(
  id uuid, product_id uuid, name text, price numeric, compare_at_price numeric, attributes jsonb, inventory integer,
  sku text, is_available boolean
)
"""


@cache
def _insert_variants() -> Statement:
    return compiled(text(_VARIANTS))
