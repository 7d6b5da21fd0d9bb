"""Tables of results, as Markdown to read and as JSON to compare."""

import json
import os
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

RESULTS = Path(__file__).parent / "results"

Cell = str | int | float

err = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Table:
    """What one work found. The note says what has to hold, or what a column means."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def markdown(self) -> str:
        """The table as Markdown."""
        words = [all(isinstance(row[place], str) for row in self.rows) for place in range(len(self.columns))]
        lines = [self.columns, ["---" if text else "---:" for text in words], *self.rows]
        body = "\n".join("| " + " | ".join(shown(cell) for cell in line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def shown(cell: Cell) -> str:
    """Three digits say all that a measurement knows."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def save(file: str, found: Sequence[Table], sizes: Mapping[str, int]) -> None:
    """Write results/<file>.json and .md. Tables that were not measured this time stay as they were."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{file}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    now = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "sizes": sizes, "machine": machine()}
    kept |= {table.name: asdict(table) | now for table in found}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    (RESULTS / f"{file}.md").write_text("\n".join(_section(entry) for entry in kept.values()))


def _section(entry: Mapping[str, Any]) -> str:
    table = Table(*(entry[field.name] for field in fields(Table)))
    about = [entry["at"], entry["machine"], *(f"{count:,} {name}" for name, count in entry["sizes"].items())]
    return f"{table.markdown()}\n*{', '.join(about)}*\n"


def machine() -> str:
    """What the figures were taken on."""
    # Without profile-guided optimisation the interpreter itself is a fifth slower or so.
    optimised = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    python = f"Python {platform.python_version()} {'with' if optimised else 'without'} PGO"
    # Of the last minutes, with the load of the benchmark itself.
    load = f"load {os.getloadavg()[1]:.1f}"
    return f"{os.cpu_count()} cores, {load}, {python}, {platform.system()}"
