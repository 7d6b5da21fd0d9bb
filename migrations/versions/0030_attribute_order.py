"""The attributes of variants keep their order, which is that of the product's options."""

from alembic import op

revision = "0030_attribute_order"
down_revision = "0029_store_keys"
branch_labels = None
depends_on = None

# One rewrite of the table. Generated columns that depend on the column are made anew.
ALTER = """
ALTER TABLE product_variants
  DROP CONSTRAINT product_variants_attributes_check,
  DROP CONSTRAINT product_variants_attributes_texts_check,
  DROP CONSTRAINT product_variants_attributes_key,
  DROP COLUMN attribute_list, DROP COLUMN folded_attributes, DROP COLUMN attributes_key,
  ALTER COLUMN attributes DROP DEFAULT,
  ALTER COLUMN attributes TYPE {type} USING attributes::{type},
  ALTER COLUMN attributes SET DEFAULT '{{}}'::{type},
  ADD COLUMN attribute_list json NOT NULL GENERATED ALWAYS AS (storefront_attribute_list(attributes)) STORED,
  ADD COLUMN folded_attributes jsonb NOT NULL GENERATED ALWAYS AS ({folded}) STORED,
  ADD COLUMN attributes_key bigint NOT NULL GENERATED ALWAYS AS (hashtextextended({folded}::text, 0)) STORED,
  ADD CONSTRAINT product_variants_attributes_check CHECK ({type}_typeof(attributes) = 'object'),
  ADD CONSTRAINT product_variants_attributes_texts_check
    CHECK (NOT jsonb_path_exists(attributes::jsonb, 'strict $.* ? (@.type() <> "string")')),
  ADD CONSTRAINT product_variants_attributes_key UNIQUE (config_id, product_id, attributes_key) DEFERRABLE INITIALLY IMMEDIATE
"""
# Declared immutable: the result depends on no session setting, which Postgres cannot assume of json_agg.
ATTRIBUTE_LIST = """
CREATE FUNCTION storefront_attribute_list(json) RETURNS json LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN CASE
  WHEN json_typeof($1) = 'object'
  THEN (SELECT coalesce(json_agg(json_build_object('name', key, 'value', value)), '[]'::json) FROM json_each_text($1))
  ELSE '[]'::json
END
"""
FORMER_ATTRIBUTE_LIST = """
CREATE FUNCTION storefront_attribute_list(jsonb) RETURNS json LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE RETURN CASE
  WHEN jsonb_typeof($1) = 'object'
  THEN (SELECT coalesce(json_agg(json_build_object('name', key, 'value', value)), '[]'::json) FROM jsonb_each_text($1))
  ELSE '[]'::json
END
"""
# Variants of products with one option have nothing to order.
ORDER = """
UPDATE product_variants AS v SET attributes = ordered.attributes
FROM (
  SELECT variant.config_id, variant.id, json_object_agg(pair.key, pair.value ORDER BY option.number) AS attributes
  FROM product_variants AS variant
    JOIN products ON products.config_id = variant.config_id AND products.id = variant.product_id,
    jsonb_array_elements(products.options) WITH ORDINALITY AS option (value, number),
    json_each_text(variant.attributes) AS pair (key, value)
  WHERE jsonb_array_length(products.options) > 1 AND pair.key = option.value ->> 'name'
  GROUP BY variant.config_id, variant.id
) AS ordered
WHERE v.config_id = ordered.config_id AND v.id = ordered.id
  AND (SELECT count(*) FROM json_each_text(v.attributes)) = (SELECT count(*) FROM json_each_text(ordered.attributes))
  AND (SELECT array_agg(key) FROM json_object_keys(v.attributes) AS key)
    <> (SELECT array_agg(key) FROM json_object_keys(ordered.attributes) AS key)
"""


def upgrade() -> None:
    op.execute(ATTRIBUTE_LIST)
    op.execute(ALTER.format(type="json", folded="(lower(attributes::jsonb::text)::jsonb)"))
    op.execute("DROP FUNCTION storefront_attribute_list(jsonb)")
    op.execute(ORDER)


def downgrade() -> None:
    op.execute(FORMER_ATTRIBUTE_LIST)
    op.execute(ALTER.format(type="jsonb", folded="(lower(attributes::text)::jsonb)"))
    op.execute("DROP FUNCTION storefront_attribute_list(json)")
