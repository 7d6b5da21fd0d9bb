"""The command line loads what the command needs, and no more."""

import subprocess
import sys
from importlib import import_module

from typer.main import get_group
from typer.testing import CliRunner

from storefront.cli.main import MODULES_BY_COMMAND, app


def test_table_names_module_of_each_command() -> None:
    modules = dict.fromkeys(MODULES_BY_COMMAND.values())
    commands = {name: module for module in modules for name in get_group(import_module(f"storefront.cli.{module}").app).commands}
    assert commands == MODULES_BY_COMMAND


def test_unknown_command_is_rejected_with_similar_name() -> None:
    result = CliRunner().invoke(app, ["migrat"])
    assert result.exit_code == 2
    assert "Did you mean 'migrate'?" in result.output


def test_command_modules_build_no_schema() -> None:
    names = ", ".join(dict.fromkeys(MODULES_BY_COMMAND.values()))
    program = f"import sys; from storefront.cli import {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "storefront.cli.serve" in loaded
    assert not {"strawberry", "graphql", "storefront.schema"} & set(loaded)
