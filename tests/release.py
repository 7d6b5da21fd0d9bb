"""`python -m tests.release`: what is missing before the current commit can be released. `make release-check` runs it last."""

import re
import sys
from pathlib import Path

from storefront import __version__

ROOT = Path(__file__).parents[1]


def find_release_problems(root: Path, version: str) -> list[str]:
    """What keeps a version from being released: in the changelog, the released schema, the wheel, the documentation."""
    changelog = (root / "CHANGELOG.md").read_text()
    problems = []
    newest = re.search(r"^## (?!Unreleased)\[?([\w.]+)\]? - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    if newest is None or newest[1] != version:
        problems.append(f'CHANGELOG.md: the newest dated section must be "## {version} - YYYY-MM-DD".')
    if changelog.partition("## Unreleased\n")[2].partition("\n## ")[0].strip():
        problems.append(f'CHANGELOG.md: the section "Unreleased" must be empty: its entries belong to {version}.')
    released = root / "released" / "schema.graphql"
    if not released.exists() or released.read_text() != (root / "schema.graphql").read_text():
        problems.append("released/schema.graphql must be a copy of schema.graphql.")
    if not list((root / "dist").glob(f"storefront-{version}-*.whl")):
        problems.append(f"dist/ has no wheel of {version}. Run: make wheel")
    if not (root / "site" / "index.html").exists():
        problems.append("site/ has no documentation. Run: make docs")
    return problems


if __name__ == "__main__":
    found = find_release_problems(ROOT, __version__)
    sys.exit("\n".join(found) if found else 0)
