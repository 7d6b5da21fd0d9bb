"""Judged searches: which products of a catalogue have to be among the first five, and which must not be found.

`judged/LANGUAGE.csv` has the searches over the catalogue `catalogues/LANGUAGE.csv`, a file as shops export it.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

FOLDER = Path(__file__).parent
LANGUAGES = sorted(path.stem for path in (FOLDER / "judged").glob("*.csv"))


@dataclass(frozen=True, slots=True)
class Judgement:
    """Titles that have to be among the first five results of a search, and titles that must not be found."""

    language: str
    search: str
    first: frozenset[str]
    absent: frozenset[str]


def read_judgements() -> Iterator[Judgement]:
    """All judgements, by language."""
    for language in LANGUAGES:
        with (FOLDER / "judged" / f"{language}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                first, absent = (frozenset(filter(None, row[name].split(";"))) for name in ("in the first five", "not found"))
                yield Judgement(language, row["search"], first, absent)


def open_catalogue(language: str) -> BinaryIO:
    """The file of a catalogue."""
    return cast(BinaryIO, (FOLDER / "catalogues" / f"{language}.csv").open("rb"))
