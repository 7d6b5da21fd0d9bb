"""Uploaded images, and uploads that are not confirmed yet."""

import sqlalchemy as sa
from alembic import op

revision = "20261201_images"
down_revision = "20261202_jobs"
branch_labels = None
depends_on = None

# An image is in use while a product of its store lists its URL. It belongs to the first such product; another one may take it
# over afterwards.
SHOW = r"""
CREATE FUNCTION storefront_image_ids(jsonb) RETURNS uuid[] LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN ARRAY(
  SELECT CAST(substring(address FROM '/media/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/full\.[a-z]+$') AS uuid)
  FROM jsonb_path_query($1, '$[*]') AS listed, LATERAL (SELECT listed #>> '{}') AS text (address) WHERE address LIKE '%/media/%'
);
CREATE FUNCTION storefront_show_images() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE images SET product_id = NULL
  WHERE product_id = NEW.id AND id <> ALL(array_remove(storefront_image_ids(NEW.images), NULL));
  UPDATE images SET product_id = NEW.id
  WHERE id = ANY(storefront_image_ids(NEW.images)) AND config_id = NEW.config_id AND product_id IS NULL AND swept_at IS NULL;
  RETURN NULL;
END $$;
CREATE TRIGGER show_images AFTER UPDATE OF images ON products
  FOR EACH ROW WHEN (OLD.images IS DISTINCT FROM NEW.images AND (OLD.images || NEW.images)::text LIKE '%/media/%')
  EXECUTE FUNCTION storefront_show_images();
CREATE FUNCTION storefront_detach_images() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.detached_at := CASE WHEN NEW.product_id IS NULL THEN now() END;
  RETURN NEW;
END $$;
CREATE TRIGGER detach_images BEFORE UPDATE OF product_id ON images
  FOR EACH ROW WHEN (OLD.product_id IS DISTINCT FROM NEW.product_id) EXECUTE FUNCTION storefront_detach_images();
"""


def upgrade() -> None:
    op.create_table(
        "images",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=True),
        sa.Column("place", sa.String(), nullable=False),
        sa.Column("extension", sa.String(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("alt", sa.String(), nullable=True),
        sa.Column("placeholder", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("detached_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("swept_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("width > 0 AND height > 0", name=op.f("images_size_check")),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="images_product_id_fkey", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="images_pkey"),
    )
    op.create_index("images_product_id_idx", "images", ["product_id"])
    op.create_index("images_detached_idx", "images", ["detached_at"], postgresql_where=sa.text("product_id IS NULL"))
    op.create_table(
        "image_uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("filename", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("places", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint("size > 0", name=op.f("image_uploads_size_check")),
        sa.PrimaryKeyConstraint("id", name="image_uploads_pkey"),
    )
    op.create_index("image_uploads_config_id_idx", "image_uploads", ["config_id"])
    op.create_index("image_uploads_expires_at_idx", "image_uploads", ["expires_at"])
    op.execute(SHOW)


def downgrade() -> None:
    op.execute("DROP TRIGGER show_images ON products")
    op.drop_table("image_uploads")
    op.drop_table("images")
    for function in ("storefront_detach_images()", "storefront_show_images()", "storefront_image_ids(jsonb)"):
        op.execute(f"DROP FUNCTION {function}")
