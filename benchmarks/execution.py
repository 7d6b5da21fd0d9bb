"""The executor alone: the same page of products by graphql-core's and by ours, in process with data in memory."""

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Concatenate, ParamSpec, TypeVar

import uvloop
from graphql import DocumentNode, ExecutionResult, execute, parse, validate
from graphql.execution import Executor

from benchmarks.report import Cell, Table
from benchmarks.stage import Sizes, Stage, stage
from benchmarks.works import Facts, Storefront, facts
from storefront.core.db.database import Database
from storefront.core.encryption import Vault, generate_key
from storefront.execution.executor import BreadthFirstExecutor
from storefront.execution.plan import DocumentPlans
from storefront.feed.hub import Hub
from storefront.feed.pubsub import PubSub
from storefront.graph.context import Context, Feed
from storefront.queries.spelling import SpellingCorrector
from storefront.schema import schema

# The required factor of CPU below graphql-core's, by number of products.
LEAST = {20: 8.0, 100: 12.0}
SECONDS = 1.0

P = ParamSpec("P")
K = TypeVar("K")
V = TypeVar("V")

Edge = Callable[..., Awaitable[Sequence[Any]]]


@dataclass(slots=True)
class Memory:
    """What edges gave when they were asked before, by edge, arguments and key."""

    known: dict[Any, Any] = field(default_factory=dict)
    edges: dict[tuple[Edge, bool], Edge] = field(default_factory=dict)

    def of(self, edge: Edge, recording: bool) -> Edge:
        """The edge as something that remembers, or that only repeats."""
        if (edge, recording) not in self.edges:
            self.edges[edge, recording] = self._learning(edge) if recording else self._repeating(edge)
        return self.edges[edge, recording]

    def _learning(self, edge: Edge) -> Edge:
        async def load(context: Context, keys: Sequence[Any], *args: Any, **named: Any) -> Sequence[Any]:
            found = await edge(context, keys, *args, **named)
            self.known |= {(edge, args, tuple(named.items()), key): one for key, one in zip(keys, found, strict=True)}
            return found

        return load

    def _repeating(self, edge: Edge) -> Edge:
        async def load(_: Context, keys: Sequence[Any], *args: Any, **named: Any) -> Sequence[Any]:
            asked = edge, args, tuple(named.items())
            return [self.known[*asked, key] for key in keys]

        return load


class AtHand(Context):
    """A context whose loaders return data in memory. They batch as usual."""

    memory: Memory
    recording: bool

    def load_many(
        self,
        load: Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]],
        keys: Sequence[K],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Awaitable[list[V]]:
        from_memory: Callable[Concatenate[Context, Sequence[K], P], Awaitable[Sequence[V]]]
        from_memory = self.memory.of(load, self.recording)
        return super().load_many(from_memory, keys, *args, **kwargs)


@dataclass(frozen=True, slots=True)
class Setting:
    """What an execution needs besides its document."""

    database: Database
    memory: Memory

    def context(self, *, recording: bool = False) -> Context:
        """A fresh context, as every request has one."""
        hub = Hub(self.database, 1)
        no_files: Any = None
        found = AtHand(self.database, SpellingCorrector(), Vault([_KEY]), Feed(hub, PubSub("memory://", hub.notify)), no_files)
        found.memory, found.recording = self.memory, recording
        return found


_KEY = generate_key()


def compare(rounds: int) -> Iterator[Table]:
    """CPU per execution by either executor, and what parsing and validating would add where nothing is kept."""
    with stage(Sizes(20_000, 1_000_000, one_store=False)) as found:
        yield uvloop.run(_compared(found, rounds))


async def _compared(set_up: Stage, rounds: int) -> Table:
    # The URL of an image is not written by the database: such a page is made of rows, by the executor.
    query = " ".join(Storefront.documents["W1"].split()).replace("nodes { ", "nodes { featuredImage { url } ", 1)
    rows = list[list[Cell]]()
    known: Facts = facts(set_up)
    document = parse(query)
    async with Database(set_up.url, size=2) as database:
        for first, least in LEAST.items():
            setting, variables = Setting(database, Memory()), {"store": known.store, "first": first}
            core, ours = ({"executor_class": Executor}, _ours(document))
            # Both, as either may ask an edge for other columns than the other.
            expected, found = [await _run(document, variables, setting.context(recording=True), how) for how in (core, ours)]
            if expected.errors or found != expected:
                raise RuntimeError(f"The executors differ for {first} products: {expected.errors or found.errors}")
            costs: dict[str, list[float]] = {"core": [], "ours": []}
            for _ in range(rounds):
                for name, how in (("core", core), ("ours", ours)):
                    costs[name].append(await _cost(document, variables, setting, how))
            ratio = median(costs["core"]) / median(costs["ours"])
            mark = f"{'✓' if ratio >= least else '✗'} {ratio:.1f}× less (≥ {least:.0f}×)"
            rows.append([f"{first} products", median(costs["core"]), median(costs["ours"]), mark])
    rows.append(["parse and validate, where the document is not kept", *[_prepared(query)] * 2, ""])
    columns = "what", "graphql-core, CPU ms", "ours, CPU ms", "ratio"
    note = (
        "W1's document over the real schema with `featuredImage`, so that it is read as rows: every product with up to 5 "
        "variants and 3 reviews. Edges answer from memory through their loaders; results are compared first. The document is "
        "parsed, validated and planned before."
    )
    return Table("execution", "The executor alone", columns, rows, note)


def _ours(document: DocumentNode) -> Mapping[str, Any]:
    """How our server has a document executed."""
    return {"executor_class": BreadthFirstExecutor, "plans": DocumentPlans(document)}


async def _run(document: DocumentNode, variables: dict[str, Any], context: Context, how: Mapping[str, Any]) -> ExecutionResult:
    result = execute(schema._schema, document, context_value=context, variable_values=variables, **how)
    return result if isinstance(result, ExecutionResult) else await result


async def _cost(document: DocumentNode, variables: dict[str, Any], setting: Setting, how: Mapping[str, Any]) -> float:
    """Milliseconds of this process' CPU per execution."""
    contexts = [setting.context() for _ in range(5)]
    for context in contexts:
        await _run(document, variables, context, how)
    times, began = 0, time.process_time()
    while time.process_time() - began < SECONDS:
        await _run(document, variables, setting.context(), how)
        times += 1
    return 1000 * (time.process_time() - began) / times


def _prepared(query: str) -> float:
    times, began = 0, time.process_time()
    while time.process_time() - began < SECONDS / 2:
        validate(schema._schema, parse(query))
        times += 1
    return 1000 * (time.process_time() - began) / times
