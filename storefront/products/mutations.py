"""Mutations of products: inputs, payloads and fields."""

from decimal import Decimal
from enum import Enum
from operator import attrgetter
from typing import TypeVar, cast

import strawberry

from storefront.core.html import MAX_HTML_TAGS
from storefront.execution.batch_field import batch_field
from storefront.graph import loaders
from storefront.graph.batches import build_optional_reference_batch
from storefront.graph.bulk import (
    BULK_COSTS,
    RESULTS_DESCRIPTION,
    ROW_ERRORS_DESCRIPTION,
    ROW_INDEX_DESCRIPTION,
    ROW_STATUS_DESCRIPTION,
    BulkInput,
    BulkRowStatus,
    describe_row,
)
from storefront.graph.context import Info
from storefront.graph.cost_hints import ERROR_COSTS, costs
from storefront.graph.errors import UserError
from storefront.graph.inputs import ProductStatus
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    HANDLE_FORM_DESCRIPTION,
    ChangePayload,
    ExistingRowInput,
    MutationInput,
    UpdatedRowInput,
    VersionedUpdateInput,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.option_inputs import ProductOptionInput
from storefront.graph.types.catalogue import Config, Product
from storefront.graph.variant_inputs import ProductVariantInput, ProductVariantRowInput
from storefront.models.product import MAX_HTML_CHARACTERS, MAX_IMAGES, MAX_TAGS
from storefront.models.variant import MAX_VARIANTS
from storefront.products import bulk, bulk_upsert, commands, prices
from storefront.writes.bulk import MAX_ROWS
from storefront.writes.product_options import MAX_OPTIONS
from storefront.writes.transaction import Command, MutationResult


@strawberry.input
class ProductFieldsInput:
    """The writable fields of a product (`models/product.py`), all optional, for all inputs that write products."""

    title: str | None = strawberry.field(default=strawberry.UNSET, description="Name shown to shoppers.")
    handle: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Identifies the product in URLs; unique in the store. The former handle keeps leading to the product. "
        f"{HANDLE_FORM_DESCRIPTION}",
    )
    description: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Plain-text description. A new text replaces the formatted one, with paragraphs at empty lines.",
    )
    description_html: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Formatted description, instead of `description`, which is then its text; sanitised before it is stored. At "
        f"most {MAX_HTML_TAGS:,} tags.",
        metadata=limits(characters=MAX_HTML_CHARACTERS),
    )
    vendor: str | None = strawberry.field(default=strawberry.UNSET, description="Manufacturer or brand.")
    product_type: str | None = strawberry.field(default=strawberry.UNSET, description='Kind of product: "Shirt".')
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
    gift_card: bool | None = strawberry.field(default=strawberry.UNSET, description="Whether the product is a gift card.")
    status: ProductStatus | None = strawberry.field(default=strawberry.UNSET, description="Status of the product.")


@strawberry.input(description="A product to create.")
class CreateProductRowInput(ProductFieldsInput):
    """Overrides the fields that must have a value or have another default than null."""

    title: str = strawberry.field(description="Name shown to shoppers.")
    handle: str | None = strawberry.field(
        default=strawberry.UNSET,
        description="Identifies the product in URLs; unique in the store. Derived from the title if omitted. "
        f"{HANDLE_FORM_DESCRIPTION}",
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
    gift_card: bool = strawberry.field(default=False, description="Whether the product is a gift card.")
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


@strawberry.input(description="Input of `createProduct`.")
class CreateProductInput(MutationInput, CreateProductRowInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")


@strawberry.input(description="A product to change. Omitted fields stay as they are; null clears those that may be null.")
class UpdateProductRowInput(UpdatedRowInput, ProductFieldsInput):
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


@strawberry.input(description="Input of `bulkCreateProducts`.")
class BulkCreateProductsInput(BulkInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    rows: list[CreateProductRowInput] = strawberry.field(description="Products to create.", metadata=limits(items=MAX_ROWS))


@strawberry.input(description="Input of `bulkUpdateProducts`.")
class BulkUpdateProductsInput(BulkInput):
    rows: list[UpdateProductRowInput] = strawberry.field(
        description="Products to change, each once.", metadata=limits(items=MAX_ROWS)
    )


@strawberry.enum(description="How the rows of an upsert are matched with the products of the store.")
class ProductMatchKey(Enum):
    ID = strawberry.enum_value("id", description="By `id`. Rows without one are created.")
    HANDLE = strawberry.enum_value("handle", description="By `handle`, which each row must have.")
    SKU = strawberry.enum_value(
        "sku", description="By the SKUs of the row's variants. A row whose SKUs are those of several products is rejected."
    )


@strawberry.input(
    description="A product to create or change. Omitted fields of an existing one stay as they are. For a new one, `title` and a "
    "price are required."
)
class UpsertProductRowInput(VersionedUpdateInput, ProductFieldsInput):
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="ID of the product, to match by.")
    price: Decimal | None = strawberry.field(
        default=strawberry.UNSET,
        description="Price of the `variants` that have none of their own. Without `variants`: of all variants; refused if they "
        "have different prices.",
    )
    compare_at_price: Decimal | None = strawberry.field(
        default=strawberry.UNSET,
        description="Price before a reduction, of the `variants` that have no `price` of their own. Without `variants`: of all "
        "variants; refused if they have different prices.",
    )
    inventory: int | None = strawberry.field(
        default=strawberry.UNSET,
        description="Units in stock of the only variant; null if not tracked. Refused if there are several, ignored if "
        "`variants` are given.",
    )
    options: list[ProductOptionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="All options in display order. Those of `variants` are added where they are missing.",
        metadata=limits(items=MAX_OPTIONS),
    )
    variants: list[ProductVariantRowInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="All variants, in display order. Those that are not listed are deleted. Omit to leave variants as they are.",
        metadata=limits(items=MAX_VARIANTS),
    )


@strawberry.input(description="Input of `bulkUpsertProducts`.")
class BulkUpsertProductsInput(BulkInput):
    config_id: strawberry.ID = strawberry.field(description="ID of the store.")
    match_by: ProductMatchKey = strawberry.field(
        default=ProductMatchKey.HANDLE, description="How rows are matched with existing products."
    )
    rows: list[UpsertProductRowInput] = strawberry.field(
        description="Products to create or change, each once.", metadata=limits(items=MAX_ROWS)
    )


@strawberry.input(description="A product to delete.")
class DeleteProductRowInput(ExistingRowInput):
    pass


@strawberry.input(description="Input of `bulkDeleteProducts`.")
class BulkDeleteProductsInput(BulkInput):
    rows: list[DeleteProductRowInput] = strawberry.field(
        description="Products to delete, each once.", metadata=limits(items=MAX_ROWS)
    )


@strawberry.input(description="New price of a variant, or of all variants of a product.")
class ProductPriceInput:
    id: strawberry.ID = strawberry.field(
        description="ID of a variant, or of a product. A product whose variants have different prices is refused."
    )
    price: Decimal = strawberry.field(description="Price.")
    compare_at_price: Decimal | None = strawberry.field(
        default=strawberry.UNSET, description="Price before a reduction. Omit to leave it as it is; null removes it."
    )
    expected_version: int | None = strawberry.field(
        default=strawberry.UNSET,
        description="Version of the variant or product that the change is based on. Omit to overwrite any version.",
    )


@strawberry.input(description="Input of `updateProductPrices`.")
class UpdateProductPricesInput(MutationInput):
    prices: list[ProductPriceInput] = strawberry.field(
        description="New prices, each variant and product once.", metadata=limits(items=MAX_ROWS)
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
        build_optional_reference_batch(loaders.load_configs, attrgetter("config_id")),
        description="The store that the product belonged to.",
    )


@strawberry.type(description="Result of one row of a bulk mutation.")
class ProductRowResult:
    index: int = strawberry.field(description=ROW_INDEX_DESCRIPTION)
    status: BulkRowStatus = strawberry.field(description=ROW_STATUS_DESCRIPTION)
    product: Product | None = strawberry.field(description="The product; null if there is none.")
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the deleted product; null for other rows.")
    user_errors: list[UserError] = strawberry.field(description=ROW_ERRORS_DESCRIPTION, metadata=ERROR_COSTS)


@strawberry.type
class BulkPayload(ChangePayload):
    """The payload of a bulk mutation. It is no type of the schema: its fields are inherited."""

    results: list[ProductRowResult] = strawberry.field(description=RESULTS_DESCRIPTION)


@strawberry.type(description="Payload of `bulkCreateProducts`. `userErrors` has the errors of all rows.")
class BulkCreateProductsPayload(BulkPayload):
    pass


@strawberry.type(description="Payload of `bulkUpdateProducts`. `userErrors` has the errors of all rows.")
class BulkUpdateProductsPayload(BulkPayload):
    pass


@strawberry.type(description="Payload of `bulkUpsertProducts`. `userErrors` has the errors of all rows.")
class BulkUpsertProductsPayload(BulkPayload):
    pass


@strawberry.type(description="Payload of `bulkDeleteProducts`. `userErrors` has the errors of all rows.")
class BulkDeleteProductsPayload(BulkPayload):
    pass


@strawberry.type(description="Payload of `updateProductPrices`.")
class UpdateProductPricesPayload(ChangePayload):
    products: list[Product] = strawberry.field(
        description="The product of each row, in the order of the input; empty if nothing was written."
    )


B = TypeVar("B", bound=BulkPayload)


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

    @strawberry.mutation(description="Creates many products at once, with one result per row.", metadata=BULK_COSTS)
    async def bulk_create_products(self, info: Info, input: BulkCreateProductsInput) -> BulkCreateProductsPayload | None:
        return await _bulk_payload(info, input, bulk.bulk_create_products, BulkCreateProductsPayload, len(input.rows))

    @strawberry.mutation(description="Changes many products at once, with one result per row.", metadata=BULK_COSTS)
    async def bulk_update_products(self, info: Info, input: BulkUpdateProductsInput) -> BulkUpdateProductsPayload | None:
        return await _bulk_payload(info, input, bulk.bulk_update_products, BulkUpdateProductsPayload, len(input.rows))

    @strawberry.mutation(
        description="Creates or changes many products at once, depending on whether they exist, with one result per row.",
        metadata=BULK_COSTS,
    )
    async def bulk_upsert_products(self, info: Info, input: BulkUpsertProductsInput) -> BulkUpsertProductsPayload | None:
        return await _bulk_payload(info, input, bulk_upsert.bulk_upsert_products, BulkUpsertProductsPayload, len(input.rows))

    @strawberry.mutation(description="Deletes many products at once, with one result per row.", metadata=BULK_COSTS)
    async def bulk_delete_products(self, info: Info, input: BulkDeleteProductsInput) -> BulkDeleteProductsPayload | None:
        return await _bulk_payload(info, input, bulk.bulk_delete_products, BulkDeleteProductsPayload, len(input.rows))

    @strawberry.mutation(
        description="Changes the prices of many products and variants at once, all or nothing.",
        metadata=costs(size_arguments=("input.prices",), max_size=MAX_ROWS),
    )
    async def update_product_prices(self, info: Info, input: UpdateProductPricesInput) -> UpdateProductPricesPayload | None:
        result = await mutate(info, input, prices.update_product_prices)
        return build_payload(UpdateProductPricesPayload, result, input, products=cast(list[Product], result.rows))


async def _bulk_payload(info: Info, input_: BulkInput, command: Command, payload: type[B], row_count: int) -> B:
    result = await mutate(info, input_, command)
    return build_payload(payload, result, input_, results=[_build_row_result(result, n) for n in range(row_count)])


def _build_row_result(result: MutationResult, n: int) -> ProductRowResult:
    row, status, errors = describe_row(result, n)
    is_deleted = status is BulkRowStatus.DELETED
    return ProductRowResult(
        index=n,
        status=status,
        product=None if is_deleted else row,
        deleted_id=strawberry.ID(row.id) if row and is_deleted else None,
        user_errors=errors,
    )
