"""Which scopes a statement reads, a scope being what has a log of its own. Declared with the statement, for whoever keeps
answers: what is known of an answer's scopes tells how long it holds. A statement that declares nothing can be of all of them.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Named:
    """Those that a parameter names: one key or a list of them, whether there are rows of them or not."""

    parameter: str

    def scopes(self, parameters: Mapping[str, Any]) -> set[str]:
        """The scopes of a statement with these parameters."""
        given = parameters[self.parameter]
        return {given} if isinstance(given, str) else set(given)


@dataclass(frozen=True, slots=True)
class Found:
    """Those that a column of its rows names: they were looked for by something else, `keys`, or one of it without."""

    column: str
    keys: str | None = None

    def scopes(self, parameters: Mapping[str, Any], rows: Iterable[Any]) -> set[str] | None:
        """The scopes of these rows; None where something was not found: it may come up in any scope."""
        found = [getattr(row, self.column) for row in rows]
        wanted = len(set(parameters[self.keys])) if self.keys else 1
        return set(found) if len(found) >= wanted else None


class Within:
    """Those of rows that were read before: what is read here changes with the log of the scope that it was reached from."""


WITHIN = Within()

Reads = Named | Found | Within


class Recorder(Protocol):
    """Notes what is read."""

    async def read(
        self, reads: Reads | None, parameters: Mapping[str, Any], run: Callable[[], Awaitable[list[Any]]]
    ) -> list[Any]:
        """What `run` reads, once or more often; None: of scopes that nobody knows."""

    def unrecorded(self) -> None:
        """Something was read that does not change with a log."""
