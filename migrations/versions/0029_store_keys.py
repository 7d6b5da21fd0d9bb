"""Every table of a store has `config_id`, and its primary key, unique keys and foreign keys begin with it."""

import sqlalchemy as sa
from alembic import op

revision = "0029_store_keys"
down_revision = "0028_options"
branch_labels = None
depends_on = None

# Rows that get the store of their parent.
PARENTS = {
    "webhook_deliveries": ("webhook_id", "webhooks"),
    "job_issues": ("job_id", "jobs"),
    "job_handles": ("job_id", "jobs"),
}
# Primary keys without the store.
FORMER_KEYS = {
    "products": ("id",),
    "product_variants": ("id",),
    "reviews": ("id",),
    "images": ("id",),
    "image_uploads": ("id",),
    "jobs": ("id",),
    "job_issues": ("job_id", "number"),
    "job_handles": ("job_id", "handle"),
    "webhooks": ("id",),
    "webhook_deliveries": ("id",),
    "analytics_queue": ("id",),
}
# References within a store: their column, the table they refer to, what the deletion of its row does, and the names of the
# foreign key before and without the store.
REFERENCES = {
    "product_variants": ("product_id", "products", "CASCADE", "product_variants_product_fkey"),
    "reviews": ("product_id", "products", "CASCADE", "reviews_config_id_product_id_fkey"),
    "images": ("product_id", "products", "SET NULL", "images_product_id_fkey"),
    "job_issues": ("job_id", "jobs", "CASCADE", "job_issues_job_id_fkey"),
    "job_handles": ("job_id", "jobs", "CASCADE", "job_handles_job_id_fkey"),
    "webhook_deliveries": ("webhook_id", "webhooks", "CASCADE", "webhook_deliveries_webhook_id_fkey"),
}
# The foreign keys that have had the store before.
HAD_STORE = ("product_variants", "reviews")
FORMER_KEY_OF_VARIANTS = """
ALTER TABLE product_variants ADD CONSTRAINT product_variants_attributes_key
  UNIQUE ({columns}) DEFERRABLE INITIALLY IMMEDIATE
"""
# The indexes that get the store as their first column: table, columns, condition.
NEWEST_FIRST = ("created_at DESC", "id DESC")
INDEXES = {
    "product_variants_in_order_idx": ("product_variants", ("product_id", "position", "id"), None),
    "reviews_by_rating_idx": ("reviews", ("product_id", "rating", *NEWEST_FIRST), None),
    "webhook_deliveries_newest_idx": ("webhook_deliveries", ("webhook_id", "created_at", "id"), None),
    "webhook_deliveries_due_idx": ("webhook_deliveries", ("webhook_id", "next_attempt_at"), "next_attempt_at IS NOT NULL"),
    "webhook_deliveries_lane_idx": ("webhook_deliveries", ("webhook_id", "lane", "position", "id"), "state = 'pending'"),
}
# Before, the foreign key of images had no store, and these tables were not found by their primary keys.
FORMER_STORE_INDEXES = ("webhooks", "image_uploads")
# An image shows with a product of its own store only. A trigger notes since when it shows with none.
DETACH_IMAGES = """
UPDATE images SET product_id = NULL FROM products
WHERE products.id = images.product_id AND products.config_id <> images.config_id
"""


# A product belongs to one store. Without this the planner takes both columns for independent, and expects one row per product.
STATISTICS = ("product_variants", "reviews")


def upgrade() -> None:
    op.execute(DETACH_IMAGES)
    for table, (_, _, _, name) in REFERENCES.items():
        op.drop_constraint(name, table)
    for table, (column, parent) in PARENTS.items():
        op.add_column(table, sa.Column("config_id", sa.Uuid(), nullable=True))
        op.execute(f"UPDATE {table} SET config_id = {parent}.config_id FROM {parent} WHERE {parent}.id = {column}")
        op.alter_column(table, "config_id", nullable=False)
    for table, columns in FORMER_KEYS.items():
        op.drop_constraint(f"{table}_pkey", table)
        if table == "products":
            op.execute("ALTER TABLE products ADD CONSTRAINT products_pkey PRIMARY KEY USING INDEX products_config_id_id_key")
        else:
            op.create_primary_key(f"{table}_pkey", table, ["config_id", *columns])
        if columns == ("id",):
            # The store of an id that comes alone, and the oldest rows of the queue.
            op.create_index(f"{table}_id_idx", table, ["id"])
    for table, (column, parent, action, _) in REFERENCES.items():
        # The store of an image stays: it names the objects to delete.
        ondelete = f"{action} ({column})" if action == "SET NULL" else action
        key, parent_key = ["config_id", column], ["config_id", "id"]
        op.create_foreign_key(f"{table}_config_id_{column}_fkey", table, parent, key, parent_key, ondelete=ondelete)
    op.drop_constraint("product_variants_attributes_key", "product_variants")
    op.execute(FORMER_KEY_OF_VARIANTS.format(columns="config_id, product_id, attributes_key"))
    op.drop_index("reviews_product_id_user_id_key", "reviews")
    op.create_index("reviews_config_id_user_id_product_id_key", "reviews", ["config_id", "user_id", "product_id"], unique=True)
    _replace_indexes("config_id")
    op.drop_index("images_product_id_idx", "images")
    op.create_index("images_config_id_product_id_idx", "images", ["config_id", "product_id"])
    for table in FORMER_STORE_INDEXES:
        op.drop_index(f"{table}_config_id_idx", table)
    for table in STATISTICS:
        op.execute(f"CREATE STATISTICS {table}_of_products (dependencies) ON config_id, product_id FROM {table}")
        op.execute(f"ANALYZE {table}")


def downgrade() -> None:
    for table in STATISTICS:
        op.execute(f"DROP STATISTICS {table}_of_products")
    for table, (column, _, _, _) in REFERENCES.items():
        op.drop_constraint(f"{table}_config_id_{column}_fkey", table)
    for table in FORMER_STORE_INDEXES:
        op.create_index(f"{table}_config_id_idx", table, ["config_id"])
    op.drop_index("images_config_id_product_id_idx", "images")
    op.create_index("images_product_id_idx", "images", ["product_id"])
    _replace_indexes()
    op.drop_index("reviews_config_id_user_id_product_id_key", "reviews")
    op.create_index("reviews_product_id_user_id_key", "reviews", ["product_id", "user_id"], unique=True)
    op.drop_constraint("product_variants_attributes_key", "product_variants")
    op.execute(FORMER_KEY_OF_VARIANTS.format(columns="product_id, attributes_key"))
    for table, columns in FORMER_KEYS.items():
        if columns == ("id",):
            op.drop_index(f"{table}_id_idx", table)
        op.drop_constraint(f"{table}_pkey", table)
        op.create_primary_key(f"{table}_pkey", table, [*columns])
    op.create_index("products_config_id_id_key", "products", ["config_id", "id"], unique=True)
    for table in PARENTS:
        op.drop_column(table, "config_id")
    for table, (column, parent, action, name) in REFERENCES.items():
        store = ["config_id"] if table in HAD_STORE else []
        op.create_foreign_key(name, table, parent, [*store, column], [*store, "id"], ondelete=action)


def _replace_indexes(*first: str) -> None:
    for name, (table, columns, condition) in INDEXES.items():
        op.drop_index(name, table)
        where = None if condition is None else sa.text(condition)
        op.create_index(name, table, [*map(sa.text, (*first, *columns))], postgresql_where=where)
