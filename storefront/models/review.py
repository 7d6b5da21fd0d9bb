"""Reviews of products."""

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, SmallInteger, text

from storefront.models.columns import Field, SQLModel, Uuid, foreign_key_column, integer_column, timestamp_column, uuid_key_column

_NEWEST_FIRST = (text("created_at DESC"), text("id DESC"))


class Review(SQLModel, table=True):
    """A review with one to five stars; one per user and product."""

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
        Index("reviews_product_id_user_id_key", "product_id", "user_id", unique=True),
        # A review belongs to the store of its product. A trigger fills the column for SQL that does not know it.
        ForeignKeyConstraint(
            ["config_id", "product_id"],
            ["products.config_id", "products.id"],
            name="reviews_config_id_product_id_fkey",
            ondelete="CASCADE",
        ),
        Index("reviews_newest_idx", "config_id", "product_id", *_NEWEST_FIRST),
        Index("reviews_by_rating_idx", "product_id", "rating", *_NEWEST_FIRST),
        Index("reviews_of_store_idx", "config_id", *_NEWEST_FIRST),
    )

    id: str = uuid_key_column()
    config_id: str = Field(sa_type=Uuid, nullable=False)
    product_id: str = Field(sa_type=Uuid, nullable=False)
    user_id: str = foreign_key_column("users.id", index=True)
    rating: int = Field(sa_type=SmallInteger)
    title: str | None = None
    body: str | None = None
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()
