"""Search documents are written by commands: they have the SKUs, barcodes and option values of the variants, too."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from storefront.models.search_document import build_search_vector

revision = "0043_search_documents"
down_revision = "0042_compiled_functions"
branch_labels = None
depends_on = None

BATCH_PRODUCTS = 500
PRODUCTS = """
SELECT to_jsonb(products) - 'search_vector' AS product, ARRAY(
  SELECT code FROM product_variants AS v, unnest(ARRAY[v.sku, v.barcode]) AS code
  WHERE v.config_id = products.config_id AND v.product_id = products.id AND code <> '' ORDER BY v.position, v.id
) AS codes
FROM products WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT :batch
"""
WRITE = """
UPDATE products SET search_vector = written.vector::tsvector
FROM unnest(CAST(:ids AS uuid[]), CAST(:vectors AS text[])) AS written (id, vector) WHERE products.id = written.id
"""
INDEXED = "(search_vector || array_to_tsvector(ARRAY[config_id::text]))"
FORMER_VECTOR = """
setweight(to_tsvector('english', storefront_fold(title)), 'A')
|| setweight(to_tsvector('english', storefront_fold('a a a ' || coalesce(category, '') || ' a a a ' || replace(tags::text, '", "', ' a a a '))), 'B')
|| setweight(to_tsvector('english', storefront_fold('a a a ' || coalesce(description, ''))), 'D')
|| strip(to_tsvector('simple', storefront_fold(title || ' ' || coalesce(category, '') || ' ' || tags::text)))
"""


def upgrade() -> None:
    op.drop_index("products_search_idx", "products")
    op.drop_column("products", "search_vector")
    op.add_column("products", sa.Column("search_vector", postgresql.TSVECTOR(), server_default="", nullable=False))
    # Documents stay in the row: ranking reads one for each match, and reading it from elsewhere takes three times as long.
    op.execute("ALTER TABLE products SET (toast_tuple_target = 4096)")
    write_documents(op.get_bind())
    op.create_index("products_search_idx", "products", [sa.literal_column(INDEXED)], postgresql_using="gin")


def write_documents(connection: sa.Connection) -> None:
    last_id = "00000000-0000-0000-0000-000000000000"
    while rows := connection.execute(sa.text(PRODUCTS), {"after": last_id, "batch": BATCH_PRODUCTS}).all():
        products: list[dict[str, Any]] = [row.product for row in rows]
        vectors = [build_search_vector(row.product, row.codes) for row in rows]
        connection.execute(sa.text(WRITE), {"ids": [product["id"] for product in products], "vectors": vectors})
        last_id = products[-1]["id"]


def downgrade() -> None:
    op.execute("ALTER TABLE products RESET (toast_tuple_target)")
    op.drop_index("products_search_idx", "products")
    op.drop_column("products", "search_vector")
    computed = sa.Computed(FORMER_VECTOR, persisted=True)
    op.add_column("products", sa.Column("search_vector", postgresql.TSVECTOR(), computed, nullable=False))
    op.create_index("products_search_idx", "products", [sa.literal_column(INDEXED)], postgresql_using="gin")
