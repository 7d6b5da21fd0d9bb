"""Amounts have as many digits as ISO 4217 gives the currency of their store, and up to 15 before the point.

The columns lose their scale: Postgres keeps the digits of each value. Amounts with more digits than their currency are rounded.
"""

import logging

import sqlalchemy as sa
from alembic import op

revision = "0031_amounts_of_currencies"
down_revision = "0030_attribute_order"
branch_labels = None
depends_on = None

logger = logging.getLogger("alembic.runtime.migration")

AMOUNTS = {"products": ("price", "compare_at_price", "max_price"), "product_variants": ("price", "compare_at_price", "cost")}
# The currencies that a store could have until now and that have other digits than two.
DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
}
ROUND = """
UPDATE {table} AS priced SET {assignments}
FROM configs WHERE configs.id = priced.config_id AND configs.currency = ANY(:currencies)
"""
COUNT_INEXACT = """
SELECT count(*) FROM product_variants AS v JOIN configs ON configs.id = v.config_id
WHERE configs.currency = ANY(:currencies)
  AND (v.price, v.compare_at_price, v.cost) IS DISTINCT FROM (round(v.price), round(v.compare_at_price), round(v.cost))
"""
CHECK = "{name} >= {minimum} AND {name} < 1000000000000000 AND scale({name}) <= 4"
MINIMUMS = {"price": "0", "compare_at_price": "price", "cost": "0"}


def upgrade() -> None:
    for table, names in AMOUNTS.items():
        for name in names:
            op.alter_column(table, name, type_=sa.Numeric())
    connection = op.get_bind()
    if inexact := connection.scalar(sa.text(COUNT_INEXACT), {"currencies": DIGITS[0].split()}):
        logger.warning(
            "%d variants of stores whose currency has no decimals have amounts with decimals. They are rounded.", inexact
        )
    for digits, currencies in DIGITS.items():
        for table, names in AMOUNTS.items():
            assignments = ", ".join(f"{name} = round(priced.{name}, {digits})" for name in names)
            statement = sa.text(ROUND.format(table=table, assignments=assignments))
            connection.execute(statement, {"currencies": currencies.split()})
    for name, minimum in MINIMUMS.items():
        constraint = op.f(f"product_variants_{name}_check")
        op.drop_constraint(constraint, "product_variants")
        op.create_check_constraint(constraint, "product_variants", CHECK.format(name=name, minimum=minimum))


def downgrade() -> None:
    for name, minimum in MINIMUMS.items():
        constraint = op.f(f"product_variants_{name}_check")
        op.drop_constraint(constraint, "product_variants")
        op.create_check_constraint(constraint, "product_variants", f"{name} >= {minimum}")
    for table, names in AMOUNTS.items():
        for name in names:
            # What two decimals and eight digits can hold.
            op.alter_column(table, name, type_=sa.Numeric(10, 2), postgresql_using=f"least({name}, 99999999.99)")
