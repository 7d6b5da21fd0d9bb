"""What fields cost beyond the one that every field does: one declaration per field, `metadata=costs(…)`."""

from typing import Any

from storefront.serving.documents.cost import COST, Cost


def costs(
    weight: float = 1, size: float | None = None, by: tuple[str, ...] = ("first", "last"), most: int = 100
) -> dict[str, Any]:
    """The metadata of a field that takes more than a plain one, or whose list has another length than its arguments say."""
    return {COST: Cost(weight, size, by, most)}


# At most a few, as a rule none.
ERRORS = costs(size=1)
