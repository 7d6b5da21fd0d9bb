"""Mutations of reviews: inputs, payloads and fields."""

import strawberry

from storefront.graph.context import Info
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    MutationInput,
    deletion_payload,
    mutation_payload,
)
from storefront.graph.types.catalogue import Review
from storefront.reviews import commands


@strawberry.input
class CreateReviewInput(MutationInput):
    product_id: strawberry.ID
    rating: int = strawberry.field(description="One to five stars.")
    title: str | None = strawberry.UNSET
    body: str | None = strawberry.UNSET


@strawberry.input(description="Fields that are left out stay unchanged; null clears nullable ones.")
class UpdateReviewInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    rating: int | None = strawberry.UNSET
    title: str | None = strawberry.UNSET
    body: str | None = strawberry.UNSET


@strawberry.input
class DeleteReviewInput(MutationInput):
    id: strawberry.ID
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.type
class CreateReviewPayload(ChangePayload):
    review: Review | None


@strawberry.type
class UpdateReviewPayload(ChangePayload):
    review: Review | None


@strawberry.type
class DeleteReviewPayload(ChangePayload):
    deleted_id: strawberry.ID | None


@strawberry.type
class ReviewMutation:
    @strawberry.mutation(description="Create a review. Each user has at most one per product.")
    async def create_review(self, info: Info, input: CreateReviewInput) -> CreateReviewPayload | None:
        return await mutation_payload(info, input, commands.create_review, CreateReviewPayload, "review")

    @strawberry.mutation
    async def update_review(self, info: Info, input: UpdateReviewInput) -> UpdateReviewPayload | None:
        return await mutation_payload(info, input, commands.update_review, UpdateReviewPayload, "review")

    @strawberry.mutation
    async def delete_review(self, info: Info, input: DeleteReviewInput) -> DeleteReviewPayload | None:
        return await deletion_payload(info, input, commands.delete_review, DeleteReviewPayload)
