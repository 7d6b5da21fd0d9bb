"""Cache dependencies: which scopes a statement reads. A scope is what has its own changelog, such as a store.

Dependencies are declared with the statement. A cached response stays valid until the changelog of one of its scopes advances.
A statement without a declaration may depend on all scopes.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ParameterDependency:
    """The scopes in a parameter, which is one key or a list of keys, whether rows are found or not."""

    parameter: str

    def resolve_scopes(self, parameters: Mapping[str, Any]) -> set[str]:
        """The scopes that a statement with these parameters reads."""
        value = parameters[self.parameter]
        return {value} if isinstance(value, str) else set(value)


@dataclass(frozen=True, slots=True)
class RowDependency:
    """The scopes in a column of the rows. They were found by other keys, in `keys_parameter`; without it, by a single key.

    A row without a scope counts as not found.
    `key_column`: the row may have been found by a former key, which another scope may take over. A row found by its present key
    has that key, the parameter of the same name, in this column.
    """

    column: str
    keys_parameter: str | None = None
    key_column: str | None = None

    def resolve_scopes(self, parameters: Mapping[str, Any], rows: Iterable[Any]) -> set[str] | None:
        """The scopes of these rows; None where a key was not found, or is a former one: it may appear in any scope later."""
        if self.key_column and any(getattr(row, self.key_column) != parameters[self.key_column] for row in rows):
            return None
        scopes = [scope for row in rows if (scope := getattr(row, self.column)) is not None]
        expected = len(set(parameters[self.keys_parameter])) if self.keys_parameter else 1
        return set(scopes) if len(scopes) >= expected else None


class InheritedDependency:
    """The scopes of the rows read before: these rows change with the changelog of the scope they were reached from."""


INHERITED_DEPENDENCY = InheritedDependency()

CacheDependency = ParameterDependency | RowDependency | InheritedDependency


class DependencyRecorder(Protocol):
    """Records the dependencies of a response while its statements run."""

    async def run_recorded(
        self, dependency: CacheDependency | None, parameters: Mapping[str, Any], run_query: Callable[[], Awaitable[list[Any]]]
    ) -> list[Any]:
        """Run a query, once or more often, and record its dependency. None: its scopes are unknown."""

    def mark_uncacheable(self) -> None:
        """Record that data was read whose changes no changelog shows."""
