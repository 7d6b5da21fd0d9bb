"""Cost hints for the query cost analysis: field metadata, `metadata=costs(…)`. Fields without it cost 1."""

from typing import Any

from storefront.serving.documents.cost import COST_EXTENSION_KEY, FieldCost


def costs(
    weight: float = 1, size: float | None = None, size_arguments: tuple[str, ...] = ("first", "last"), max_size: int = 100
) -> dict[str, Any]:
    """The metadata of a field with a higher weight, or whose list size does not follow from its `first` or `last` argument."""
    return {COST_EXTENSION_KEY: FieldCost(weight, size, size_arguments, max_size)}


# Lists of user errors are usually empty.
ERROR_COSTS = costs(size=1)
