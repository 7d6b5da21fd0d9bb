"""User errors of mutations: expected failures, one object type per error code."""

from collections.abc import Sequence

import strawberry

from storefront.writes.transaction import FieldError, UserErrorCode

strawberry.enum(UserErrorCode, name="UserErrorCode", description="Why a mutation was rejected.")


@strawberry.interface(description="An expected failure. Nothing was written.")
class UserError:
    code: UserErrorCode
    message: str = strawberry.field(description="For people: what is wrong and how to fix it.")
    path: list[str] = strawberry.field(description="Path of the input field, such as variants, 0, price.")


@strawberry.type(description="An input value is invalid.")
class InvalidInputError(UserError):
    pass


@strawberry.type(description="The row does not exist, or the viewer may not see it.")
class NotFoundError(UserError):
    pass


@strawberry.type(description="A unique value, such as a handle or slug, is taken.")
class AlreadyExistsError(UserError):
    pass


@strawberry.type(description="Optimistic locking: the row has changed since the expected version was read.")
class StaleVersionError(UserError):
    current_version: int
    changed_fields: list[str] = strawberry.field(description="Fields that changed since, as far back as the log reaches.")


@strawberry.type(description="The stock is lower than the requested quantity.")
class InsufficientStockError(UserError):
    available: int


@strawberry.type(description="The idempotency key was used with a different input.")
class IdempotencyConflictError(UserError):
    pass


_ERROR_TYPES_BY_CODE: dict[UserErrorCode, type[UserError]] = {
    UserErrorCode.INVALID_INPUT: InvalidInputError,
    UserErrorCode.NOT_FOUND: NotFoundError,
    UserErrorCode.ALREADY_EXISTS: AlreadyExistsError,
    UserErrorCode.STALE_VERSION: StaleVersionError,
    UserErrorCode.INSUFFICIENT_STOCK: InsufficientStockError,
    UserErrorCode.IDEMPOTENCY_CONFLICT: IdempotencyConflictError,
}

# Fields return the interface only, so the schema needs the implementing types listed.
ERROR_TYPES: Sequence[type[UserError]] = tuple(_ERROR_TYPES_BY_CODE.values())


def build_user_error(failure: FieldError) -> UserError:
    """The user error of a failure, as the object type of its code."""
    fields = {"code": failure.code, "message": failure.message, "path": list(failure.path), **failure.details}
    return _ERROR_TYPES_BY_CODE[failure.code](**fields)
