"""User errors of commands, before they are GraphQL types: a code, a message and the path to the invalid value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class UserErrorCode(Enum):
    """Why a mutation was rejected."""

    INVALID_INPUT = "INVALID_INPUT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    STALE_VERSION = "STALE_VERSION"
    INSUFFICIENT_STOCK = "INSUFFICIENT_STOCK"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    INVALID_STATE = "INVALID_STATE"
    LIMIT_REACHED = "LIMIT_REACHED"


class InvalidInputReason(Enum):
    """Why a value is invalid, for clients that translate messages."""

    REQUIRED = "REQUIRED"
    TOO_SHORT = "TOO_SHORT"
    TOO_LONG = "TOO_LONG"
    TOO_SMALL = "TOO_SMALL"
    TOO_LARGE = "TOO_LARGE"
    MALFORMED = "MALFORMED"
    DUPLICATE = "DUPLICATE"
    CONFLICTING = "CONFLICTING"
    NOT_ALLOWED = "NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class FieldError:
    """An error with its path into the input. `details` are further fields of the code's GraphQL error type, as JSON values."""

    code: UserErrorCode
    message: str
    path: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


class MutationRejected(Exception):
    """Rejects a command and rolls back its transaction."""

    def __init__(self, *field_errors: FieldError) -> None:
        super().__init__(*(field_error.message for field_error in field_errors))
        self.field_errors = field_errors


def make_invalid_input_error(path: Sequence[str], problem: str, reason: InvalidInputReason) -> FieldError:
    """The error for an invalid value at a path."""
    return _make_error(UserErrorCode.INVALID_INPUT, path, problem, reason=reason.value)


def make_invalid_state_error(path: Sequence[str], problem: str) -> FieldError:
    """The error for an object whose state does not allow the operation."""
    return _make_error(UserErrorCode.INVALID_STATE, path, problem)


def make_limit_reached_error(path: Sequence[str], problem: str, limit: int) -> FieldError:
    """The error for one object too many."""
    return _make_error(UserErrorCode.LIMIT_REACHED, path, problem, limit=limit)


def make_not_found_error(entity_name: str, id_: str, path: Sequence[str]) -> FieldError:
    """The error for a row that does not exist, or that the actor may not know of."""
    return _make_error(UserErrorCode.NOT_FOUND, path, f"there is no {entity_name} with the id {id_}.")


def make_already_exists_error(constraint: str, values: Sequence[str], path: Sequence[str] = ()) -> FieldError:
    """The error for a value that another row has, by the name of the unique constraint and the values of its columns."""
    field_name, message = _UNIQUE_CONSTRAINT_MESSAGES[constraint]
    return _make_error(UserErrorCode.ALREADY_EXISTS, (*path, field_name), message, constraint=constraint, values=list(values))


def is_reported_constraint(constraint: str) -> bool:
    """Whether a violation of this constraint is a user error. Commands check all others before they write."""
    return constraint in _UNIQUE_CONSTRAINT_MESSAGES


# Unique constraints, by name: only the database can check them.
_UNIQUE_CONSTRAINT_MESSAGES = {
    "configs_slug_key": ("slug", "another store has this slug already. Choose another one."),
    "products_config_id_handle_key": ("handle", "another product of this store has this handle already. Choose another one."),
    "product_variants_attributes_key": (
        "attributes",
        "another variant of this product has the same attributes, apart from upper and lower case. Choose others, or update that "
        "variant instead.",
    ),
    "reviews_config_id_user_id_product_id_key": (
        "productId",
        "you have reviewed this product already. Update that review instead.",
    ),
}


def _make_error(code: UserErrorCode, path: Sequence[str], problem: str, **details: Any) -> FieldError:
    return FieldError(code, f"{'.'.join(path)}: {problem}", tuple(path), details)
