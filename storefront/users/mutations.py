"""Fields that write about the user who asks."""

import strawberry

from storefront.graph.context import Info
from storefront.graph.mutations import EXPECTED_VERSION_DESCRIPTION, MutationInput, Payload, mutation_payload
from storefront.graph.types import User
from storefront.users import commands


@strawberry.input(description="Fields that are left out stay as they are; null empties them.")
class UpdateProfileInput(MutationInput):
    expected_version: int | None = strawberry.field(default=strawberry.UNSET, description=EXPECTED_VERSION_DESCRIPTION)
    name: str | None = strawberry.UNSET
    image: str | None = strawberry.field(default=strawberry.UNSET, description="A web address.")


@strawberry.type
class UpdateProfilePayload(Payload):
    user: User | None


@strawberry.input
class SignOutEverywhereInput(MutationInput):
    pass


@strawberry.type
class SignOutEverywherePayload(Payload):
    user: User | None


@strawberry.type
class UserMutation:
    @strawberry.mutation(
        description="No token or session of the asker's counts any more that was issued before now, the one in use included."
    )
    async def sign_out_everywhere(self, info: Info, input: SignOutEverywhereInput) -> SignOutEverywherePayload:
        return await mutation_payload(info, input, commands.sign_out_everywhere, SignOutEverywherePayload, "user")

    @strawberry.mutation(description="One's own name and picture.")
    async def update_profile(self, info: Info, input: UpdateProfileInput) -> UpdateProfilePayload:
        return await mutation_payload(info, input, commands.update_profile, UpdateProfilePayload, "user")
