"""Inputs of variants: mutations of variants and of products share them."""

from decimal import Decimal

import strawberry

from storefront.graph.inputs import AttributeInput
from storefront.graph.limits import limits
from storefront.graph.mutations import INVENTORY_DESCRIPTION
from storefront.models.variant import MAX_ATTRIBUTES


@strawberry.input
class VariantFieldsInput:
    """The writable fields of a variant (`models/variant.py`), all optional, for all inputs that write variants."""

    name: str | None = strawberry.UNSET
    price: Decimal | None = strawberry.UNSET
    compare_at_price: Decimal | None = strawberry.UNSET
    attributes: list[AttributeInput] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=MAX_ATTRIBUTES))
    inventory: int | None = strawberry.UNSET
    sku: str | None = strawberry.UNSET
    is_available: bool | None = strawberry.UNSET


@strawberry.input
class ProductVariantInput(VariantFieldsInput):
    """Overrides the fields that must have a value or have another default than null."""

    name: str = strawberry.field()
    price: Decimal = strawberry.field()
    attributes: list[AttributeInput] = strawberry.field(default_factory=list, metadata=limits(items=MAX_ATTRIBUTES))
    inventory: int | None = strawberry.field(default=0, description=INVENTORY_DESCRIPTION)
    is_available: bool = True
