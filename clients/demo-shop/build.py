"""Builds the demo shop in dist/ with the Node of the project's environment: `make demo-shop` runs it."""

import subprocess
import sys
from pathlib import Path

from storefront.serving.graphiql.assets import InstallError, find_node_and_npm, run_npm_ci

FOLDER = Path(__file__).parent
STEPS = [["node_modules/typescript/bin/tsc"], ["node_modules/vite/bin/vite.js", "build", "--logLevel", "error"]]


def main() -> int:
    """Install the locked packages, check the types, and bundle. Returns the exit status."""
    try:
        node, _ = find_node_and_npm()
        run_npm_ci(FOLDER)
    except InstallError as error:
        print(f"The demo shop was not built. {error}", file=sys.stderr)
        return 1
    for step in STEPS:
        if code := subprocess.run([str(node), *step], cwd=FOLDER, check=False).returncode:
            return code
    print("The demo shop is built. `make run` serves it at http://127.0.0.1:8000/shop/nordic-oak-living")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
