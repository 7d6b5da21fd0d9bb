"""Why a mutation was refused, as clients see it: one type per kind of reason."""

from collections.abc import Sequence

import strawberry

from storefront.writes.transaction import ErrorCode, FieldError

strawberry.enum(ErrorCode, name="ErrorCode", description="Why a mutation was refused.")


@strawberry.interface(description="An expected failure. Nothing was written.")
class UserError:
    code: ErrorCode
    message: str = strawberry.field(description="For people: what is wrong and how to mend it.")
    path: list[str] = strawberry.field(description="The way into the input, such as variants, 0, price.")


@strawberry.type(description="A value that cannot be used.")
class InvalidInputError(UserError):
    pass


@strawberry.type(description="Nothing there that the asker may know of.")
class NotFoundError(UserError):
    pass


@strawberry.type(description="A name that is taken.")
class AlreadyExistsError(UserError):
    pass


@strawberry.type(description="The row has changed since the expected version was read.")
class StaleVersionError(UserError):
    current_version: int
    changed_fields: list[str] = strawberry.field(description="What changed since, as far back as the log is kept.")


@strawberry.type(description="Less in stock than was asked for.")
class InsufficientStockError(UserError):
    available: int


@strawberry.type(description="The idempotency key was used with another input.")
class IdempotencyConflictError(UserError):
    pass


_ERROR_TYPES_BY_CODE: dict[ErrorCode, type[UserError]] = {
    ErrorCode.INVALID_INPUT: InvalidInputError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.ALREADY_EXISTS: AlreadyExistsError,
    ErrorCode.STALE_VERSION: StaleVersionError,
    ErrorCode.INSUFFICIENT_STOCK: InsufficientStockError,
    ErrorCode.IDEMPOTENCY_CONFLICT: IdempotencyConflictError,
}

# Only the interface is named by fields: the schema has to be told of the rest.
ERROR_TYPES: Sequence[type[UserError]] = tuple(_ERROR_TYPES_BY_CODE.values())


def build_user_error(failure: FieldError) -> UserError:
    """The failure as its own type."""
    fields = {"code": failure.code, "message": failure.message, "path": list(failure.path), **failure.details}
    return _ERROR_TYPES_BY_CODE[failure.code](**fields)
