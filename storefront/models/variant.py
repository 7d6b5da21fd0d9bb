"""Product variants, such as sizes and colours. Commands and imports write what `writable_column` declares."""

from collections.abc import Mapping

from sqlalchemy import JSON, Column, Computed, Index
from sqlalchemy import CheckConstraint as Check

from storefront.models.columns import (
    Field,
    SQLModel,
    build_strings_only_check,
    foreign_key_column,
    integer_column,
    timestamp_column,
    uuid_key_column,
)
from storefront.models.writable_fields import (
    INVENTORY_CSV_COLUMNS,
    MAX_INT32,
    Amount,
    Boolean,
    Choice,
    Integer,
    Text,
    TextMap,
    Url,
    Weight,
    writable_column,
)

# Of a product.
MAX_VARIANTS = 2_048
MAX_ATTRIBUTES = 10
MAX_NAME_CHARACTERS = 1_024
INVENTORY_POLICIES = ("deny", "continue")
WEIGHT_UNITS = ("gram", "kilogram", "ounce", "pound")


def build_variant_name(attributes: Mapping[str, str]) -> str:
    """The name of a variant that is given none."""
    return " / ".join(attributes.values())[:MAX_NAME_CHARACTERS] or "Default"


class ProductVariant(SQLModel, table=True):
    """A variant of a product. `inventory` null: not counted, always in stock. `image`: shown while it is one of the product's."""

    __tablename__ = "product_variants"
    __table_args__ = (
        Check("price >= 0", name="price"),
        Check("compare_at_price >= price", name="compare_at_price"),
        Check("position >= 0", name="position"),
        Check("cost >= 0", name="cost"),
        Check(f"inventory_policy IN ({', '.join(map(repr, INVENTORY_POLICIES))})", name="inventory_policy"),
        Check(
            "weight IS NULL OR (jsonb_typeof(weight -> 'value') = 'string' AND (weight ->> 'value')::numeric >= 0"
            f" AND weight ->> 'unit' IN ({', '.join(map(repr, WEIGHT_UNITS))})) IS TRUE",
            name="weight",
        ),
        Check("jsonb_typeof(attributes) = 'object'", name="attributes"),
        Check(build_strings_only_check("attributes", "$.*"), name="attributes_texts"),
        Index("product_variants_in_order_idx", "product_id", "position", "id"),
    )

    id: str = uuid_key_column()
    product_id: str = foreign_key_column("products.id")
    # As long as three options of Shopify, joined.
    name: str = writable_column(Text(MAX_NAME_CHARACTERS))
    price: str = writable_column(Amount(), csv_columns=("Variant Price",))
    compare_at_price: str | None = writable_column(Amount(), csv_columns=("Variant Compare At Price",))
    attributes: dict[str, str] = writable_column(TextMap(Text(255), Text(255), MAX_ATTRIBUTES), default={})
    inventory: int | None = writable_column(Integer(minimum=-MAX_INT32), default=0, csv_columns=INVENTORY_CSV_COLUMNS)
    sku: str | None = writable_column(Text(255), csv_columns=("Variant SKU",), index=True)
    inventory_policy: str = writable_column(Choice(INVENTORY_POLICIES), default="deny", csv_columns=("Variant Inventory Policy",))
    barcode: str | None = writable_column(Text(255), csv_columns=("Variant Barcode",))
    weight: dict[str, str] | None = writable_column(Weight(WEIGHT_UNITS), csv_columns=("Variant Grams", "Variant Weight Unit"))
    # Only the owner of the store may see it.
    cost: str | None = writable_column(Amount(), csv_columns=("Cost per item",))
    taxable: bool = writable_column(Boolean(), default=True, csv_columns=("Variant Taxable",))
    requires_shipping: bool = writable_column(Boolean(), default=True, csv_columns=("Variant Requires Shipping",))
    image: str | None = writable_column(Url(), csv_columns=("Variant Image",))
    is_available: bool = writable_column(Boolean(), default=True)
    # The display order, from 0; ties by id. A trigger appends rows that are inserted without one.
    position: int = Field(nullable=False)
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()

    # Derived: the attributes as clients receive them, a JSON list of names and values.
    attribute_list: list[dict[str, str]] = Field(
        sa_column=Column(JSON, Computed("storefront_attribute_list(attributes)", persisted=True), nullable=False)
    )
