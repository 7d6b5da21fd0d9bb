"""Inputs of variants: mutations of variants and of products share them."""

from decimal import Decimal

import strawberry

from storefront.graph.inputs import AttributeInput, InventoryPolicy, WeightInput
from storefront.graph.limits import limits
from storefront.models.variant import MAX_ATTRIBUTES

ATTRIBUTES_DESCRIPTION = "Value of each option; unique within the product."
NAME_DESCRIPTION = 'Name shown to shoppers; the attribute values joined by " / " if omitted.'
PRICE_DESCRIPTION = "Price of one unit."
INVENTORY_DESCRIPTION = "Units in stock; null if not tracked. Negative only if `inventoryPolicy` is CONTINUE."
INVENTORY_POLICY_DESCRIPTION = "What happens when stock runs out."
IS_AVAILABLE_DESCRIPTION = "Whether the variant is offered at all."
TAXABLE_DESCRIPTION = "Whether taxes are charged."
REQUIRES_SHIPPING_DESCRIPTION = "Whether the variant is shipped; false for services and downloads."


@strawberry.input
class VariantFieldsInput:
    """The writable fields of a variant (`models/variant.py`), all optional, for all inputs that write variants."""

    name: str | None = strawberry.field(default=strawberry.UNSET, description="Name shown to shoppers.")
    price: Decimal | None = strawberry.field(default=strawberry.UNSET, description=PRICE_DESCRIPTION)
    compare_at_price: Decimal | None = strawberry.field(default=strawberry.UNSET, description="Price before a reduction.")
    attributes: list[AttributeInput] | None = strawberry.field(
        default=strawberry.UNSET, description=ATTRIBUTES_DESCRIPTION, metadata=limits(items=MAX_ATTRIBUTES)
    )
    inventory: int | None = strawberry.field(default=strawberry.UNSET, description=INVENTORY_DESCRIPTION)
    inventory_policy: InventoryPolicy | None = strawberry.field(
        default=strawberry.UNSET, description=INVENTORY_POLICY_DESCRIPTION
    )
    sku: str | None = strawberry.field(default=strawberry.UNSET, description="Stock keeping unit; the owner's article number.")
    barcode: str | None = strawberry.field(default=strawberry.UNSET, description="Barcode, such as an EAN, UPC or ISBN.")
    weight: WeightInput | None = strawberry.field(default=strawberry.UNSET, description="Shipping weight.")
    taxable: bool | None = strawberry.field(default=strawberry.UNSET, description=TAXABLE_DESCRIPTION)
    requires_shipping: bool | None = strawberry.field(default=strawberry.UNSET, description=REQUIRES_SHIPPING_DESCRIPTION)
    cost: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="What one unit costs the owner. Shoppers never see it."
    )
    image: str | None = strawberry.field(default=strawberry.UNSET, description="URL of one of the product's images.")
    is_available: bool | None = strawberry.field(default=strawberry.UNSET, description=IS_AVAILABLE_DESCRIPTION)


@strawberry.input(description="A variant of a new product.")
class ProductVariantInput(VariantFieldsInput):
    """Overrides the fields that must have a value or have another default than null."""

    name: str | None = strawberry.field(default=strawberry.UNSET, description=NAME_DESCRIPTION)
    price: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="Price of one unit; that of the product if omitted."
    )
    attributes: list[AttributeInput] = strawberry.field(
        default_factory=list, description=ATTRIBUTES_DESCRIPTION, metadata=limits(items=MAX_ATTRIBUTES)
    )
    inventory: int | None = strawberry.field(default=0, description=INVENTORY_DESCRIPTION)
    inventory_policy: InventoryPolicy = strawberry.field(default=InventoryPolicy.DENY, description=INVENTORY_POLICY_DESCRIPTION)
    taxable: bool = strawberry.field(default=True, description=TAXABLE_DESCRIPTION)
    requires_shipping: bool = strawberry.field(default=True, description=REQUIRES_SHIPPING_DESCRIPTION)
    is_available: bool = strawberry.field(default=True, description=IS_AVAILABLE_DESCRIPTION)


@strawberry.input(description="A variant of a product: an existing one, or a new one, which needs a price.")
class ProductVariantRowInput(VariantFieldsInput):
    id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="ID of an existing variant. Found by SKU, or else attributes, if omitted."
    )
