"""Mutations of variants: inputs, payloads and fields."""

from decimal import Decimal
from typing import Annotated, cast

import strawberry

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
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    ExistingRowInput,
    MutationInput,
    UpdatedRowInput,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.option_inputs import ProductOptionInput
from storefront.graph.types.catalogue import Product, ProductVariant
from storefront.graph.variant_inputs import PRICE_DESCRIPTION, ProductVariantInput, ProductVariantRowInput, VariantFieldsInput
from storefront.models.row_keys import make_key_getter
from storefront.models.variant import MAX_VARIANTS
from storefront.variants import bulk, commands, inventory, set_variants
from storefront.writes.bulk import MAX_ROWS
from storefront.writes.product_options import MAX_OPTIONS
from storefront.writes.transaction import MutationResult


@strawberry.input(description="Input of `createVariant`.")
class CreateVariantInput(MutationInput, ProductVariantInput):
    price: Decimal = strawberry.field(description=PRICE_DESCRIPTION)
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")


@strawberry.input(description="Input of `updateVariant`. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateVariantInput(MutationInput, UpdatedRowInput, VariantFieldsInput):
    pass


@strawberry.input(description="A variant to change. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateVariantRowInput(UpdatedRowInput, VariantFieldsInput):
    pass


@strawberry.input(description="Input of `bulkUpdateVariants`.")
class BulkUpdateVariantsInput(BulkInput):
    rows: list[UpdateVariantRowInput] = strawberry.field(
        description="Variants to change, each once, all of one store.", metadata=limits(items=MAX_ROWS)
    )


@strawberry.input(description="Input of `deleteVariant`.")
class DeleteVariantInput(MutationInput, ExistingRowInput):
    pass


@strawberry.input(description="A change of stock.")
class InventoryChangeInput:
    id: strawberry.ID = strawberry.field(
        description="ID of a variant, or of a product with one variant. Products with several are refused."
    )
    delta: int = strawberry.field(description="Units to add; negative to remove.")


@strawberry.input(description="Input of `adjustInventory`.")
class AdjustInventoryInput(MutationInput):
    changes: list[InventoryChangeInput] = strawberry.field(
        description="Changes of stock, all of one store, each variant once.", metadata=limits(items=inventory.MAX_CHANGES)
    )


@strawberry.type(description="Payload of `adjustInventory`.")
class AdjustInventoryPayload(ChangePayload):
    variants: list[ProductVariant] = strawberry.field(
        description="The variants, in the order of the input; empty if nothing was written."
    )


@strawberry.input(description="Input of `setProductVariants`.")
class SetProductVariantsInput(MutationInput):
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    options: list[ProductOptionInput] | None = strawberry.field(
        default=strawberry.UNSET,
        description="Options in display order; those of the variants are added where they are missing. Unchanged if omitted.",
        metadata=limits(items=MAX_OPTIONS),
    )
    variants: list[ProductVariantRowInput] = strawberry.field(
        description="All variants, in display order. Those that are not listed are deleted.", metadata=limits(items=MAX_VARIANTS)
    )


@strawberry.type(description="Payload of `setProductVariants`.")
class SetProductVariantsPayload(ChangePayload):
    product: Product | None = strawberry.field(description="The product; null if nothing was written.")


@strawberry.type(description="Payload of `createVariant`.")
class CreateVariantPayload(ChangePayload):
    variant: ProductVariant | None = strawberry.field(description="The variant.")


@strawberry.type(description="Payload of `updateVariant`.")
class UpdateVariantPayload(ChangePayload):
    variant: ProductVariant | None = strawberry.field(description="The variant.")


@strawberry.type(description="Result of one row of `bulkUpdateVariants`.")
class VariantRowResult:
    index: int = strawberry.field(description=ROW_INDEX_DESCRIPTION)
    status: BulkRowStatus = strawberry.field(description=ROW_STATUS_DESCRIPTION)
    variant: ProductVariant | None = strawberry.field(description="The variant; null if there is none.")
    user_errors: list[UserError] = strawberry.field(description=ROW_ERRORS_DESCRIPTION, metadata=ERROR_COSTS)


@strawberry.type(description="Payload of `bulkUpdateVariants`. `userErrors` has the errors of all rows.")
class BulkUpdateVariantsPayload(ChangePayload):
    results: list[VariantRowResult] = strawberry.field(description=RESULTS_DESCRIPTION)


@strawberry.type(description="Payload of `deleteVariant`.")
class DeleteVariantPayload(ChangePayload):
    config_id: strawberry.Private[str | None]
    product_id: strawberry.Private[str | None]
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the variant; null if it was not deleted.")
    product: Product | None = batch_field(
        build_optional_reference_batch(loaders.load_products, make_key_getter("product_id")),
        description="The product that the variant belonged to.",
    )


@strawberry.type
class VariantMutation:
    @strawberry.mutation(
        description="Adds a variant to a product. The first variant with attributes replaces the one that a product without "
        "options has, unless that has a SKU, barcode, weight, cost, image or name."
    )
    async def create_variant(
        self, info: Info, input: Annotated[CreateVariantInput, strawberry.argument(description="The input.")]
    ) -> CreateVariantPayload | None:
        return await mutation_payload(info, input, commands.create_variant, CreateVariantPayload, "variant")

    @strawberry.mutation(description="Changes a variant.")
    async def update_variant(
        self, info: Info, input: Annotated[UpdateVariantInput, strawberry.argument(description="The input.")]
    ) -> UpdateVariantPayload | None:
        return await mutation_payload(info, input, commands.update_variant, UpdateVariantPayload, "variant")

    @strawberry.mutation(description="Changes many variants of a store at once, with one result per row.", metadata=BULK_COSTS)
    async def bulk_update_variants(
        self, info: Info, input: Annotated[BulkUpdateVariantsInput, strawberry.argument(description="The input.")]
    ) -> BulkUpdateVariantsPayload | None:
        result = await mutate(info, input, bulk.bulk_update_variants)
        results = [_build_row_result(result, n) for n in range(len(input.rows))]
        return build_payload(BulkUpdateVariantsPayload, result, input, results=results)

    @strawberry.mutation(description="Deletes a variant; refused if it is the only one of its product.")
    async def delete_variant(
        self, info: Info, input: Annotated[DeleteVariantInput, strawberry.argument(description="The input.")]
    ) -> DeleteVariantPayload | None:
        return await deletion_payload(info, input, commands.delete_variant, DeleteVariantPayload, "config_id", "product_id")

    @strawberry.mutation(
        description="Replaces the variants of a product, and its options, all or nothing. Variants that are not listed are "
        "deleted."
    )
    async def set_product_variants(
        self, info: Info, input: Annotated[SetProductVariantsInput, strawberry.argument(description="The input.")]
    ) -> SetProductVariantsPayload | None:
        return await mutation_payload(info, input, set_variants.set_product_variants, SetProductVariantsPayload, "product")

    @strawberry.mutation(
        description="Adds to or removes from the stock of variants, all or nothing, and below zero only if `inventoryPolicy` is "
        "CONTINUE. Safe when done by several clients at once.",
        metadata=costs(size_arguments=("input.changes",), max_size=inventory.MAX_CHANGES),
    )
    async def adjust_inventory(
        self, info: Info, input: Annotated[AdjustInventoryInput, strawberry.argument(description="The input.")]
    ) -> AdjustInventoryPayload | None:
        result = await mutate(info, input, inventory.adjust_inventory)
        return build_payload(AdjustInventoryPayload, result, input, variants=cast(list[ProductVariant], result.rows))


def _build_row_result(result: MutationResult, n: int) -> VariantRowResult:
    row, status, errors = describe_row(result, n)
    return VariantRowResult(index=n, status=status, variant=row, user_errors=errors)
