"""Search suggestions and related products."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.report import Cell, Table
from benchmarks.stage import STORE, Client, Log, Stage, body_of

SAMPLES = 9

SUGGEST = """query Suggest($store: ID!, $prefix: String!) {
  config(by: {id: $store}) { predictiveSearch(search: $prefix) {
    suggestions { text } products { id title price images } categories { path } } } }"""
LISTED = "query Listed($store: ID!, $first: Int!) { products(configId: $store, first: $first) { nodes { id } } }"
RELATED = LISTED.replace("{ id }", "{ id related { id title price } }")


def suggest(stage: Stage) -> Iterator[Table]:
    """Suggestions for what is typed letter by letter: milliseconds in Postgres."""
    typed = "t", "te", "tea", "teapo", "linen s", "leather", "leahter", "zzzzz"
    with stage.serving() as client, stage.logged() as log:
        rows: list[list[Cell]] = [[f"`{text}`", _ms(client, log, SUGGEST, store=STORE, prefix=text)] for text in typed]
    yield Table("suggest", "Suggestions", ("typed", "Postgres ms"), rows)


def related(stage: Stage) -> Iterator[Table]:
    """Related products of a page, beside the page without them."""
    rows: list[list[Cell]] = []
    with stage.serving() as client:
        for first in (1, 20, 100):
            with stage.logged() as log:
                ms = _ms(client, log, RELATED, store=STORE, first=first) - _ms(client, log, LISTED, store=STORE, first=first)
            cost, bare = (stage.cost(client.send, body_of(one, store=STORE, first=first), stage.pid) for one in (RELATED, LISTED))
            rows.append([first, ms, cost.server - bare.server, cost.postgres - bare.postgres, cost.p50, cost.p99])
    columns = "products", "Postgres ms", "server CPU ms", "Postgres CPU ms", "request p50 ms", "request p99 ms"
    yield Table("related", "Related products", columns, rows, "Four for every product of a page; the page itself taken off.")


def _ms(client: Client, log: Log, document: str, **variables: Any) -> float:
    """The median of what a request costs in Postgres; its first times, before statements are prepared, do not count."""
    samples = [sum(timed.ms for timed in log.times(client, document, **variables)) for _ in range(SAMPLES + 3)]
    return median(samples[3:])
