"""Mutations of reviews: inputs, payloads and fields."""

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import loaders
from storefront.graph.batches import build_optional_reference_batch
from storefront.graph.context import Info
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    MutationInput,
    deletion_payload,
    mutation_payload,
)
from storefront.graph.types.catalogue import Product, Review
from storefront.reviews import commands


@strawberry.input(description="Input of `createReview`.")
class CreateReviewInput(MutationInput):
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")
    rating: int = strawberry.field(description="Stars, 1 to 5.")
    title: str | None = strawberry.field(default=strawberry.UNSET, description="Headline.")
    body: str | None = strawberry.field(default=strawberry.UNSET, description="Text.")


@strawberry.input(description="Input of `updateReview`. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateReviewInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the review.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    rating: int | None = strawberry.field(default=strawberry.UNSET, description="Stars, 1 to 5.")
    title: str | None = strawberry.field(default=strawberry.UNSET, description="Headline.")
    body: str | None = strawberry.field(default=strawberry.UNSET, description="Text.")


@strawberry.input(description="Input of `deleteReview`.")
class DeleteReviewInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the review.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.type(description="Payload of `createReview`.")
class CreateReviewPayload(ChangePayload):
    review: Review | None = strawberry.field(description="The review.")


@strawberry.type(description="Payload of `updateReview`.")
class UpdateReviewPayload(ChangePayload):
    review: Review | None = strawberry.field(description="The review.")


@strawberry.type(description="Payload of `deleteReview`.")
class DeleteReviewPayload(ChangePayload):
    product_id: strawberry.Private[str | None]
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the review; null if it was not deleted.")
    product: Product | None = batch_field(
        build_optional_reference_batch(loaders.load_products, "product_id"), description="The product that was reviewed."
    )


@strawberry.type
class ReviewMutation:
    @strawberry.mutation(description="Creates a review by the viewer, who can have one per product.")
    async def create_review(self, info: Info, input: CreateReviewInput) -> CreateReviewPayload | None:
        return await mutation_payload(info, input, commands.create_review, CreateReviewPayload, "review")

    @strawberry.mutation(description="Changes a review of the viewer.")
    async def update_review(self, info: Info, input: UpdateReviewInput) -> UpdateReviewPayload | None:
        return await mutation_payload(info, input, commands.update_review, UpdateReviewPayload, "review")

    @strawberry.mutation(description="Deletes a review of the viewer.")
    async def delete_review(self, info: Info, input: DeleteReviewInput) -> DeleteReviewPayload | None:
        return await deletion_payload(info, input, commands.delete_review, DeleteReviewPayload, "product_id")
