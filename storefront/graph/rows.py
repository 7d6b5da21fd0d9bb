"""The rows behind object types."""

from typing import TypeVar

R = TypeVar("R")


def as_row(value: object, _: type[R]) -> R:
    """The row that resolves an object type. `self` of a resolver is what a query returned, not an instance of its class."""
    return value  # type: ignore[return-value]
