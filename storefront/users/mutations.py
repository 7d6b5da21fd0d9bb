"""Mutations of the viewer's own user: profile and sign-out."""

import strawberry

from storefront.graph.context import Info
from storefront.graph.mutations import MutationInput, ReplayablePayload, VersionedUpdateInput, mutation_payload
from storefront.graph.types.catalogue import User
from storefront.users import commands


@strawberry.input(description="Input of `updateProfile`. Omitted fields stay as they are; null clears one.")
class UpdateProfileInput(MutationInput, VersionedUpdateInput):
    name: str | None = strawberry.field(default=strawberry.UNSET, description="Display name.")
    image: str | None = strawberry.field(default=strawberry.UNSET, description="URL of the profile picture.")


@strawberry.type(description="Payload of `updateProfile`.")
class UpdateProfilePayload(ReplayablePayload):
    user: User | None = strawberry.field(description="The viewer.")


@strawberry.input(description="Input of `signOutEverywhere`.")
class SignOutEverywhereInput(MutationInput):
    pass


@strawberry.type(description="Payload of `signOutEverywhere`.")
class SignOutEverywherePayload(ReplayablePayload):
    user: User | None = strawberry.field(description="The viewer.")


@strawberry.type
class UserMutation:
    @strawberry.mutation(description="Revokes all of the viewer's tokens and sessions, including the one in use.")
    async def sign_out_everywhere(self, info: Info, input: SignOutEverywhereInput) -> SignOutEverywherePayload | None:
        return await mutation_payload(info, input, commands.sign_out_everywhere, SignOutEverywherePayload, "user")

    @strawberry.mutation(description="Changes the viewer's name and picture.")
    async def update_profile(self, info: Info, input: UpdateProfileInput) -> UpdateProfilePayload | None:
        return await mutation_payload(info, input, commands.update_profile, UpdateProfilePayload, "user")
