"""Former handles of products and slugs of stores: they lead to the present ones until another row takes them."""

from sqlalchemy import ForeignKeyConstraint, Index

from storefront.models.columns import Field, SQLModel, Uuid, foreign_key_column


class FormerHandle(SQLModel, table=True):
    """A handle that a product had. No product of the store has it now."""

    __tablename__ = "former_handles"
    __table_args__ = (
        ForeignKeyConstraint(
            ["config_id", "product_id"],
            ["products.config_id", "products.id"],
            name="former_handles_config_id_product_id_fkey",
            ondelete="CASCADE",
        ),
        Index("former_handles_config_id_product_id_idx", "config_id", "product_id"),
    )

    config_id: str = Field(primary_key=True, sa_type=Uuid)
    handle: str = Field(primary_key=True)
    product_id: str = Field(sa_type=Uuid, nullable=False)


class FormerSlug(SQLModel, table=True):
    """A slug that a store had. No store has it now."""

    __tablename__ = "former_slugs"

    slug: str = Field(primary_key=True)
    config_id: str = foreign_key_column("configs.id", index=True)
