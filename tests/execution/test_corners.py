"""Edge cases of values and resolvers: results match graphql-core, and no task or coroutine leaks."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
from graphql import (
    ExecutionResult,
    GraphQLEnumType,
    GraphQLEnumValue,
    GraphQLError,
    GraphQLField,
    GraphQLList,
    GraphQLObjectType,
    GraphQLSchema,
    Undefined,
    build_schema,
    execute,
    parse,
)
from graphql.execution import Executor

from storefront.execution.executor import BreadthFirstExecutor
from storefront.execution.plan import MAX_PLANS, DocumentPlans

# What is to be awaited inside of a value may be the parent's own, which graphql-core is handed after: it is not closed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine 'later' was never awaited:RuntimeWarning",
    "ignore:Exception ignored in. <coroutine object later:pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """What is left of awaitables is found in the test that left it."""
    yield
    gc.collect()


async def run(schema: GraphQLSchema, query: str, root: Any = None, plans: DocumentPlans | None = None, **options: Any) -> Any:
    """What is answered: by graphql-core without plans."""
    how: dict[str, Any] = (
        {"executor_class": Executor} if plans is None else {"executor_class": BreadthFirstExecutor, "plans": plans}
    )
    result = execute(schema, parse(query), root_value=root, **how, **options)
    return received(result if isinstance(result, ExecutionResult) else await result)


def received(result: ExecutionResult) -> Any:
    return repr(result.data), [error.formatted for error in result.errors or ()]


async def same(schema: GraphQLSchema, query: str, make: Callable[[], Any], **options: Any) -> Any:
    """Both executors' answer, over a root value of its own each."""
    expected = await run(schema, query, make(), **options)
    assert await run(schema, query, make(), DocumentPlans(parse(query)), **options) == expected
    return expected


async def later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def stream() -> Any:
    yield 1


def future(value: Any) -> "asyncio.Future[Any]":
    made = asyncio.get_running_loop().create_future()
    made.set_result(value)
    return made


def as_is(value: Any) -> Any:
    return value


class Odd(list[Any]):
    """A list of a class of its own."""


TEXTS: list[Any] = [1, True, 1.5, "", [], {}, object]

CORNERS: list[tuple[str, Callable[[], Any]]] = [
    ("[[Int]]", lambda: [[1, None], None, [], [2]]),
    ("[[Int!]!]", lambda: [[1], [2, None]]),
    ("[[Int!]]!", lambda: [[1], [2, None]]),
    ("[[Int]!]", lambda: [[1], None]),
    ("[[[Int]]]", lambda: [[[None, 1], None], []]),
    ("[Int]", lambda: (number for number in (1, None, 3))),
    ("[String!]", {"a": 1, "b": 2}.keys),
    ("[Int!]", {"a": 1, "b": 2}.values),
    ("[Int]", lambda: range(3)),
    ("[Int]", lambda: Odd([1, None])),
    ("[Int]", lambda: {"a": 1}),
    ("[String]", lambda: "text"),
    ("[Int]", lambda: b"bytes"),
    ("[Int]", lambda: 7),
    ("[Int]", stream),
    ("[Int]", lambda: [1, later(2), 3]),
    ("[Int!]", lambda: [1, later(None)]),
    ("[Int]", lambda: [future(1), future(None)]),
    ("[Int]", lambda: [1, ValueError("in a list"), 3]),
    ("[Int!]", lambda: [1, GraphQLError("in a list")]),
    ("Int", lambda: ValueError("a value")),
    ("Int", lambda: Undefined),
    ("Int!", lambda: Undefined),
    ("Int", lambda: later(5)),
    ("Int", lambda: later(later(5))),
    ("Int", lambda: future(5)),
    *(("Int", partial(as_is, value)) for value in (2**31 - 1, 2**31, -(2**31), -(2**31) - 1, True, 3.0, 3.5, "5", "x", "")),
    *(("Float", partial(as_is, value)) for value in (float("nan"), float("inf"), 1, 10**400, True, "1.5", "x", 0.1)),
    *(("String", partial(as_is, value)) for value in TEXTS),
    *(("ID", partial(as_is, value)) for value in (1, True, 1.5, "a", None)),
    *(("Boolean", partial(as_is, value)) for value in (1, 0, "true", 2.0, float("nan"))),
    ("[Float]", lambda: [1.5, float("nan"), 2]),
    ("[Int]", lambda: [1, True, 2**40]),
]


@pytest.mark.parametrize("is_later", [False, True], ids=["now", "later"])
@pytest.mark.parametrize("number", range(len(CORNERS)))
async def test_odd_values_are_completed_as_by_graphql_core(number: int, *, is_later: bool) -> None:
    type_, make = CORNERS[number]
    schema = build_schema(f"type Query {{ things: [Thing] }} type Thing {{ value: {type_} name: String }}")
    kinds = {"value": lambda _: later(make()) if is_later else make(), "name": lambda _: "a name"}
    await same(schema, "{ things { name value again: value } }", lambda: {"things": [kinds, None, kinds]})


async def test_equal_enum_values_of_different_types_differ() -> None:
    values = {"ONE": GraphQLEnumValue(1), "TWO": GraphQLEnumValue("two"), "LIST": GraphQLEnumValue((1, 2))}
    enum = GraphQLEnumType("Number", values)
    thing = GraphQLObjectType("Thing", {"number": GraphQLField(enum)})
    schema = GraphQLSchema(GraphQLObjectType("Query", {"things": GraphQLField(GraphQLList(thing))}))
    for given in ([1, True, 1.0], [True, 1], ["two", "TWO", "three"], [(1, 2), (1, 2)], [[1, 2], 1, []], [None, 1]):
        await same(schema, "{ things { number } }", partial(as_is, {"things": [{"number": one} for one in given]}))


# ----------------------------------------------------------------------------------------------- resolvers

WAITING = build_schema("type Query { things: [Thing!] other: [Thing] } type Thing { id: Int quick: Int slow: Int! failing: Int }")


class Thing:
    """Something whose fields have to be waited for, for different things and several times."""

    closed = 0

    def __init__(self, id_: int, gate: asyncio.Event | None = None) -> None:
        self.id, self.gate = id_, gate

    async def quick(self, _: Any) -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self.id

    async def slow(self, _: Any) -> int:
        try:
            await asyncio.sleep(0.001 * self.id)
            if self.gate:
                await self.gate.wait()
            return self.id
        finally:
            Thing.closed += 1

    async def failing(self, _: Any) -> int:
        await asyncio.sleep(0)
        raise ValueError(f"thing {self.id}")


async def test_any_awaitable_is_awaited() -> None:
    gate = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, gate.set)
    expected = await same(WAITING, "{ things { id quick slow } other { quick } }", lambda: everything(gate))
    assert expected[1] == []


def everything(gate: asyncio.Event | None = None) -> dict[str, list[Thing]]:
    things = [Thing(number, gate) for number in range(4)]
    return {"things": things, "other": things}


async def test_failing_resolver_does_not_affect_waiting_ones() -> None:
    before = asyncio.all_tasks()
    expected = await same(WAITING, "{ things { slow failing quick } other { id } }", everything)
    assert [error["path"] for error in expected[1]] == [["things", number, "failing"] for number in range(4)]
    await nothing_left(before)


async def nothing_left(before: set[Any]) -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)
    gc.collect()
    assert asyncio.all_tasks() - before == set()


async def test_cancelled_operation_leaves_shared_loads_running() -> None:
    before, shared = asyncio.all_tasks(), asyncio.get_running_loop().create_future()

    class Waiting(Thing):
        async def slow(self, _: Any) -> int:
            try:
                return int(await shared)
            finally:
                Thing.closed += 1

    def root() -> dict[str, Any]:
        return {"things": [Waiting(1), Waiting(2)]}

    query, Thing.closed = "{ things { slow quick } }", 0
    given_up = asyncio.create_task(run(WAITING, query, root(), DocumentPlans(parse(query))))
    patient = asyncio.create_task(run(WAITING, query, root(), DocumentPlans(parse(query))))
    await asyncio.sleep(0.01)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert Thing.closed == 2
    assert not shared.cancelled()
    shared.set_result(7)
    assert await patient == (repr({"things": [{"slow": 7, "quick": 1}, {"slow": 7, "quick": 2}]}), [])
    await nothing_left(before)


# --------------------------------------------------------------------------------------------------- plans

NESTED = """
query Asked($a: Boolean!, $b: Boolean!, $c: Boolean = true, $d: Boolean!, $e: Boolean!) {
  things { ...Outer @include(if: $a) id @skip(if: $e) }
}
fragment Outer on Thing { quick ...Inner @skip(if: $b) ... @include(if: $d) { twice: id } }
fragment Inner on Thing { slow @include(if: $c) again: quick }
"""


async def test_condition_plans_are_separate_and_bounded() -> None:
    document = parse(NESTED)
    plans = DocumentPlans(document)
    for values in list(product((True, False), repeat=5)) * 2:
        variables = dict(zip("abcde", values, strict=True))
        answers = []
        for how in ({"executor_class": Executor}, {"executor_class": BreadthFirstExecutor, "plans": plans}):
            result = execute(WAITING, document, root_value=everything(), variable_values=variables, **how)
            answers.append(received(result if isinstance(result, ExecutionResult) else await result))
        assert answers[0] == answers[1]
    assert len(plans._root_fields) == MAX_PLANS == 16


async def test_operations_have_separate_plans() -> None:
    document = parse("query A { things { id } } query B { things { quick } } query C { things: other { slow } }")
    plans = DocumentPlans(document)
    for name in "ABCABC":
        answers = []
        for how in ({"executor_class": Executor}, {"executor_class": BreadthFirstExecutor, "plans": plans}):
            result = execute(WAITING, document, root_value=everything(), operation_name=name, **how)
            answers.append(received(result if isinstance(result, ExecutionResult) else await result))
        assert answers[0] == answers[1]
