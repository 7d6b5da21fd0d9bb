"""Reviews of products."""

from sqlalchemy import CheckConstraint, Index, SmallInteger, text

from storefront.models.columns import Field, SQLModel, foreign_key_column, integer_column, timestamp_column, uuid_key_column


class Review(SQLModel, table=True):
    """A review with one to five stars; one per user and product."""

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
        Index("reviews_product_id_user_id_key", "product_id", "user_id", unique=True),
        Index("reviews_newest_idx", "product_id", text("created_at DESC"), text("id DESC")),
    )

    id: str = uuid_key_column()
    product_id: str = foreign_key_column("products.id")
    user_id: str = foreign_key_column("users.id", index=True)
    rating: int = Field(sa_type=SmallInteger)
    title: str | None = None
    body: str | None = None
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()
