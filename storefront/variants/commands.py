"""Writes of variants, each with the change of its product that it records."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import bindparam, func, select

from storefront.core.casing import camel
from storefront.core.db.database import Row, Statement, compiled
from storefront.models import variants
from storefront.queries.variants import of_ids
from storefront.writes import validation
from storefront.writes.authorization import own_product, own_variant
from storefront.writes.changelog import record_part
from storefront.writes.optimistic_lock import refuse_stale
from storefront.writes.product_validation import MOST_VARIANTS, VARIANT, contradictions
from storefront.writes.sql import change_row, columns, delete_row, insert_row
from storefront.writes.transaction import Refused, Unit, invalid

Values = Mapping[str, Any]

CREATE: validation.Rules = {"productId": validation.key, **VARIANT}
UPDATE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is, **VARIANT}
DELETE: validation.Rules = {"id": validation.key, "expectedVersion": validation.as_is}


async def create_variant(unit: Unit, values: Values) -> Sequence[Row]:
    """One more form of a product."""
    clean = validation.require(CREATE, values)
    faults = contradictions(clean)
    if faults:
        raise Refused(*faults)
    product = await own_product(unit, clean.pop("productId"), ["productId"])
    [(count,)] = await unit.fetch(_count(), {"product_id": product.id})
    if count >= MOST_VARIANTS:
        raise Refused(invalid(["productId"], f"the product has {count} variants, and may have at most {MOST_VARIANTS}."))
    made = insert_row(unit, variants, {"product_id": product.id, **columns(clean)})
    return await _told(unit, product, made.state, ["variants"])


async def update_variant(unit: Unit, values: Values) -> Sequence[Row]:
    """Those fields of a variant that are given."""
    clean = validation.require(UPDATE, values)
    old, product = await own_variant(unit, clean.pop("id"), ["id"])
    await refuse_stale(unit, old, clean.pop("expectedVersion", None), product.config_id)
    faults = contradictions({camel(name): value for name, value in old._asdict().items()} | clean)
    if faults:
        raise Refused(*faults)
    made = change_row(unit, variants, old, columns(clean))
    return await _told(unit, product, made.state, [f"variants.{field}" for field in made.fields])


async def delete_variant(unit: Unit, values: Values) -> Sequence[Row]:
    """A variant, for good."""
    clean = validation.require(DELETE, values)
    old, product = await own_variant(unit, clean["id"], ["id"])
    await refuse_stale(unit, old, clean.get("expectedVersion"), product.config_id)
    delete_row(unit, variants, old)
    record_part(unit, product.id, product, old, ["variants"])
    return [old]


async def _told(unit: Unit, product: Row, row: Row, fields: Sequence[str]) -> Sequence[Row]:
    if fields:
        record_part(unit, product.id, product, row, fields)
    return await of_ids(unit.connection, [row.id])


@cache
def _count() -> Statement:
    return compiled(select(func.count()).where(variants.c.product_id == bindparam("product_id")))
