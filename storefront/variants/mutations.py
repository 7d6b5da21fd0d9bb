"""Mutations of variants: inputs, payloads and fields."""

from decimal import Decimal

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import loaders
from storefront.graph.batches import build_optional_reference_batch
from storefront.graph.context import Info
from storefront.graph.inputs import AttributeInput
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    INVENTORY_DESCRIPTION,
    ChangePayload,
    MutationInput,
    deletion_payload,
    mutation_payload,
)
from storefront.graph.types.catalogue import Product, ProductVariant
from storefront.variants import commands
from storefront.writes.product_validation import MAX_ATTRIBUTES


@strawberry.input
class CreateVariantInput(MutationInput):
    product_id: strawberry.ID
    name: str
    price: Decimal
    compare_at_price: Decimal | None = None
    attributes: list[AttributeInput] = strawberry.field(default_factory=list, metadata=limits(items=MAX_ATTRIBUTES))
    inventory: int | None = strawberry.field(default=0, description=INVENTORY_DESCRIPTION)
    sku: str | None = None
    is_available: bool = True


@strawberry.input(description="Fields that are left out stay unchanged; null clears nullable ones.")
class UpdateVariantInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    name: str | None = strawberry.UNSET
    price: Decimal | None = strawberry.UNSET
    compare_at_price: Decimal | None = strawberry.UNSET
    attributes: list[AttributeInput] | None = strawberry.field(default=strawberry.UNSET, metadata=limits(items=MAX_ATTRIBUTES))
    inventory: int | None = strawberry.UNSET
    sku: str | None = strawberry.UNSET
    is_available: bool | None = strawberry.UNSET


@strawberry.input(description="Input of `deleteVariant`.")
class DeleteVariantInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the variant.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.type
class CreateVariantPayload(ChangePayload):
    variant: ProductVariant | None


@strawberry.type
class UpdateVariantPayload(ChangePayload):
    variant: ProductVariant | None


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
    @strawberry.mutation
    async def create_variant(self, info: Info, input: CreateVariantInput) -> CreateVariantPayload | None:
        return await mutation_payload(info, input, commands.create_variant, CreateVariantPayload, "variant")

    @strawberry.mutation
    async def update_variant(self, info: Info, input: UpdateVariantInput) -> UpdateVariantPayload | None:
        return await mutation_payload(info, input, commands.update_variant, UpdateVariantPayload, "variant")

    @strawberry.mutation
    async def delete_variant(self, info: Info, input: DeleteVariantInput) -> DeleteVariantPayload | None:
        return await deletion_payload(info, input, commands.delete_variant, DeleteVariantPayload, "product_id")
