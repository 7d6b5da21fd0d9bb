"""README.md lists every command, docs/settings.md every setting."""

import re
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from storefront.cli.main import app
from storefront.core.settings import Settings

ROOT = Path(__file__).parents[1]
README, SETTINGS = ((ROOT / name).read_text() for name in ("README.md", "docs/settings.md"))


def settings_table() -> str:
    """The table of settings, generated from the fields of Settings."""
    rows = ["| Variable | Default | What it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `STOREFRONT_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_table_of_settings_is_complete() -> None:
    assert settings_table() in SETTINGS


def test_every_command_is_listed() -> None:
    commands = get_command(app).list_commands(None)  # type: ignore[attr-defined]
    assert [name for name in commands if f"| `{name}" not in README] == []


def test_every_command_has_help() -> None:
    for name in get_command(app).list_commands(None):  # type: ignore[attr-defined]
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0 and name in result.output


DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
# Files that a recipe asks the reader to add.
_TO_BE_ADDED = re.compile(r"/NNNN_|NOUN")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_docs_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    paths = re.findall(r"`((?:storefront|tests|benchmarks|migrations|clients|deploy)/[\w./-]+\.\w+)`", text)
    assert [path for path in paths if not _TO_BE_ADDED.search(path) and not (ROOT / path).exists()] == []
