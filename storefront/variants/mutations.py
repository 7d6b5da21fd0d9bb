"""Mutations of variants: inputs, payloads and fields."""

from typing import Annotated

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import loaders
from storefront.graph.batches import build_optional_reference_batch
from storefront.graph.context import Info
from storefront.graph.mutations import (
    ChangePayload,
    ExistingRowInput,
    MutationInput,
    deletion_payload,
    mutation_payload,
)
from storefront.graph.types.catalogue import Product, ProductVariant
from storefront.graph.variant_inputs import ProductVariantInput, VariantFieldsInput
from storefront.variants import commands


@strawberry.input(description="Input of `createVariant`.")
class CreateVariantInput(MutationInput, ProductVariantInput):
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")


@strawberry.input(description="Input of `updateVariant`. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateVariantInput(MutationInput, ExistingRowInput, VariantFieldsInput):
    pass


@strawberry.input(description="Input of `deleteVariant`.")
class DeleteVariantInput(MutationInput, ExistingRowInput):
    pass


@strawberry.type(description="Payload of `createVariant`.")
class CreateVariantPayload(ChangePayload):
    variant: ProductVariant | None = strawberry.field(description="The variant.")


@strawberry.type(description="Payload of `updateVariant`.")
class UpdateVariantPayload(ChangePayload):
    variant: ProductVariant | None = strawberry.field(description="The variant.")


@strawberry.type(description="Payload of `deleteVariant`.")
class DeleteVariantPayload(ChangePayload):
    product_id: strawberry.Private[str | None]
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the variant; null if it was not deleted.")
    product: Product | None = batch_field(
        build_optional_reference_batch(loaders.load_products, "product_id"),
        description="The product that the variant belonged to.",
    )


@strawberry.type
class VariantMutation:
    @strawberry.mutation(description="Adds a variant to a product.")
    async def create_variant(
        self, info: Info, input: Annotated[CreateVariantInput, strawberry.argument(description="The input.")]
    ) -> CreateVariantPayload | None:
        return await mutation_payload(info, input, commands.create_variant, CreateVariantPayload, "variant")

    @strawberry.mutation(description="Changes a variant.")
    async def update_variant(
        self, info: Info, input: Annotated[UpdateVariantInput, strawberry.argument(description="The input.")]
    ) -> UpdateVariantPayload | None:
        return await mutation_payload(info, input, commands.update_variant, UpdateVariantPayload, "variant")

    @strawberry.mutation(description="Deletes a variant.")
    async def delete_variant(
        self, info: Info, input: Annotated[DeleteVariantInput, strawberry.argument(description="The input.")]
    ) -> DeleteVariantPayload | None:
        return await deletion_payload(info, input, commands.delete_variant, DeleteVariantPayload, "product_id")
