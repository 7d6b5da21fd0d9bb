"""The command line: `storefront --help`. Each group of commands is a module of this package; none has logic of its own."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from storefront import __version__
from storefront.core.memory import pause_garbage_collection

# The modules of this package by command, in the order of the help.
MODULES_BY_COMMAND = {
    "serve": "serve",
    "migrate": "database",
    "seed": "database",
    "after-restore": "database",
    "export": "transfer",
    "import": "transfer",
    "token": "users",
    "sign-out": "users",
    "merge-users": "users",
    "refresh-popularity": "maintenance",
    "roll-up": "maintenance",
    "sweep-images": "maintenance",
    "rotate-secrets": "maintenance",
    "rebuild-search": "maintenance",
    "schema": "inspection",
    "doctor": "inspection",
    "webhooks": "inspection",
}


class LazyCommandGroup(TyperGroup):
    """Imports only the module of the command that runs: importing all of them takes longer than most commands run."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(MODULES_BY_COMMAND)

    def get_command(self, _ctx: Any, cmd_name: str) -> Any:
        """The command with this name, or None. An unknown name loads all commands, from which similar names are suggested."""
        with pause_garbage_collection():
            for name in (cmd_name,) if cmd_name in MODULES_BY_COMMAND else MODULES_BY_COMMAND:
                if name not in self.commands:
                    self.commands.update(get_group(import_module(f"storefront.cli.{MODULES_BY_COMMAND[name]}").app).commands)
        return self.commands.get(cmd_name)


app = typer.Typer(
    cls=LazyCommandGroup,
    no_args_is_help=True,
    help="A GraphQL storefront backend. Settings come from STOREFRONT_* variables or .env.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"storefront {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before a command."""
