"""A server with its files in a folder, and one with a bucket."""

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
from tests.media.flow import Merchant, merchant_of
from tests.s3 import KEY, SECRET, S3Server

LIMITS: dict[str, Any] = {"max_image_bytes": 1_000_000, "max_image_pixels": 4_000_000}


@pytest_asyncio.fixture(scope="session")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Somebody with no more than an address."""
    async with httpx.AsyncClient() as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def on_disk(
    postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Client, ObjectStorage]]:
    """A server without settings, and its files."""
    folder = tmp_path_factory.mktemp("files")
    async with serving(fresh(postgres, template), folder, **LIMITS) as client:
        yield client, DiskStorage(folder / "objects", "http://unused", "unused")


@pytest_asyncio.fixture(scope="session")
async def in_bucket(
    postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server
) -> AsyncIterator[tuple[Client, ObjectStorage]]:
    """A server with a bucket, and what is in it."""
    name = f"bucket-{uuid7().hex}"
    given = {**LIMITS, **s3_server.settings(name)}
    bucket = S3Storage(Bucket(s3_server.endpoint, name, "us-east-1", KEY, SECRET))
    async with serving(fresh(postgres, template), tmp_path_factory.mktemp("bucket"), **given) as client, bucket.running():
        yield client, bucket


@pytest.fixture(params=["on_disk", "in_bucket"])
def kind(request: pytest.FixtureRequest) -> str:
    """Both, one after the other."""
    return str(request.param)


@pytest.fixture
def shop(
    kind: str, on_disk: tuple[Client, ObjectStorage], in_bucket: tuple[Client, ObjectStorage]
) -> tuple[Client, ObjectStorage]:
    """The server, and its files."""
    return {"on_disk": on_disk, "in_bucket": in_bucket}[kind]


@pytest.fixture
def objects(shop: tuple[Client, ObjectStorage]) -> ObjectStorage:
    """Its files."""
    return shop[1]


@pytest_asyncio.fixture
async def merchant(shop: tuple[Client, ObjectStorage], http: httpx.AsyncClient) -> Merchant:
    """Somebody with a store and a product."""
    return await merchant_of(shop[0], http)
