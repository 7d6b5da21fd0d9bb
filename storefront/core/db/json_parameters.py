"""JSON as a parameter of a statement."""

from typing import Any

import orjson


def to_json(value: Any) -> str:
    """The value as JSON text, for parameters that Postgres casts to json or jsonb."""
    return orjson.dumps(value).decode()
