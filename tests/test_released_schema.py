"""What clients of the last release could notice is named in CHANGELOG.md: breaking and dangerous changes of the schema."""

from pathlib import Path

import pytest

from tests.clients.npm import CLIENTS, installed, lines

ROOT = Path(__file__).parents[1]
# The SDL of the last release. CONTRIBUTING.md says when it is written.
RELEASED = ROOT / "released" / "schema.graphql"
FOLDER = CLIENTS / "schema"

BEFORE = """
directive @cost(weight: Int!) on FIELD_DEFINITION
enum Status { OPEN CLOSED }
input FilterInput { status: Status }
type Store { id: ID! name: String! slug: String! @cost(weight: 2) }
type Query { store(id: ID!): Store stores(first: Int = 20, filter: FilterInput): [Store!] }
"""
AFTER = """
directive @cost(weight: Int!) on FIELD_DEFINITION
enum Status { OPEN CLOSED ARCHIVED }
input FilterInput { status: Status name: String }
type Store { id: ID! name: String slug: String! @cost(weight: 3) @deprecated(reason: "Use name.") title: String! }
type Query { store(id: ID!): Store stores(first: Int = 10, filter: FilterInput): [Store!] }
"""


def get_unreleased_section(changelog: str) -> str:
    """The text under "Unreleased"."""
    return changelog.partition("## Unreleased\n")[2].partition("\n## ")[0]


async def find_unnamed_changes(before: Path, after: Path, changelog: str) -> list[str]:
    """The breaking and dangerous changes whose coordinates the changelog does not name under "Unreleased", in backticks."""
    section = get_unreleased_section(changelog)
    changes = await lines(installed(FOLDER), str(FOLDER / "compare.mjs"), str(before), str(after))
    return [
        f"{change['level']}: {change['message']}. Name `{change['coordinate']}` in CHANGELOG.md"
        for change in changes
        if change["level"] != "NON_BREAKING" and f"`{change['coordinate']}`" not in section
    ]


@pytest.mark.skipif(not RELEASED.exists(), reason="there is no release yet whose schema could be compared")
async def test_changelog_names_changes_since_the_release() -> None:
    unnamed = await find_unnamed_changes(RELEASED, ROOT / "schema.graphql", (ROOT / "CHANGELOG.md").read_text())
    assert not unnamed, "\n".join(unnamed)


async def test_comparison_finds_what_clients_could_notice(tmp_path: Path) -> None:
    before, after = tmp_path / "before.graphql", tmp_path / "after.graphql"
    before.write_text(BEFORE)
    after.write_text(AFTER)
    unnamed = await find_unnamed_changes(before, after, "## Unreleased\n\n- Nothing.\n\n## 0.1\n\n- `Store.name` may be null.\n")
    # New fields, deprecations and costs are no reason to fail.
    assert sorted(line.split(": ")[0] + " " + line.split("`")[1] for line in unnamed) == [
        "BREAKING Store.name",
        "DANGEROUS Query.stores.first",
        "DANGEROUS Status.ARCHIVED",
    ]
    named = "## Unreleased\n\n- `Store.name` may be null, `Status.ARCHIVED` is new; `Query.stores.first` is 10 by default.\n"
    assert await find_unnamed_changes(before, after, named) == []
    assert await find_unnamed_changes(before, before, "") == []
