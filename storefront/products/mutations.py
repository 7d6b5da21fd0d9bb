"""Mutations of products: inputs, payloads and fields."""

from decimal import Decimal
from enum import Enum
from typing import cast

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import loaders
from storefront.graph.batches import build_optional_reference_batch
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS, costs
from storefront.graph.errors import UserError, build_user_error
from storefront.graph.inputs import ProductStatus
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    ExistingRowInput,
    MutationInput,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.option_inputs import ProductOptionInput
from storefront.graph.types.catalogue import Config, Product
from storefront.graph.variant_inputs import ProductVariantInput
from storefront.models.product import MAX_IMAGES, MAX_TAGS
from storefront.models.variant import MAX_VARIANTS
from storefront.products import bulk, commands
from storefront.writes.product_options import MAX_OPTIONS
from storefront.writes.transaction import MutationResult


@strawberry.input
class ProductFieldsInput:
    """The writable fields of a product (`models/product.py`), all optional, for all inputs that write products."""

    title: str | None = strawberry.field(default=strawberry.UNSET, description="Name shown to shoppers.")
    handle: str | None = strawberry.field(
        default=strawberry.UNSET, description="Identifies the product in URLs; unique in the store."
    )
    description: str | None = strawberry.field(default=strawberry.UNSET, description="Plain-text description.")
    price: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="Price of all variants. Refused if they have different prices."
    )
    compare_at_price: Decimal | None = strawberry.field(
        default=strawberry.UNSET,
        description="Price before a reduction of all variants, not below `price`. Refused if they have different prices.",
    )
    images: list[str] | None = strawberry.field(
        default=strawberry.UNSET,
        description="Image URLs in display order. Uploaded images that are not listed are removed.",
        metadata=limits(items=MAX_IMAGES),
    )
    category: str | None = strawberry.field(default=strawberry.UNSET, description="Category.")
    tags: list[str] | None = strawberry.field(default=strawberry.UNSET, description="Tags.", metadata=limits(items=MAX_TAGS))
    inventory: int | None = strawberry.field(
        default=strawberry.UNSET,
        description="Units in stock of the only variant; null if not tracked. Refused if there are several.",
    )
    track_inventory: bool | None = strawberry.field(default=strawberry.UNSET, description="Whether stock is tracked.")
    seo_title: str | None = strawberry.field(default=strawberry.UNSET, description="Title for search engines.")
    seo_description: str | None = strawberry.field(default=strawberry.UNSET, description="Description for search engines.")
    status: ProductStatus | None = strawberry.field(default=strawberry.UNSET, description="Status of the product.")


@strawberry.input(description="Input of `createProduct`.")
class CreateProductInput(MutationInput, ProductFieldsInput):
    """Overrides the fields that must have a value or have another default than null."""

    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    title: str = strawberry.field(description="Name shown to shoppers.")
    handle: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Identifies the product in URLs; unique in the store. Derived from the title if omitted.",
    )
    price: Decimal | None = strawberry.field(
        default=strawberry.UNSET,
        description="Price of the variants that have none of their own. Required unless each of them has one.",
    )
    compare_at_price: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="Price before a reduction, of the variants that have no `price` of their own."
    )
    images: list[str] = strawberry.field(
        default_factory=list, description="Image URLs in display order.", metadata=limits(items=MAX_IMAGES)
    )
    tags: list[str] = strawberry.field(default_factory=list, description="Tags.", metadata=limits(items=MAX_TAGS))
    inventory: int | None = strawberry.field(
        default=0, description="Units in stock of the only variant; null if not tracked. Ignored if `variants` are given."
    )
    track_inventory: bool = strawberry.field(default=True, description="Whether stock is tracked.")
    status: ProductStatus = strawberry.field(default=ProductStatus.ACTIVE, description="Status of the product.")
    options: list[ProductOptionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="Options in display order. Those of the variants are added where they are missing.",
        metadata=limits(items=MAX_OPTIONS),
    )
    variants: list[ProductVariantInput] = strawberry.field(
        default_factory=list,
        description="Variants of the product. If there are none, one is created without attributes.",
        metadata=limits(items=MAX_VARIANTS),
    )


@strawberry.input(description="A product to change. Omitted fields stay as they are; null clears those that may be null.")
class UpdateProductRowInput(ExistingRowInput, ProductFieldsInput):
    pass


@strawberry.input(description="Input of `updateProduct`. Omitted fields stay as they are; null clears those that may be null.")
class UpdateProductInput(UpdateProductRowInput, MutationInput):
    options: list[ProductOptionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="All options in display order, with all values that variants have. Renamed options and values are renamed in "
        "the variants.",
        metadata=limits(items=MAX_OPTIONS),
    )


@strawberry.input(description="Input of `deleteProduct`.")
class DeleteProductInput(MutationInput, ExistingRowInput):
    pass


@strawberry.enum(description="What a bulk mutation does if some rows are invalid.")
class BulkErrorPolicy(Enum):
    ALL_OR_NOTHING = strawberry.enum_value("all_or_nothing", description="Writes nothing.")
    VALID_ROWS = strawberry.enum_value("valid_rows", description="Writes the valid rows.")


@strawberry.input(description="Input of `bulkUpdateProducts`.")
class BulkUpdateProductsInput(MutationInput):
    rows: list[UpdateProductRowInput] = strawberry.field(
        description="Products to change, each once.", metadata=limits(items=bulk.MAX_ROWS)
    )
    error_policy: BulkErrorPolicy = strawberry.field(
        default=BulkErrorPolicy.ALL_OR_NOTHING, description="What to do if some rows are invalid."
    )
    dry_run: bool = strawberry.field(default=False, description="Whether to only report what would be done.")


@strawberry.input(description="New price of a product, for all of its variants. Refused if they have different prices.")
class ProductPriceInput:
    id: strawberry.ID = strawberry.field(description="ID of the product.")
    price: Decimal = strawberry.field(description="Price.")
    compare_at_price: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="Price before a reduction; omitted: unchanged."
    )
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input(description="Input of `updateProductPrices`.")
class UpdateProductPricesInput(MutationInput):
    prices: list[ProductPriceInput] = strawberry.field(
        description="New prices, each product once.", metadata=limits(items=bulk.MAX_ROWS)
    )


@strawberry.type
class ProductPayload(ChangePayload):
    product: Product | None = strawberry.field(description="The product; null if nothing was written.")


@strawberry.type(description="Payload of `createProduct`.")
class CreateProductPayload(ProductPayload):
    pass


@strawberry.type(description="Payload of `updateProduct`.")
class UpdateProductPayload(ProductPayload):
    pass


@strawberry.type(description="Payload of `deleteProduct`.")
class DeleteProductPayload(ChangePayload):
    config_id: strawberry.Private[str | None]
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the product; null if it was not deleted.")
    config: Config | None = batch_field(
        build_optional_reference_batch(loaders.load_configs, "config_id"), description="The store that the product belonged to."
    )


@strawberry.type(description="Result of one row of a bulk mutation.")
class ProductRowResult:
    index: int = strawberry.field(description="Zero-based index of the row in the input.")
    product: Product | None = strawberry.field(description="The product; null if there is none.")
    user_errors: list[UserError] = strawberry.field(
        description="Why the row was rejected; empty otherwise. Paths start with `rows` and the index.", metadata=ERROR_COSTS
    )


@strawberry.type(description="Payload of `bulkUpdateProducts`. `userErrors` has the errors of all rows.")
class BulkUpdateProductsPayload(ChangePayload):
    results: list[ProductRowResult] = strawberry.field(description="One result per row, in the order of the input.")


@strawberry.type(description="Payload of `updateProductPrices`.")
class UpdateProductPricesPayload(ChangePayload):
    products: list[Product] = strawberry.field(
        description="The products, in the order of the input; empty if nothing was written."
    )


@strawberry.type
class ProductMutation:
    @strawberry.mutation(description="Creates a product with its variants, all or nothing.")
    async def create_product(self, info: Info, input: CreateProductInput) -> CreateProductPayload | None:
        return await mutation_payload(info, input, commands.create_product, CreateProductPayload, "product")

    @strawberry.mutation(description="Changes a product.")
    async def update_product(self, info: Info, input: UpdateProductInput) -> UpdateProductPayload | None:
        return await mutation_payload(info, input, commands.update_product, UpdateProductPayload, "product")

    @strawberry.mutation(description="Deletes a product with its variants and reviews.")
    async def delete_product(self, info: Info, input: DeleteProductInput) -> DeleteProductPayload | None:
        return await deletion_payload(info, input, commands.delete_product, DeleteProductPayload, "config_id")

    @strawberry.mutation(
        description="Changes many products at once, with one result per row.",
        metadata=costs(size_arguments=("input.rows",), max_size=bulk.MAX_ROWS),
    )
    async def bulk_update_products(self, info: Info, input: BulkUpdateProductsInput) -> BulkUpdateProductsPayload | None:
        result = await mutate(info, input, bulk.bulk_update_products)
        results = [_build_row_result(result, n) for n in range(len(input.rows))]
        return build_payload(BulkUpdateProductsPayload, result, input, results=results)

    @strawberry.mutation(
        description="Changes the prices of many products at once, all or nothing.",
        metadata=costs(size_arguments=("input.prices",), max_size=bulk.MAX_ROWS),
    )
    async def update_product_prices(self, info: Info, input: UpdateProductPricesInput) -> UpdateProductPricesPayload | None:
        result = await mutate(info, input, bulk.update_product_prices)
        return build_payload(UpdateProductPricesPayload, result, input, products=cast(list[Product], result.rows))


def _build_row_result(result: MutationResult, n: int) -> ProductRowResult:
    faults = [build_user_error(failure) for failure in result.field_errors if failure.path[:2] == ("rows", str(n))]
    return ProductRowResult(index=n, product=result.rows[n] if result.rows else None, user_errors=faults)
