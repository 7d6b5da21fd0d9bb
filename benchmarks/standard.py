"""The standard operations, on this server alone or on it and the peers in turns."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks import peers
from benchmarks.contest import BUSY, Contestant, Effort, Outcome, compare
from benchmarks.plot import bars
from benchmarks.report import RESULTS, Cell, Table
from benchmarks.stage import Sizes, Stage
from benchmarks.works import SUBJECT, WORKS, Facts, Storefront, facts
from storefront.core.auth.tokens import Claims, sign_token
from storefront.core.settings import get_settings

SIZES = Sizes(20_000, 1_000_000, one_store=False)
US = "storefront"

# Limits of our server CPU per request, relative to that of the peers.
MOST = {
    "W1": {peers.STRAWBERRY: 1 / 18, peers.TRPC: 1 / 4, peers.POSTGRAPHILE: 1 / 1.7, peers.MERCURIUS: 1.2},
    "W6": {peers.STRAWBERRY: 1 / 20, peers.TRPC: 1 / 5, peers.POSTGRAPHILE: 1 / 1.5, peers.MERCURIUS: 1.0},
    "W2": {peers.STRAWBERRY: 1 / 10, peers.TRPC: 1.0, peers.POSTGRAPHILE: 1.0, peers.MERCURIUS: 1.2},
    "W3": {peers.STRAWBERRY: 1 / 10, peers.TRPC: 1.0, peers.POSTGRAPHILE: 1.0, peers.MERCURIUS: 1.2},
    "W5": {peers.STRAWBERRY: 1 / 2, peers.TRPC: 2.0, peers.POSTGRAPHILE: 3.0, peers.MERCURIUS: 4.0},
}
# The limit of Postgres CPU relative to the best peer, and the peer whose rate must be exceeded.
MOST_POSTGRES = {"W1": 1.0, "W6": 1.0, "W3": 0.5}
FASTER_THAN = {"W1": (peers.POSTGRAPHILE, peers.TRPC), "W6": (peers.POSTGRAPHILE, peers.TRPC, peers.MERCURIUS)}


def alone(stage: Stage, effort: Effort) -> Iterator[Table]:
    """Our server at the standard works."""
    with _us(stage, facts(stage)) as us:
        outcome = compare(stage, [us], effort)
    yield from _figures(outcome, [US], effort)
    values = {
        "server": [outcome.scores[US, work].of("server") for work in effort.works],
        "Postgres": [outcome.scores[US, work].of("postgres") for work in effort.works],
    }
    bars(RESULTS / "standard.svg", "CPU per request, ms (logarithmic)", _labels(effort.works), values)


def against_peers(stage: Stage, effort: Effort) -> Iterator[Table]:
    """Our server and the peers at the standard works."""
    with ExitStack() as stack:
        known = facts(stage)
        contestants = [stack.enter_context(_us(stage, known)), *stack.enter_context(peers.running(stage, known))]
        outcome = compare(stage, contestants, effort)
    names = [one.name for one in contestants]
    yield _must_hold(outcome, names[1:], effort.works, f"{peers.node_version()}, {stage.postgres_version()}")
    yield from _figures(outcome, names, effort)
    plotted = [work for work in effort.works if work != "W4"]
    values = {name: [outcome.scores[name, work].of("server") for work in plotted] for name in names}
    bars(RESULTS / "peers.svg", "Server CPU per request, ms (logarithmic)", _labels(plotted), values)


@contextmanager
def _us(stage: Stage, known: Facts) -> Iterator[Contestant]:
    def clean() -> None:
        gone = f"config_id = '{known.workshop}' AND title LIKE 'Bench product %'"
        changes = f"DELETE FROM changes WHERE product_id IN (SELECT id FROM products WHERE {gone})"
        stage.run(changes, f"DELETE FROM products WHERE {gone}")

    token = sign_token(Claims(SUBJECT), get_settings().load_signing_secret(), seconds=86_400)
    with stage.serving():
        yield Contestant(US, stage.port, stage.pid, Storefront(known, token), clean)


def _labels(works: Sequence[str]) -> list[str]:
    return [f"{work} {WORKS[work]}" for work in works]


# -------------------------------------------------------------------------------------------------- tables


def _figures(outcome: Outcome, names: Sequence[str], effort: Effort) -> Iterator[Table]:
    rows: list[list[Cell]] = []
    for work in effort.works:
        for name in names:
            score = outcome.scores[name, work]
            cpu = score.of("server"), score.of("postgres")
            rows.append([f"{work} {WORKS[work]}", name, *cpu, score.of("rate"), score.statements, f"{score.bytes / 1000:.1f}"])
    columns = "work", "server", "server CPU ms", "Postgres CPU ms", "req/s", "statements", "kB"
    note = f"Per request at {BUSY} connections, medians of {effort.rounds} rounds. Statements count BEGIN and COMMIT."
    yield Table("cpu", "CPU per request", columns, rows, note)
    yield _waiting(outcome, names, effort)
    memory: list[list[Cell]] = [[name, outcome.memory[name] / 1_000_000] for name in names]
    yield Table("memory", "Memory after all works", ("server", "RSS, MB"), memory, "The whole process tree.")


def _waiting(outcome: Outcome, names: Sequence[str], effort: Effort) -> Table:
    connections = sorted(effort.connections)
    rows: list[list[Cell]] = []
    for work in effort.works:
        for name in names:
            score = outcome.scores[name, work]
            cells = (f"{score.of('rate', n):,.0f} ({score.of('p50', n):,.1f} / {score.of('p99', n):,.1f})" for n in connections)
            rows.append([f"{work} {WORKS[work]}", name, *cells])
    columns = "work", "server", *(f"{n} connection{'s'[: n > 1]}" for n in connections)
    return Table("waiting", "Requests per second (p50 / p99 in ms)", columns, rows, "By the clock: a busy machine shows in them.")


def _must_hold(outcome: Outcome, others: Sequence[str], works: Sequence[str], versions: str) -> Table:
    def of(name: str, work: str, figure: str = "server") -> float:
        return outcome.scores[name, work].of(figure)

    rows: list[list[Cell]] = []
    for work in (work for work in MOST if work in works):
        cells = (_cell(of(US, work) / of(name, work), MOST[work][name]) for name in others)
        rows.append([f"{work} {WORKS[work]}: server CPU", *cells])
    for work in (work for work in MOST_POSTGRES if work in works):
        best = min(others, key=lambda name: of(name, work, "postgres"))
        ratio = of(US, work, "postgres") / of(best, work, "postgres")
        cells = (_cell(ratio, MOST_POSTGRES[work]) if name == best else "" for name in others)
        rows.append([f"{work}: Postgres CPU, to the best", *cells])
    for work in (work for work in FASTER_THAN if work in works):
        rates = (of(US, work, "rate") / of(name, work, "rate") if name in FASTER_THAN[work] else None for name in others)
        rows.append([f"{work}: requests per second", *("" if rate is None else _more(rate) for rate in rates)])
    note = f"Ours against theirs in one run; what has to hold stands in brackets. Requests per second \
are those at {BUSY} connections, each server on one core. {versions}."
    return Table("must-hold", "Against the peers", ("", *others), rows, note)


def _cell(ratio: float, most: float) -> str:
    return f"{'✓' if ratio <= most else '✗'} {_factor(ratio)} ({_bound(most)})"


def _more(rate: float) -> str:
    return f"{'✓' if rate > 1 else '✗'} {rate:.2f}× (more)"


def _factor(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio > 1 else f"{1 / ratio:.2f}× less"


def _bound(most: float) -> str:
    return f"≥ {1 / most:.3g}× less" if most < 1 else "less" if most == 1 else f"≤ {most:.3g}×"
