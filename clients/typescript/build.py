"""Builds the package in dist/ with the Node of the project's environment: `make kit` runs it."""

import subprocess
import sys
from pathlib import Path

from storefront.serving.graphiql.assets import InstallError, find_node_and_npm, run_npm_ci

FOLDER = Path(__file__).parent
STEPS = [["node_modules/typescript/bin/tsc"], ["size.mjs", "--write-manifest"], ["report.mjs"], ["size.mjs"]]


def main() -> int:
    """Install the locked packages, compile, and print the sizes. Returns the exit status."""
    try:
        node, _ = find_node_and_npm()
        run_npm_ci(FOLDER)
    except InstallError as error:
        print(f"The client kit was not built. {error}", file=sys.stderr)
        return 1
    return max(subprocess.run([str(node), *step], cwd=FOLDER, check=False).returncode for step in STEPS)


if __name__ == "__main__":
    raise SystemExit(main())
