"""The paths of a product's category and of those above it, so that filters include what is below."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0038_category_paths"
down_revision = "0037_product_fields"
branch_labels = None
depends_on = None

LIST_PATHS = r"""
CREATE FUNCTION storefront_list_category_paths(category text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE WHEN category IS NULL THEN ARRAY[]::text[] ELSE (
  SELECT coalesce(array_agg(path ORDER BY number), ARRAY[]::text[]) FROM (
    SELECT part.number, string_agg(btrim(part.name, E' \t\n\r\f\v'), ' > ') OVER (ORDER BY part.number) AS path
    FROM string_to_table(category, '>') WITH ORDINALITY AS part (name, number)
    WHERE btrim(part.name, E' \t\n\r\f\v') <> ''
  ) AS paths
) END
$$
"""


def upgrade() -> None:
    """Add the column and its index."""
    op.execute(LIST_PATHS)
    computed = sa.Computed("storefront_list_category_paths(category)", persisted=True)
    op.add_column("products", sa.Column("category_paths", postgresql.ARRAY(sa.Text()), computed, nullable=False))
    op.create_index("products_category_paths_idx", "products", ["category_paths"], postgresql_using="gin")


def downgrade() -> None:
    """Drop them."""
    op.drop_index("products_category_paths_idx", "products")
    op.drop_column("products", "category_paths")
    op.execute("DROP FUNCTION storefront_list_category_paths(text)")
