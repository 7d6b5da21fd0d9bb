"""The wheel contains everything that a server needs, and serves it where it is installed, far from the repository."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

import storefront
from storefront.analytics.dashboard import assets as dashboard
from storefront.core.db.embedded_postgres import build_database_url, create_database
from storefront.serving.graphiql import assets as graphiql
from tests.feed.processes import Server, running

ROOT = Path(__file__).parents[1]
BUILD_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
PAGE_FILES = {
    (folder / path).relative_to(ROOT)
    for folder, files in ((graphiql.FOLDER, graphiql.FILES), (dashboard.FOLDER, dashboard.FILES))
    for path in files.values()
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this version, built as `make wheel` builds it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("storefront", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, source / name)
    for path in PAGE_FILES:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    run_pip("wheel", "--no-build-isolation", "--wheel-dir", "dist", ".", cwd=source)
    [path] = (source / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command `storefront` of an environment into which the wheel is installed."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment)
    run_pip("--python", str(environment / "bin/python"), "install", "--no-index", str(wheel), cwd=environment)
    [packages] = environment.glob("lib/python*/site-packages")
    # The dependencies are those of this environment. Its other .pth files, and with them the repository, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin/storefront"


def run_pip(*arguments: str, cwd: Path) -> None:
    global_options = arguments[:2] if arguments[0] == "--python" else ()
    command, *rest = arguments[len(global_options) :]
    options = ["--quiet", "--disable-pip-version-check", *global_options, command, "--no-deps", *rest]
    subprocess.run([sys.executable, "-m", "pip", *options], cwd=cwd, check=True)


@pytest.fixture(scope="module")
def server(program: Path, postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A demo server of the installed wheel, which has migrated an empty database and loaded a few products."""
    create_database(postgres, "of_wheel")
    folder, url = tmp_path_factory.mktemp("elsewhere"), build_database_url(postgres, "of_wheel")
    options = {"STOREFRONT_DATABASE_URL": url, "STOREFRONT_DATA_DIR": str(folder), "PATH": "/usr/bin:/bin"}
    seed = [str(program), "seed", "--products", "20", "--events", "100"]
    subprocess.run(seed, cwd=folder, env=options, check=True, stdout=subprocess.DEVNULL)
    with running(url, folder, program=program, is_forked=False, arguments=["--demo"]) as started:
        yield started


def test_wheel_has_one_package_with_everything(wheel: Path) -> None:
    assert wheel.name.startswith(f"storefront-{storefront.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {"storefront", f"storefront-{storefront.__version__}.dist-info"}
    modules = [path.relative_to(ROOT) for path in (ROOT / "storefront").rglob("*.py") if "node_modules" not in path.parts]
    examples = [path.relative_to(ROOT) for path in (ROOT / "storefront/examples").iterdir()]
    migrations = ["storefront" / path.relative_to(ROOT) for path in (ROOT / "migrations").rglob("*.py")]
    assert {path.as_posix() for path in (*modules, *examples, *migrations, *PAGE_FILES)} - names == set()
    assert "storefront/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_installed_wheel_serves_demo_with_pages(server: Server) -> None:
    with httpx.Client(base_url=server.address, headers={"accept": "text/html"}) as browser:
        graphiql_page, dashboard_page = browser.get("/graphql"), browser.get("/dashboard/nordic-oak-living")
        assert all(path.stem in graphiql_page.text for path in (ROOT / "storefront/examples").glob("*.graphql"))
        for page, files in ((graphiql_page, graphiql.FILES), (dashboard_page, dashboard.FILES)):
            addresses = re.findall(r'(?:src|href)="([^"]+\?v=[^"]+)"', page.text)
            assert {Path(address.partition("?")[0]).name for address in addresses} == set(files)
            for address in addresses:
                assert browser.get(urljoin(str(page.url), address)).status_code == 200


def test_installed_wheel_serves_demo_with_rows_and_pictures(server: Server) -> None:
    query = "{ configs(first: 1) { nodes { products(first: 5) { nodes { images variants(first: 1) { nodes { sku } } } } } } }"
    with httpx.Client(base_url=server.address) as http:
        products = http.post("/graphql", json={"query": query}).json()["data"]["configs"]["nodes"][0]["products"]["nodes"]
        assert all(product["variants"]["nodes"][0]["sku"] for product in products)
        pictures = [url for product in products for url in product["images"]]
        # They have the address of the seed's settings, not the test's port.
        assert pictures and {http.get(urlsplit(url).path).headers["content-type"] for url in pictures} == {"image/webp"}
