"""Purchases per product and currency, with the sums of their totals, from the events that are still stored."""

import sqlalchemy as sa
from alembic import op

revision = "0045_purchase_totals"
down_revision = "0044_category_details"
branch_labels = None
depends_on = None

_UUID = "'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'"
_AMOUNT = r"""CASE WHEN properties ->> 'currency' ~ '^[A-Z]{3}$' AND properties ->> 'total' ~ '^[0-9]{1,15}([.][0-9]+)?$'
  THEN round(CAST(properties ->> 'total' AS numeric), 4) END"""
_GRAINS = (60, 900, 7_200, 21_600, 43_200, 86_400, 172_800, 345_600, 691_200, 1_382_400)

# Queued events are aggregated later.
COUNT = f"""
WITH purchase AS (
  SELECT config_id, "timestamp" AS moment,
    CASE WHEN properties ->> 'productId' ~* {_UUID} THEN CAST(properties ->> 'productId' AS uuid)
      ELSE '00000000-0000-0000-0000-000000000000' END AS product_id,
    CASE WHEN ({_AMOUNT}) IS NULL THEN '' ELSE properties ->> 'currency' END AS currency, coalesce({_AMOUNT}, 0) AS amount
  FROM analytics_events AS event
  WHERE event = 'purchase' AND NOT is_bot AND NOT EXISTS (
    SELECT FROM analytics_queue AS queued WHERE queued.config_id = event.config_id AND event.id = ANY(queued.ids)
  )
)
INSERT INTO analytics_purchases (config_id, grain, at, product_id, currency, purchases, amount)
SELECT config_id, grain, date_bin(grain * interval '1 second', moment, '2001-01-01 00:00:00+00'), product_id, currency,
  count(*), sum(amount)
FROM purchase CROSS JOIN (VALUES {", ".join(f"({grain})" for grain in _GRAINS)}) AS grains (grain)
GROUP BY 1, 2, 3, 4, 5
"""


def upgrade() -> None:
    """Create the table, and count the purchases that have been aggregated already."""
    # Blocks concurrent rollups.
    op.execute("SELECT pg_advisory_xact_lock(7312030)")
    op.create_table(
        "analytics_purchases",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("grain", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("purchases", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("amount", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "grain", "at", "product_id", "currency"),
    )
    op.execute(COUNT)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("analytics_purchases")
