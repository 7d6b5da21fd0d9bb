"""Words of a store that searches take for each other."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY

revision = "0047_search_synonyms"
down_revision = "0046_kept_cells"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    rules = ("targets", "markers", "replaced_markers", "replacements")
    op.create_table(
        "search_synonyms",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("word", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("list_number", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        *(sa.Column(name, ARRAY(TSQUERY()), nullable=False) for name in rules),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("config_id", "word"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("search_synonyms")
