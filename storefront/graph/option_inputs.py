"""Inputs of options: mutations of products and of variants share them."""

import strawberry

from storefront.graph.limits import limits
from storefront.writes.product_options import MAX_OPTION_VALUES


@strawberry.input(description="Visual representation of an option value. At least one field.")
class SwatchInput:
    color: str | None = strawberry.field(default=strawberry.UNSET, description="CSS colour.")
    image: str | None = strawberry.field(default=strawberry.UNSET, description="URL of one of the product's images.")


@strawberry.input(description="Value of an option.")
class ProductOptionValueInput:
    id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="ID of an existing value, to rename it. Found by `value` if omitted."
    )
    value: str = strawberry.field(description="The value; unique within the option, in any case.")
    swatch: SwatchInput | None = strawberry.field(
        default=strawberry.UNSET, description="How to show the value. Null for plain text; unchanged if omitted."
    )


@strawberry.input(description="Option of a product. Its values are combined by the variants' attributes.")
class ProductOptionInput:
    id: strawberry.ID | None = strawberry.field(
        default=strawberry.UNSET, description="ID of an existing option, to rename it. Found by `name` if omitted."
    )
    name: str = strawberry.field(description="Name of the option; unique within the product, in any case.")
    values: list[ProductOptionValueInput] = strawberry.field(
        description="Values in display order.", metadata=limits(items=MAX_OPTION_VALUES)
    )
