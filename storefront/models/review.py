"""Reviews of products."""

from sqlalchemy import CheckConstraint, Index, SmallInteger, text

from storefront.models.columns import (
    Field,
    SQLModel,
    Uuid,
    enum_column,
    foreign_key_column,
    integer_column,
    reference_in_store,
    store_column,
    timestamp_column,
    uuid_key_column,
)

REVIEW_STATUSES = ("pending", "published", "hidden")
# Of the body, and of the reply.
MAX_REVIEW_CHARACTERS = 10_000

_NEWEST_FIRST = (text("created_at DESC"), text("id DESC"))
_IS_PUBLISHED = text("status = 'published'")
# The same rows in other words, from which the planner cannot derive the former. Statements that say it so have this one index.
IS_PUBLISHED_RANGE = text("status >= 'published' AND status <= 'published'")


_STARS = (1, 2, 3, 4, 5)
# Counts the published reviews of all products of the store `config_id` anew, after SQL that bypasses the commands: these count
# what they write. Products whose counts are right are not written.
COUNT_REVIEWS_SQL = f"""
UPDATE products SET rating_counts = counted.rating_counts
FROM (
  SELECT p.id, ARRAY[{", ".join(f"count(*) FILTER (WHERE r.rating = {stars})" for stars in _STARS)}]::integer[] AS rating_counts
  FROM products AS p LEFT JOIN reviews AS r
    ON r.config_id = CAST(:config_id AS uuid) AND r.product_id = p.id AND r.status = 'published'
  WHERE p.config_id = CAST(:config_id AS uuid) GROUP BY p.id
) AS counted
WHERE products.config_id = CAST(:config_id AS uuid) AND products.id = counted.id
  AND products.rating_counts <> counted.rating_counts
"""


class Review(SQLModel, table=True):
    """A review with one to five stars; one per user and product. Shoppers see published ones."""

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
        CheckConstraint(f"status IN ({', '.join(map(repr, REVIEW_STATUSES))})", name="status"),
        # So both are seen by those who see hidden reviews.
        CheckConstraint("moderation_note IS NULL OR status = 'hidden'", name="moderation_note"),
        CheckConstraint("(reply IS NULL) = (replied_at IS NULL)", name="reply"),
        # Not by product first: it would compete with the index of the newest, which reads a page without a sort.
        Index("reviews_config_id_user_id_product_id_key", "config_id", "user_id", "product_id", unique=True),
        reference_in_store("product_id", "products"),
        Index("reviews_id_idx", "id"),
        # A product's lists have published reviews only, however many wait.
        Index("reviews_newest_idx", "config_id", "product_id", *_NEWEST_FIRST, postgresql_where=_IS_PUBLISHED),
        Index("reviews_by_rating_idx", "config_id", "product_id", "rating", *_NEWEST_FIRST, postgresql_where=IS_PUBLISHED_RANGE),
        Index("reviews_of_store_idx", "config_id", *_NEWEST_FIRST),
        Index("reviews_by_status_idx", "config_id", "status", *_NEWEST_FIRST),
    )

    config_id: str = store_column(is_reference=False)
    id: str = uuid_key_column()
    product_id: str = Field(sa_type=Uuid, nullable=False)
    user_id: str = foreign_key_column("users.id", index=True)
    rating: int = Field(sa_type=SmallInteger)
    title: str | None = None
    body: str | None = None
    status: str = enum_column("published")
    # Why the review was hidden.
    moderation_note: str | None = None
    # Of the store's owner.
    reply: str | None = None
    replied_at: str | None = timestamp_column(nullable=True)
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()
