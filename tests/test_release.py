"""The check before a release names everything that is missing."""

from pathlib import Path

from tests.release import find_release_problems


def test_release_needs_dated_notes_schema_wheel_and_site(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- A field.\n\n## 1.1.0 - 2026-01-01\n\n- Another.\n")
    (tmp_path / "schema.graphql").write_text("type Query { field: Int }\n")
    assert [problem.partition(" ")[0].rstrip(":/") for problem in find_release_problems(tmp_path, "1.2.0")] == [
        *("CHANGELOG.md", "CHANGELOG.md", "released/schema.graphql", "dist", "site")
    ]
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n## 1.2.0 - 2026-02-01\n\n- A field.\n")
    for folder in ("released", "dist", "site"):
        (tmp_path / folder).mkdir()
    (tmp_path / "released" / "schema.graphql").write_text("type Query { field: Int }\n")
    (tmp_path / "dist" / "storefront-1.2.0-py3-none-any.whl").touch()
    (tmp_path / "site" / "index.html").touch()
    assert find_release_problems(tmp_path, "1.2.0") == []
