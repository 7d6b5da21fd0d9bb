"""The read benchmarks by name, in order."""

from collections.abc import Callable, Iterator

from benchmarks.browsing import related, suggest
from benchmarks.pages import pages
from benchmarks.report import Table
from benchmarks.searches import searches
from benchmarks.stage import Stage
from benchmarks.upkeep import popularity, start, vocabulary
from benchmarks.walk import walk
from benchmarks.writes import writes

WORKS: dict[str, Callable[[Stage], Iterator[Table]]] = {
    work.__name__: work for work in (pages, walk, searches, suggest, related, vocabulary, popularity, start, writes)
}
