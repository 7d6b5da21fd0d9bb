"""Tables of results, as Markdown to read and as JSON to compare."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Cell = str | int | float


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
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        body = "\n".join("| " + " | ".join(shown(cell) for cell in line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")


def shown(cell: Cell) -> str:
    """Three digits say all that a measurement knows."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.1f}" if cell >= 10 else f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def save(found: Sequence[Table], sizes: dict[str, int]) -> None:
    """Write reads.json and reads.md. Tables that were not measured this time stay as they were."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "reads.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    now = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "sizes": sizes, "machine": machine()}
    kept |= {table.name: asdict(table) | now for table in found}
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    (RESULTS / "reads.md").write_text("\n".join(_section(entry) for entry in kept.values()))


def _section(entry: Mapping[str, Any]) -> str:
    table = Table(*(entry[field.name] for field in fields(Table)))
    sizes = ", ".join(f"{count:,} {name}" for name, count in entry["sizes"].items())
    return f"{table.markdown()}\n*{entry['at']}, {entry['machine']}, {sizes}*\n"


def machine() -> str:
    """What the figures were taken on."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
