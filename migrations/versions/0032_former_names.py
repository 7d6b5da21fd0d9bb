"""Handles and slugs in every script, and the former ones of products and stores."""

from collections import defaultdict
from itertools import count

import sqlalchemy as sa
from alembic import op

from storefront.core.handles import normalize_handle

revision = "0032_former_names"
down_revision = "0031_amounts_of_currencies"
branch_labels = None
depends_on = None

SLUG_CHECK = r"slug <> '' AND slug !~ '[\x01-\x2c\x2e\x2f\x3a-\x60\x7b-\x7f]|^-|--|-$'"
ASCII_SLUG_CHECK = "slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'"
# Imports wrote handles with underscores, and letters in any form of Unicode.
OTHER_HANDLES = sa.text("SELECT id, config_id, handle FROM products WHERE handle !~ '^[a-z0-9]+(-[a-z0-9]+)*$' ORDER BY id")
# Lookups normalise: a handle that another product gets is found no more.
TAKEN_HANDLES = sa.text("SELECT handle FROM products WHERE config_id = :config_id")
# Triggers and versions are not concerned: the address of the product stays the same.
RENAME = sa.text("UPDATE products SET handle = :handle WHERE config_id = :config_id AND id = :id")


def upgrade() -> None:
    op.create_table(
        "former_handles",
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.Column("handle", sa.String(), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("config_id", "handle"),
        sa.ForeignKeyConstraint(
            ["config_id", "product_id"],
            ["products.config_id", "products.id"],
            name="former_handles_config_id_product_id_fkey",
            ondelete="CASCADE",
        ),
    )
    op.create_index("former_handles_config_id_product_id_idx", "former_handles", ["config_id", "product_id"])
    op.create_table(
        "former_slugs",
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("config_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("slug"),
        sa.ForeignKeyConstraint(["config_id"], ["configs.id"], ondelete="CASCADE"),
    )
    op.create_index(op.f("former_slugs_config_id_idx"), "former_slugs", ["config_id"])
    op.drop_constraint(op.f("configs_slug_check"), "configs")
    op.create_check_constraint(op.f("configs_slug_check"), "configs", SLUG_CHECK)
    normalize_handles(op.get_bind())


def normalize_handles(connection: sa.Connection) -> None:
    """Write the handles in the form of lookups; one that is taken gets a number."""
    rows_by_store = defaultdict(list)
    for row in connection.execute(OTHER_HANDLES):
        handle = normalize_handle(row.handle) or "product"
        if handle != row.handle:
            rows_by_store[row.config_id].append((row.id, handle))
    for config_id, rows in rows_by_store.items():
        taken = set(connection.execute(TAKEN_HANDLES, {"config_id": config_id}).scalars())
        for id_, handle in rows:
            free = next(name for n in count(1) if (name := handle if n == 1 else f"{handle}-{n}") not in taken)
            taken.add(free)
            connection.execute(RENAME, {"config_id": config_id, "id": id_, "handle": free})


def downgrade() -> None:
    # A slug in another script becomes the id.
    op.execute(f"UPDATE configs SET slug = id::text WHERE NOT ({ASCII_SLUG_CHECK})")
    op.drop_constraint(op.f("configs_slug_check"), "configs")
    op.create_check_constraint(op.f("configs_slug_check"), "configs", ASCII_SLUG_CHECK)
    op.drop_table("former_slugs")
    op.drop_table("former_handles")
