"""`python -m benchmarks NAME`: runs a benchmark, prints its results and stores them in results/."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import typer

from benchmarks import (
    analytics,
    cached,
    documents,
    execution,
    facets,
    fanout,
    hostile,
    hostile_files,
    imports,
    lists,
    memory,
    pictures,
    relevance,
    standard,
    watching,
    webhooks,
)
from benchmarks.contest import CONNECTIONS, Effort
from benchmarks.reads import WORKS as READS
from benchmarks.report import Table, err, save
from benchmarks.stage import Sizes, Stage, stage
from benchmarks.works import WORKS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure the server. Results go to benchmarks/results; benchmarks/README.md says what they mean. "
    "The first run sets a database up under .storefront/bench (a minute or two), which later runs use again.",
    epilog="For example: python -m benchmarks standard --works W1,W6 --seconds 2",
)

Rounds = Annotated[int, typer.Option(min=1, max=50, help="How often each work has its turn; medians are shown.")]
Seconds = Annotated[float, typer.Option(min=0.5, max=60, help="How long a turn takes.")]
Works = Annotated[str, typer.Option(help=f"Which works: {', '.join(f'{name} {what}' for name, what in WORKS.items())}.")]
Connections = Annotated[str, typer.Option(help="Numbers of connections; CPU is counted at 16.")]
Products = Annotated[int, typer.Option(min=2_000, max=200_000, help="How many products the measured store has.")]
Events = Annotated[int, typer.Option(min=0, max=10_000_000, help="How many events popularity is counted from.")]

ALL_WORKS, ALL_CONNECTIONS = ",".join(WORKS), ",".join(map(str, CONNECTIONS))


@app.command("standard", rich_help_panel="Against ourselves")
def standard_(
    rounds: Rounds = 3, seconds: Seconds = 3.0, works: Works = ALL_WORKS, connections: Connections = ALL_CONNECTIONS
) -> None:
    """The standard operations W1 to W6: CPU, requests per second, latency, statements, memory."""
    _contest("standard", standard.alone, _effort(rounds, seconds, works, connections))


@app.command("peers")
def peers_(
    rounds: Rounds = 3, seconds: Seconds = 3.0, works: Works = ALL_WORKS, connections: Connections = ALL_CONNECTIONS
) -> None:
    """The standard operations on this server and four peers in turns, with the limits between them."""
    _contest("peers", standard.against_peers, _effort(rounds, seconds, works, connections))


@app.command("cached")
def cached_(rounds: Rounds = 3, seconds: Seconds = 3.0) -> None:
    """The same page from the response cache, executed, and on the two fastest peers; and the cost of a 304."""
    with stage(cached.SIZES) as found:
        _tell("cached", cached.measure(found, Effort(rounds, seconds)), {"products": cached.SIZES.products})


@app.command("execution")
def execution_(rounds: Rounds = 5) -> None:
    """Our executor against graphql-core's, in process with data in memory."""
    _tell("execution", execution.compare(rounds), {})


@app.command("watching")
def watching_(rounds: Rounds = 5) -> None:
    """The cost per request of request ids, slow-operation logs, metrics and traces."""
    _tell("watching", watching.measure(rounds), {})


@app.command("documents")
def documents_(count: Annotated[int, typer.Option(min=1_000, max=10_000_000, help="How many.")] = 100_000) -> None:
    """Server memory after many distinct documents."""
    with stage(Sizes(2_000, 0, one_store=False)) as found:
        _tell("documents", documents.grow(found, count), {})


@app.command("memory")
def memory_(
    minutes: Annotated[float, typer.Option(min=0.5, max=1_440, help="How long.")] = 30.0,
    warm_up: Annotated[float, typer.Option(min=0, max=60, help="Minutes that do not count.")] = 5.0,
    rate: Annotated[float, typer.Option(min=1, max=1_000, help="Requests a second.")] = 60.0,
) -> None:
    """Server memory over half an hour of mixed requests (leaks)."""
    with stage(Sizes(2_000, 20_000, one_store=False)) as found:
        _tell("memory", memory.measure(found, minutes, warm_up, rate), {"products": 2_000})


@app.command("hostile")
def hostile_(rounds: Rounds = 3, seconds: Seconds = 5.0) -> None:
    """The cost of hostile requests, and the latency of other clients meanwhile."""
    with stage(Sizes(2_000, 0, one_store=False)) as found:
        _tell("hostile", hostile.measure(found, rounds, seconds), {"products": 2_000})


@app.command("fanout")
def fanout_(
    rounds: Rounds = 3,
    listeners: Annotated[int, typer.Option(min=10, max=10_000, help="How many, on sockets of their own.")] = 1_000,
    changes: Annotated[int, typer.Option(min=10, max=10_000, help="How many each of them is told of.")] = 100,
) -> None:
    """Fan-out of the live feed, beside graphql-ws on Node over the same log."""
    with stage(Sizes(2_000, 0, one_store=False)) as found:
        crowd = fanout.Crowd(listeners, changes)
        _tell("fanout", fanout.compare(found, crowd, rounds), {"listeners": listeners, "changes": changes})


@app.command("lists")
def lists_(
    rounds: Rounds = 3,
    listeners: Annotated[int, typer.Option(min=100, max=1_000, help="How many, on sockets of their own.")] = 1_000,
    changes: Annotated[int, typer.Option(min=10, max=10_000, help="How many each of them receives.")] = 100,
) -> None:
    """Live lists: equal ones beside the live feed, and a thousand different ones of one store."""
    with stage(Sizes(2_000, 0, one_store=False)) as found:
        crowd = fanout.Crowd(listeners, changes)
        _tell("lists", lists.measure(found, crowd, rounds), {"listeners": listeners, "changes": changes})


@app.command("webhooks")
def webhooks_(
    rounds: Rounds = 3,
    messages: Annotated[int, typer.Option(min=100, max=100_000, help="How many are sent in a round.")] = 4_000,
) -> None:
    """The cost of a webhook delivery, and deliveries per second."""
    with stage(Sizes(2_000, 0, one_store=False)) as found:
        _tell("webhooks", webhooks.measure(found, rounds, messages), {"messages": messages})


@app.command("facets")
def facets_(rounds: Rounds = 20) -> None:
    """Facets of one big store by the index and in SQL: CPU of each request, and what the index takes."""
    with stage(Sizes()) as found:
        _tell("facets", facets.measure(found, rounds), {"products": Sizes().products})


@app.command("fairness")
def fairness_(
    changes: Annotated[int, typer.Option(min=20, max=2_000, help="How many changes of the other owner are timed.")] = 200,
) -> None:
    """Fairness: the delay of one owner's webhook while another owner has 40 failing ones."""
    with stage(Sizes(2_000, 0, one_store=False)) as found:
        _tell("webhooks", webhooks.measure_fairness(found, changes), {"changes": changes})


@app.command("analytics")
def analytics_(
    rounds: Rounds = 3,
    events: Annotated[str, typer.Option(help="How many events the reports are about.")] = "1000000,10000000",
) -> None:
    """Event ingestion beside one INSERT each, and analytics reports over many events. The first run takes half an hour."""
    sizes = [int(size) for size in events.split(",")]
    for table in analytics.measure(sizes, rounds):
        save("analytics", [table], {"events": max(sizes)})
        print(table.markdown())


@app.command("imports")
def imports_(rows: Annotated[int, typer.Option(min=3_000, max=2_000_000, help="Rows of the file.")] = 50_000) -> None:
    """Import and export of a product file by one worker: rows per second, CPU, memory."""
    _tell("imports", imports.measure(rows), {"rows": rows})


@app.command("hostile-files")
def hostile_files_(
    megabytes: Annotated[str, typer.Option(help="How large each file is.")] = "40,1000",
) -> None:
    """Imports of hostile product files by one worker: event loop stalls and memory."""
    _tell("hostile-files", hostile_files.measure([int(size) for size in megabytes.split(",")]), {})


@app.command("pictures")
def pictures_() -> None:
    """Image processing and renditions: CPU and memory, by format and size."""
    _tell("pictures", pictures.measure(), {})


@app.command("relevance")
def relevance_() -> None:
    """nDCG@10 of judged searches in many languages, beside websearch_to_tsquery and LIKE."""
    _tell("relevance", relevance.measure(), {})


def _effort(rounds: int, seconds: float, works: str, connections: str) -> Effort:
    chosen = [name.strip().upper() for name in works.split(",")]
    if unknown := [name for name in chosen if name not in WORKS]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(WORKS)}.", param_hint="--works")
    if not all(number.strip().isdigit() and 0 < int(number) <= 1_000 for number in connections.split(",")):
        raise typer.BadParameter("must be numbers from 1 to 1000, such as 1,16,64.", param_hint="--connections")
    return Effort(rounds, seconds, chosen, [int(number) for number in connections.split(",")])


def _contest(file: str, run: Callable[[Stage, Effort], Iterable[Table]], effort: Effort) -> None:
    with stage(standard.SIZES) as found:
        _tell(file, run(found, effort), {"products": standard.SIZES.products, "events": standard.SIZES.events})


def _tell(file: str, tables: Iterable[Table], sizes: dict[str, int]) -> None:
    for table in tables:
        save(file, [table], sizes)
        print(table.markdown())


def _of_one_store(name: str) -> Callable[[int, int], None]:
    def run(products: Products = 20_000, events: Events = 0) -> None:
        with stage(Sizes(products, events)) as found, err.status(name):
            _tell("reads", READS[name](found), {"products": products, "events": events})

    return run


def _every(products: Products = 20_000, events: Events = 0) -> None:
    """All benchmarks over one big store, one after the other."""
    names: Sequence[str] = list(READS)
    with stage(Sizes(products, events)) as found:
        for number, name in enumerate(names, 1):
            with err.status(f"{number}/{len(names)} {name}"):
                _tell("reads", READS[name](found), {"products": products, "events": events})


for name, work in READS.items():
    app.command(name, help=work.__doc__)(_of_one_store(name))
app.command("reads")(_every)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
