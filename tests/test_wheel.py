"""The wheel contains everything that a server needs; nothing is downloaded at run time."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import storefront
from storefront.analytics.dashboard import assets as dashboard
from storefront.serving.graphiql import assets as graphiql

ROOT = Path(__file__).parents[1]


def test_wheel_has_pages_migrations_types_and_license(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("storefront", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pages = {
        (folder / path).relative_to(ROOT)
        for folder, files in ((graphiql.FOLDER, graphiql.FILES), (dashboard.FOLDER, dashboard.FILES))
        for path in files.values()
    }
    for path in pages:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=source, check=True)
    [wheel] = (source / "dist").iterdir()
    assert wheel.name.startswith(f"storefront-{storefront.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT) for name in ("storefront", "migrations") for path in (ROOT / name).rglob("*.py")}
    expected = {path.as_posix() for path in pages | {one for one in modules if "node_modules" not in one.parts}}
    assert expected - names == set()
    assert "storefront/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
