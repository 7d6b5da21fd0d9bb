"""What fields cost beyond the one that every field does: one declaration per field, `metadata=costs(…)`."""

from typing import Any

from storefront.serving.documents.cost import COST_EXTENSION_KEY, FieldCost


def costs(
    weight: float = 1, size: float | None = None, size_arguments: tuple[str, ...] = ("first", "last"), max_size: int = 100
) -> dict[str, Any]:
    """The metadata of a field that takes more than a plain one, or whose list has another length than its arguments say."""
    return {COST_EXTENSION_KEY: FieldCost(weight, size, size_arguments, max_size)}


# At most a few, as a rule none.
ERROR_COSTS = costs(size=1)
