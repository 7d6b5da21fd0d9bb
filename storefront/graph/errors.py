"""User errors of mutations: expected failures, one object type per error code."""

from collections.abc import Sequence
from typing import Any, cast

import strawberry

from storefront.execution.strawberry_adapter import declare_enum
from storefront.graph import loaders
from storefront.graph.context import Info
from storefront.graph.types.node import Node, load_nodes
from storefront.writes.field_errors import FieldError, InvalidInputReason, UserErrorCode

declare_enum(
    UserErrorCode,
    "UserErrorCode",
    "Reasons why a mutation is refused. More values may be added: treat an unknown one like `INVALID_INPUT`.",
    {
        "INVALID_INPUT": "A value is invalid. See `InvalidInputError.reason`.",
        "NOT_FOUND": "An object does not exist or is not visible to the viewer.",
        "ALREADY_EXISTS": "A value that has to be unique is in use.",
        "STALE_VERSION": "The object has changed since `expectedVersion`.",
        "INSUFFICIENT_STOCK": "Less stock than requested.",
        "IDEMPOTENCY_CONFLICT": "The `idempotencyKey` was used with a different input.",
        "INVALID_STATE": "The object is in a state that does not allow this operation.",
        "LIMIT_REACHED": "The store has reached the maximum number of such objects.",
    },
)
declare_enum(
    InvalidInputReason,
    "InvalidInputReason",
    "Why an input value is invalid. More values may be added.",
    {
        "REQUIRED": "A required value is missing, null or blank.",
        "TOO_SHORT": "Too few characters or items.",
        "TOO_LONG": "Too many characters or items.",
        "TOO_SMALL": "Below the minimum.",
        "TOO_LARGE": "Above the maximum.",
        "MALFORMED": "Not in the required format.",
        "DUPLICATE": "Occurs more than once in the input.",
        "CONFLICTING": "Contradicts another value.",
        "NOT_ALLOWED": "Well-formed but not permitted.",
    },
)


@strawberry.interface(
    description="An expected failure that the user or client can correct. A mutation that returns any has not written anything, "
    "unless its description says otherwise."
)
class UserError:
    code: UserErrorCode = strawberry.field(description="Machine-readable reason. More values may be added.")
    message: str = strawberry.field(description="Human-readable explanation in English, including how to correct the input.")
    path: list[str] = strawberry.field(
        description='Path to the invalid value, relative to the `input` argument: ["variants", "0", "price"]. Empty if no single '
        "value is to blame."
    )


@strawberry.type(description="An input value is invalid.")
class InvalidInputError(UserError):
    reason: InvalidInputReason = strawberry.field(description="Category of the problem, for translated messages.")


@strawberry.type(description="An object does not exist or is not visible to the viewer.")
class NotFoundError(UserError):
    pass


@strawberry.type(description="A unique value, such as a slug or handle, is in use.")
class AlreadyExistsError(UserError):
    constraint: strawberry.Private[str]
    values: strawberry.Private[Sequence[str]]

    @strawberry.field(description="ID of the object that has the value; null if the viewer may not see it.")
    async def existing_id(self, info: Info) -> strawberry.ID | None:
        if not self.values:
            return None
        key = await info.context.load(loaders.load_ids_by_unique_key, tuple(self.values), self.constraint)
        [node] = await load_nodes(info.context, [key]) if key else [None]
        return strawberry.ID(key) if key and node else None


@strawberry.type(description="The object has changed since `expectedVersion`, and the changes could not be merged.")
class StaleVersionError(UserError):
    current_version: int = strawberry.field(description="The current version of the object.")
    changed_fields: list[str] = strawberry.field(
        description="Fields that have changed since `expectedVersion`. Empty if that is no longer known."
    )
    object_id: strawberry.Private[str]

    @strawberry.field(description="The object as it is now, to show or merge without another request.")
    async def current(self, info: Info) -> Node | None:
        [node] = await load_nodes(info.context, [self.object_id])
        return cast(Node | None, node)


@strawberry.type(description="There is less stock than requested.")
class InsufficientStockError(UserError):
    available: int = strawberry.field(description="Units in stock.")


@strawberry.type(description="The `idempotencyKey` was used with a different input.")
class IdempotencyConflictError(UserError):
    pass


@strawberry.type(
    description="The object is in a state that does not allow this operation, such as a running job that should be retried."
)
class InvalidStateError(UserError):
    pass


@strawberry.type(description="The store has reached the maximum number of such objects.")
class LimitReachedError(UserError):
    limit: int = strawberry.field(description="The maximum.")


_ERROR_TYPES_BY_CODE: dict[UserErrorCode, type[UserError]] = {
    UserErrorCode.INVALID_INPUT: InvalidInputError,
    UserErrorCode.NOT_FOUND: NotFoundError,
    UserErrorCode.ALREADY_EXISTS: AlreadyExistsError,
    UserErrorCode.STALE_VERSION: StaleVersionError,
    UserErrorCode.INSUFFICIENT_STOCK: InsufficientStockError,
    UserErrorCode.IDEMPOTENCY_CONFLICT: IdempotencyConflictError,
    UserErrorCode.INVALID_STATE: InvalidStateError,
    UserErrorCode.LIMIT_REACHED: LimitReachedError,
}

# Fields return the interface only, so the schema needs the implementing types listed.
ERROR_TYPES: Sequence[type[UserError]] = tuple(_ERROR_TYPES_BY_CODE.values())


def build_user_error(failure: FieldError) -> UserError:
    """The user error of a failure, as the object type of its code."""
    fields: dict[str, Any] = {"code": failure.code, "message": failure.message, "path": list(failure.path), **failure.details}
    if failure.code is UserErrorCode.INVALID_INPUT:
        fields["reason"] = InvalidInputReason(failure.details["reason"])
    return _ERROR_TYPES_BY_CODE[failure.code](**fields)
