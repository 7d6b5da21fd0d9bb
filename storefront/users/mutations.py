"""Mutations of the viewer's own user: profile and sign-out."""

import strawberry

from storefront.graph.context import Info
from storefront.graph.mutations import EXPECTED_VERSION_DESCRIPTION, MutationInput, ReplayablePayload, mutation_payload
from storefront.graph.types.catalogue import User
from storefront.users import commands


@strawberry.input(description="Fields that are left out stay unchanged; null clears them.")
class UpdateProfileInput(MutationInput):
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    name: str | None = strawberry.UNSET
    image: str | None = strawberry.field(default=strawberry.UNSET, description="URL of an image.")


@strawberry.type
class UpdateProfilePayload(ReplayablePayload):
    user: User | None


@strawberry.input
class SignOutEverywhereInput(MutationInput):
    pass


@strawberry.type
class SignOutEverywherePayload(ReplayablePayload):
    user: User | None


@strawberry.type
class UserMutation:
    @strawberry.mutation(
        description="Revoke all tokens and sessions of the viewer that were issued before now, including the current one."
    )
    async def sign_out_everywhere(self, info: Info, input: SignOutEverywhereInput) -> SignOutEverywherePayload | None:
        return await mutation_payload(info, input, commands.sign_out_everywhere, SignOutEverywherePayload, "user")

    @strawberry.mutation(description="Update the viewer's own name and image.")
    async def update_profile(self, info: Info, input: UpdateProfileInput) -> UpdateProfilePayload | None:
        return await mutation_payload(info, input, commands.update_profile, UpdateProfilePayload, "user")
