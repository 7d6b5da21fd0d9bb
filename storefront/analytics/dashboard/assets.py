"""Static files of the dashboard, and the installation of Chart.js by npm."""

import sys
from pathlib import Path

from storefront.serving.graphiql import assets

FOLDER = Path(__file__).parent

# URL name -> file. An allow-list: no other file of this folder is served.
FILES = {
    "chart.js": "node_modules/chart.js/dist/chart.umd.min.js",
    "dashboard.js": "dashboard.js",
    "dashboard.css": "dashboard.css",
}


def list_installed_files() -> dict[str, Path]:
    """The files that are installed. Without Chart.js the page shows figures only."""
    return {name: FOLDER / path for name, path in FILES.items() if (FOLDER / path).is_file()}


def main() -> int:
    """Entry point of `python -m storefront.analytics.dashboard.assets`: exit status 0 if the files are installed, else 1."""
    try:
        assets.install_files(FOLDER, FILES)
    except assets.InstallError as error:
        print(f"The dashboard's charts are not installed. {error}", file=sys.stderr)
        return 1
    print("The dashboard is installed.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
