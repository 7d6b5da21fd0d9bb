"""Product rollups partitioned by grain: rows of days are stored together, for any number of minutes."""

from alembic import op

revision = "20261204_products_by_grain"
down_revision = "20261201_images_of_new_products"
branch_labels = None
depends_on = None

KEY = """ALTER TABLE analytics_products ADD CONSTRAINT analytics_products_pkey
  PRIMARY KEY (config_id, grain, at, product_id) INCLUDE (clicks, add_to_carts)"""
OWNER = """ALTER TABLE analytics_products ADD CONSTRAINT analytics_products_config_id_fkey
  FOREIGN KEY (config_id) REFERENCES configs (id) ON DELETE CASCADE"""
PARTS = {
    "minutes": "FOR VALUES IN (60)",
    "quarters": "FOR VALUES IN (900)",
    "hours": "FOR VALUES IN (7200, 21600, 43200)",
    "days": "DEFAULT",
}


def upgrade() -> None:
    _moved("PARTITION BY LIST (grain)")


def downgrade() -> None:
    _moved("")


def _moved(how: str) -> None:
    # Keep the names of the table and its constraints.
    op.execute("ALTER TABLE analytics_products RENAME TO analytics_products_before")
    op.execute("ALTER TABLE analytics_products_before DROP CONSTRAINT analytics_products_pkey")
    op.execute("ALTER TABLE analytics_products_before DROP CONSTRAINT analytics_products_config_id_fkey")
    op.execute(f"CREATE TABLE analytics_products (LIKE analytics_products_before INCLUDING DEFAULTS) {how}")
    for name, values in PARTS.items() if how else ():
        op.execute(f"CREATE TABLE analytics_products_{name} PARTITION OF analytics_products {values}")
    op.execute("INSERT INTO analytics_products SELECT * FROM analytics_products_before ORDER BY config_id, grain, at, product_id")
    op.execute("DROP TABLE analytics_products_before")
    op.execute(KEY)
    op.execute(OWNER)
