"""Mutations of reviews: inputs, payloads and fields."""

from typing import cast

import strawberry

from storefront.execution.batch_field import batch_field
from storefront.graph import loaders
from storefront.graph.batches import build_optional_reference_batch
from storefront.graph.context import Info
from storefront.graph.cost_hints import costs
from storefront.graph.inputs import ReviewStatus
from storefront.graph.limits import limits
from storefront.graph.mutations import (
    EXPECTED_VERSION_DESCRIPTION,
    ChangePayload,
    MutationInput,
    VersionedUpdateInput,
    build_payload,
    deletion_payload,
    mutate,
    mutation_payload,
)
from storefront.graph.types.catalogue import Product, Review
from storefront.models.row_keys import make_key_getter
from storefront.reviews import commands


@strawberry.input(description="Input of `createReview`.")
class CreateReviewInput(MutationInput):
    product_id: strawberry.ID = strawberry.field(description="ID of the product.")
    rating: int = strawberry.field(description="Stars, 1 to 5.")
    title: str | None = strawberry.field(default=strawberry.UNSET, description="Headline.")
    body: str | None = strawberry.field(default=strawberry.UNSET, description="Text.")


@strawberry.input(description="Input of `updateReview`. Omitted fields stay as they are; null clears those that are nullable.")
class UpdateReviewInput(MutationInput, VersionedUpdateInput):
    id: strawberry.ID = strawberry.field(description="ID of the review.")
    rating: int | None = strawberry.field(default=strawberry.UNSET, description="Stars, 1 to 5.")
    title: str | None = strawberry.field(default=strawberry.UNSET, description="Headline.")
    body: str | None = strawberry.field(default=strawberry.UNSET, description="Text.")


@strawberry.input(description="Input of `deleteReview`.")
class DeleteReviewInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the review.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)


@strawberry.input(description="Input of `moderateReviews`.")
class ModerateReviewsInput(MutationInput):
    ids: list[strawberry.ID] = strawberry.field(
        description="IDs of the reviews, all of one store.", metadata=limits(items=commands.MAX_MODERATED_REVIEWS)
    )
    status: ReviewStatus = strawberry.field(description="New status of the reviews.")
    note: str | None = strawberry.field(
        default=strawberry.UNSET, description="Explanation for the authors, at most 1,000 characters; used with HIDDEN only."
    )


@strawberry.input(description="Input of `replyToReview`.")
class ReplyToReviewInput(MutationInput):
    id: strawberry.ID = strawberry.field(description="ID of the review.")
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    reply: str | None = strawberry.field(description="Text of the reply, at most 10,000 characters; null removes it.")


@strawberry.type(description="Payload of `createReview`.")
class CreateReviewPayload(ChangePayload):
    review: Review | None = strawberry.field(description="The review.")


@strawberry.type(description="Payload of `updateReview`.")
class UpdateReviewPayload(ChangePayload):
    review: Review | None = strawberry.field(description="The review.")


@strawberry.type(description="Payload of `deleteReview`.")
class DeleteReviewPayload(ChangePayload):
    config_id: strawberry.Private[str | None]
    product_id: strawberry.Private[str | None]
    deleted_id: strawberry.ID | None = strawberry.field(description="ID of the review; null if it was not deleted.")
    product: Product | None = batch_field(
        build_optional_reference_batch(loaders.load_products, make_key_getter("product_id")),
        description="The product that was reviewed.",
    )


@strawberry.type(description="Payload of `moderateReviews`.")
class ModerateReviewsPayload(ChangePayload):
    reviews: list[Review] = strawberry.field(description="The reviews, in the order of the input; empty if nothing was written.")


@strawberry.type(description="Payload of `replyToReview`.")
class ReplyToReviewPayload(ChangePayload):
    review: Review | None = strawberry.field(description="The review.")


@strawberry.type
class ReviewMutation:
    @strawberry.mutation(
        description="Creates a review by the viewer, who can have one per product. `Config.reviewPolicy` says when it is "
        "published."
    )
    async def create_review(self, info: Info, input: CreateReviewInput) -> CreateReviewPayload | None:
        return await mutation_payload(info, input, commands.create_review, CreateReviewPayload, "review")

    @strawberry.mutation(description="Changes a review of the viewer.")
    async def update_review(self, info: Info, input: UpdateReviewInput) -> UpdateReviewPayload | None:
        return await mutation_payload(info, input, commands.update_review, UpdateReviewPayload, "review")

    @strawberry.mutation(
        description="Publishes or hides reviews of a store that the viewer owns, all or none.",
        metadata=costs(size_arguments=("input.ids",), max_size=commands.MAX_MODERATED_REVIEWS),
    )
    async def moderate_reviews(self, info: Info, input: ModerateReviewsInput) -> ModerateReviewsPayload | None:
        result = await mutate(info, input, commands.moderate_reviews)
        return build_payload(ModerateReviewsPayload, result, input, reviews=cast(list[Review], result.rows))

    @strawberry.mutation(description="Writes, changes or removes the reply to a review of a store that the viewer owns.")
    async def reply_to_review(self, info: Info, input: ReplyToReviewInput) -> ReplyToReviewPayload | None:
        return await mutation_payload(info, input, commands.reply_to_review, ReplyToReviewPayload, "review")

    @strawberry.mutation(description="Deletes a review of the viewer.")
    async def delete_review(self, info: Info, input: DeleteReviewInput) -> DeleteReviewPayload | None:
        return await deletion_payload(info, input, commands.delete_review, DeleteReviewPayload, "config_id", "product_id")
