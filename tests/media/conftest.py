"""Fixtures: a server that stores files on disk, and one with an S3 bucket."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from storefront.core.ids import uuid7
from storefront.core.storage.base import ObjectStorage
from storefront.core.storage.disk import DiskStorage
from storefront.core.storage.s3 import Bucket, S3Storage
from tests.client import Client
from tests.conftest import fresh, serving
from tests.media.flow import Merchant, make_merchant
from tests.s3 import KEY, SECRET, S3Server

LIMITS: dict[str, Any] = {"max_image_bytes": 1_000_000, "max_image_pixels": 4_000_000}


@pytest_asyncio.fixture(scope="session")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials."""
    async with httpx.AsyncClient() as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def on_disk(
    postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Client, ObjectStorage]]:
    """A server with default settings, and its disk storage."""
    folder = tmp_path_factory.mktemp("files")
    async with serving(fresh(postgres, template), folder, **LIMITS) as client:
        yield client, DiskStorage(folder / "objects", "http://unused", "unused")


@pytest_asyncio.fixture(scope="session")
async def in_bucket(
    postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> AsyncIterator[tuple[Client, ObjectStorage]]:
    """A server with an S3 bucket, and its storage."""
    name = f"bucket-{uuid7().hex}"
    given = {**LIMITS, **s3_server.settings(name)}
    bucket = S3Storage(Bucket(s3_server.endpoint, name, "us-east-1", KEY, SECRET))
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("bucket"), **given) as client, bucket.running():
        yield client, bucket


@pytest.fixture(params=["on_disk", "in_bucket"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of storage: each test runs with both."""
    return str(request.param)


@pytest.fixture
def shop(
    kind: str, on_disk: tuple[Client, ObjectStorage], in_bucket: tuple[Client, ObjectStorage]
) -> tuple[Client, ObjectStorage]:
    """The server, and its object storage."""
    return {"on_disk": on_disk, "in_bucket": in_bucket}[kind]


@pytest.fixture
def objects(shop: tuple[Client, ObjectStorage]) -> ObjectStorage:
    """The object storage of the server."""
    return shop[1]


@pytest_asyncio.fixture
async def merchant(shop: tuple[Client, ObjectStorage], http: httpx.AsyncClient) -> Merchant:
    """A new merchant with a store and a product."""
    return await make_merchant(shop[0], http)
