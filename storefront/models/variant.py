"""Product variants, such as sizes and colours."""

from sqlalchemy import JSON, Column, Computed, Index, text
from sqlalchemy import CheckConstraint as Check

from storefront.models.columns import (
    UUID,
    Decimal,
    Field,
    SQLModel,
    boolean_column,
    build_strings_only_check,
    datetime,
    foreign_key_column,
    integer_column,
    json_column,
    money_column,
    timestamp_column,
    uuid_key_column,
)


class ProductVariant(SQLModel, table=True):
    """A variant of a product. `inventory` null: not counted, always in stock."""

    __tablename__ = "product_variants"
    __table_args__ = (
        Check("price >= 0", name="price"),
        Check("compare_at_price >= price", name="compare_at_price"),
        Check("inventory >= 0", name="inventory"),
        Check("jsonb_typeof(attributes) = 'object'", name="attributes"),
        Check(build_strings_only_check("attributes", "$.*"), name="attributes_texts"),
        # In display order.
        Index("product_variants_in_order_idx", "product_id", "created_at", "id"),
    )

    id: UUID = uuid_key_column()
    product_id: UUID = foreign_key_column("products.id")
    name: str
    price: Decimal = money_column()
    compare_at_price: Decimal | None = money_column(nullable=True)
    attributes: dict[str, str] = json_column("{}")
    inventory: int | None = Field(default=None, sa_column_kwargs={"server_default": text("0")})
    sku: str | None = Field(default=None, index=True)
    is_available: bool = boolean_column(True)
    version: int = integer_column(1)
    created_at: datetime = timestamp_column()

    # Derived: the attributes as clients receive them, a JSON list of names and values.
    attribute_list: list[dict[str, str]] = Field(
        sa_column=Column(JSON, Computed("storefront_attribute_list(attributes)", persisted=True), nullable=False)
    )
