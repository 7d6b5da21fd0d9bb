"""The rows behind object types."""

from collections.abc import Iterable
from typing import TypeVar

import orjson

from storefront.core.db.database import Row
from storefront.core.result_budget import get_current_budget

R = TypeVar("R")


def as_row(value: object, _: type[R]) -> R:
    """The row that resolves an object type. `self` of a resolver is what a query returned, not an instance of its class."""
    return value  # type: ignore[return-value]


def wrap_json_rows(rows: Iterable[Row]) -> list[orjson.Fragment]:
    """The JSON that Postgres rendered for rows, as finished values. It counts towards the response each time."""
    texts = [row.node for row in rows]
    if (budget := get_current_budget()) is not None:
        budget.charge_json(texts)
    return [*map(orjson.Fragment, texts)]
