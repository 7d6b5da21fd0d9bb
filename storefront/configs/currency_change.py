"""Changes the currency of a store: its amounts get the digits of the new currency, and are not converted."""

from functools import cache
from typing import Any

from sqlalchemy import Column, Table, text

from storefront.core.currencies import get_fraction_digits
from storefront.core.db.database import Statement, compile_statement
from storefront.models import products, variants
from storefront.models.columns import Money
from storefront.models.rows import ConfigRow
from storefront.writes.field_errors import MutationRejected, make_invalid_state_error
from storefront.writes.transaction import UnitOfWork

# A statement has to end within its timeout. All indexes of the products are written, the one of words too.
MAX_PRODUCTS_PER_STATEMENT = 1_000


async def fit_amounts_to_currency(unit: UnitOfWork, store: ConfigRow, currency: str) -> None:
    """Write the amounts of a locked store with the digits of a currency. Raises MutationRejected if one has more.

    Products get no new version: their prices are the same numbers.
    """
    # Commands that write amounts lock a product, and then the store FOR KEY SHARE: this one waits for them.
    locked = unit.enqueue(_lock_products(), {"config_id": store.id})
    await unit.fetch(_lock_store(), {"config_id": store.id})
    digits = get_fraction_digits(currency)
    if digits == get_fraction_digits(store.currency):
        return
    parameters = {"config_id": store.id, "digits": digits}
    for misfit in await unit.fetch(_select_misfit(), parameters):
        problem = (
            f"the store has amounts with more decimals than {currency}, which has {digits}: {misfit.total:,}, such as "
            f"{misfit.amount} of {misfit.title!r}, {misfit.name!r}. Change them first."
        )
        raise MutationRejected(make_invalid_state_error(["currency"], problem))
    product_ids = [row.id for row in locked.rows]
    for start in range(0, len(product_ids), MAX_PRODUCTS_PER_STATEMENT):
        ids = product_ids[start : start + MAX_PRODUCTS_PER_STATEMENT]
        for key in (products.c.id, variants.c.product_id):
            await unit.fetch(_round_amounts(key), {"ids": ids, **parameters})


@cache
def _lock_store() -> Statement:
    return compile_statement(text("SELECT id FROM configs WHERE id = CAST(:config_id AS uuid) FOR UPDATE"))


@cache
def _lock_products() -> Statement:
    # In the order of all commands, which prevents deadlocks.
    return compile_statement(
        text("SELECT id FROM products WHERE config_id = CAST(:config_id AS uuid) ORDER BY id FOR NO KEY UPDATE")
    )


@cache
def _select_misfit() -> Statement:
    amounts = ", ".join(f"(variant.{name})" for name in _list_amounts(variants))
    sql = f"""
SELECT count(*) OVER () AS total, amount.value AS amount, product.title, variant.name
FROM product_variants AS variant JOIN products AS product ON product.id = variant.product_id,
  LATERAL (VALUES {amounts}) AS amount (value)
WHERE variant.config_id = CAST(:config_id AS uuid) AND product.config_id = CAST(:config_id AS uuid)
  AND amount.value <> round(amount.value, CAST(:digits AS integer))
ORDER BY product.id, variant.position LIMIT 1
"""
    return compile_statement(text(sql))


@cache
def _round_amounts(key: Column[Any]) -> Statement:
    """Round the amounts of the rows with these ids in a column of their table."""
    assignments = ", ".join(f"{name} = round({name}, CAST(:digits AS integer))" for name in _list_amounts(key.table))
    conditions = f"config_id = CAST(:config_id AS uuid) AND {key.name} = ANY(CAST(:ids AS uuid[]))"
    return compile_statement(text(f"UPDATE {key.table.name} SET {assignments} WHERE {conditions}"))


def _list_amounts(table: Table) -> list[str]:
    return [column.name for column in table.c if isinstance(column.type, Money)]
