"""Uploaded images, and uploads that are not confirmed yet."""

from sqlalchemy import ARRAY, Column, DateTime, Index, Text, text
from sqlalchemy import CheckConstraint as Check

from storefront.models.columns import (
    Field,
    SQLModel,
    Uuid,
    integer_column,
    reference_in_store,
    store_column,
    timestamp_column,
    uuid_key_column,
)


class Image(SQLModel, table=True):
    """An image of a store. Products of the store reference it by its URL in `images`.

    `place` is the key prefix of the image and its renditions in the object store. `product_id` is the product that references
    it: commands write it with the product (`writes/image_changes.py`). If none does, it is null since `detached_at`, which a
    trigger notes, and garbage collection deletes the image later.
    From `swept_at` on the image is not served; its objects are deleted shortly after, then the row.
    """

    __tablename__ = "images"
    __table_args__ = (
        Check("width > 0 AND height > 0", name="size"),
        # The store stays.
        reference_in_store("product_id", "products", ondelete="SET NULL (product_id)"),
        Index("images_id_idx", "id"),
        Index("images_config_id_product_id_idx", "config_id", "product_id"),
        Index("images_detached_idx", "detached_at", postgresql_where=text("product_id IS NULL")),
    )

    # No foreign key: after a store is deleted, the row still names the objects to delete.
    config_id: str = store_column(is_reference=False)
    id: str = uuid_key_column()
    product_id: str | None = Field(sa_type=Uuid, default=None, nullable=True)
    place: str
    # The secret part of its URL: 128 random bits in hex. Anyone with the URL can read the image.
    token: str
    extension: str
    width: int
    height: int
    alt: str | None = None
    # Where it was fetched from, if it was: imports that name this URL mean the image.
    source_url: str | None = None
    placeholder: str
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    detached_at: str | None = timestamp_column(nullable=True)
    swept_at: str | None = timestamp_column(nullable=True)


class ImageUpload(SQLModel, table=True):
    """A presigned upload: valid until `expires_at`, and confirmable for a while longer.

    `places` are the key prefixes of its images, recorded before they are written: one per attempt to confirm it.
    The row stays until its unused objects are deleted from the object store.
    """

    __tablename__ = "image_uploads"
    __table_args__ = (Check("size > 0", name="size"), Index("image_uploads_id_idx", "id"))

    # No foreign key, as above.
    config_id: str = store_column(is_reference=False)
    id: str = uuid_key_column()
    content_type: str
    size: int
    filename: str | None = None
    created_at: str = timestamp_column()
    expires_at: str = Field(sa_type=DateTime(timezone=True), nullable=False, index=True)
    confirmed_at: str | None = timestamp_column(nullable=True)
    places: list[str] = Field(sa_column=Column(ARRAY(Text), nullable=False, server_default=text("'{}'")))
