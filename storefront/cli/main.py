"""The command line: `storefront --help`. Each group of commands is a module of this package; none has logic of its own."""

from typing import Annotated

import typer

from storefront import __version__
from storefront.cli import database, inspection, maintenance, serve, transfer, users
from storefront.cli.support import out

app = typer.Typer(no_args_is_help=True, help="A GraphQL storefront backend. Settings come from STOREFRONT_* variables or .env.")
for commands in (serve, database, transfer, users, maintenance, inspection):
    app.add_typer(commands.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"storefront {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""
