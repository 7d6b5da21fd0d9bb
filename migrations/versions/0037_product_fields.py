"""Vendor, type and formatted description of products, gift cards, and when a product was first active."""

import sqlalchemy as sa
from alembic import op

revision = "0037_product_fields"
down_revision = "0036_former_values"
branch_labels = None
depends_on = None

# Before the row is written: statements that return it return the time, too.
PUBLISH = """
CREATE FUNCTION storefront_publish_product() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.published_at := now();
  RETURN NEW;
END $$;
CREATE TRIGGER publish_product BEFORE INSERT OR UPDATE OF status ON products
  FOR EACH ROW WHEN (NEW.status = 'active' AND NEW.published_at IS NULL) EXECUTE FUNCTION storefront_publish_product();
"""
TEXTS = ("description_html", "vendor", "product_type")


def upgrade() -> None:
    """Add the columns. Products that are active were published when they were created, as far as is known."""
    for name in TEXTS:
        op.add_column("products", sa.Column(name, sa.String(), nullable=True))
    op.add_column("products", sa.Column("gift_card", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("products", sa.Column("published_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE products SET published_at = created_at WHERE status = 'active'")
    op.execute(PUBLISH)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TRIGGER publish_product ON products")
    op.execute("DROP FUNCTION storefront_publish_product()")
    for name in ("published_at", "gift_card", *TEXTS):
        op.drop_column("products", name)
