"""An unused image is in use again if a new product lists it on creation."""

from alembic import op

revision = "20261201_images_of_new_products"
down_revision = "20261203_integration_checks"
branch_labels = None
depends_on = None

SHOW = """
CREATE TRIGGER show_images_of_new AFTER INSERT ON products
  FOR EACH ROW WHEN (NEW.images::text LIKE '%/media/%') EXECUTE FUNCTION storefront_show_images()
"""


def upgrade() -> None:
    op.execute(SHOW)


def downgrade() -> None:
    op.execute("DROP TRIGGER show_images_of_new ON products")
