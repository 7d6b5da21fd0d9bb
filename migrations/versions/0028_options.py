"""The options of products, from the attributes of their variants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028_options"
down_revision = "0027_default_variants"
branch_labels = None
depends_on = None

# In the order of the variants; names and values as they are written first.
OPTIONS = """
WITH pairs AS (
  SELECT product_id, pair.key, pair.value, lower(pair.key) AS folded_key, lower(pair.value) AS folded_value,
    row_number() OVER (PARTITION BY product_id ORDER BY position, id, pair.number) AS place
  FROM product_variants, jsonb_each_text(attributes) WITH ORDINALITY AS pair (key, value, number)
), option_values AS (
  SELECT product_id, folded_key, min(place) AS place, (array_agg(key ORDER BY place))[1] AS name,
    (array_agg(value ORDER BY place))[1] AS value
  FROM pairs GROUP BY product_id, folded_key, folded_value
), options AS (
  SELECT product_id, min(place) AS place, (array_agg(name ORDER BY place))[1] AS name,
    jsonb_agg(jsonb_build_object('id', gen_random_uuid(), 'value', value, 'swatch', null) ORDER BY place) AS option_values
  FROM option_values GROUP BY product_id, folded_key
)
UPDATE products SET options = of_product.options
FROM (
  SELECT product_id,
    jsonb_agg(jsonb_build_object('id', gen_random_uuid(), 'name', name, 'values', option_values) ORDER BY place) AS options
  FROM options GROUP BY product_id
) AS of_product WHERE products.id = of_product.product_id
"""
# Variants are spelled as the options.
SPELLING = """
UPDATE product_variants AS v SET attributes = spelled.attributes
FROM (
  SELECT variant.id, jsonb_object_agg(option.value ->> 'name', choice.value ->> 'value') AS attributes
  FROM product_variants AS variant JOIN products ON products.id = variant.product_id,
    jsonb_each_text(variant.attributes) AS pair (key, value),
    jsonb_array_elements(products.options) AS option (value), jsonb_array_elements(option.value -> 'values') AS choice (value)
  WHERE lower(option.value ->> 'name') = lower(pair.key) AND lower(choice.value ->> 'value') = lower(pair.value)
  GROUP BY variant.id
) AS spelled
WHERE v.id = spelled.id AND v.attributes <> spelled.attributes
"""


def upgrade() -> None:
    op.add_column("products", sa.Column("options", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False))
    op.create_check_constraint(op.f("products_options_check"), "products", "jsonb_typeof(options) = 'array'")
    op.execute(OPTIONS)
    op.execute(SPELLING)


def downgrade() -> None:
    op.drop_column("products", "options")
