"""Product variants, such as sizes and colours. Commands and imports write what `writable_column` declares."""

from collections.abc import Mapping

from sqlalchemy import JSON, BigInteger, Column, Computed, Index, UniqueConstraint
from sqlalchemy import CheckConstraint as Check
from sqlalchemy.dialects.postgresql import JSONB

from storefront.models.columns import (
    Field,
    SQLModel,
    Uuid,
    build_amount_check,
    build_strings_only_check,
    integer_column,
    json_column,
    reference_in_store,
    store_column,
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
# Of the variant of a product without options.
DEFAULT_VARIANT_NAME = "Default"
WEIGHT_UNITS = ("gram", "kilogram", "ounce", "pound")


# Of the text of the JSON: its escapes are in lower case already.
FOLDED_ATTRIBUTES_SQL = "(lower(attributes::jsonb::text)::jsonb)"


def build_variant_name(attributes: Mapping[str, str]) -> str:
    """The name of a variant that is given none."""
    return " / ".join(attributes.values())[:MAX_NAME_CHARACTERS] or DEFAULT_VARIANT_NAME


def fold_case(text: str) -> str:
    """The text without case, as Postgres lowers it in the locale C.UTF-8: each character on its own."""
    return text.lower() if text.isascii() else "".join("i" if char == "\u0130" else char.lower() for char in text)


def fold_attributes(attributes: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """The attributes without case and order. Variants of one product differ in it, as in the column `attributes_key`."""
    return frozenset((fold_case(name), fold_case(value)) for name, value in attributes.items())


def follow_attributes(name: str, former: Mapping[str, str], attributes: Mapping[str, str]) -> str:
    """The name of a variant with new attributes: a name that was derived from the former ones, in any order, follows them."""
    is_derived = sorted(name.split(" / ")) == sorted(build_variant_name(former).split(" / "))
    return build_variant_name(attributes) if is_derived else name


class ProductVariant(SQLModel, table=True):
    """A variant of a product. `inventory` null: not counted, always in stock. `image`: shown while it is one of the product's."""

    __tablename__ = "product_variants"
    __table_args__ = (
        build_amount_check("price"),
        build_amount_check("compare_at_price", minimum="price"),
        build_amount_check("cost"),
        Check("position >= 0", name="position"),
        Check(f"inventory_policy IN ({', '.join(map(repr, INVENTORY_POLICIES))})", name="inventory_policy"),
        Check(
            "weight IS NULL OR (jsonb_typeof(weight -> 'value') = 'string' AND (weight ->> 'value')::numeric >= 0"
            f" AND weight ->> 'unit' IN ({', '.join(map(repr, WEIGHT_UNITS))})) IS TRUE",
            name="weight",
        ),
        Check("json_typeof(attributes) = 'object'", name="attributes"),
        Check(build_strings_only_check("attributes::jsonb", "$.*"), name="attributes_texts"),
        reference_in_store("product_id", "products"),
        # At the end of a statement: one UPDATE may exchange the attributes of two variants.
        UniqueConstraint(
            *("config_id", "product_id", "attributes_key"),
            name="product_variants_attributes_key",
            deferrable=True,
            initially="IMMEDIATE",
        ),
        Index("product_variants_id_idx", "id"),
        Index("product_variants_by_sku_idx", "config_id", "sku"),
        Index("product_variants_in_order_idx", "config_id", "product_id", "position", "id"),
    )

    config_id: str = store_column(is_reference=False)
    id: str = uuid_key_column()
    product_id: str = Field(sa_type=Uuid, nullable=False)
    # As long as three options of Shopify, joined.
    name: str = writable_column(Text(MAX_NAME_CHARACTERS))
    price: str = writable_column(Amount(), csv_columns=("Variant Price",))
    compare_at_price: str | None = writable_column(Amount(), csv_columns=("Variant Compare At Price",))
    attributes: dict[str, str] = writable_column(TextMap(Text(255), Text(255), MAX_ATTRIBUTES), default={})
    inventory: int | None = writable_column(Integer(minimum=-MAX_INT32), default=0, csv_columns=INVENTORY_CSV_COLUMNS)
    sku: str | None = writable_column(Text(255), csv_columns=("Variant SKU",))
    inventory_policy: str = writable_column(Choice(INVENTORY_POLICIES), default="deny", csv_columns=("Variant Inventory Policy",))
    barcode: str | None = writable_column(Text(255), csv_columns=("Variant Barcode",))
    weight: dict[str, str] | None = writable_column(Weight(WEIGHT_UNITS), csv_columns=("Variant Grams", "Variant Weight Unit"))
    # Only the owner of the store may see it.
    cost: str | None = writable_column(Amount(), csv_columns=("Cost per item",))
    taxable: bool = writable_column(Boolean(), default=True, csv_columns=("Variant Taxable",))
    requires_shipping: bool = writable_column(Boolean(), default=True, csv_columns=("Variant Requires Shipping",))
    image: str | None = writable_column(Url(), csv_columns=("Variant Image",))
    is_available: bool = writable_column(Boolean(), default=True)
    # Cells of imported files that have no field, by the column, such as those of Google Shopping and metafields. Imports and
    # exports alone know them.
    kept_cells: dict[str, str] = json_column("{}")
    # The display order, from 0; ties by id.
    position: int = integer_column(0)
    version: int = integer_column(1)
    created_at: str = timestamp_column()
    updated_at: str = timestamp_column()

    # Derived: the attributes as clients receive them, a JSON list of names and values.
    attribute_list: list[dict[str, str]] = Field(
        sa_column=Column(JSON, Computed("storefront_attribute_list(attributes)", persisted=True), nullable=False)
    )
    # Without case: what filters and facets compare, and a digest of it. Two variants of a product are never the same.
    folded_attributes: dict[str, str] = Field(
        sa_column=Column(JSONB, Computed(FOLDED_ATTRIBUTES_SQL, persisted=True), nullable=False)
    )
    attributes_key: int = Field(
        sa_column=Column(
            BigInteger, Computed(f"hashtextextended({FOLDED_ATTRIBUTES_SQL}::text, 0)", persisted=True), nullable=False
        )
    )
