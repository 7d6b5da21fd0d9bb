"""Mutations of variants: inputs, payloads and fields."""

import strawberry

from storefront.graph.context import Info
from storefront.graph.mutations import (
    ChangePayload,
    ExistingRowInput,
    MutationInput,
    deletion_payload,
    mutation_payload,
)
from storefront.graph.types.catalogue import ProductVariant
from storefront.graph.variant_inputs import VariantFieldsInput, VariantForm
from storefront.variants import commands


@strawberry.input
class CreateVariantInput(MutationInput, VariantForm):
    product_id: strawberry.ID


@strawberry.input(description="Fields that are left out stay unchanged; null clears nullable ones.")
class UpdateVariantInput(MutationInput, ExistingRowInput, VariantFieldsInput):
    pass


@strawberry.input
class DeleteVariantInput(MutationInput, ExistingRowInput):
    pass


@strawberry.type
class CreateVariantPayload(ChangePayload):
    variant: ProductVariant | None


@strawberry.type
class UpdateVariantPayload(ChangePayload):
    variant: ProductVariant | None


@strawberry.type
class DeleteVariantPayload(ChangePayload):
    deleted_id: strawberry.ID | None


@strawberry.type
class VariantMutation:
    @strawberry.mutation
    async def create_variant(self, info: Info, input: CreateVariantInput) -> CreateVariantPayload | None:
        return await mutation_payload(info, input, commands.create_variant, CreateVariantPayload, "variant")

    @strawberry.mutation
    async def update_variant(self, info: Info, input: UpdateVariantInput) -> UpdateVariantPayload | None:
        return await mutation_payload(info, input, commands.update_variant, UpdateVariantPayload, "variant")

    @strawberry.mutation
    async def delete_variant(self, info: Info, input: DeleteVariantInput) -> DeleteVariantPayload | None:
        return await deletion_payload(info, input, commands.delete_variant, DeleteVariantPayload)
