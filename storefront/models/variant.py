"""A size, a colour: one buyable form of a product."""

from sqlalchemy import JSON, Column, Computed, Index, text
from sqlalchemy import CheckConstraint as Check

from storefront.models.columns import (
    UUID,
    Decimal,
    Field,
    SQLModel,
    datetime,
    document,
    flag,
    key,
    moment,
    money,
    number,
    reference,
    texts_only,
)


class ProductVariant(SQLModel, table=True):
    """One form of a product. `inventory` null means that it is not counted and never runs out."""

    __tablename__ = "product_variants"
    __table_args__ = (
        Check("price >= 0", name="price"),
        Check("compare_at_price >= price", name="compare_at_price"),
        Check("inventory >= 0", name="inventory"),
        Check("jsonb_typeof(attributes) = 'object'", name="attributes"),
        Check(texts_only("attributes", "$.*"), name="attributes_texts"),
        # In the order in which they are shown.
        Index("product_variants_in_order_idx", "product_id", "created_at", "id"),
    )

    id: UUID = key()
    product_id: UUID = reference("products.id")
    name: str
    price: Decimal = money()
    compare_at_price: Decimal | None = money(nullable=True)
    attributes: dict[str, str] = document("{}")
    inventory: int | None = Field(default=None, sa_column_kwargs={"server_default": text("0")})
    sku: str | None = Field(default=None, index=True)
    is_available: bool = flag(True)
    version: int = number(1)
    created_at: datetime = moment()

    # Derived: the attributes as clients are told them.
    attribute_list: list[dict[str, str]] = Field(
        sa_column=Column(JSON, Computed("storefront_attribute_list(attributes)", persisted=True), nullable=False)
    )
