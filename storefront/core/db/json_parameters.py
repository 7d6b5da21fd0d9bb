"""JSON as a parameter of a statement."""

from collections.abc import Sequence
from typing import Any

import orjson

from storefront.core.cooperative import run_in_thread_if_long


def to_json(value: Any) -> str:
    """The value as JSON text, for parameters that Postgres casts to json or jsonb."""
    return orjson.dumps(value).decode()


async def render_rows(rows: Sequence[Any]) -> str:
    """The rows as JSON text. Other tasks run before and after many of them: statements with them take as long to send."""
    return await run_in_thread_if_long(len(rows), to_json, rows)
