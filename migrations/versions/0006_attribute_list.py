"""Stored JSON has the form that clients receive: lists of strings, and attributes as a list of names and values."""

import sqlalchemy as sa
from alembic import op

revision = "20261126_attribute_list"
down_revision = "20261125_rollups"
branch_labels = None
depends_on = None

# Declared immutable: the result depends on no session setting, which Postgres cannot assume of json_agg.
ATTRIBUTE_LIST = """
CREATE FUNCTION storefront_attribute_list(jsonb) RETURNS json LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN CASE
  WHEN jsonb_typeof($1) = 'object'
  THEN (SELECT coalesce(json_agg(json_build_object('name', key, 'value', value)), '[]'::json) FROM jsonb_each_text($1))
  ELSE '[]'::json
END
"""


TEXTS = {
    ("products", "images"): "$[*]",
    ("products", "tags"): "$[*]",
    ("product_variants", "attributes"): "$.*",
}


def upgrade() -> None:
    for (table, column), values in TEXTS.items():
        only = f"""NOT jsonb_path_exists({column}, 'strict {values} ? (@.type() <> "string")')"""
        op.create_check_constraint(op.f(f"{table}_{column}_texts_check"), table, only)
    op.execute(ATTRIBUTE_LIST)
    listed = sa.Computed("storefront_attribute_list(attributes)", persisted=True)
    op.add_column("product_variants", sa.Column("attribute_list", sa.JSON(), listed, nullable=False))


def downgrade() -> None:
    op.drop_column("product_variants", "attribute_list")
    op.execute("DROP FUNCTION storefront_attribute_list(jsonb)")
    for table, column in TEXTS:
        op.drop_constraint(op.f(f"{table}_{column}_texts_check"), table)
