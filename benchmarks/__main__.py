"""`python -m benchmarks`: runs the works and writes results/reads.md and reads.json."""

import time
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.reads import WORKS
from benchmarks.report import save
from benchmarks.stage import Sizes, stage

err = Console(stderr=True, soft_wrap=True)

INTRODUCTION = """Measure the server over a store of many products; results go to benchmarks/results.

The first run sets a database up under .storefront/bench (a minute or two), which later runs use again. The works:
"""
HELP = "\n\n".join([INTRODUCTION, *(f"{name}: {work.__doc__}" for name, work in WORKS.items())])

app = typer.Typer(add_completion=False)


@app.command(help=HELP, epilog="For example: python -m benchmarks walk searches --products 50000")
def main(
    names: Annotated[list[str] | None, typer.Argument(help="The works to run, by name; all of them unless given.")] = None,
    products: Annotated[int, typer.Option(min=2_000, max=200_000, help="How many products the measured store has.")] = 20_000,
    events: Annotated[int, typer.Option(min=0, max=10_000_000, help="How many events popularity is counted from.")] = 0,
) -> None:
    """Run the works one after the other, keeping the results of each as soon as it is done."""
    chosen = names or list(WORKS)
    if unknown := [name for name in chosen if name not in WORKS]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(WORKS)}.")
    with stage(Sizes(products, events)) as set_up:
        for number, name in enumerate(chosen, 1):
            began = time.perf_counter()
            err.print(f"{number}/{len(chosen)} {name} …", end=" ")
            found = list(WORKS[name](set_up))
            save(found, {"products": products, "events": events})
            err.print(f"{time.perf_counter() - began:.0f} s")
            for table in found:
                print(table.markdown())


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
