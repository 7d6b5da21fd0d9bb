"""Which version of a webhook changed which of its fields, by which updates of different fields are merged."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0050_webhook_field_versions"
down_revision = "0049_image_sources"
branch_labels = None
depends_on = None

# What earlier versions changed is not known: each field counts as changed by the current one.
FILL = """
UPDATE webhooks SET field_versions = jsonb_build_object(
  'url', version, 'topics', version, 'query', version, 'readAs', version, 'isEnabled', version
)
WHERE version > 1
"""


def upgrade() -> None:
    """Add the column."""
    op.add_column("webhooks", sa.Column("field_versions", JSONB(), nullable=False, server_default="{}"))
    op.execute(FILL)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("webhooks", "field_versions")
