"""Executes level by level: each field once for all parents, each edge one load.

Whatever this cannot do, and every error, is left to graphql-core's executor: it completes the root field again, from the value
that its resolver gave. So errors, their paths and what they make null are the reference's own, and no root resolver runs twice.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, Generic, TypeVar, cast

import orjson
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    GraphQLSchema,
    default_field_resolver,
    default_type_resolver,
    get_named_type,
    is_composite_type,
    is_leaf_type,
)
from graphql.execution import Executor
from graphql.execution.collect_fields import FieldDetails
from graphql.pyutils import Path
from orjson import Fragment

from storefront.execution.completion import Column, Restore, as_is, kinds_of, leaves, unchanged, unwrapped
from storefront.execution.coroutines import Begun, begin, close, finish, rest_of
from storefront.execution.plan import Field, Plans, Selection
from storefront.execution.resolve_info import info_of

log = logging.getLogger("storefront.execution")

C = TypeVar("C")

# How `execute` builds an executor when nothing special is asked for: resolvers, 50 errors of values, no middleware.
_USUAL = (None, None, None, 50, False, None, None, None)


class Progress:
    """How far an operation has come: its root fields that have been begun, and those whose resolvers are done, by their names."""

    __slots__ = ("begun", "done")

    def __init__(self) -> None:
        self.begun: dict[str, None] = {}
        self.done: dict[str, None] = {}


class BreadthFirst(Executor[C], Generic[C]):
    """graphql-core's executor with what is below the root fields executed level by level.

    `plans` are those of the document that is executed, for whoever keeps documents; `progress` is for whoever may break it off.
    """

    def __init__(self, *arguments: Any, plans: Plans | None = None, progress: Progress | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plans, self._progress = plans or Plans(), progress

    @classmethod
    def build(
        cls,
        schema: GraphQLSchema,
        document: DocumentNode,
        root_value: Any = None,
        context_value: Any = None,
        raw_variable_values: dict[str, Any] | None = None,
        operation_name: str | None = None,
        *arguments: Any,
        plans: Plans | None = None,
        **named: Any,
    ) -> list[GraphQLError] | Executor[Any]:
        """An executor for an operation of the document, or why there is none.

        What graphql-core has found out about the operation is kept with the plans; what it says of values is its own.
        """
        operation, values = plans.operation(operation_name) if plans else None, None
        if operation and arguments == _USUAL:
            values = operation.values(raw_variable_values or {})
        if operation is None or values is None:
            given = (schema, document, root_value, context_value, raw_variable_values, operation_name, *arguments)
            built = super().build(*given, plans=plans, **named)
            if plans and not isinstance(built, list):
                plans.keep_operation(operation_name, built)
            return built
        parts, resolvers = (operation.fragment_definitions, operation.fragments), (default_field_resolver, default_type_resolver)
        told = (root_value, context_value, operation.node, values)
        return cls(schema, *parts, *told, *resolvers, default_field_resolver, plans=plans, **named)

    def complete_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: C | None,
    ) -> Any:
        """Complete what a root field's resolver gave."""
        if self._progress is not None:
            self._progress.done[str(path.key)] = None
        arguments = return_type, field_details_list, info, path, result, position_context
        if result is None or not is_composite_type(get_named_type(return_type)):
            return super().complete_value(*arguments)
        if self.middleware_manager is not None or self.abort_signal is not None:
            return self._reference().complete_value(*arguments)
        try:
            steps = self._completed(self._plan(info.parent_type, path, field_details_list), path, result)
            waits_for = steps.send(None)
        except StopIteration as end:
            return end.value
        except Exception as error:
            log.debug("completed by the reference executor: %s", error, exc_info=True)
            return self._reference().complete_value(*arguments)
        return self._rest(steps, waits_for, lambda: self._reference().complete_value(*arguments))

    def _reference(self) -> Executor[C]:
        reference = copy(self)
        reference.__class__ = Reference  # type: ignore[assignment]
        return reference

    def build_resolve_info(
        self, field_def: GraphQLField, field_nodes: list[FieldNode], parent_type: GraphQLObjectType, path: Path
    ) -> GraphQLResolveInfo[Any]:
        """What a root field's resolver is told."""
        if self._progress is not None:
            self._progress.begun[str(path.key)] = None
        told = super().build_resolve_info(field_def, field_nodes, parent_type, path)
        if is_leaf_type(get_named_type(field_def.type)):
            return told
        try:
            return info_of(self, self._plan(parent_type, path, [FieldDetails(node, None) for node in field_nodes]), path)
        except Exception as error:
            log.debug("a root field without a plan: %s", error, exc_info=True)
            return told

    def _plan(self, parent: GraphQLObjectType, path: Path, details: list[FieldDetails]) -> Field:
        return self._plans.root_field(self, str(path.key), parent, details)

    async def _rest(self, steps: Any, waits_for: Any, otherwise: Callable[[], Any]) -> Any:
        try:
            return await cast("Awaitable[Any]", rest_of(steps, waits_for))
        except Exception as error:
            log.debug("completed by the reference executor: %s", error, exc_info=True)
        completed = otherwise()
        return await completed if self.is_awaitable(completed) else completed

    async def _completed(self, field: Field, path: Path, result: Any) -> Any:
        root = Outcome(self, field, path, [result])
        levels: list[list[Part]] = [root.below]
        while levels[-1]:
            levels.append(await self._below(levels[-1]))
        for level in reversed(levels):
            for part in level:
                part.assemble()
        return root.values()[0]

    async def _below(self, level: "Sequence[Part]") -> "list[Part]":
        """Resolve the fields of a level, all of them together, and return the next one."""
        begun: list[Begun] = []
        try:
            for part in level:
                part.resolve(begun)
            await finish(begun)
        finally:
            close(begun)
        return [below for part in level for below in part.complete()]


class Reference(Executor[C], Generic[C]):
    """graphql-core's executor, which takes what is complete already as it is."""

    def complete_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: C | None,
    ) -> Any:
        """Complete a value; JSON that was written from the selection is complete."""
        if type(result) is Fragment:
            return orjson.loads(orjson.dumps(result))
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)


class Part:
    """Objects of one type under one field, on their way to become what the client gets."""

    __slots__ = ("_executor", "_outcomes", "_path", "_resolved", "_selection", "objects", "results")

    def __init__(self, executor: BreadthFirst[Any], selection: Selection, path: Path, objects: Column) -> None:
        self._executor = executor
        self._selection = selection
        self._path = path
        self.objects = objects
        self.results: Sequence[dict[str, Any]] = ()
        self._resolved: list[list[Any]] = []
        self._outcomes: list[Outcome] = []

    def resolve(self, begun: list[Begun]) -> None:
        """Begin to resolve each field, for all objects."""
        executor, path, objects, type_name = self._executor, self._path, self.objects, self._selection.type.name
        for field in self._selection.fields:
            below = Path(path, field.name, type_name)
            values = field.values_of(executor, below, objects)
            resolved = [field, below, values]
            self._resolved.append(resolved)
            # All values at once stand in for themselves until they are there. Attributes are not awaited: see `unwrapped`.
            if not field.is_attribute:
                begin(values if isinstance(values, list) else resolved, begun)

    def complete(self) -> "Sequence[Part]":
        """Complete the values of each field as far as they can be without those below; returns the parts below."""
        self._outcomes = [Outcome(self._executor, *one) for one in self._resolved]
        return [part for outcome in self._outcomes for part in outcome.below]

    def assemble(self) -> None:
        """Make the results, once those below are made."""
        names, columns = self._selection.names, [outcome.values() for outcome in self._outcomes]
        rows = zip(*columns, strict=True) if columns else ((),) * len(self.objects)
        # Names and columns are of the same fields: to check that for each row takes a tenth of all the time.
        self.results = [dict(zip(names, row)) for row in rows]  # noqa: B905


class Outcome:
    """The values of one field for many parents: leaves complete, objects gone into parts by type."""

    __slots__ = ("_parts", "_restore", "_values")

    _restore: Restore

    def __init__(self, executor: BreadthFirst[Any], field: Field, path: Path, values: Column) -> None:
        self._parts: list[tuple[Part, Sequence[int]]] = []
        around = field.wrapping
        if field.is_leaf and around.items is None and unchanged(field.named_type, values, nullable=around.is_nullable):
            self._values, self._restore = values, as_is
            return
        self._values, self._restore = unwrapped(values, around)
        if self._values and field.is_leaf:
            self._values = leaves(field.named_type, self._values)
        elif self._values and kinds_of(self._values) != {Fragment}:
            groups = field.by_type(executor, path, self._values)
            self._parts = [
                (Part(executor, field.selection(executor, type_), path, [self._values[index] for index in indexes]), indexes)
                for type_, indexes in groups.items()
            ]

    @property
    def below(self) -> list[Part]:
        """What has to be assembled before."""
        return [part for part, _ in self._parts]

    def values(self) -> Column:
        """One for each parent, once those below are assembled."""
        made = self._values
        if len(self._parts) == 1:
            made = self._parts[0][0].results
        elif self._parts:
            made = list(self._values)
            for part, indexes in self._parts:
                for index, result in zip(indexes, part.results, strict=True):
                    made[index] = result
        return self._restore(made)
