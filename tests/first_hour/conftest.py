"""A server with demo data, as `storefront serve --demo` starts it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storefront.cli.users import issue_token
from storefront.core.settings import Settings
from storefront.demo.plan import OWNER_EMAIL
from tests.client import SECRET
from tests.conftest import fresh
from tests.feed.processes import Server, running


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the demo server."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="session")
def demo_database(postgres: str, template: str, demo_folder: Path) -> str:
    """The name of a database with demo data of the default size: what a first start leaves. Loading it takes seconds."""
    url = fresh(postgres, template)
    with running(url, demo_folder, arguments=["--demo"]):
        return url.partition("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def demo_url(postgres: str, demo_database: str) -> str:
    """The URL of the database of the demo server."""
    return fresh(postgres, demo_database)


@pytest.fixture(scope="session")
def demo_server(demo_url: str, demo_folder: Path) -> Iterator[Server]:
    """A running server with demo data of the default size."""
    # A receiver of webhooks on this machine is allowed.
    options: dict[str, Any] = {"WEBHOOK_NETWORKS": "127.0.0.0/8"}
    with (
        open(demo_folder / "log", "wb") as log,
        running(demo_url, demo_folder, log=log, arguments=["--demo"], **options) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def owner_token(demo_server: Server, demo_url: str) -> str:
    """A token of the demo user, as the server prints one."""
    return issue_token(Settings(secret=SecretStr(SECRET), data_dir=Path()), demo_url, OWNER_EMAIL, None, days=1)
