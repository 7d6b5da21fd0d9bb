"""Mutations of products: inputs, payloads and fields."""

from decimal import Decimal
from enum import Enum
from typing import cast

import strawberry

from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS, costs
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.inputs import ProductStatus
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    INVENTORY_DESCRIPTION,
    ChangePayload,
    ExistingRowInput,
    MutationInput,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.types.catalogue import Product
from storefront.graph.variant_inputs import ProductVariantInput
from storefront.models.product import MAX_IMAGES, MAX_TAGS
from storefront.models.variant import MAX_VARIANTS
from storefront.products import bulk, commands
from storefront.writes.transaction import MutationResult


@strawberry.input
class ProductFieldsInput:
    """The writable fields of a product (`models/product.py`), all optional, for all inputs that write products."""

    title: str | None = strawberry.UNSET
    handle: str | None = strawberry.UNSET
    description: str | None = strawberry.UNSET
    price: Decimal | None = strawberry.UNSET
    compare_at_price: Decimal | None = strawberry.UNSET
    images: list[str] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=MAX_IMAGES))
    category: str | None = strawberry.UNSET
    tags: list[str] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=MAX_TAGS))
    inventory: int | None = strawberry.UNSET
    track_inventory: bool | None = strawberry.UNSET
    seo_title: str | None = strawberry.UNSET
    seo_description: str | None = strawberry.UNSET
    status: ProductStatus | None = strawberry.UNSET


@strawberry.input
class CreateProductInput(MutationInput, ProductFieldsInput):
    """Overrides the fields that must have a value or have another default than null."""

    config_id: strawberry.ID
    title: str = strawberry.field()
    handle: str | None = strawberry.field(default=strawberry.UNSET, description="Name in URLs. Default: derived from the title.")
    price: Decimal = strawberry.field()
    images: list[str] = strawberry.field(default_factory=list, metadata=limits(items=MAX_IMAGES))
    tags: list[str] = strawberry.field(default_factory=list, metadata=limits(items=MAX_TAGS))
    inventory: int | None = strawberry.field(default=0, description=INVENTORY_DESCRIPTION)
    track_inventory: bool = True
    status: ProductStatus = ProductStatus.ACTIVE
    variants: list[ProductVariantInput] = strawberry.field(default_factory=list, metadata=limits(items=MAX_VARIANTS))


@strawberry.input(description="Fields that are left out stay unchanged; null clears nullable ones.")
class ProductRowInput(ExistingRowInput, ProductFieldsInput):
    pass


@strawberry.input(description="Fields that are left out stay unchanged; null clears nullable ones.")
class UpdateProductInput(ProductRowInput, MutationInput):
    pass


@strawberry.input
class DeleteProductInput(MutationInput, ExistingRowInput):
    pass


@strawberry.enum
class BulkErrorPolicy(Enum):
    ALL_OR_NOTHING = strawberry.enum_value("all_or_nothing", description="If one row is invalid, nothing is written.")
    VALID_ROWS = strawberry.enum_value("valid_rows", description="Valid rows are written, invalid ones are not.")


@strawberry.input
class BulkUpdateProductsInput(MutationInput):
    rows: list[ProductRowInput] = strawberry.field(
        description="At least one, each product once.", metadata=limits(items=bulk.MAX_ROWS)
    )
    error_policy: BulkErrorPolicy = BulkErrorPolicy.ALL_OR_NOTHING
    dry_run: bool = strawberry.field(default=False, description="Execute, return the result, and roll back.")


@strawberry.input
class ProductPriceInput:
    id: strawberry.ID
    price: Decimal
    compare_at_price: Decimal | None = strawberry.UNSET
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input
class UpdateProductPricesInput(MutationInput):
    prices: list[ProductPriceInput] = strawberry.field(
        description="At least one, each product once. All or nothing.", metadata=limits(items=bulk.MAX_ROWS)
    )


@strawberry.input(description="Give either productId or variantId.")
class AdjustInventoryInput(MutationInput):
    delta: int = strawberry.field(description="Change of the stock; negative to reduce it.")
    product_id: strawberry.ID | None = strawberry.UNSET
    variant_id: strawberry.ID | None = strawberry.UNSET


@strawberry.type
class ProductPayload(ChangePayload):
    product: Product | None


@strawberry.type
class CreateProductPayload(ProductPayload):
    pass


@strawberry.type
class UpdateProductPayload(ProductPayload):
    pass


@strawberry.type
class AdjustInventoryPayload(ProductPayload):
    pass


@strawberry.type
class DeleteProductPayload(ChangePayload):
    deleted_id: strawberry.ID | None


@strawberry.type
class ProductRowResult:
    index: int
    product: Product | None
    user_errors: list[UserError] = strawberry.field(metadata=ERROR_COSTS)


@strawberry.type
class BulkUpdateProductsPayload(ChangePayload):
    results: list[ProductRowResult] = strawberry.field(description="One result per row, in the same order.")


@strawberry.type
class UpdateProductPricesPayload(ChangePayload):
    products: list[Product]


@strawberry.type
class ProductMutation:
    @strawberry.mutation(description="Create a product with its variants, all or nothing.")
    async def create_product(self, info: Info, input: CreateProductInput) -> CreateProductPayload | None:
        return await mutation_payload(info, input, commands.create_product, CreateProductPayload, "product")

    @strawberry.mutation
    async def update_product(self, info: Info, input: UpdateProductInput) -> UpdateProductPayload | None:
        return await mutation_payload(info, input, commands.update_product, UpdateProductPayload, "product")

    @strawberry.mutation(description="Delete a product with its variants and reviews.")
    async def delete_product(self, info: Info, input: DeleteProductInput) -> DeleteProductPayload | None:
        return await deletion_payload(info, input, commands.delete_product, DeleteProductPayload)

    @strawberry.mutation(
        description="Update many products at once, with one result per row.",
        metadata=costs(size_arguments=("input.rows",), max_size=bulk.MAX_ROWS),
    )
    async def bulk_update_products(self, info: Info, input: BulkUpdateProductsInput) -> BulkUpdateProductsPayload | None:
        result = await mutate(info, input, bulk.bulk_update_products)
        results = [_build_row_result(result, n) for n in range(len(input.rows))]
        return build_payload(BulkUpdateProductsPayload, result, input, results=results)

    @strawberry.mutation(
        description="Update many prices at once, all or nothing.",
        metadata=costs(size_arguments=("input.prices",), max_size=bulk.MAX_ROWS),
    )
    async def update_product_prices(self, info: Info, input: UpdateProductPricesInput) -> UpdateProductPricesPayload | None:
        result = await mutate(info, input, bulk.update_product_prices)
        return build_payload(UpdateProductPricesPayload, result, input, products=cast(list[Product], result.rows))

    @strawberry.mutation(
        description="Adjust the stock of a product or variant atomically: below zero only if the variant's `inventoryPolicy` is "
        "CONTINUE."
    )
    async def adjust_inventory(self, info: Info, input: AdjustInventoryInput) -> AdjustInventoryPayload | None:
        return await mutation_payload(info, input, bulk.adjust_inventory, AdjustInventoryPayload, "product")


def _build_row_result(result: MutationResult, n: int) -> ProductRowResult:
    faults = [build_user_error(failure) for failure in result.field_errors if failure.path[:2] == ("rows", str(n))]
    return ProductRowResult(index=n, product=result.rows[n] if result.rows else None, user_errors=faults)
