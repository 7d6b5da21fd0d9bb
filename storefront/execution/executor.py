"""Breadth-first executor: resolves level by level, each field once for all parents, so that each edge takes one load.

What it does not support, and every error, falls back to graphql-core's executor (the reference), which completes the root field
again from the value that its resolver returned. So errors, their paths and null propagation are those of graphql-core, and no
root resolver runs twice.
"""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from enum import StrEnum, auto
from typing import Any, Generic, Protocol, TypeVar, cast

import orjson
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLField,
    GraphQLLeafType,
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
from graphql.pyutils import AwaitableOrValue, Path
from orjson import Fragment

from storefront.core.result_budget import ResultBudget, ResultBudgets
from storefront.execution.completion import (
    Column,
    Rewrap,
    get_classes,
    is_pass_through,
    return_unchanged,
    serialize_leaves,
    unwrap,
)
from storefront.execution.coroutines import PendingCoroutine, cancel_all, finish_all, resume_coroutine, start_awaitables
from storefront.execution.document_nodes import omit_variable_definitions
from storefront.execution.guards import get_guard
from storefront.execution.plan import DocumentPlans, FieldPlan, SelectionPlan
from storefront.execution.resolve_info import resolve_info
from storefront.execution.strawberry_adapter import EXECUTE_DEFAULT_ARGUMENTS, FieldDetails, GroupedFieldSet

log = logging.getLogger("storefront.execution")

C = TypeVar("C")

# Values that are completed before the event loop runs other tasks: a few milliseconds. To build an object takes as long as
# to complete some of its fields.
MAX_VALUES_PER_TURN, ASSEMBLED_FIELDS = 5_000, 3

_UNLIMITED = ResultBudgets(sys.maxsize, sys.maxsize, sys.maxsize)


class FieldState(StrEnum):
    """How far a root field of a mutation had come at the deadline: whether its changes are committed, or that this is unknown."""

    COMMITTED = auto()
    INTERRUPTED = auto()
    NOT_STARTED = auto()


class MutationDeadline(Protocol):
    """The deadline of a mutation. It cancels the task that executes it."""

    def absorb_cancellation(self) -> bool:
        """Whether the deadline cancelled the task. If so, the task is uncancelled."""

    def create_error(self, state: FieldState) -> Exception:
        """The error of a root field that has no result at the deadline."""


class BreadthFirstExecutor(Executor[C], Generic[C]):
    """graphql-core's executor, with everything below the root fields executed breadth-first.

    `plans` are the cached plans of the document. At the `deadline` of a mutation, the root fields without a result have an error.
    Beyond the `budget` a root field fails as soon as its rows are read, or its values are known.
    """

    def __init__(
        self,
        *arguments: Any,
        plans: DocumentPlans | None = None,
        deadline: MutationDeadline | None = None,
        budget: ResultBudget | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._plans, self._deadline = plans or DocumentPlans(), deadline
        self.budget = budget or ResultBudget(_UNLIMITED, sys.maxsize)
        # Response names of root fields whose resolvers have returned.
        self._resolved_names: set[str] = set()

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
        plans: DocumentPlans | None = None,
        **named: Any,
    ) -> list[GraphQLError] | Executor[Any]:
        """Create an executor for an operation of the document. Returns a list of errors if that fails.

        What graphql-core computes for the operation is cached with the plans. Invalid variables are always reported by it.
        """
        build_arguments = (schema, document, root_value, context_value, raw_variable_values, operation_name, *arguments)
        if plans is None or arguments != EXECUTE_DEFAULT_ARGUMENTS:
            return super().build(*build_arguments, plans=plans, **named)
        operation = plans.get_operation(operation_name)
        if operation is None:
            # graphql-core coerces variables several times as slowly: it only finds the operation and its fragments.
            executor = super().build(schema, omit_variable_definitions(document), None, None, None, operation_name, *arguments)
            if isinstance(executor, list):
                return executor
            operation = plans.store_operation(operation_name, document, executor)
            _break_cycles(executor)
        variable_values = operation.coerce_variables(raw_variable_values or {})
        if variable_values is None:
            return super().build(*build_arguments, plans=plans, **named)
        fragments, resolvers = (
            (operation.fragment_definitions, operation.fragments),
            (default_field_resolver, default_type_resolver),
        )
        operation_arguments = (root_value, context_value, operation.node, variable_values)
        return cls(schema, *fragments, *operation_arguments, *resolvers, default_field_resolver, plans=plans, **named)

    def release(self) -> None:
        """Free what the execution holds, such as its context. Called when it has ended."""
        _break_cycles(self)

    def execute_fields_serially(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: GroupedFieldSet,
        position_context: C | None,
    ) -> AwaitableOrValue[dict[str, Any]]:
        """Execute the root fields of a mutation in order."""
        arguments = parent_type, source_value, path, grouped_field_set, position_context
        if self._deadline is None:
            return super().execute_fields_serially(*arguments)
        return self._execute_until_deadline(self._deadline, *arguments)

    async def _execute_until_deadline(
        self,
        deadline: MutationDeadline,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: GroupedFieldSet,
        position_context: C | None,
    ) -> dict[str, Any]:
        results: dict[str, Any] = {}
        state: FieldState | None = None
        for name, details in grouped_field_set.items():
            field_path, field_name = Path(path, name, parent_type.name), details[0].node.name.value
            if state is None or field_name == "__typename":
                try:
                    result = self.execute_field(parent_type, source_value, details, field_path, position_context)
                    results[name] = await result if self.is_awaitable(result) else result
                    continue
                except asyncio.CancelledError:
                    if not deadline.absorb_cancellation():
                        raise
                state = FieldState.COMMITTED if name in self._resolved_names else FieldState.INTERRUPTED
            else:
                state = FieldState.NOT_STARTED
            self.handle_field_error(deadline.create_error(state), parent_type.fields[field_name].type, details, field_path)
            results[name] = None
        return results

    def complete_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: C | None,
    ) -> Any:
        """Complete the value that a root field's resolver returned."""
        self._resolved_names.add(str(path.key))
        arguments = return_type, field_details_list, info, path, result, position_context
        if result is None or not is_composite_type(get_named_type(return_type)):
            return super().complete_value(*arguments)
        if self.middleware_manager is not None or self.abort_signal is not None:
            return self._make_reference_executor().complete_value(*arguments)
        try:
            coro = self._complete_breadth_first(self._get_field_plan(info.parent_type, path, field_details_list), path, result)
            awaited = coro.send(None)
        except StopIteration as end:
            return end.value
        except Exception as error:
            self._check_fallback(error)
            return self._make_reference_executor().complete_value(*arguments)
        return self._resume_or_fall_back(coro, awaited, lambda: self._make_reference_executor().complete_value(*arguments))

    def execute_field(
        self,
        parent_type: GraphQLObjectType,
        source: Any,
        field_details_list: list[FieldDetails],
        path: Path,
        position_context: C | None,
    ) -> Any:
        """Execute a root field. Its guard is called before its arguments are coerced."""
        definition = self.schema.get_field(parent_type, field_details_list[0].node.name.value)
        guard = get_guard(definition)
        if guard is not None and definition is not None:
            try:
                guard(self.context_value)
            except Exception as error:
                self.handle_field_error(error, definition.type, field_details_list, path)
                return None
        return super().execute_field(parent_type, source, field_details_list, path, position_context)

    def _make_reference_executor(self) -> Executor[C]:
        executor = copy(self)
        executor.__class__ = ReferenceExecutor  # type: ignore[assignment]
        return executor

    def build_resolve_info(
        self, field_def: GraphQLField, field_nodes: list[FieldNode], parent_type: GraphQLObjectType, path: Path
    ) -> GraphQLResolveInfo[Any]:
        """The `info` of a root field's resolver, with the field's plan for look-ahead."""
        info = super().build_resolve_info(field_def, field_nodes, parent_type, path)
        if is_leaf_type(get_named_type(field_def.type)):
            return info
        try:
            return resolve_info(
                self, self._get_field_plan(parent_type, path, [FieldDetails(node, None) for node in field_nodes]), path
            )
        except Exception as error:
            log.debug("no plan for a root field, so no look-ahead: %s", error, exc_info=True)
            return info

    def _get_field_plan(self, parent: GraphQLObjectType, path: Path, details: list[FieldDetails]) -> FieldPlan:
        return self._plans.get_root_field(self, str(path.key), parent, details)

    async def _resume_or_fall_back(self, coro: Any, awaited: Any, fall_back: Callable[[], Any]) -> Any:
        try:
            return await cast("Awaitable[Any]", resume_coroutine(coro, awaited))
        except Exception as error:
            self._check_fallback(error)
        completed = fall_back()
        return await completed if self.is_awaitable(completed) else completed

    def _check_fallback(self, error: Exception) -> None:
        """Raise the error if the budget is exceeded: the reference executor would fail as well, once for each object."""
        if self.budget.error is not None:
            raise error
        log.debug("completed by the reference executor: %s", error, exc_info=True)

    async def _complete_breadth_first(self, field_plan: FieldPlan, path: Path, result: Any) -> Any:
        root_results = FieldResults(self, field_plan, path, [result])
        levels: list[list[ObjectBatch]] = [root_results.child_batches]
        while levels[-1]:
            levels.append(await self._resolve_level(levels[-1]))
        turns = _Turns()
        for level in reversed(levels):
            for batch in level:
                batch.assemble_results()
                await turns.count(len(batch.objects) * ASSEMBLED_FIELDS)
        return root_results.collect_values()[0]

    async def _resolve_level(self, level: "Sequence[ObjectBatch]") -> "list[ObjectBatch]":
        """Resolve all fields of a level concurrently, and return the next level."""
        pending: list[PendingCoroutine] = []
        turns = _Turns()
        try:
            for batch in level:
                batch.resolve_fields(pending)
            await finish_all(pending)
            await turns.count(sum(len(batch.objects) * len(batch.resolved_fields) for batch in level))
        finally:
            cancel_all(pending)
        for batch in level:
            for resolved in batch.resolved_fields:
                batch.complete_field(resolved)
                await turns.count(len(batch.objects))
        return [child_batch for batch in level for child_batch in batch.child_batches]


def _break_cycles(executor: Any) -> None:
    # Its own bound methods, and errors whose tracebacks have it. Only the garbage collector would free these cycles, with the
    # document and the context.
    executor.async_helpers = None
    executor.collected_errors = type(executor.collected_errors)()


class ReferenceExecutor(Executor[C], Generic[C]):
    """graphql-core's executor, which also accepts JSON that is complete already, and keeps to a budget."""

    budget: ResultBudget

    def complete_value(
        self,
        return_type: GraphQLOutputType,
        field_details_list: list[FieldDetails],
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: C | None,
    ) -> Any:
        """Complete a value. An orjson Fragment was written for this selection and is complete; it is parsed."""
        budget: ResultBudget = self.budget
        if budget.error is not None:
            # The response is refused as a whole.
            return None
        if type(result) is Fragment:
            return orjson.loads(orjson.dumps(result))
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)

    # graphql-core has a static method, which it calls as a method.
    def complete_leaf_value(self, return_type: GraphQLLeafType, result: Any) -> Any:  # type: ignore[override]
        """Complete a leaf value."""
        value = super().complete_leaf_value(return_type, result)
        self.budget.charge_values([value])
        return value


class _Turns:
    """Counts values that are completed in one piece, and lets the event loop run other tasks in between."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    async def count(self, values: int) -> None:
        """Count values; other tasks run if there are many since they did."""
        self._count += values
        if self._count > MAX_VALUES_PER_TURN:
            self._count = 0
            await asyncio.sleep(0)


class ObjectBatch:
    """The objects of one type under one field of a level, and their results."""

    __slots__ = ("_executor", "_field_results", "_path", "_selection", "objects", "resolved_fields", "results")

    def __init__(self, executor: BreadthFirstExecutor[Any], selection: SelectionPlan, path: Path, objects: Column) -> None:
        self._executor = executor
        self._selection = selection
        self._path = path
        self.objects = objects
        self.results: Sequence[dict[str, Any]] = ()
        self.resolved_fields: list[list[Any]] = []
        self._field_results: list[FieldResults] = []

    def resolve_fields(self, pending: list[PendingCoroutine]) -> None:
        """Start to resolve each field for all objects. Coroutines that have to wait are added to `pending`."""
        executor, path, objects, type_name = self._executor, self._path, self.objects, self._selection.type.name
        for field in self._selection.fields:
            field_path = Path(path, field.name, type_name)
            values = field.resolve_values(field, executor, field_path, objects)
            resolved = [field, field_path, values]
            self.resolved_fields.append(resolved)
            # A batch resolver returns one awaitable, which is replaced by the list of values. Attributes are not awaited:
            # `unwrap` raises Unsupported for awaitable ones.
            if not field.is_attribute:
                start_awaitables(values if isinstance(values, list) else resolved, pending)

    def complete_field(self, resolved: list[Any]) -> None:
        """Complete leaves, nulls and lists of a field."""
        self._field_results.append(FieldResults(self._executor, *resolved))

    @property
    def child_batches(self) -> "Sequence[ObjectBatch]":
        """The batches of child objects, once all fields are complete: the next level."""
        return [child_batch for field_results in self._field_results for child_batch in field_results.child_batches]

    def assemble_results(self) -> None:
        """Build one dictionary per object, once the child batches have been assembled."""
        names, columns = self._selection.response_names, [field_results.collect_values() for field_results in self._field_results]
        rows = zip(*columns, strict=True) if columns else ((),) * len(self.objects)
        # Names and columns have the same length by construction: checking it for each row takes a tenth of the execution time.
        self.results = [dict(zip(names, row)) for row in rows]  # noqa: B905


class FieldResults:
    """The values of one field for many parents: leaves are complete, objects are grouped into child batches by type."""

    __slots__ = ("_batches", "_rewrap", "_values")

    _rewrap: Rewrap

    def __init__(self, executor: BreadthFirstExecutor[Any], field: FieldPlan, path: Path, values: Column) -> None:
        self._batches: list[tuple[ObjectBatch, Sequence[int]]] = []
        wrapping = field.wrapping
        if (
            field.is_leaf
            and wrapping.items is None
            and is_pass_through(field.named_type, values, is_nullable=wrapping.is_nullable)
        ):
            self._values, self._rewrap = values, return_unchanged
            if field.is_long:
                executor.budget.charge_texts(values)
            return
        self._values, self._rewrap = unwrap(values, wrapping)
        if self._values and field.is_leaf:
            self._values = serialize_leaves(field.named_type, self._values)
            if field.is_long:
                executor.budget.charge_values(self._values)
        elif self._values and get_classes(self._values) != {Fragment}:
            indexes_by_type = field.group_by_type(executor, path, self._values)
            self._batches = [
                (
                    ObjectBatch(executor, field.get_selection(executor, type_), path, [self._values[index] for index in indexes]),
                    indexes,
                )
                for type_, indexes in indexes_by_type.items()
            ]

    @property
    def child_batches(self) -> list[ObjectBatch]:
        """The batches of child objects, to be assembled before `collect_values`."""
        return [batch for batch, _ in self._batches]

    def collect_values(self) -> Column:
        """One complete value per parent, once the child batches have been assembled."""
        values = self._values
        if len(self._batches) == 1:
            values = self._batches[0][0].results
        elif self._batches:
            values = list(self._values)
            for batch, indexes in self._batches:
                for index, result in zip(indexes, batch.results, strict=True):
                    values[index] = result
        return self._rewrap(values)
