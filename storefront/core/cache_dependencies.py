"""Which scopes a statement reads, a scope being what has a log of its own. Declared with the statement, for whoever keeps
answers: what is known of an answer's scopes tells how long it holds. A statement that declares nothing can be of all of them.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ParameterDependency:
    """Those that a parameter names: one key or a list of them, whether there are rows of them or not."""

    parameter: str

    def resolve_scopes(self, parameters: Mapping[str, Any]) -> set[str]:
        """The scopes of a statement with these parameters."""
        value = parameters[self.parameter]
        return {value} if isinstance(value, str) else set(value)


@dataclass(frozen=True, slots=True)
class RowDependency:
    """Those that a column of its rows names: they were looked for by something else, `keys`, or one of it without."""

    column: str
    keys_parameter: str | None = None

    def resolve_scopes(self, parameters: Mapping[str, Any], rows: Iterable[Any]) -> set[str] | None:
        """The scopes of these rows; None where something was not found: it may come up in any scope."""
        scopes = [getattr(row, self.column) for row in rows]
        expected = len(set(parameters[self.keys_parameter])) if self.keys_parameter else 1
        return set(scopes) if len(scopes) >= expected else None


class InheritedDependency:
    """Those of rows that were read before: what is read here changes with the log of the scope that it was reached from."""


INHERITED_DEPENDENCY = InheritedDependency()

CacheDependency = ParameterDependency | RowDependency | InheritedDependency


class DependencyRecorder(Protocol):
    """Notes what is read."""

    async def run_recorded(
        self, dependency: CacheDependency | None, parameters: Mapping[str, Any], run_query: Callable[[], Awaitable[list[Any]]]
    ) -> list[Any]:
        """What `run` reads, once or more often; None: of scopes that nobody knows."""

    def mark_uncacheable(self) -> None:
        """Something was read that does not change with a log."""
