"""The files of the dashboard: which they are, and how npm fetches the one that is not ours at set-up."""

import sys
from pathlib import Path

from storefront.serving.graphiql import assets

FOLDER = Path(__file__).parent

# Name in the URL -> file. Nothing else in this folder is ever served.
FILES = {
    "chart.js": "node_modules/chart.js/dist/chart.umd.min.js",
    "dashboard.js": "dashboard.js",
    "dashboard.css": "dashboard.css",
}


def list_installed_files() -> dict[str, Path]:
    """The files that are there. Without the chart's, the page shows its figures all the same."""
    return {name: FOLDER / path for name, path in FILES.items() if (FOLDER / path).is_file()}


def main() -> int:
    """Entry point of `python -m storefront.analytics.dashboard.assets`: 0 when the files are there, 1 when not."""
    try:
        assets.install_files(FOLDER, FILES)
    except assets.InstallError as error:
        print(f"The dashboard's charts are not installed. {error}", file=sys.stderr)
        return 1
    print("The dashboard is installed.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
