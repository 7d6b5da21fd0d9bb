"""Pictures that merchants have uploaded, and uploads that are still to be confirmed."""

from sqlalchemy import ARRAY, Column, DateTime, Index, Text, text
from sqlalchemy import CheckConstraint as Check

from storefront.models.columns import UUID, Field, SQLModel, datetime, integer_column, timestamp_column, uuid_key_column


class Image(SQLModel, table=True):
    """A picture of a store. It is shown where its address stands in the `images` of a product of that store.

    `place` is where the object store has it: all keys of the picture and its sizes begin so. `product_id` is the product that
    shows it; once none does it is null, since `detached_at`, and the picture is swept after a while. Both are kept by triggers.
    What is to be swept is no longer shown or served from `swept_at` on; its objects go a little later, and the row last.
    """

    __tablename__ = "images"
    __table_args__ = (
        Check("width > 0 AND height > 0", name="size"),
        Index("images_detached_idx", "detached_at", postgresql_where=text("product_id IS NULL")),
    )

    id: UUID = uuid_key_column()
    # Without a foreign key: of a store that is gone the row still says which objects are to go.
    config_id: UUID = Field(nullable=False)
    product_id: UUID | None = Field(default=None, foreign_key="products.id", ondelete="SET NULL", nullable=True, index=True)
    place: str
    # What its address has besides the id: 128 random bits as hexadecimal digits. Whoever knows the address sees the picture.
    token: str
    extension: str
    width: int
    height: int
    alt: str | None = None
    placeholder: str
    version: int = integer_column(1)
    created_at: datetime = timestamp_column()
    detached_at: datetime | None = timestamp_column(nullable=True)
    swept_at: datetime | None = timestamp_column(nullable=True)


class ImageUpload(SQLModel, table=True):
    """What somebody may put into the object store until `expires_at`, and confirm a while longer.

    `places` are those that pictures of it were put to, before they were: one for each time that somebody tried to confirm it.
    The row stays until all that nobody needs of it is gone from the object store.
    """

    __tablename__ = "image_uploads"
    __table_args__ = (Check("size > 0", name="size"),)

    id: UUID = uuid_key_column()
    # Without a foreign key, as above.
    config_id: UUID = Field(nullable=False, index=True)
    content_type: str
    size: int
    filename: str | None = None
    created_at: datetime = timestamp_column()
    expires_at: datetime = Field(sa_type=DateTime(timezone=True), nullable=False, index=True)
    confirmed_at: datetime | None = timestamp_column(nullable=True)
    places: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
