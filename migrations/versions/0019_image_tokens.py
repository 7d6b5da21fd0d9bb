"""Image URLs contain a random token besides the id: an id alone no longer finds an image."""

import sqlalchemy as sa
from alembic import op

revision = "20261205_image_tokens"
down_revision = "20261205_identities"
branch_labels = None
depends_on = None

_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_IDS = r"""
CREATE OR REPLACE FUNCTION storefront_image_ids(jsonb) RETURNS uuid[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ARRAY(
  SELECT CAST(substring(address FROM '/media/({id}){token}/full\.[a-z]+$') AS uuid)
  FROM jsonb_path_query($1, '$[*]') AS listed, LATERAL (SELECT listed #>> '{{}}') AS text (address) WHERE address LIKE '%/media/%'
)
"""
_SUFFIX = "-[0-9a-f]{32}"

# Two random UUIDs have 244 random bits, of which 128 are used.
_TOKENS = """
UPDATE images SET token = left(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), 32)
"""
_ADDRESSES = r"""
UPDATE products AS product SET images = (
  SELECT jsonb_agg(
    to_jsonb(CASE WHEN image.id IS NULL THEN address ELSE regexp_replace(address, '{old}/(full\.[a-z]+)$', {new}) END) ORDER BY number
  )
  FROM jsonb_array_elements_text(product.images) WITH ORDINALITY AS listed (address, number)
  LEFT JOIN images AS image ON image.config_id = product.config_id
    AND image.id = CAST(substring(address FROM '/media/({id}){old}/full\.[a-z]+$') AS uuid)
)
WHERE product.images::text LIKE '%/media/%'
"""


def upgrade() -> None:
    op.add_column("images", sa.Column("token", sa.String(), nullable=True))
    op.execute(_TOKENS)
    op.alter_column("images", "token", nullable=False)
    op.execute(_IDS.format(id=_ID, token=_SUFFIX))
    op.execute(_ADDRESSES.format(id=_ID, old="", new=r"'-' || image.token || '/\1'"))


def downgrade() -> None:
    op.execute(_IDS.format(id=_ID, token=""))
    op.execute(_ADDRESSES.format(id=_ID, old=_SUFFIX, new=r"'/\1'"))
    op.drop_column("images", "token")
